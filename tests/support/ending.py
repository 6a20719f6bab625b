"""Before a run: can its page and its results be written? After it: the ten lines that matter."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

FINDINGS = 5  # of the opening's, in its order, the visual and deep prompts first
REASONS = 2  # why statements were not run
NAMES = 6  # of contradicted claims
PROMPTS = ("2.2", "2.3")


def refuse_what_cannot_be_written(config: pytest.Config) -> None:
    """Raises UsageError where `--html` or `--results` could not be written at the end: now, not after hours of training."""
    if hasattr(config, "workerinput"):
        return
    for option, given in (("--html", getattr(config.option, "htmlpath", None)), ("--results", config.getoption("--results"))):
        if not given:
            continue
        path = Path(os.path.expandvars(given)).expanduser()
        folder = path.absolute().parent
        if not folder.is_dir():
            raise pytest.UsageError(f"{option} {given}: there is no folder {folder}: make it, or give another file")
        if path.is_dir():
            raise pytest.UsageError(f"{option} {given}: that is a folder, give a file")
        try:
            with path.open("ab") if path.is_file() else tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise pytest.UsageError(f"{option} {given}: cannot be written ({error.strerror}): give another file") from error


def lines(content: Mapping[str, Any], page: str, seconds: float) -> Iterator[str]:
    """The end of a run: findings, verdicts counted, what is contradicted, what was not run and why, where the page is."""
    found = sorted(content["findings"], key=lambda one: one["section"] not in PROMPTS)
    for one in found[:FINDINGS]:
        verdicts = [claim["verdict"] for claim in one["claims"]]
        yield f"{one['text']}{f' ({_counted(verdicts)})' if verdicts else ''}"
    statements = content["statements"]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in statements.items() if count)
    yield f"Statements: {counts}, {content['argued']} argued"
    claims = [claim for chapter in content["chapters"] for part in chapter["sections"] for claim in part["claims"]]
    if wrong := [claim["id"] for claim in claims if claim["verdict"] == "contradicted"]:
        more = f" and {len(wrong) - NAMES} more" if len(wrong) > NAMES else ""
        yield f"Contradicted: {', '.join(wrong[:NAMES])}{more}"
    missing = Counter(claim["reason"] for claim in claims if claim["verdict"] == "NOT RUN").most_common()
    if missing:
        told = [f"{count} ({reason})" for reason, count in missing[:REASONS]]
        others = sum(count for _, count in missing[REASONS:])
        yield f"Not run: {', '.join(told)}{f', {others} for other reasons' if others else ''}"
    yield f"{f'Page: {page}; ' if page else ''}{int(seconds) // 60} min {int(seconds) % 60} s"


def _counted(verdicts: list[str]) -> str:
    return ", ".join(f"{count} {verdict}" if len(verdicts) > 1 else verdict for verdict, count in Counter(verdicts).items())
