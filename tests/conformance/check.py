"""`python -m vp check`: the specification asked of many solutions, unattended, each in a session of its own.

Each solution has its own pytest and worker processes, so that none reaches another, and a bad one ends nothing but its own session.
Several sessions share the cores. What a session found is kept in the folder of results, under a key of the solution's files and of
the specification's (submissions.py), and is not asked again; points and formats are made from it anew each time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance import formats, table
from tests.conformance.options import WORKERS
from tests.conformance.scores import Scores, ScoresError, award, read_scores
from tests.conformance.submissions import KEPT, ROOT, Submission, SubmissionError, folders_of, key, specification, submissions
from vp.machine.devices import usable_cores

HOLD, FAIL, ERROR, INTERRUPTED = 0, 1, 2, 130
SESSION_LIMITS = 90  # how many limits of a call a whole session may take: 15 minutes, where a complete solution takes one
NEEDED = ("pytest", "xdist", "hypothesis")


class CheckError(ValueError):
    """What a user can mend, in words."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    solutions: list[str]
    course: list[str]
    scores: str | None
    out: str
    format: list[str]
    time_limit: float
    jobs: int | None
    fresh: bool = False
    isolated: bool = False


def main(words: Sequence[str]) -> int:
    """Check what the JSON of an `Asked` says: 0 when all hold, 1 when some fail, 2 for an error to mend, 130 for Ctrl-C."""
    try:
        return _Check(Asked(**json.loads(words[0]))).run()
    except (CheckError, ScoresError, SubmissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    except OSError as error:  # a full disk, say
        print(f"error: {error}; finished solutions are kept, start again to go on", file=sys.stderr)
        return ERROR


class _Check:
    """One call of the command."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            raise CheckError(f"{', '.join(missing)} is not installed: pip install -e '.[test]' in {ROOT}")
        if unknown := [name for name in asked.format if name not in formats.FORMATS]:
            raise CheckError(f"--format {unknown[0]}: give any of {', '.join(formats.FORMATS)}; solutions stand before options")
        if asked.time_limit <= 0:
            raise CheckError(f"--time-limit {asked.time_limit:g}: give seconds above 0")
        if asked.jobs is not None and asked.jobs < 1:
            raise CheckError(f"--jobs {asked.jobs}: give at least 1")
        if not asked.solutions and not asked.course:
            raise CheckError("nothing to check: give solutions (FILE.py, NOTEBOOK.ipynb, FOLDER, ...) or --course FOLDER")
        self.scores = read_scores(Path(asked.scores).expanduser()) if asked.scores else Scores()
        self.todo, self.notes = submissions(asked.solutions, asked.course)
        self.unusable = self._refuse_the_unusable()
        self.out = Path(asked.out).expanduser().absolute()
        try:
            (self.out / KEPT).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckError(f"--out {asked.out}: cannot be made ({error.strerror}): give another folder") from None
        cores = usable_cores()
        self.sessions = min(asked.jobs or cores, len(self.todo))
        self.workers = max(1, min(WORKERS, cores // self.sessions))
        self.done: dict[Submission, dict[str, Any]] = {}
        self.running = _Running(asked.isolated)

    def _refuse_the_unusable(self) -> dict[Submission, str]:
        """Why entries of a course cannot be asked. Raises CheckError for solutions that the user named."""
        from tests.conformance.plugin import _unusable

        sys.path.append(os.getcwd())  # modules of the caller's folder, as his own python has them
        wrong = {one: complaint for one in self.todo if (complaint := _unusable(one.label))}
        if named := [f"{one.label}: {complaint}" for one, complaint in wrong.items() if one.is_named]:
            raise CheckError("; ".join(named))
        return wrong

    def run(self) -> int:
        for note in self.notes:
            print(f"note: {note}")
        spec = specification()
        with ThreadPoolExecutor(self.sessions) as pool:
            futures = {pool.submit(self._content, one, spec): one for one in self.todo}
            try:
                for future in as_completed(futures):
                    self._finish(futures[future], future)
            except KeyboardInterrupt:
                self.running.end_all()
                pool.shutdown(cancel_futures=True)
                self._end()
                print(
                    f"interrupted: {len(self.done)} of {len(self.todo)} are kept in {self.out}, start again to go on",
                    file=sys.stderr,
                )
                return INTERRUPTED
        self._end()
        return HOLD if all(one["holds"] for one in self.done.values()) else FAIL

    def _content(self, one: Submission, spec: str) -> tuple[dict[str, Any], bool]:
        """What a solution comes to, kept or asked now, and which."""
        if complaint := self.unusable.get(one):
            return _unended(one, complaint), False
        try:
            return self._kept_or_asked(one, spec)
        except Exception as error:  # of files that change meanwhile, say: the others are asked all the same
            return _unended(one, f"{type(error).__name__}: {error}"), False

    def _kept_or_asked(self, one: Submission, spec: str) -> tuple[dict[str, Any], bool]:
        name = key(one, self.asked.time_limit, f"{spec}{' isolated' * self.asked.isolated}")
        kept = self.out / KEPT / f"{name}.json"
        if name and not self.asked.fresh:
            try:
                return json.loads(kept.read_text(encoding="utf-8")), True
            except (OSError, ValueError):
                pass
        found = self.running.ask(one, self.workers, self.sessions, self.asked.time_limit)
        if name and not found.get("unended"):
            _write(kept, json.dumps(found, ensure_ascii=False))
        return found, False

    def _finish(self, one: Submission, future: Future[tuple[dict[str, Any], bool]]) -> None:
        """Points, formats and a line for a solution."""
        found, is_kept = future.result()
        content = formats.named(found, one.name, folders_of(one))
        idle = award([content], self.scores)
        if self.asked.scores and content["statements"] and not self.done:
            for note in idle:
                print(f"note: {self.asked.scores}: {note}")
        self.done[one] = content
        self._write_formats(one)
        when = "kept" if is_kept else f"{content.get('seconds', 0):.0f} s"
        print(f"[{len(self.done)}/{len(self.todo)}] {table.headline(content)} ({when})", flush=True)

    def _write_formats(self, one: Submission) -> None:
        for name in self.asked.format:
            if name in formats.STUDENT:
                file, write = formats.STUDENT[name]
                _write(self.out / one.slug / file, write(self.done[one]))

    def _end(self) -> None:
        """The table of the course, or of the only solution on the terminal, and where files are."""
        whole: list[dict[str, Any]] = next((content["statements"] for content in self.done.values() if content["statements"]), [])
        for one, content in self.done.items():
            if whole and not content["statements"]:  # of a session that came to no end: what it would have been asked
                content["statements"] = [
                    {**statement, "verdict": table.NOT_CLAIMED, "words": "", "narrowed": ""} for statement in whole
                ]
                award([content], self.scores)
                self._write_formats(one)
        found = [self.done[one] for one in self.todo if one in self.done]
        if len(self.todo) == 1:
            for line, _ in list(table.lines(found))[2:]:
                print(line)
        if "csv" in self.asked.format and found:
            _write(self.out / formats.COURSE, formats.course(found))
        written = [*(f"*/{formats.STUDENT[name][0]}" for name in self.asked.format if name in formats.STUDENT)]
        written += [formats.COURSE] if "csv" in self.asked.format else []
        if found:
            print(f"written: {', '.join(dict.fromkeys(written))} in {self.out}")


class _Running:
    """Sessions of pytest, each in a process group of its own, which ends with all that a solution started in it."""

    def __init__(self, isolated: bool) -> None:
        self._more = ["--isolated"] if isolated else []
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._is_over = False

    def ask(self, one: Submission, workers: int, sessions: int, time_limit: float) -> dict[str, Any]:
        """The content of one solution, whatever becomes of its session."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="vp-check-", ignore_cleanup_errors=True) as scratch:
            results, said = Path(scratch) / "results.json", Path(scratch) / "said.txt"
            options = ["-q", f"--rootdir={ROOT}", *("-p", "no:cacheprovider"), *("-n", str(workers)), f"--basetemp={scratch}/tmp"]
            options += [f"--impl={one.label}", f"--time-limit={time_limit:g}", f"--results={results}", *self._more]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), os.getcwd()]))
            environment["TMPDIR"] = scratch  # what a session that is ended leaves behind goes with it
            environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // (workers * sessions))))
            ended = self._run([sys.executable, "-m", "pytest", *options], said, environment, SESSION_LIMITS * time_limit)
            try:
                (found,) = json.loads(results.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = _unended(one, ended or _last_words(said))
        found["seconds"] = round(time.monotonic() - start, 1)
        return dict(found)

    def _run(self, command: Sequence[str], said: Path, environment: dict[str, str], limit_s: float) -> str:
        """Runs to its end, or to that of all its processes; gives back what ended it before its time."""
        with said.open("wb") as out, self._lock:
            if self._is_over:
                return "it was interrupted"
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._processes.add(process)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"it was not done after {limit_s:g} s in all"
        finally:
            _end(process)
            with self._lock:
                self._processes.discard(process)
        return ""

    def end_all(self) -> None:
        with self._lock:
            self._is_over = True
            for process in self._processes:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a session and whatever is left of its group."""
    end: Callable[[], None] = process.kill
    if hasattr(os, "killpg"):
        end = lambda: os.killpg(process.pid, signal.SIGKILL)  # noqa: E731
    try:
        end()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _unended(one: Submission, why: str) -> dict[str, Any]:
    """The content of a solution whose session said nothing: all its statements, not asked."""
    (found,) = table.content([one.label], [])
    return {**found, "problem": f"could not be asked: {why}", "left out": [], "unended": True}


def _last_words(said: Path) -> str:
    lines = [line.strip() for line in said.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith(("ERROR", "INTERNALERROR"))), lines[-1] if lines else "no word was said")


def _write(path: Path, text: str) -> None:
    """All of a file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(text, encoding="utf-8", errors="backslashreplace")
    half.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
