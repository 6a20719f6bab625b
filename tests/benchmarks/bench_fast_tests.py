"""Where the time of the fast tests goes: `pytest -s -n 0 tests/benchmarks/bench_fast_tests.py` (about ten minutes on two cores).

Prints the wall time of the whole fast tier with two workers and in one process, and of the report's sections; then the files and
the single tests that take longest, in seconds of one process, fixtures included.
"""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_[1-3]*.py"))
COMMANDS = {
    "fast tests, two workers": ("-n2",),
    "sections 1 to 3, two workers": ("-n2", *SECTIONS),
    "fast tests, one process": ("-n0",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_where_the_time_goes(name: str, tmp_path: Path) -> None:
    """Prints the wall time of one command, and what took longest in it."""
    outcomes = tmp_path / "outcomes.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", f"--junitxml={outcomes}", *COMMANDS[name]]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stdout[-3000:]
    files, tests = Counter[str](), Counter[str]()
    for case in ElementTree.parse(outcomes).iter("testcase"):
        of = float(case.get("time", 0))
        files[case.get("classname", "")] += of
        tests[f"{case.get('classname')}::{case.get('name')}"] += of
    print(f"\n{name}: {seconds:.0f} s; tests and fixtures {sum(files.values()):.0f} s in {sum(1 for _ in tests)} tests")
    for counted, most in ((files, 12), (tests, 25)):
        print("".join(f"  {of:6.1f} s  {what}\n" for what, of in counted.most_common(most)))
