"""python -m vp check SOLUTION...: the specification, asked of other implementations, with points and feedback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from vp.machine.errors import VpError

PROJECT = Path(__file__).resolve().parents[2]
ASKED = ("solutions", "course", "scores", "out", "format", "time_limit", "jobs", "fresh", "isolated")


def command(arguments: Namespace) -> int:
    """Hand over to the project's tests (tests/conformance/check.py), in a process of their own: vp imports nothing of them.

    Gives back their exit code. Raises VpError where vp is installed without the tests.
    """
    if not (PROJECT / "tests" / "conformance" / "check.py").is_file():
        raise VpError(
            f"check asks the tests of the project, and vp is installed without them ({PROJECT}): "
            "get the project's folder, and install it with pip install -e '.[test]'"
        )
    asked = json.dumps({name: getattr(arguments, name) for name in ASKED})
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.conformance.check", asked], env={**os.environ, "PYTHONPATH": path}
    )  # -P: a folder `tests` of the caller's is none of ours
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # of which the process hears as well, and keeps what is finished
            continue
