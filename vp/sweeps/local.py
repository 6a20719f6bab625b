"""`--on local`: a sweep on this machine. Processes that stay, each of which keeps backbones, images and prefixes warm.

A process draws Tasks from one group (vp.sweeps.grouped) as long as that has some, then from the next that nobody works on, and
when all are taken it joins the one with the most work left. One that dies loses the Task it was on, which is tried once more.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from vp.experiments.store import obtain
from vp.machine.device_lock import this_device
from vp.machine.devices import count_devices, give_device, usable_cores, visible_devices
from vp.machine.errors import VpError
from vp.machine.home import home, writing_to
from vp.machine.runtime import pick_device
from vp.sweeps.stored import check_here, stored
from vp.sweeps.tasks import Outcome, Task, TellOutcome, grouped

TRIES = 2  # of a Task whose process died
PATIENCE_S = 10.0  # for a process to end when it is told to
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
LIBRARIES = ["torch", "torchvision", "open_clip", "scipy.stats"]  # imported once for all processes, which takes seconds

Shares = tuple[str, str, int]


class LocalEngine:
    """Performs Tasks in `workers` processes of this machine (by default one a core, or one a GPU), threads divided among them.

    logs: the folder of what Tasks wrote, by default one of its own in `logs` of VP_HOME; those that wrote nothing have no log.
    A program that uses it is guarded by `if __name__ == "__main__"`, as for all processes of multiprocessing. Raises VpError for
    less than one worker or an unknown device.
    """

    def __init__(self, workers: int | None = None, device: str = "auto", logs: Path | None = None) -> None:
        if workers is not None and workers < 1:
            raise VpError(f"--workers {workers}: give at least 1")
        self.on_gpus = pick_device(device).type == "cuda"
        self.workers, self.device = workers or _usual_workers(self.on_gpus), device
        self.logs = logs or home() / "logs" / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"

    def perform(self, tasks: Sequence[Task], tell: TellOutcome) -> None:
        """Perform each Task once and tell of it when it ends; a failed one does not stop the rest.

        Raises VpError where images or weights are missing, no process can start or no log be written; KeyboardInterrupt when
        interrupted, after all processes have ended. Finished results are in the store then.
        """
        check_here(tasks)
        with writing_to(self.logs):
            self.logs.mkdir(parents=True, exist_ok=True)
        if tasks:
            _Session(self, tasks, tell).perform()


def _usual_workers(on_gpus: bool) -> int:
    devices = visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), count_devices()) if on_gpus else []
    return max(1, len(devices)) if on_gpus else usable_cores()


# -- who does what --------------------------------------------------------------------------------------------------------


class Queue:
    """Which Task comes next, by its number in the list: longest group first, and in it the longest."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        numbers: dict[int, deque[int]] = {}
        for number, task in enumerate(tasks):
            numbers.setdefault(id(task), deque()).append(number)
        self.tasks = tasks
        self.groups = {group[0].shares: deque(numbers[id(task)].popleft() for task in group) for group in grouped(tasks)}

    def next(self, own: Shares | None, busy: Sequence[Shares | None]) -> int | None:
        """The next for a process whose last was of the group `own`, while others are on the groups `busy`; None: all are taken."""
        waiting = [shares for shares, numbers in self.groups.items() if numbers]
        if not waiting:
            return None
        if own in waiting:
            chosen = own
        elif free := [shares for shares in waiting if shares not in busy]:
            chosen = free[0]
        else:
            chosen = max(waiting, key=lambda shares: self._left(shares) / (1 + busy.count(shares)))
        return self.groups[chosen].popleft()

    def put_back(self, number: int) -> None:
        """To be done next in its group."""
        self.groups[self.tasks[number].shares].appendleft(number)

    def _left(self, shares: Shares) -> float:
        return sum(1 + self.tasks[number].run.relative_cost for number in self.groups[shares])


@dataclass
class _Worker:
    """A process as its parent sees it."""

    place: int
    process: Any
    connection: Connection
    ready: bool = False
    running: int | None = None  # the number of its Task
    since: float = 0.0
    shares: Shares | None = None


