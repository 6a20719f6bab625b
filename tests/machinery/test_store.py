"""The store: a run is performed once, however many want it, and what is damaged, foreign or outdated is never used."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import vp
from tests.controls import artifacts as controls
from tests.controls.computed import NoLock
from tests.machinery.test_artifacts import equal, largest_file
from tests.support.counting import Counted
from vp.data import GaussianNoise
from vp.evaluation import NetworkCost, network_cost
from vp.experiments import ZERO_SHOT, NewHead, Result, Run, VisualPrompt, store
from vp.experiments.activations import CODE_OF_A_RUN
from vp.experiments.store import CorruptResultWarning, obtain, run_key
from vp.machine import computed_once, device_lock
from vp.machine.errors import VpError
from vp.training import Recipe

# Newer Pythons warn of forks beside threads; what a child does here waits for no lock of another thread.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")

RUN = Run("padding-2", "table_2", "mini", "two", "test", "tiny-clip", VisualPrompt("padding", 1), Recipe(epochs=2))
KEY = "0123456789abcdef" * 4
LONG_S = 60  # longer than anything here takes; only a test that hangs meets it


def result_of(seed: int) -> Result:
    """A small Result that differs from seed to seed."""
    weights = {"last/up": torch.full((1, 3, 1, 2), float(seed)), "best/up": torch.zeros(1, 3, 1, 2)}
    history = [{"epoch": 1.0, "loss": 0.1 + seed}, {"epoch": 2.0, "loss": 0.05}]
    correct = torch.arange(7) % (seed + 2) == 0
    return Result(
        RUN.name, RUN.scale, RUN.dataset, RUN.backbone, seed, correct, weights, history, 1, 6, 1.25, {"torch": "2", "device": "cpu"}
    )


def same(first: Result, second: Result) -> bool:
    """Equal in every field, tensors bit by bit."""

    def parts(result: Result) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        plain = {field.name: getattr(result, field.name) for field in fields(result)}
        return {"correct_images": plain.pop("correct_images"), **plain.pop("weights")}, plain

    return equal(parts(first), parts(second))


class Performer(Counted):
    """Takes the place of training: counts in a file, so that other processes count as well."""

    def __call__(self, run: Run, seed: int, device: str, progress: bool, trained: Result | None) -> Result:
        self.begun(seed)
        return result_of(seed)


@pytest.fixture
def performer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Performer:
    """No images, no model: runs are performed by a Performer and addressed by their seed."""
    fake = Performer(tmp_path / "performed")
    monkeypatch.setattr(store, "perform", fake)
    monkeypatch.setattr(store, "run_key", lambda run, seed, device: f"{seed}-{KEY}")
    return fake


def stored_files() -> list[Path]:
    """What the store holds, locks aside."""
    return [path for path in store.store_folder().iterdir() if path.suffix != ".lock"]


def the_stored_file() -> Path:
    (path,) = stored_files()
    return path


# -- once ------------------------------------------------------------------------------------------------------------------


def test_a_result_is_performed_once_and_then_read(performer: Performer) -> None:
    """The first call performs the run, every later one reads an equal result."""
    results = [obtain(RUN, 3) for _ in range(3)]
    assert performer.count == 1
    assert all(same(result, result_of(3)) for result in results)


def test_who_asks_is_told_before_a_run_is_performed(performer: Performer) -> None:
    """`performing` is called once, before the run is performed, and never for a result that is read."""
    performed_before = list[int]()
    for _ in range(3):
        obtain(RUN, 3, performing=lambda: performed_before.append(performer.count))
    assert performed_before == [0]


def test_each_seed_has_its_own_result(performer: Performer) -> None:
    """Results of several seeds stand beside each other."""
    for _ in range(2):
        assert all(same(obtain(RUN, seed), result_of(seed)) for seed in (0, 1, 2))
    assert performer.count == 3


def test_a_run_without_training_is_stored_as_well(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero-shot result, without weights, history or best epoch, is read as it was performed."""
    bare = replace(result_of(0), weights={}, history=[], best_epoch=None, trained_parameters=0)
    monkeypatch.setattr(store, "perform", lambda *_: bare)
    assert same(obtain(RUN), bare)
    monkeypatch.setattr(store, "perform", performer)
    assert same(obtain(RUN), bare)
    assert performer.count == 0


