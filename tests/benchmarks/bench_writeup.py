"""What the writeup of a whole miniature run costs, part by part: `pytest -s tests/benchmarks/bench_writeup.py` prints it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.support import planted
from vp.report.claims import judge_claims, load_claims
from vp.report.writeup import build, render


def timed(words: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    print(f"{words:45} {time.perf_counter() - started:6.2f} s")
    return result


def test_what_the_writeup_costs() -> None:
    """The planted run: judged, built and rendered."""
    print()
    links = timed("reading which tests decide which claims", planted.links)
    found = [*planted.entries(links), *planted.figures()]
    claims = load_claims(planted.EXPECTATIONS)
    judgements = timed("judging the claims", lambda: judge_claims(claims, found, links, planted.sources().runs))
    tests = planted.tests(links)
    content = timed("building the content", lambda: build(found, judgements, tests, planted.sources()))
    page = timed("rendering the page", lambda: render(content))
    timed("writing it as JSON", lambda: json.dumps(content))
    command = [sys.executable, "-c", "import vp.report.writeup"]
    timed("importing the writeup in a new process", lambda: subprocess.run(command, check=True))
    print(f"{len(page) / 1e6:.2f} MB, {len(tests)} tests, {len(judgements)} claims")