@dataclass
class _Session:
    """One call of `perform`."""

    engine: LocalEngine
    tasks: Sequence[Task]
    tell: TellOutcome
    workers: dict[int, _Worker] = field(default_factory=dict)  # by place, from 0
    tries: dict[int, int] = field(default_factory=dict)
    never_ready: int = 0

    def perform(self) -> None:
        self.queue, left = Queue(self.tasks), len(self.tasks)
        self.count = min(self.engine.workers, left)
        CONTEXT.set_forkserver_preload(LIBRARIES)
        try:
            for place in range(self.count):
                self._start(place)
            while left:
                left -= self._wait()
        except BaseException:
            for worker in self.workers.values():
                worker.process.terminate()
            raise
        finally:
            self._end()

    def _start(self, place: int) -> None:
        """A process for this place. Ctrl-C in the terminal is the parent's business: it does not reach the process."""
        ours, theirs = CONTEXT.Pipe()
        environment = dict(os.environ)
        if self.engine.on_gpus:
            give_device(place, self.count, environment)
        threads = max(1, usable_cores() // self.count)
        if (given := environment.get("OMP_NUM_THREADS", "")).isdigit():
            threads = max(1, min(threads, int(given)))
        arguments = (theirs, self.engine.device, threads, environment, self.engine.logs / f"process-{place}.log")
        with _uninterrupted():
            process = CONTEXT.Process(target=_work, args=arguments, name=f"vp-sweep-{place}", daemon=True)
            process.start()
        theirs.close()
        self.workers[place] = _Worker(place, process, ours)

    def _wait(self) -> int:
        """Hand out Tasks, wait for news, and give back how many Tasks have ended."""
        for worker in self.workers.values():
            if worker.ready and worker.running is None:
                self._give(worker)
        news = wait([some for worker in self.workers.values() for some in (worker.connection, worker.process.sentinel)])
        ended = 0
        for worker in list(self.workers.values()):
            if worker.connection in news or worker.process.sentinel in news:
                ended += self._hear(worker)
        return ended

    def _give(self, worker: _Worker) -> None:
        busy = [other.shares for other in self.workers.values() if other is not worker and other.running is not None]
        number = self.queue.next(worker.shares, busy)
        if number is None:
            return
        task = self.tasks[number]
        worker.running, worker.since, worker.shares = number, time.perf_counter(), task.shares
        with suppress(OSError):  # it has died, of which its sentinel tells
            worker.connection.send((task, self._log(number)))

    def _log(self, number: int) -> Path:
        return self.engine.logs / f"{number:05d}-{self.tasks[number].name}.log"

    def _hear(self, worker: _Worker) -> int:
        try:
            if not worker.connection.poll():
                raise EOFError
            said = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        if said is None:
            worker.ready, self.never_ready = True, 0
            return 0
        assert worker.running is not None
        task, worker.running = self.tasks[worker.running], None
        self.tell(replace(said, task=task))  # the caller's own: a copy of it may not be equal
        return 1

    def _bury(self, worker: _Worker) -> int:
        """A process is dead: another takes its place, and its Task is tried once more, or has failed."""
        worker.process.join()
        worker.connection.close()
        del self.workers[worker.place]
        code, number = worker.process.exitcode, worker.running
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not worker.ready:
            self.never_ready += 1
            if self.never_ready >= TRIES:
                log = self.engine.logs / f"process-{worker.place}.log"
                raise VpError(f"no process for the sweep can start ({how}): see {log}")
        ended = 0
        if number is not None:
            self.tries[number] = self.tries.get(number, 0) + 1
            if self.tries[number] < TRIES:
                self.queue.put_back(number)
            else:
                words = f"its process died {TRIES} times ({how}); signal 9 is often a lack of memory: give fewer --workers"
                seconds = time.perf_counter() - worker.since
                where = f"process {worker.place}"
                self.tell(Outcome(self.tasks[number], "failed", seconds, where, words, str(self._log(number))))
                ended = 1
        self._start(worker.place)
        return ended

    def _end(self) -> None:
        """Every process has ended: those that are done at once, those that were told to end when they have tidied up."""
        for worker in self.workers.values():
            worker.connection.close()
        ends = time.monotonic() + PATIENCE_S
        for worker in self.workers.values():
            worker.process.join(max(0.0, ends - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        for log in self.engine.logs.glob("*.log"):
            with suppress(OSError):
                if not log.stat().st_size:
                    log.unlink()
        with suppress(OSError):  # where there are logs
            self.engine.logs.rmdir()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT waits while the context lasts; processes that start in it never get one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the process -------------------------------------------------------------------------------------------------------


class _Stopped(BaseException):
    """The parent wants this process to end: locks and half-written files are tidied up on the way out."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def _work(connection: Connection, device: str, threads: int, environment: Mapping[str, str], log: Path) -> None:
    """Perform what comes, until nothing more does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    os.environ.clear()
    os.environ.update(environment)
    try:
        with _written_to(log):
            faulthandler.enable(2)
            torch.set_num_threads(threads)
            connection.send(None)
            while True:
                task, own_log = connection.recv()
                with _written_to(own_log):
                    outcome = attempt(task, device, f"process {os.getpid()}", own_log)
                if outcome.kind != "failed" and not own_log.stat().st_size:
                    own_log.unlink()
                connection.send(outcome)
    except (EOFError, BrokenPipeError, _Stopped):  # the parent has all it wants, or is gone
        return


@contextmanager
def _written_to(log: Path) -> Iterator[None]:
    """Whatever this process writes goes to a file, also what libraries write past Python."""
    with log.open("ab", buffering=0) as file:
        kept = [os.dup(place) for place in (1, 2)]
        try:
            for place in (1, 2):
                os.dup2(file.fileno(), place)
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            for place, before in zip((1, 2), kept, strict=True):
                os.dup2(before, place)
                os.close(before)


def attempt(task: Task, device: str, where: str, log: Path) -> Outcome:
    """Perform a Task, or find it in the store; the traceback of an error is written to stderr, which is in its log."""
    started = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - started

    try:
        with warnings.catch_warnings(), this_device().share():
            if (found := stored(task, device)) is not None:
                return Outcome(task, "reused", seconds(), where, top1=found.top1)
            result = obtain(task.run, task.seed, device=device, progress=False)
            return Outcome(task, "done", seconds(), where, top1=result.top1)
    except Exception as error:
        traceback.print_exc()
        words = " ".join(str(error).split()) or type(error).__name__
        return Outcome(
            task, "failed", seconds(), where, words if isinstance(error, VpError) else f"{type(error).__name__}: {words}", str(log)
        )
