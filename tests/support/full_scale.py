"""The options of full scale, --data, --limit and --rehearse, and what they change; conftest.py calls these functions.

conftest.py imports this module before a worker has its device, so that torch is imported inside of functions only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vp.experiments import Run
    from vp.report.expectations import Expectation

# Stand-ins for CIFAR, train and test, and how many of them a rehearsed run looks at.
REHEARSED = {"cuda": (50_000, 10_000, 1280), "cpu": (200, 80, 10)}


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption("--data", metavar="ROOT", help="where CIFAR is: torchvision's files, or class folders below train and test")
    group.addoption("--limit", type=int, metavar="N", help="N test images, and N training images, of any full-scale run")
    group.addoption("--rehearse", action="store_true", help="full scale with random weights and generated images, a few steps each")


def configure(config: pytest.Config) -> None:
    """Checks the options, points to the data, and generates it for a rehearsal; on every worker."""
    options = config.option
    if (options.limit or options.rehearse) and options.scale != "full":
        raise pytest.UsageError("--limit and --rehearse belong to --scale full: the miniature runs on all of its images anyway")
    if (options.limit or options.rehearse) and options.accept:
        raise pytest.UsageError("--accept takes numbers of whole runs: leave --limit and --rehearse out")
    if options.limit is not None and options.limit < 10:
        raise pytest.UsageError(f"--limit {options.limit}: give at least 10 images, of which some train and some validate")
    if options.rehearse:
        from vp.data import generate_cifar
        from vp.data.cifar import REHEARSAL
        from vp.machine.errors import NotAvailable
        from vp.machine.home import home

        try:
            train, test, limit = REHEARSED[_device(options)]
        except NotAvailable as missing:
            raise pytest.UsageError(f"--rehearse: {missing}") from missing
        options.limit = options.limit or limit
        folder = home() / REHEARSAL / f"cifar-{train}-{test}"
        try:
            generate_cifar(folder, train, test)
        except OSError as error:
            reason = error.strerror or error
            raise pytest.UsageError(
                f"--rehearse: cannot write {folder} ({reason}): set VP_HOME to a folder you can write"
            ) from error
        options.data = str(folder)
    if options.data:
        os.environ["VP_DATA"] = options.data


def _device(options: Any) -> str:
    from vp.machine.runtime import pick_device

    return "cuda" if pick_device(options.device).type == "cuda" else "cpu"


def as_performed(name: str, scale: str, options: Any) -> Run:
    """The Run called `name` as this session performs it: on all of its images, on some of them, or rehearsed."""
    from vp.experiments import find_run, vary

    return vary(find_run(name, scale), options.limit, options.rehearse)


def needs_a_gpu(options: Any) -> bool:
    """Not where the caller chose another device, or asked for so little that any will do."""
    return options.device in ("auto", "cuda") and not (options.limit or options.rehearse)


def on_some_images(expectations: Mapping[str, Expectation], limit: int) -> dict[str, Expectation]:
    """What N images can be held to: zero-shot values, within their tolerance and the 99.9% interval of N images.

    What was trained on N images has nothing to be held to: the report trains on 40,000 or more.
    """
    from vp.evaluation import wilson_interval
    from vp.experiments import find_run
    from vp.report.expectations import ACCEPTED_CONFIDENCE

    kept = {}
    for name, expectation in expectations.items():
        if find_run(name, "full").method.learns:
            continue
        interval = wilson_interval(round(expectation.value * limit / 100), limit, ACCEPTED_CONFIDENCE)
        half = max(abs(100 * bound - expectation.value) for bound in interval)
        kept[name] = replace(
            expectation,
            tolerance=min(100.0, round(expectation.tolerance + half, 2)),
            reason=f"{expectation.reason}; and the {ACCEPTED_CONFIDENCE:.1%} interval of {limit} images",
        )
    return kept


def rehearsed(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the writeup that gives no verdict but that it was rehearsed, and is held to nothing."""
    from vp.report.expectations import Verdict

    changes: dict[str, Any] = {"verdict": str(Verdict.REHEARSAL)} if "verdict" in entry else {}
    if "expected" in entry:
        changes |= {"expected": None, "tolerance": None, "reason": None}
    return entry | changes


@contextmanager
def without_verdicts(recorded: Callable[[], list[Any]]) -> Iterator[None]:
    """In a rehearsal what comes out is not judged: a test may fail by its verdict, once it has recorded what it is about.

    A test that breaks, or that records nothing, fails.
    """
    try:
        yield
    except (AssertionError, pytest.fail.Exception):
        if not recorded():
            raise
    if not recorded():
        pytest.fail("this test recorded nothing: it did not rehearse anything")


def refuse_skip(report: Any) -> None:
    """A rehearsal brings all that it needs: a test of it that is skipped, in whatever phase, fails and says why."""
    if report.skipped:
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"not rehearsed, although nothing may be missing here: {told}"


def reasons_not_run(reports: Iterable[Any]) -> dict[str, int]:
    """The distinct reasons of what was NOT RUN, with how many tests have each, the most frequent first."""
    told = (str(report.longrepr[2]) for report in reports if isinstance(report.longrepr, tuple))
    counts = Counter(one.removeprefix("Skipped: ").removeprefix("NOT RUN: ") for one in told if "NOT RUN: " in one)
    return dict(counts.most_common())


def in_words(options: Any) -> str:
    """What the writeup says of these options."""
    if options.rehearse:
        return (
            f" REHEARSAL: random weights, generated images ({options.limit} of them a run) and two epochs. It shows "
            "that everything runs; no number means anything."
        )
    if options.limit:
        return (
            f" LIMITED to {options.limit} images of each set, drawn at random: intervals are as wide as that makes them, and what "
            "was trained on so few is shown but not judged."
        )
    return ""
