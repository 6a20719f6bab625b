"""One device, many processes: work shares it, a measurement has it alone. Locks between processes, which end with their process.

Whoever computes holds one of the slots; whoever measures holds all of them. Both pass a gate first, and a measurement keeps it
until it has ended, so that newcomers cannot hold it up for ever. Take the device before any other lock: then no two processes
can wait for each other.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from vp.machine.devices import usable_cores
from vp.machine.errors import VpError
from vp.machine.home import home

SLOTS = 64  # more processes than that take turns
SILENT_S = 3.0  # after which who waits is told why


class SharedDevice:
    """A device, known by the folder of its locks. Within a process one holds it and what is nested rests on that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inside = 0  # how many calls of this process hold the device
        self._locks: ExitStack | None = None
        self._is_alone = False
        self._mutex = threading.Lock()
        self._lock = cache(self._new_lock)

    @contextmanager
    def share(self) -> Iterator[None]:
        """Hold the device beside others, and never beside a measurement: waits until it is over.

        Where the folder cannot be written no process can measure, so none needs to wait either.
        """
        with self._held(alone=False, wait_s=-1):
            yield

    @contextmanager
    def alone(self, wait_s: float = 1800) -> Iterator[None]:
        """Have the device to oneself, with all cores that the process may use; nobody else starts from now on.

        Raises VpError when others have not finished after `wait_s` seconds or the folder cannot be written, and RuntimeError when
        this process shares the device already: two that wait for each other to let go would never end.
        """
        with self._held(alone=True, wait_s=wait_s), _all_cores():
            yield

    @contextmanager
    def _held(self, alone: bool, wait_s: float) -> Iterator[None]:
        with self._mutex:
            if self._inside == 0:
                self._locks, self._is_alone = self._acquire_all(wait_s) if alone else self._acquire_one(), alone
            elif alone and not self._is_alone:
                raise RuntimeError("this process shares the device already: ask to have it alone before anything shares it")
            self._inside += 1
        try:
            yield
        finally:
            with self._mutex:
                self._inside -= 1
                if self._inside == 0 and self._locks is not None:
                    self._locks.close()

    def _new_lock(self, name: str | int) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Several machines may have a home folder in common, but no device.
        return FileLock(self.folder / f"device-{platform.node()}-{name}.lock", thread_local=False)

    def _acquire_one(self) -> ExitStack:
        held, own = ExitStack(), os.getpid() % SLOTS
        try:
            with patiently(
                self._lock("gate"), "waiting: another process measures and has this device to itself, or waits to have it"
            ):
                for slot in (*range(own, SLOTS), *range(own)):
                    with suppress(Timeout):
                        held.enter_context(self._lock(slot).acquire(timeout=0))
                        return held
                held.enter_context(self._lock(own))
        except OSError:
            pass
        return held

    def _acquire_all(self, wait_s: float) -> ExitStack:
        ends = time.monotonic() + wait_s
        with ExitStack() as held:
            try:
                for name in ("gate", *range(SLOTS)):
                    held.enter_context(self._lock(name).acquire(timeout=max(0.0, ends - time.monotonic())))
            except Timeout as error:
                raise VpError(
                    f"other processes have used the device for more than {wait_s:g} s ({error.lock_file} is locked): "
                    "measure again when they are done"
                ) from error
            except OSError as error:
                raise VpError(
                    f"cannot write to {self.folder} ({error.strerror or error}), where a measurement locks its device: "
                    "set VP_HOME to a folder you can write"
                ) from error
            return held.pop_all()


@contextmanager
def patiently(lock: FileLock, said: str) -> Iterator[None]:
    """Hold a lock; after a few seconds of waiting, say why."""
    try:
        lock.acquire(timeout=SILENT_S)
    except Timeout:
        print(said, file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _all_cores() -> Iterator[None]:
    """As many threads as this process may use cores; workers of a test run have fewer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def this_device() -> SharedDevice:
    """The device of this process, locked in `locks` of the home folder as it is at the first call."""
    return SharedDevice(home() / "locks")