BORROWING = replace(RUN, name="padding-2-elsewhere", recipe=None, weights_from=RUN.name)


@pytest.fixture
def asked_for(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `perform` is asked for, one call after the other; BORROWING borrows from RUN."""
    calls: list[tuple[Any, ...]] = []

    def perform(*arguments: Any) -> Result:
        calls.append(arguments)
        return result_of(arguments[1])

    monkeypatch.setattr(store, "perform", perform)
    monkeypatch.setattr(store, "source_of", lambda run: RUN)
    return calls


def test_a_run_is_performed_as_asked(asked_for: list[tuple[Any, ...]]) -> None:
    """Seed, device and whether to show progress reach what performs; without a word it is seed 0, any device, with progress."""
    obtain(RUN)
    obtain(RUN, 3, device="cpu", progress=False)
    assert asked_for == [(RUN, 0, "auto", True, None), (RUN, 3, "cpu", False, None)]


def test_a_run_with_borrowed_weights_has_those_of_its_source(asked_for: list[tuple[Any, ...]]) -> None:
    """The run that trains is obtained first, for the same seed and device, and its result is what the other starts from."""
    obtain(BORROWING, 3, device="cpu", progress=False)
    (first, second) = asked_for
    assert first == (RUN, 3, "cpu", False, None)
    assert second[:4] == (BORROWING, 3, "cpu", False)
    assert same(second[4], result_of(3))


def test_age_holds_for_the_source_as_well(asked_for: list[tuple[Any, ...]]) -> None:
    """An older source is performed again, too."""
    obtain(RUN, 3)
    os.utime(the_stored_file(), (1000, 1000))
    obtain(BORROWING, 3, newer_than=1001)
    assert [run.name for run, *_ in asked_for] == [RUN.name, RUN.name, BORROWING.name]


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is not free is an error."""

    class Impatient(store.FileLock):
        def acquire(self, **_: Any) -> Any:
            return super().acquire(timeout=0)

    monkeypatch.setattr(store, "FileLock", Impatient)


@pytest.mark.usefixtures("_no_waiting")
def test_a_run_that_fails_leaves_nothing(performer: Performer) -> None:
    """An error while performing reaches the caller, nothing is stored, and the next call performs again."""

    def fail() -> None:
        raise ValueError("diverged")

    performer.before_it_ends = fail
    with pytest.raises(ValueError, match="diverged"):
        obtain(RUN)
    assert stored_files() == []
    performer.before_it_ends = lambda: None
    assert same(obtain(RUN), result_of(0))


# -- several workers -------------------------------------------------------------------------------------------------------


def assert_one_performs(performer: Performer) -> None:
    """Two processes; while the first performs, the second must not start to, and then both have the result."""
    started, may_end = FORK.Semaphore(0), FORK.Event()

    def wait_for_the_other() -> None:
        started.release()
        assert may_end.wait(LONG_S)

    def work() -> None:
        assert same(obtain(RUN, 3), result_of(3))

    performer.before_it_ends = wait_for_the_other
    workers = [FORK.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        assert started.acquire(timeout=LONG_S)
        both = started.acquire(timeout=0.4)
    finally:
        may_end.set()
        for worker in workers:
            worker.join(LONG_S)
    assert not both
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert performer.count == 1


def test_of_two_workers_that_want_a_run_one_performs_it(performer: Performer) -> None:
    """Of two processes that want the same run one performs it, the other waits and reads the same result."""
    assert_one_performs(performer)
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 1


def test_a_store_without_a_lock_is_rejected(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock both processes perform."""
    monkeypatch.setattr(store, "FileLock", NoLock)
    with pytest.raises(AssertionError):
        assert_one_performs(performer)
    assert performer.count == 2


@pytest.fixture
def busy_worker(performer: Performer) -> Any:
    """A process that performs seed 3 and does not come to an end."""
    started = FORK.Semaphore(0)

    def never_end() -> None:
        started.release()
        signal.pause()

    performer.before_it_ends = never_end
    worker = FORK.Process(target=obtain, args=(RUN, 3))
    worker.start()
    assert started.acquire(timeout=LONG_S)
    performer.before_it_ends = lambda: None
    yield worker
    worker.kill()
    worker.join(LONG_S)


@pytest.mark.usefixtures("_no_waiting")
def test_a_killed_worker_leaves_the_lock_free_and_nothing_stored(performer: Performer, busy_worker: Any) -> None:
    """A process killed while it performs leaves nothing behind: the next call performs at once."""
    busy_worker.kill()
    busy_worker.join(LONG_S)
    assert busy_worker.exitcode == -signal.SIGKILL
    assert stored_files() == []
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 2


def test_who_waits_is_told_for_what(
    performer: Performer, busy_worker: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that waits for another one's result says so in a line, once it has waited a while, and then performs no more."""
    monkeypatch.setattr(device_lock, "SILENT_S", 0.1)
    threading.Timer(0.5, busy_worker.kill).start()
    assert same(obtain(RUN, 3), result_of(3))
    assert capsys.readouterr().err == "waiting: another process performs padding-2 (seed 3), for this one as well\n"
    assert performer.count == 2


@pytest.mark.usefixtures("_no_waiting")
def test_another_run_does_not_wait(performer: Performer, busy_worker: Any) -> None:
    """The lock is of one run: others are performed meanwhile."""
    assert same(obtain(RUN, 4), result_of(4))


# -- what is not used ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a byte changed", "the end missing", "empty", "no safetensors"])
def test_a_damaged_result_is_reported_set_aside_and_performed_again(damage: str, performer: Performer) -> None:
    """A damaged result is never used: it is reported, kept for a look under another name, and performed again."""
    obtain(RUN, 3)
    path = the_stored_file()
    whole = path.read_bytes()
    damaged = {
        "a byte changed": whole[:-1] + bytes([whole[-1] ^ 1]),
        "the end missing": whole[:-1],
        "empty": b"",
        "no safetensors": b"text in place of tensors",
    }[damage]
    path.write_bytes(damaged)
    with pytest.warns(CorruptResultWarning, match=r"padding-2-3-.*computed again"):
        assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 2
    (aside,) = [other for other in stored_files() if other != path]
    assert aside.read_bytes() == damaged
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 2


def assert_keys_are_checked(performer: Performer) -> None:
    obtain(RUN, 3)
    the_stored_file().rename(store.result_path(RUN, f"4-{KEY}"))
    with pytest.warns(CorruptResultWarning, match="belongs to another run"):
        assert same(obtain(RUN, 4), result_of(4))
    assert performer.count == 2


def test_a_file_that_belongs_to_another_key_is_not_used(performer: Performer) -> None:
    """A sound file under the name of another result is set aside, and the right one performed."""
    assert_keys_are_checked(performer)


def test_a_store_that_trusts_file_names_is_rejected(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not compare keys takes the result of another run."""
    monkeypatch.setattr(store, "result_in", controls.trusts_any_file)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        assert_keys_are_checked(performer)


def assert_age_is_respected(performer: Performer) -> None:
    obtain(RUN, 3)
    os.utime(the_stored_file(), (1000, 1000))
    obtain(RUN, 3, newer_than=999)
    assert performer.count == 1
    obtain(RUN, 3, newer_than=1001)
    assert performer.count == 2
    os.utime(the_stored_file(), (1002, 1002))
    assert same(obtain(RUN, 3, newer_than=1001), result_of(3))
    assert performer.count == 2


def test_results_older_than_asked_for_are_performed_again(performer: Performer) -> None:
    """With a start time, an older result is performed again, and all who ask from then on share the newer one."""
    assert_age_is_respected(performer)


def test_a_store_that_ignores_age_is_rejected(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored result taken however old makes --fresh a word without meaning."""
    monkeypatch.setattr(store, "_stored", controls.ignores_age)
    with pytest.raises(AssertionError):
        assert_age_is_respected(performer)


# -- stores that cannot be written -----------------------------------------------------------------------------------------


def assert_refused_before_training(performer: Performer, folder: Path) -> None:
    with pytest.raises(VpError) as failed:
        obtain(RUN, 3)
    assert performer.count == 0
    message = str(failed.value)
    assert str(folder) in message
    assert "set VP_HOME to a folder you can write" in message
    assert "\n" not in message


@pytest.mark.parametrize("place", [".", "deeper", "results"])
def test_a_file_in_the_way_of_the_store_is_refused_before_training(
    place: str, performer: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the store needs a folder is one line that names it and the cure, before any training."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "results").write_text("a file")
    home = {".": tmp_path / "home", "deeper": tmp_path / "home/results/deeper", "results": tmp_path / "home/results"}[place]
    monkeypatch.setenv("VP_HOME", str(home))
    assert_refused_before_training(performer, home / "results")


def assert_full_disk_is_refused(performer: Performer) -> None:
    store.store_folder().mkdir(parents=True)
    with largest_file(100):
        assert_refused_before_training(performer, store.store_folder())
    assert stored_files() == []


def test_a_full_store_is_refused_before_training(performer: Performer) -> None:
    """A full disk is found before the training, and the test for it leaves nothing behind."""
    assert_full_disk_is_refused(performer)


def test_a_store_that_trains_before_it_looks_is_rejected(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the test of the disk a training is lost."""
    monkeypatch.setattr(store, "_check_writable", controls.checks_nothing)
    with pytest.raises(AssertionError):
        assert_full_disk_is_refused(performer)
    assert performer.count == 1


def test_a_store_that_cannot_be_written_can_be_read(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is read where no lock can be made, as from somebody else's folder."""
    obtain(RUN, 3)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(store, "FileLock", refuse)
    assert same(obtain(RUN, 3), result_of(3))
    with pytest.raises(VpError, match=r"^cannot write to .*results \(Read-only file system\): .*VP_HOME"):
        obtain(RUN, 4)
    assert performer.count == 1


def test_a_result_that_cannot_be_opened_is_not_taken_for_damaged(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission, or too many open files, is one line; the result stays where it is and is read when that is mended."""
    obtain(RUN, 3)
    with monkeypatch.context() as busy:

        def refuse(*_: object) -> None:
            raise OSError(24, "Too many open files")

        busy.setattr(Path, "open", refuse)
        with pytest.raises(VpError, match=r"^cannot read .*padding-2.* \(Too many open files\): check its permissions"):
            obtain(RUN, 3)
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 1


def test_a_damaged_result_that_cannot_be_set_aside_is_not_used(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a damaged result cannot be renamed, that is said in one line, and nothing is trained that could not be stored."""
    obtain(RUN, 3)
    the_stored_file().write_bytes(b"")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(VpError, match=r"^cannot write to .*results \(Operation not permitted\): .*VP_HOME"):
        obtain(RUN, 3)
    assert performer.count == 1


# -- what a result is addressed by -----------------------------------------------------------------------------------------

Key = Callable[[Run, int, str], str]
UNTRAINED = replace(RUN, method=ZERO_SHOT, recipe=None)


class World:
    """Data, weights, device and code that a key sees, each a word to change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = {"train": "many images", "test": "few images"}
        self.backbone, self.device, self.code, self.precision = "weights", "cpu", "statements", "float32"
        monkeypatch.setattr(store, "precision", lambda device: self.precision)
        monkeypatch.setattr(store, "images_of", lambda run, split: SimpleNamespace(fingerprint=self.data[split]))
        monkeypatch.setattr(store, "fingerprint_of", lambda name, device: self.backbone)
        monkeypatch.setattr(store, "pick_device", lambda name: SimpleNamespace(type=self.device))
        monkeypatch.setattr(store, "code_version", lambda modules: self.code)
        self.versions = {"torch": "2.9.0"}
        monkeypatch.setattr(store, "versions", lambda: self.versions)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


OTHER_NAMES = {"name": "padding-3", "table": "table_9", "scale": "full"}
OTHER_SETTINGS = {
    "dataset": "ten",
    "split": "train",
    "backbone": "large-clip",
    "method": VisualPrompt("padding", 2),
    "noise": GaussianNoise(0.1),
    "tested_epoch": "best",
    "template": "{}",
    "class_names": ("one", "two"),
    "validation_share": 0.1,
    "limit": 1000,
    "rehearsal": True,
}
OTHER_RECIPE = {
    "optimiser": "adam",
    "learning_rate": 39.0,
    "momentum": 0.8,
    "warmup_steps": 999,
    "schedule": "constant",
    "epochs": 3,
    "batch_size": 127,
    "shuffle": False,
}
OTHER_WORLDS = (
    ("data", {"train": "a label mended", "test": "few images"}),
    ("data", {"train": "many images", "test": "a label mended"}),
    ("backbone", "other weights"),
    ("precision", "bfloat16"),
    ("device", "cuda"),
    ("code", "other statements"),
    ("versions", {"torch": "2.9.1"}),
)


def assert_key_sees_what_matters(key: Key, world: World) -> None:
    """One change at a time: settings, seed and surroundings give as many keys, names give none."""
    assert RUN.recipe is not None
    assert {field.name for field in fields(Run)} == {*OTHER_NAMES, *OTHER_SETTINGS, "recipe", "weights_from"}, (
        "a new field of Run belongs here"
    )
    assert {field.name for field in fields(Recipe)} == {*OTHER_RECIPE}, "a new field of Recipe belongs here"
    first = key(RUN, 0, "auto")
    for name, other in OTHER_NAMES.items():
        assert key(replace(RUN, **{name: other}), 0, "auto") == first, name
    keys = {"nothing": first, "seed": key(RUN, 1, "auto")}
    for name, other in OTHER_SETTINGS.items():
        keys[name] = key(replace(RUN, **{name: other}), 0, "auto")
    for name, other in OTHER_RECIPE.items():
        keys[f"recipe {name}"] = key(replace(RUN, recipe=replace(RUN.recipe, **{name: other})), 0, "auto")
    for head in (NewHead(), NewHead("frozen"), NewHead(flip=0.5), NewHead(stages=("layer4",))):
        keys[str(head)] = key(replace(RUN, method=head), 0, "auto")
    for name, other in OTHER_WORLDS:
        with mock.patch.object(world, name, other):
            keys[f"{name} {other}"] = key(RUN, 0, "auto")
    assert len(set(keys.values())) == len(keys), keys


def test_a_key_changes_with_what_the_number_depends_on_and_nothing_else(world: World) -> None:
    """Settings, seed, data, weights, device and code change the key of a result; the names people give it do not."""
    assert_key_sees_what_matters(run_key, world)


@pytest.mark.parametrize("key", [controls.key_of_names, controls.key_of_settings])
def test_a_key_that_forgets_or_adds_is_rejected(key: Key, world: World) -> None:
    """A key made of names, or of settings alone, is no address."""
    with pytest.raises(AssertionError):
        assert_key_sees_what_matters(key, world)


def test_a_run_without_training_has_one_key_for_all_seeds(world: World) -> None:
    """A zero-shot result does not depend on the seed, nor on the split that it does not look at."""
    first = run_key(UNTRAINED, 0)
    assert run_key(UNTRAINED, 1) == first
    world.data["train"] = "a label mended"
    assert run_key(UNTRAINED, 0) == first
    world.data["test"] = "a label mended"
    assert run_key(UNTRAINED, 0) != first


def test_a_run_with_borrowed_weights_follows_the_run_it_borrows_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a prompt evaluated elsewhere changes with the run that trains it."""
    keys = []
    for epochs in (2, 3):
        source = replace(RUN, recipe=Recipe(epochs=epochs))
        monkeypatch.setattr("vp.experiments.run.find_run", lambda name, scale, source=source: source)
        keys.append(run_key(replace(RUN, recipe=None, weights_from=RUN.name), 0))
    assert len({*keys, run_key(RUN, 0)}) == 3


def test_a_prompt_without_training_or_source_is_refused() -> None:
    """A run with a prompt says how it is trained or whose weights it takes; a run without one says neither."""
    for wrong in ({"recipe": None}, {"method": ZERO_SHOT}):
        with pytest.raises(ValueError, match="a prompt or head needs a recipe or the run its weights come from"):
            replace(RUN, **wrong)


CODE = """
class Prompt:
    def add(self, image, size=3):
        return image + self.patch * size
"""
SAME_CODE = {
    "a comment": "# where it is added\n" + CODE.replace("size\n", "size  # scaled\n"),
    "docstrings": '"""Prompts."""' + CODE.replace("Prompt:", "Prompt:\n    'A prompt.'").replace("=3):", "=3):\n        'Add.'"),
    "layout": CODE.replace("image + self.patch * size", "(\n            image\n            + (self.patch * size)\n        )"),
}
OTHER_CODE = {
    "an operator": CODE.replace("+", "-"),
    "a constant": CODE.replace("3", "4"),
    "a name": CODE.replace("patch", "frame"),
    "an order": CODE.replace("self.patch * size", "size * self.patch"),
    "a text that is no docstring": CODE.replace("size\n", "size + 'px'\n"),
    "a statement": CODE + "Prompt.add = None\n",
}


def assert_only_statements_count(version: Callable[[str], str]) -> None:
    for change, source in SAME_CODE.items():
        assert source != CODE
        assert version(source) == version(CODE), change
    versions = {change: version(source) for change, source in {"as it is": CODE, **OTHER_CODE}.items()}
    assert len(set(versions.values())) == len(versions), versions


def test_only_statements_are_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments, docstrings and layout do not change the version of the code; any changed statement does."""
    module = tmp_path / "prompts_for_a_test.py"
    module.touch()
    monkeypatch.syspath_prepend(tmp_path)

    def version(source: str) -> str:
        module.write_text(source)
        return computed_once.code_version.__wrapped__((module.stem,))

    assert_only_statements_count(version)


@pytest.mark.parametrize("version", [controls.text_of, controls.names_in])
def test_a_code_version_of_text_or_of_names_is_rejected(version: Callable[[str], str]) -> None:
    """The text of a file changes with a comment, its names do not change with a constant: neither is its code."""
    with pytest.raises(AssertionError):
        assert_only_statements_count(version)


def test_every_module_counts_for_the_code_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any of the modules changes the version of the code, and so does a module more."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("first_for_a_test", "second_for_a_test"):
        (tmp_path / f"{name}.py").write_text(f"name = {name!r}\n")
    version = computed_once.code_version.__wrapped__
    both, one = version(("first_for_a_test", "second_for_a_test")), version(("first_for_a_test",))
    (tmp_path / "second_for_a_test.py").write_text("name = 'changed'\n")
    assert len({both, one, version(("first_for_a_test", "second_for_a_test"))}) == 3


# Modules that change no Result, or only by what else is part of its key: its settings, data and weights.
OF_NO_RESULT = {
    "vp", "vp.__main__", "vp.data", "vp.data.world", "vp.evaluation", "vp.evaluation.cost", "vp.evaluation.statistics",
    "vp.experiments", "vp.experiments.nodes", "vp.experiments.own", "vp.experiments.run", "vp.experiments.scales",
    "vp.experiments.speed", "vp.experiments.store",
    "vp.machine", "vp.machine.artifacts", "vp.machine.computed_once", "vp.machine.device_lock", "vp.machine.devices",
    "vp.machine.downloads", "vp.machine.file_locks", "vp.machine.home", "vp.machine.provenance", "vp.machine.shelves",
    "vp.models", "vp.models.networks", "vp.models.pretraining", "vp.models.templates", "vp.models.weights",
    "vp.prompts", "vp.training",
}  # fmt: skip
ROOMS_OF_NO_RESULT = ("vp.graphs", "vp.report", "vp.commands", "vp.sweeps")


def test_every_module_counts_for_a_run_or_is_known_not_to() -> None:
    """A module that is new is in the code that a key covers, or listed above: none is forgotten."""
    root = Path(str(vp.__file__)).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    shown = {name for name in modules if name.startswith(ROOMS_OF_NO_RESULT)}
    assert modules - shown - OF_NO_RESULT == {*CODE_OF_A_RUN}


# -- costs -----------------------------------------------------------------------------------------------------------------

SETTINGS = {"image_px": 32, "time_batch": 1, "repeats": 1}


def test_a_measured_cost_is_read_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network costs is measured once for a device and settings; measured again when asked for newer or other settings."""
    measured = []

    def cost_of(network: nn.Module, image_px: int, **settings: Any) -> NetworkCost:
        measured.append(settings["time_batch"])
        return network_cost(network, image_px, **settings)

    monkeypatch.setattr(store, "network_cost", cost_of)
    cpu = torch.device("cpu")
    first = store.obtain_cost("mobilenet_v3_small", cpu, **SETTINGS)
    assert store.obtain_cost("mobilenet_v3_small", cpu, **SETTINGS) == first
    assert first.provenance["torch"] == torch.__version__.partition("+")[0]
    assert measured == [1]
    store.obtain_cost("mobilenet_v3_small", cpu, **SETTINGS | {"time_batch": 2})
    store.obtain_cost("mobilenet_v3_small", cpu, newer_than=time.time() + 60, **SETTINGS)
    assert measured == [1, 2, 1]


def test_a_cost_is_of_its_machine_device_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine or device, or by other code, it is measured again; a commit or the order of settings change nothing."""
    where = {"device": "one", "commit": "first"}
    surroundings = {"machine": "here", "code": "statements"}
    devices = []
    network = store.build_network("mobilenet_v3_small", 32, "cpu")
    cost = network_cost(network, **SETTINGS)
    monkeypatch.setattr(store, "provenance", lambda device: dict(where))
    monkeypatch.setattr(store, "code_version", lambda modules: f"{surroundings['code']} {modules}")
    monkeypatch.setattr(store.platform, "node", lambda: surroundings["machine"])
    monkeypatch.setattr(store, "build_network", lambda name, image_px, device: devices.append(device))
    monkeypatch.setattr(store, "network_cost", lambda network, **settings: cost)
    device = torch.device("cpu")

    def measured_again(**settings: Any) -> bool:
        before = len(devices)
        assert store.obtain_cost("mobilenet_v3_small", device, **settings) == cost
        return len(devices) > before

    assert measured_again(**SETTINGS)
    assert devices == [device]
    where["commit"] = "second"
    assert not measured_again(**dict(reversed(SETTINGS.items())))
    where["device"] = "another"
    assert measured_again(**SETTINGS)
    for name in surroundings:
        surroundings[name] = "another"
        assert measured_again(**SETTINGS), name
    assert not measured_again(**SETTINGS)
