"""What the writeup of a whole miniature run costs, part by part: `pytest -s tests/benchmarks/bench_writeup.py` prints it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.reporting import EXPECTATIONS
from vp.experiments import runs
from vp.report.claims import find_links, judge_claims, load_claims
from vp.report.expectations import Verdict, load_expectations, load_published
from vp.report.measured import load_measured
from vp.report.writeup import Sources, build, render

TESTS = Path(__file__).parents[1]


def timed(words: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    print(f"{words:45} {time.perf_counter() - started:6.2f} s")
    return result


def test_what_the_writeup_costs() -> None:
    """Every number measured, every claim's tests passed, eight large figures: judged, built and rendered."""
    known, svg = runs("mini"), "<svg>" + "<path d='M 0 0'/>" * 6000 + "</svg>"
    figures = [*(f"figure-{i}" for i in range(1, 9)), "noise-curve", "the-three-graphs"]
    values = {"value": 90.1, "interval": (88.7, 91.5), "seeds": [90.0, 90.2], "expected": 90.0, "tolerance": 0.5, "reason": None}
    entries: list[dict[str, Any]] = [{"kind": "cell", "run": name, "verdict": str(Verdict.REPRODUCED), **values} for name in known]
    entries += [{"kind": "figure", "id": name, "svg": svg, "caption": name} for name in figures]
    print()
    links = timed("reading which tests decide which claims", lambda: find_links(TESTS))
    ended = {"outcome": "passed", "refuted": False, "reason": ""}
    for link in links:
        entries += [{"kind": "test", "claim": one, "test": link.test, "cases": [link.test], **ended} for one in link.claims]
    tests = [{"test": f"{link.test}[{i}]", "seconds": 0.1, "sentence": link.test, **ended} for link in links for i in range(8)]
    judgements = timed("judging the claims", lambda: judge_claims(load_claims(EXPECTATIONS), entries, links, known))
    sources = Sources(known, load_expectations(EXPECTATIONS, "full"), load_published(EXPECTATIONS), load_measured(EXPECTATIONS))
    content = timed("building the content", lambda: build(entries, judgements, tests, sources))
    page = timed("rendering the page", lambda: render(content))
    timed("writing it as JSON", lambda: json.dumps(content))
    command = [sys.executable, "-c", "import vp.report.writeup"]
    timed("importing the writeup in a new process", lambda: subprocess.run(command, check=True))
    print(f"{len(page) / 1e6:.2f} MB, {len(tests)} tests, {len(judgements)} claims")
