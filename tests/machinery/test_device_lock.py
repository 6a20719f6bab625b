"""vp.machine.device_lock: many processes share a device, a measurement has it alone, and a lock ends with its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout

import conftest
from vp.machine import device_lock
from vp.machine.device_lock import SharedDevice
from vp.machine.errors import VpError

# Newer Pythons warn of forks beside threads; what a child does here waits for no lock of another thread.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")
LONG_S = 60  # longer than anything here takes; only a test that hangs meets it


def hold(folder: Path, how: str, log: Path, name: str, until: Any, holds: Any) -> None:
    """In a child: takes the device, writes when it had it and when it let go, and keeps it until told to go on."""
    device = SharedDevice(folder)
    with device.alone(LONG_S) if how == "alone" else device.share():
        with log.open("a") as lines:
            lines.write(f"{name} begins\n")
        holds.set()
        until.wait(LONG_S)
        with log.open("a") as lines:
            lines.write(f"{name} ends\n")


class Children:
    """Processes that hold a device, and what they wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "locks", folder / "log"
        self.running: dict[str, tuple[Any, Any, Any]] = {}

    def start(self, how: str, name: str, waits_for_it: bool = True) -> None:
        until, holds = FORK.Event(), FORK.Event()
        process = FORK.Process(target=hold, args=(self.folder, how, self.log, name, until, holds))
        process.start()
        self.running[name] = process, until, holds
        if waits_for_it:
            assert holds.wait(LONG_S)

    def holds(self, name: str, within_s: float) -> bool:
        return bool(self.running[name][2].wait(within_s))

    def end(self, *names: str) -> None:
        for name in names:
            process, until, _ = self.running.pop(name)
            until.set()
            process.join(LONG_S)
            assert process.exitcode == 0

    def kill(self, name: str) -> None:
        process, _, _ = self.running.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.join(LONG_S)

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def children(tmp_path: Path) -> Any:
    some = Children(tmp_path)
    yield some
    for name in list(some.running):
        some.kill(name)


def test_several_processes_share_a_device(children: Children) -> None:
    """Processes that share the device hold it at the same time."""
    for name in ("a", "b", "c"):
        children.start("share", name)
    children.end("a", "b", "c")
    assert children.lines[:3] == ["a begins", "b begins", "c begins"]


def test_a_measurement_waits_until_all_others_have_finished(children: Children) -> None:
    """Whoever wants the device alone begins when the last of those who share it has ended."""
    children.start("share", "a")
    children.start("share", "b")
    children.start("alone", "measurement", waits_for_it=False)
    assert not children.holds("measurement", 0.2)
    children.end("a")
    assert not children.holds("measurement", 0.2)
    children.end("b")
    assert children.holds("measurement", LONG_S)
    children.end("measurement")
    assert children.lines[-3:] == ["b ends", "measurement begins", "measurement ends"]


def test_newcomers_wait_behind_a_measurement_that_waits(children: Children) -> None:
    """A measurement that waits is not overtaken: who comes later begins after it, so that it cannot wait for ever."""
    children.start("share", "a")
    children.start("alone", "measurement", waits_for_it=False)
    assert not children.holds("measurement", 0.2)
    children.start("share", "late", waits_for_it=False)
    assert not children.holds("late", 0.2)
    children.end("a")
    assert children.holds("measurement", LONG_S)
    assert not children.holds("late", 0.2)
    children.end("measurement")
    assert children.holds("late", LONG_S)
    children.end("late")
    assert children.lines == ["a begins", "a ends", "measurement begins", "measurement ends", "late begins", "late ends"]


def test_two_measurements_take_turns(children: Children) -> None:
    """Of two measurements one waits for the other."""
    children.start("alone", "first")
    children.start("alone", "second", waits_for_it=False)
    assert not children.holds("second", 0.2)
    children.end("first")
    assert children.holds("second", LONG_S)
    children.end("second")


@pytest.mark.parametrize("how", ["share", "alone"])
def test_a_killed_process_leaves_no_lock_behind(children: Children, how: str) -> None:
    """A process that is killed while it holds the device holds nobody up."""
    children.start(how, "killed")
    children.kill("killed")
    children.start("alone", "next")
    children.end("next")


