"""What all processes compute alike: once per machine, to the bit, within a budget, and never at the price of an error."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.controls import computed as controls
from tests.machinery.test_artifacts import equal, largest_file
from tests.support.counting import Counted
from tests.support.strategies import pixels, tensor
from vp.data import ImageSet, generate_cifar, load_cifar, load_images, sources
from vp.evaluation import ImageBatches, PrefixBatches
from vp.evaluation.batches import ComputedBatches
from vp.experiments import DeepTokens, NewHead, Result, activations, find_run, vary
from vp.experiments.perform import perform
from vp.machine import artifacts, computed_once
from vp.machine.computed_once import Content, computed_folder, once
from vp.machine.errors import VpError
from vp.machine.home import home
from vp.machine.runtime import computing_in
from vp.models import FineTunedFromFeatures, FrozenCLIP, load_clip, load_network
from vp.prompts import DeepPrompt, FastDeepPromptedCLIP
from vp.prompts.deep import ClassTokenInputs, KeysAndValues, Readout

# Newer Pythons warn of forks beside threads; what a child does here waits for no lock of another thread.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")
LONG_S = 60  # longer than anything here takes; only a test that hangs meets it
CPU = torch.device("cpu")
NAMES = ("red", "blue")
GIB = 2**30
Capture = pytest.CaptureFixture[str]


def content(seed: int = 0) -> Content:
    return {"a": tensor(seed, 200, 3), "b": pixels(seed, 7)}, {"names": ["größer"], "seed": seed}


class Computer(Counted):
    """Computes `content`; counts in a file, so that other processes count as well."""

    def __call__(self, seed: int = 0) -> Content:
        self.begun(seed)
        return content(seed)


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer(tmp_path / "computed")


@pytest.fixture
def _all_deserve_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it was computed."""
    monkeypatch.setattr(computed_once, "LEAST_SECONDS", -1e9)


every_file = pytest.mark.usefixtures("_all_deserve_a_file")


def files() -> dict[str, Path]:
    """The files, locks aside, by name."""
    return {path.stem: path for path in computed_folder().iterdir() if path.suffix != ".lock"}


# -- once ------------------------------------------------------------------------------------------------------------------


@every_file
def test_it_is_computed_once_and_then_read(computer: Computer) -> None:
    """The first call computes, later ones read the same, bit by bit; another name is another content."""
    assert all(equal(once("a", computer), content()) for _ in range(3))
    assert computer.count == 1
    assert equal(once("b", lambda: computer(1)), content(1))
    assert computer.count == 2


def assert_one_computes(work: Callable[[], object], computer: Computer) -> None:
    """Two processes; while the first computes, the second must not start to, and then both have the content."""
    started, may_end = FORK.Semaphore(0), FORK.Event()

    def wait_for_the_other() -> None:
        started.release()
        assert may_end.wait(LONG_S)

    computer.before_it_ends = wait_for_the_other
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
    computer.before_it_ends = lambda: None
    assert not both
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert computer.count == 1


def work_on(computer: Computer) -> Callable[[], None]:
    def work() -> None:
        assert equal(once("a", computer), content())

    return work


@every_file
def test_of_two_processes_one_computes(computer: Computer) -> None:
    """Of two processes that want the same one computes it, the other waits and reads; and so does a later one."""
    assert_one_computes(work_on(computer), computer)
    work_on(computer)()
    assert computer.count == 1


