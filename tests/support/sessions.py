"""Sessions of pytest that a test starts: processes of their own, on Linux forked from one that has imported what takes seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
CONTEXT.set_forkserver_preload(["torch", "torchvision", "open_clip", "scipy.stats", "matplotlib.figure", "networkx", "hypothesis"])
ALWAYS = (
    *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),  # plugins among what is imported already
    *("-p", "no:randomly"),  # what is planted runs in the order in which it is written
)


class Done(NamedTuple):
    """What a session ended with, and all that it wrote."""

    returncode: int
    said: str


class Session:
    """pytest with these arguments in a folder, from now on; what it imports from `tests` and `vp` is this process's."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._scratch = TemporaryDirectory(prefix="vp-session-")
        self._said = Path(self._scratch.name) / "said.txt"
        arguments = (*ALWAYS, f"--basetemp={self._scratch.name}/tmp", *arguments)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self._process = CONTEXT.Process(target=_session, args=(folder, self._said, arguments, environment))
        self._process.start()

    def interrupt(self) -> None:
        """What Ctrl-C does, if it is still running."""
        if self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, signal.SIGINT)

    def done(self, timeout_s: float = 1200) -> Done:
        """Waits for its end. Raises TimeoutError when that does not come."""
        self._process.join(timeout_s)
        if late := self._process.is_alive():
            self._process.kill()
            self._process.join()
        with self._scratch:
            said = self._said.read_text(encoding="utf-8")
        if late or self._process.exitcode is None:
            raise TimeoutError(f"no end in {timeout_s} s: {said[-2000:]}")
        return Done(self._process.exitcode, said)


def conform(results: Path, *arguments: str) -> list[dict[str, Any]]:
    """A session of conformance mode, without workers of its own unless `arguments` ask for them; what it says of each solution."""
    done = Session(ROOT, "-q", "-n", "0", "-p", "no:cacheprovider", f"--results={results}", *arguments).done()
    assert results.is_file(), done.said[-4000:]
    found: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return found


def _session(folder: Path, said: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    out = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["pytest", *arguments]
    sys.exit(pytest.main([*arguments]))