def test_more_processes_than_slots_take_turns(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all slots are taken the next process waits for one and then shares the device."""
    monkeypatch.setattr(device_lock, "SLOTS", 2)
    for name in ("a", "b"):
        children.start("share", name)
    children.start("share", "c", waits_for_it=False)
    assert not children.holds("c", 0.2)
    children.end("a", "b")
    assert children.holds("c", LONG_S)
    children.end("c")


def hammer(folder: Path, log: Path, seed: int) -> None:
    """In a child: takes the device many times, and writes what it held while it held it."""
    device = SharedDevice(folder)
    for turn in range(15):
        alone = (seed + turn) % 5 == 0
        with device.alone(LONG_S) if alone else device.share(), log.open("a") as lines:
            lines.write(f"{'alone' if alone else 'share'} {seed} begins\n")
            lines.flush()
            time.sleep(0.001)
            lines.write(f"{'alone' if alone else 'share'} {seed} ends\n")


def test_many_processes_never_meet_a_measurement(tmp_path: Path) -> None:
    """However many processes come and go, between the beginning and the end of a measurement there is nobody else."""
    log = tmp_path / "log"
    processes = [FORK.Process(target=hammer, args=(tmp_path / "locks", log, seed)) for seed in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONG_S)
    assert [process.exitcode for process in processes] == [0] * 5
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 5 * 15 * 2
    begun = [at for at, (how, _, what) in enumerate(lines) if (how, what) == ("alone", "begins")]
    assert len(begun) == 15
    inside: set[str] = set()
    for how, seed, what in lines:
        if what == "begins":
            assert not inside if how == "alone" else "alone" not in inside
            inside.add(how if how == "alone" else seed)
        else:
            inside.remove(how if how == "alone" else seed)


def test_what_is_nested_rests_on_what_the_process_holds(tmp_path: Path) -> None:
    """Within a process a nested call takes no lock of its own and returns none: the outermost call holds the device."""
    device, other = SharedDevice(tmp_path), SharedDevice(tmp_path)
    with device.alone(0):
        with device.share(), device.alone(0):
            pass
        with pytest.raises(VpError), other.alone(0.05):
            pass
    with other.alone(0):
        pass


def test_alone_within_shared_is_an_error(tmp_path: Path) -> None:
    """Who shares the device cannot ask to have it alone: two that did would wait for each other for ever."""
    device = SharedDevice(tmp_path)
    with device.share(), pytest.raises(RuntimeError, match="shares the device already"), device.alone():
        pass


def test_waiting_too_long_is_an_error_that_says_what_to_do(children: Children) -> None:
    """A measurement that others keep waiting is given up with a message, and its place is free for others at once."""
    children.start("share", "a")
    with pytest.raises(
        VpError, match=r"other processes have used the device for more than 0.1 s \(.*lock is locked\): measure again"
    ):
        with SharedDevice(children.folder).alone(0.1):
            pass
    children.start("share", "b")
    children.end("a", "b")


def test_a_folder_that_cannot_be_written_stops_measurements_only(tmp_path: Path) -> None:
    """Where no lock can be written, work goes on, and a measurement is refused with the reason."""
    (tmp_path / "file").touch()
    device = SharedDevice(tmp_path / "file" / "locks")
    with device.share():
        pass
    with pytest.raises(VpError, match=r"cannot write to .*locks \(Not a directory\).*: set VP_HOME to a folder"), device.alone():
        pass


def test_a_measurement_has_all_cores(tmp_path: Path) -> None:
    """While it has the device alone a process uses all its cores, and afterwards as many as before."""
    before = torch.get_num_threads()
    with SharedDevice(tmp_path).alone():
        assert torch.get_num_threads() == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    assert torch.get_num_threads() == before


# -- tests and the device --------------------------------------------------------------------------------------------------


class Item:
    """As much of a collected test as the hook looks at."""

    def __init__(self, *markers: pytest.MarkDecorator) -> None:
        self.markers = [*markers]
        self.config = SimpleNamespace(getoption=lambda name: None)

    def get_closest_marker(self, name: str) -> pytest.MarkDecorator | None:
        return next((marker for marker in self.markers if marker.name == name), None)

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.markers.append(marker)


def run_of(item: Item, within: Callable[[], object]) -> None:
    """What pytest does with a test's hook."""
    hook = conftest.pytest_runtest_protocol(item)
    next(hook)
    within()
    with pytest.raises(StopIteration):
        hook.send(True)


def others_may_share(folder: Path) -> bool:
    """Could another process share the device now? It can if nobody keeps the gate."""
    try:
        with FileLock(SharedDevice(folder)._lock("gate").lock_file, timeout=0):
            return True
    except Timeout:
        return False


@pytest.mark.parametrize(("markers", "shared"), [([], True), ([pytest.mark.alone], False)])
def test_a_test_holds_the_device_as_it_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, markers: list[pytest.MarkDecorator], shared: bool
) -> None:
    """A test shares the device with others; one marked `alone` does not; afterwards it is free."""
    device, other = SharedDevice(tmp_path), SharedDevice(tmp_path)
    monkeypatch.setattr(device_lock, "this_device", lambda: device)

    def look() -> None:
        assert others_may_share(tmp_path) == shared
        with pytest.raises(VpError), other.alone(0):
            pass

    run_of(Item(*markers), look)
    with other.alone(0):
        pass


def test_a_measurement_that_cannot_be_alone_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test marked `alone` that others keep waiting is NOT RUN, with the reason."""

    def alone() -> None:
        raise VpError("other processes have used the device")

    monkeypatch.setattr(device_lock, "this_device", lambda: SimpleNamespace(alone=alone))
    item = Item(pytest.mark.alone)
    run_of(item, lambda: None)
    (skip,) = [marker for marker in item.markers if marker.name == "skip"]
    assert skip.kwargs["reason"] == "NOT RUN: other processes have used the device"


def test_this_test_shares_the_device_of_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests have homes of their own, but one device: its locks lie in the home that pytest was started with."""
    monkeypatch.setenv("VP_HOME", str(tmp_path))
    assert device_lock.this_device().folder != tmp_path / "locks"
    assert device_lock.this_device()._inside >= 1
