"""Sessions of pytest that a test starts: processes of their own, forked from one that has imported what takes seconds to import."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
_CONTEXT.set_forkserver_preload(["vp.store", "vp.writeup", "hypothesis", "torch_geometric"])
_ALWAYS = (
    "-Wignore:Module already imported:pytest.PytestAssertRewriteWarning",  # plugins that come after what is imported already
    *("-p", "no:randomly"),  # what is planted runs in the order in which it is written
)


class Done(NamedTuple):
    """What a session ended with, and all that it wrote."""

    returncode: int
    said: str


class Session:
    """pytest with these arguments in a folder, from now on, in this process's environment with `extra` on top."""

    def __init__(self, folder: Path, *arguments: str, **extra: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | extra
        self._said = NamedTemporaryFile("r", encoding="utf-8")
        self._process = _CONTEXT.Process(target=_session, args=(folder, self._said.name, arguments, environment))
        self._process.start()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        assert self._process.pid
        os.kill(self._process.pid, signal.SIGINT)

    def done(self, timeout_s: float = 400) -> Done:
        """Waits for its end. Raises TimeoutError when that does not come."""
        self._process.join(timeout_s)
        with self._said as said:
            if self._process.exitcode is None:
                self._process.kill()
                raise TimeoutError(f"no end in {timeout_s} s: {said.read()[-2000:]}")
            return Done(self._process.exitcode, said.read())


def conform(results: Path, *arguments: str) -> list[dict[str, Any]]:
    """A session of conformance mode, without workers of its own unless `arguments` ask for them; what it says of each solution."""
    done = Session(ROOT, "-q", "-n", "0", "-p", "no:cacheprovider", f"--results={results}", *arguments).done()
    assert results.is_file(), done.said[-4000:]
    found: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return found


def _session(folder: Path, said: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    out = os.open(said, os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["pytest", *arguments]
    sys.exit(pytest.main([*_ALWAYS, *arguments]))