@every_file
def test_computing_without_a_lock_is_rejected(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock both compute."""
    monkeypatch.setattr(computed_once, "FileLock", controls.NoLock)
    with pytest.raises(AssertionError):
        assert_one_computes(work_on(computer), computer)
    assert computer.count == 2


@every_file
def test_a_killed_process_leaves_the_lock_free(computer: Computer) -> None:
    """A process killed while it computes leaves nothing behind: the next one computes at once."""
    started = FORK.Semaphore(0)
    computer.before_it_ends = lambda: (started.release(), signal.pause())
    worker = FORK.Process(target=once, args=("a", computer))
    worker.start()
    assert started.acquire(timeout=LONG_S)
    worker.kill()
    worker.join(LONG_S)
    assert files() == {}
    computer.before_it_ends = lambda: None
    assert equal(once("a", computer), content())
    assert computer.count == 2


@every_file
def test_an_error_reaches_the_caller_and_leaves_nothing(computer: Computer) -> None:
    """What fails to compute is not written, and the next call tries again."""

    def fail() -> None:
        raise MemoryError("too much")

    computer.before_it_ends = fail
    with pytest.raises(MemoryError, match="too much"):
        once("a", computer)
    assert files() == {}
    computer.before_it_ends = lambda: None
    assert equal(once("a", computer), content())


def mapped_from(given: torch.Tensor) -> str:
    """The file in whose mapping a tensor lies; empty for plain memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= given.data_ptr() < high:
            return name
    return ""


def assert_mapped(computer: Computer) -> None:
    for _ in range(2):  # who computes and who reads
        tensors, _ = once("a", computer)
        assert {mapped_from(part) for part in tensors.values()} == {str(files()["a"])}


@every_file
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what is mapped")
def test_what_is_read_is_the_file(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU all processes look at the pages of one file, the one that computed it included; copies are rejected."""
    assert_mapped(computer)
    monkeypatch.setattr(artifacts, "load", controls.copies)
    with pytest.raises(AssertionError):
        assert_mapped(computer)


# -- what is not used ------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte changed": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "the end missing": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "no safetensors": lambda whole: b"text in place of tensors",
}


def assert_damage_is_mended(damage: str, computer: Computer) -> None:
    once("a", computer)
    whole = files()["a"].read_bytes()
    files()["a"].write_bytes(DAMAGES[damage](whole))
    assert equal(once("a", computer), content())
    assert computer.count == 2
    assert equal(once("a", computer), content())
    assert computer.count == 2
    assert list(files()) == ["a"]


@every_file
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_computed_again(damage: str, computer: Computer, capsys: Capture) -> None:
    """A changed or truncated file is never used: it is computed again and replaced, and that is said in one line."""
    assert_damage_is_mended(damage, computer)
    said = capsys.readouterr().err
    assert said.startswith(f"note: {computed_folder() / 'a.safetensors'} ")
    assert said.endswith("a: it is computed again\n")
    assert said.count("\n") == 1


@every_file
def test_a_reader_that_trusts_is_rejected(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checksum a changed byte is used."""
    monkeypatch.setattr(artifacts, "load", controls.trusts)
    with pytest.raises(AssertionError):
        assert_damage_is_mended("a byte changed", computer)


@every_file
def test_a_file_under_another_name_is_not_used(computer: Computer) -> None:
    """A sound file that was renamed is not taken for what its name says."""
    once("a", computer)
    files()["a"].rename(computed_folder() / "b.safetensors")
    assert equal(once("b", lambda: computer(1)), content(1))
    assert computer.count == 2


# -- what deserves a file --------------------------------------------------------------------------------------------------


def test_what_is_cheap_is_computed_by_everyone_without_waiting(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes less time to compute than to read is not written, and nobody waits for it twice; slow machines write it."""
    for count in (1, 2):
        assert equal(once("a", computer), content())
        assert computer.count == count
    assert artifacts.load(files()["a"])[0] == {}
    with computed_once.FileLock(computed_folder() / "a.lock"):
        assert equal(once("a", computer), content())
    monkeypatch.setattr(computed_once, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(computed_once, "BYTES_PER_S", 1e30)
    for _ in range(2):
        assert equal(once("a", computer), content())
    assert computer.count == 4


SIZE = 2407  # bytes of a content


def assert_least_recently_used_goes(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three of them: the fourth takes the place of the one not used for longest, which is not the oldest."""
    monkeypatch.setenv("VP_DISK_GIB", str(3.5 * (SIZE + 600) / GIB))
    for age, name in enumerate("cba"):
        once(name, computer)
        os.utime(files()[name], (1000 - age, 1000 - age))
    assert {*files()} == {*"abc"}
    once("a", computer)
    once("d", computer)
    assert {*files()} == {*"acd"}
    assert computer.count == 4


@every_file
def test_what_was_not_used_for_longest_makes_room(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """VP_DISK_GIB bounds what all files take together: those not used for longest go first."""
    assert_least_recently_used_goes(computer, monkeypatch)


@every_file
@pytest.mark.parametrize(("what", "wrong"), [("os.utime", controls.forgets_use), ("_make_room", controls.keeps_all)])
def test_other_ways_to_make_room_are_rejected(
    what: str, wrong: Callable[..., None], computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who removes the oldest file, used or not, or none at all, fails the test."""
    if what == "os.utime":
        set_time = os.utime
        monkeypatch.setattr(os, "utime", lambda path, times=None: set_time(path, times) if times else wrong(path))
    else:
        monkeypatch.setattr(computed_once, what, wrong)
    with pytest.raises(AssertionError):
        assert_least_recently_used_goes(computer, monkeypatch)


@every_file
@pytest.mark.parametrize("full", [False, True], ids=["budget", "disk"])
def test_what_is_larger_than_the_room_for_it_is_not_written(
    full: bool, computer: Computer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What exceeds VP_DISK_GIB, or half of the free disk, is computed by every process, which is said once in each; and written
    as soon as there is room."""
    with monkeypatch.context() as small:
        if full:
            usage = computed_once.shutil.disk_usage("/")
            small.setattr(computed_once.shutil, "disk_usage", lambda _: usage._replace(free=SIZE))
        else:
            small.setenv("VP_DISK_GIB", "1e-6")
        for count in (1, 2):
            assert equal(once("a", computer), content())
            assert computer.count == count
        assert artifacts.load(files()["a"])[0] == {}
        said = capsys.readouterr().err
        assert said.startswith(f"note: {computed_folder()} has room for 0.0 GiB (VP_DISK_GIB, and half of the free disk); a: ")
        assert said.count("\n") == 1
    for _ in range(2):
        assert equal(once("a", computer), content())
    assert computer.count == 3


@every_file
def test_a_full_disk_makes_room_although_the_budget_does_not_ask(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where half of the free disk is less than the budget leaves, that is what counts: older files go for a new one."""
    for name in "abc":
        once(name, computer)
        os.utime(files()[name], (1000, 1000))
    usage = computed_once.shutil.disk_usage("/")
    monkeypatch.setattr(computed_once.shutil, "disk_usage", lambda _: usage._replace(free=100))
    once("d", computer)
    assert "d" in files()
    assert sum(path.stat().st_size for path in files().values()) <= 3 * (SIZE + 600) + 50


@every_file
def test_a_budget_of_nothing_is_silent(computer: Computer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """With VP_DISK_GIB=0 nothing is written, as was asked, and nobody is told."""
    monkeypatch.setenv("VP_DISK_GIB", "0")
    for count in (1, 2):
        assert equal(once("a", computer), content())
        assert computer.count == count
    assert capsys.readouterr().err == ""


@every_file
def test_what_killed_writers_left_is_removed(computer: Computer) -> None:
    """Half a file that a killed process left is gone when the next file is written; what cannot be removed, as of a file system
    on a network, stands in nobody's way."""
    once("a", computer)
    (computed_folder() / ".b.safetensors.0123.part").write_bytes(bytes(1000))
    (computed_folder() / ".nfs0123").mkdir()
    (computed_folder() / ".d.part").mkdir()
    once("c", computer)
    assert {*files()} == {"a", "c", ".nfs0123", ".d"}


@pytest.mark.parametrize("gib", ["4GB", "-1", "nan"])
def test_a_budget_that_is_no_number_is_refused(gib: str, computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VP_DISK_GIB that is no size is an error that says what to give."""
    monkeypatch.setenv("VP_DISK_GIB", gib)
    with pytest.raises(VpError, match=f"VP_DISK_GIB is '{gib}': give a number of GiB of at least 0"):
        once("a", computer)


# -- folders that cannot be written ----------------------------------------------------------------------------------------


def assert_told_once(said: str, what: str) -> None:
    assert said.startswith(f"note: cannot write {what}")
    assert said.endswith("a: every process computes it for itself\n")
    assert said.count("\n") == 1


@every_file
@pytest.mark.parametrize("place", [".", "deeper", "computed"])
def test_a_file_in_the_way_of_the_folder_costs_nothing_but_time(
    place: str, computer: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Where there can be no folder each process computes for itself, and says so once."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "computed").write_text("a file")
    places = {".": tmp_path / "home", "deeper": tmp_path / "home/computed/deeper", "computed": tmp_path / "home/computed"}
    monkeypatch.setenv("VP_HOME", str(places[place]))
    for count in (1, 2):
        assert equal(once("a", computer), content())
        assert computer.count == count
    assert_told_once(capsys.readouterr().err, f"to {computed_folder()} (")


@every_file
def test_a_read_only_folder_is_read(computer: Computer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """What stands in a folder that cannot be written is read; all else is computed, and that is said once."""
    once("a", computer)

    class ReadOnly:
        def __init__(self, path: Path) -> None:
            raise PermissionError(30, "Read-only file system", str(path))

    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(computed_once, "FileLock", ReadOnly)
    monkeypatch.setattr(os, "utime", refuse)
    assert equal(once("a", computer), content())
    assert computer.count == 1
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert equal(once("b", lambda: computer(1)), content(1))
    assert computer.count == 3
    assert capsys.readouterr().err == (
        f"note: cannot write to {computed_folder()} (Read-only file system); b: every process computes it for itself\n"
    )


@every_file
@pytest.mark.parametrize("after", [0, 100, 2000])
def test_a_disk_that_fills_up_costs_nothing_but_time(after: int, computer: Computer, capsys: Capture) -> None:
    """When the disk is full in the middle of a file, no part of it stays, what was computed is used, and that is said once."""
    with largest_file(max(after, 10)):  # what the Computer counts in has a few bytes
        assert equal(once("a", computer), content())
    assert computer.count == 1
    assert_told_once(capsys.readouterr().err, str(computed_folder() / "a.safetensors"))
    assert files() == {}


# -- prefixes and features -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return load_clip("mini-clip")


@pytest.fixture
def _new_session() -> Iterator[None]:
    activations._PREFIX.clear()
    yield
    activations._PREFIX.clear()


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """What has used several threads cannot be forked and go on computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_images(seed: int = 0) -> ImageSet:
    return ImageSet("some", "train", pixels(seed, 12, 3, 8, 8), torch.arange(12) % 2, NAMES)


def kept_for(model: torch.nn.Module, images: ImageSet) -> tuple[torch.Tensor, ...]:
    """What a new session keeps of images for a model."""
    activations._PREFIX.clear()
    kept = (
        (DeepTokens(2, 1, "front", "class") if hasattr(model, "prompt") else NewHead("frozen"))
        .training_batches(model, images, CPU)
        .kept
    )
    assert kept is not None
    return kept


def deep(clip: FrozenCLIP, block: int, readout: Readout = "class") -> FastDeepPromptedCLIP:
    return FastDeepPromptedCLIP(clip, NAMES, prompt=DeepPrompt(2, 64, block, "front", readout))


def models(clip: FrozenCLIP) -> dict[str, torch.nn.Module]:
    head = FineTunedFromFeatures(load_network("mini-resnet"), 2)
    last = {f"block 11, {readout}": deep(clip, 11, readout) for readout in ("class", "first")}
    return {"block 1": deep(clip, 1), **last, "features": head}


@pytest.fixture
def counted(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> Computer:
    """Counts each time that all images pass through a frozen network, in any process."""
    all_of = ComputedBatches._all

    def count(self: ComputedBatches, *args: Any) -> Any:
        computer()
        return all_of(self, *args)

    monkeypatch.setattr(ComputedBatches, "_all", count)
    return computer


def bits(parts: tuple[torch.Tensor, ...]) -> list[tuple[Any, ...]]:
    return [(part.dtype, part.shape, part.contiguous().view(torch.uint8).tolist()) for part in parts]


@pytest.mark.slow
@every_file
@pytest.mark.usefixtures("_new_session", "_one_thread")
@pytest.mark.parametrize("kind", ["block 1", "block 11, class", "block 11, first", "features"])
def test_a_prefix_is_computed_once_for_all_processes_and_sessions(kind: str, clip: FrozenCLIP, counted: Computer) -> None:
    """Of two processes that want a prefix, or features, one computes them; a later session reads them; to the bit as computed
    without any file."""
    model, images = models(clip)[kind], some_images()
    batches = ImageBatches(images, model.preprocess)
    inputs, _ = batches[torch.arange(12)]
    if kind == "features":
        plain = (model.features(inputs),)
    else:
        plain = PrefixBatches(batches, clip, model.prompt, keep=False).compute(inputs)

    def work() -> None:
        assert bits(kept_for(model, images)) == bits(plain)

    assert_one_computes(work, counted)
    work()
    assert counted.count == 1


@every_file
@pytest.mark.usefixtures("_new_session")
def test_before_the_first_block_there_is_nothing_worth_a_file(clip: FrozenCLIP, counted: Computer) -> None:
    """What enters block 0 is computed by each process: the patch embedding costs little beside training through all blocks."""
    for count in (1, 2):
        kept_for(deep(clip, 0), some_images())
        assert counted.count == count
    assert not computed_folder().exists()


Address = Callable[..., str]


def assert_address_sees_what_matters(address: Address, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """One change at a time gives as many addresses; nothing changed gives the same."""
    images = some_images()

    def of(images: ImageSet = images, frozen: Any = clip, device: torch.device = CPU, block: int = 6) -> str:
        return address("prefix", images, frozen, device, block=block)

    weights, inputs = copy.deepcopy(clip), copy.deepcopy(clip)
    with torch.no_grad():
        next(weights.model.visual.parameters()).view(-1)[0] += 1
    inputs.preprocess = replace(clip.preprocess, mode="bilinear")
    found = {
        "nothing": of(),
        "images": of(images=some_images(1)),
        "weights": of(frozen=weights),
        "preprocess": of(frozen=inputs),
        "block": of(block=7),
        "device": of(device=torch.device("meta")),
    }
    with computing_in(torch.bfloat16):
        found["precision"] = of()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    found["threads"] = of()
    torch.set_num_threads(threads)
    with monkeypatch.context() as other:
        other.setattr(activations, "code_version", lambda _: "other statements")
        found["code"] = of()
    assert of(images=replace(images, name="others", split="test"), frozen=copy.deepcopy(clip)) == found["nothing"]
    assert len({*found.values()}) == len(found), found


def test_an_address_changes_with_all_that_a_prefix_depends_on(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images, weights, preprocessing, block, device, precision, threads and code change the address; names of images do not."""
    assert_address_sees_what_matters(activations.address_of, clip, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [controls.address_of_names, controls.address_without_circumstances])
def test_an_address_that_forgets_is_rejected(wrong: Address, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address made of names, or without precision and code, leads to what was computed otherwise."""
    with pytest.raises(AssertionError):
        assert_address_sees_what_matters(wrong, clip, monkeypatch)


@every_file
@pytest.mark.usefixtures("_new_session")
def test_both_kinds_of_the_last_blocks_prefix_are_kept(clip: FrozenCLIP, counted: Computer) -> None:
    """Runs that read out the class token or a prompt take turns: each kind is computed once for all sessions."""
    images = some_images()
    for session in range(2):
        activations._PREFIX.clear()
        kinds = [
            type(DeepTokens(2, 11, "front", readout).training_batches(deep(clip, 11, readout), images, CPU)[torch.arange(2)][0])
            for readout in ("class", "first", "class", "first")
        ]
        assert kinds == [ClassTokenInputs, KeysAndValues] * 2, f"session {session}"
        assert counted.count == 2


def test_features_are_addressed_by_all_but_the_head() -> None:
    """Another weight or statistic of the frozen part, or another part, changes a network's fingerprint; what trains does not."""
    network = load_network("mini-resnet")
    first, same, other = (FineTunedFromFeatures(network, 2) for _ in range(3))
    assert same.fingerprint == first.fingerprint
    next(buffer for name, buffer in other.network.named_buffers() if "running_mean" in name)[0] += 1
    stage, trained = (FineTunedFromFeatures(network, 2, stages=("layer4",)) for _ in range(2))
    for p in trained.network.layer4.parameters():
        p.data += 1
    assert trained.fingerprint == stage.fingerprint
    assert len({first.fingerprint, other.fingerprint, stage.fingerprint}) == 3


@pytest.mark.slow
@every_file
@pytest.mark.usefixtures("_new_session")
@pytest.mark.parametrize("name", ["deep-10-block6-n1-back", "deep-10-block11-n4-front", "residual-100-frozen-flip"])
def test_numbers_are_the_same_with_and_without_files(name: str, counted: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run trained on what it computed itself, on what it wrote, and on what it found, comes out equal to the bit."""
    run = vary(find_run(name, "mini"), limit=40)
    outcomes: list[Result] = []
    for gib, computations in (("0", 1), ("1", 2), ("1", 2)):
        monkeypatch.setenv("VP_DISK_GIB", gib)
        activations._PREFIX.clear()
        outcomes.append(perform(run, device="cpu", progress=False))
        assert counted.count == computations * (
            1 + isinstance(run.method, NewHead)
        )  # with mirror images there are two sets of features
    for other in outcomes[1:]:
        assert torch.equal(other.correct_images, outcomes[0].correct_images)
        assert other.history == outcomes[0].history
        assert bits(tuple(other.weights.values())) == bits(tuple(outcomes[0].weights.values()))


# -- CIFAR -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = home() / "rehearsal"
    generate_cifar(root, train=50, test=20)
    monkeypatch.setenv("VP_DATA", str(root))
    sources._load.cache_clear()
    yield root
    sources._load.cache_clear()


@every_file
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_decoded_once_until_its_files_change(
    name: str, stand_ins: Path, computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process reads what the first has decoded, equal in every field; files that are newer are decoded and verified."""
    monkeypatch.setattr(sources, "load_cifar", lambda *args: (computer(), load_cifar(*args))[1])

    def assert_read(split: str) -> None:
        sources._load.cache_clear()
        images, decoded = load_images(name, split), load_cifar(name, split, stand_ins)
        assert images.fingerprint == decoded.fingerprint
        assert (images.name, images.split, images.source) == (decoded.name, decoded.split, decoded.source)

    for split, count in (("train", 1), ("train", 1), ("test", 2), ("test", 2)):
        assert_read(split)
        assert computer.count == count
    generate_cifar(stand_ins, train=50, test=30)
    assert_read("test")
    assert computer.count == 3
    for path in stand_ins.glob("cifar*/test*"):
        path.write_bytes(path.read_bytes()[:-1])
    sources._load.cache_clear()
    with pytest.raises(VpError, match=f"{name} is truncated or damaged"):
        load_images(name, "test")
