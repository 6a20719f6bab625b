"""Files that verify themselves: what is saved is loaded, damage is noticed, and a save happens whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.controls import artifacts as controls
from tests.support.strategies import pixels, seeds, tensor
from vp.machine import artifacts
from vp.machine.artifacts import CorruptArtifact
from vp.machine.errors import VpError

# Newer Pythons warn of forks beside threads; what a child does here waits for no lock of another thread.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")

Save = Callable[[Path, Mapping[str, Tensor], Mapping[str, Any]], None]
Loaded = tuple[Mapping[str, Tensor], Mapping[str, Any]]

DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
)
OLD: Loaded = ({"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(True)}, {"epoch": 1})
NEW: Loaded = ({"w": torch.arange(3000.0), "none": torch.zeros(0, 2)}, {"epoch": 2, "name": "größer, 更大"})


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bit pattern of any dtype, NaNs with payload included; 0-d and empty shapes, too."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
    size = torch.Size(shape).numel()
    if dtype == torch.bool:
        return pixels(draw(seeds), *shape) > 127
    return pixels(draw(seeds), size * dtype.itemsize).view(dtype).reshape(shape)


names = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def equal(first: Loaded, second: Loaded) -> bool:
    """Equal to the bit, not to the value: NaN equals itself, 0 differs from -0."""

    def bits(given: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: (t.dtype, t.shape, t.contiguous().flatten().view(torch.uint8).tolist()) for name, t in given.items()}

    return bits(first[0]) == bits(second[0]) and first[1] == second[1]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts") / "drawn.safetensors"


@given(named=st.dictionaries(names, tensors(), max_size=3), note=st.dictionaries(names, values, max_size=3))
def test_what_is_saved_is_loaded(scratch: Path, named: dict[str, Tensor], note: dict[str, Any]) -> None:
    """What is saved is loaded bit by bit: any dtype, empty and 0-d tensors, names and notes in any script."""
    artifacts.save(scratch, named, note)
    assert equal(artifacts.load(scratch), (named, note))


def test_values_are_saved_whatever_their_memory(scratch: Path) -> None:
    """Transposed tensors, views of one memory and parameters are saved by their values."""
    matrix = tensor(0, 2, 3)
    named = {"whole": matrix, "transposed": matrix.T, "row": matrix[1], "parameter": torch.nn.Parameter(matrix)}
    artifacts.save(scratch, named, {})
    assert equal(artifacts.load(scratch), ({name: t.detach() for name, t in named.items()}, {}))


def test_a_saved_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    """A saved file has the permissions that the user's umask gives: others can read weights and results."""
    artifacts.save(tmp_path / "saved", *OLD)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_is_not_there_is_not_a_corrupt_one(tmp_path: Path) -> None:
    """A missing file is FileNotFoundError, so that callers can tell it from damage."""
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        artifacts.load(tmp_path / "none.safetensors")


# -- damage ----------------------------------------------------------------------------------------------------------------


def assert_damage_is_noticed(path: Path) -> None:
    """Every byte changed in three ways, every shorter file, and a longer one."""
    artifacts.save(path, {"w": tensor(0, 2, 3), "b": torch.tensor([True, False])}, {"naïve": [1, 0.5]})
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))] + [whole + b"\0"]
    for at in range(len(whole)):
        damaged += [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for flip in (0x01, 0x20, 0xFF)]
    for content in damaged:
        path.write_bytes(content)
        with suppress(CorruptArtifact):
            artifacts.load(path)
            raise AssertionError(f"{content!r} was loaded, saved was {whole!r}")


def test_any_damage_to_a_file_is_noticed(tmp_path: Path) -> None:
    """A changed byte anywhere in a file, or a missing end, is noticed and the content never used."""
    assert_damage_is_noticed(tmp_path / "a.safetensors")


@pytest.mark.parametrize("wrong_hash", [controls.no_hash, controls.hash_without_note, controls.hash_of_values_alone])
def test_a_weaker_checksum_is_rejected(wrong_hash: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checksum, or with one that leaves out the note or the names, damage reaches the reader."""
    monkeypatch.setattr(artifacts, "content_hash", wrong_hash)
    with pytest.raises((AssertionError, ValueError)):  # ValueError: the note is no longer JSON
        assert_damage_is_noticed(tmp_path / "a.safetensors")


@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_file_with_any_other_byte_is_noticed_or_has_the_same_content(scratch: Path, at: float, byte: int) -> None:
    """Whatever byte stands anywhere: the file is refused, or (white space in its header) says the same."""
    artifacts.save(scratch, *OLD)
    content = bytearray(scratch.read_bytes())
    content[int(at * len(content))] = byte
    scratch.write_bytes(content)
    with suppress(CorruptArtifact):
        assert equal(artifacts.load(scratch), OLD)


def test_a_loaded_tensor_does_not_change_when_its_file_does(tmp_path: Path) -> None:
    """What was checked is what is used: a file changed after loading changes no tensor."""
    path = tmp_path / "a.safetensors"
    artifacts.save(path, *NEW)
    loaded = artifacts.load(path)
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    assert equal(loaded, NEW)


@pytest.mark.parametrize("other", ["a folder", "an empty file", "a text", "safetensors of others"])
def test_what_is_not_ours_is_refused(other: str, tmp_path: Path) -> None:
    """A folder, an empty file, a text or safetensors without our checksum is corrupt, not an error to trace."""
    path = tmp_path / "a.safetensors"
    {
        "a folder": path.mkdir,
        "an empty file": path.touch,
        "a text": lambda: path.write_text("no tensors here"),
        "safetensors of others": lambda: save_file({"w": torch.ones(2)}, path),
    }[other]()
    with pytest.raises(CorruptArtifact, match=r"a\.safetensors .* delete it and it will be made again"):
        artifacts.load(path)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [pickle.dump, lambda payload, file: torch.save(payload, file)], ids=["pickle", "torch"])
def test_nothing_is_unpickled(write: Callable[[Any, Any], None], tmp_path: Path) -> None:
    """A pickle under the name of a weight file is corrupt, and what it would have run is not run."""
    path, proof = tmp_path / "a.safetensors", tmp_path / "proof"
    with path.open("wb") as file:
        write(Payload(proof), file)
    with pytest.raises(CorruptArtifact):
        artifacts.load(path)
    assert not proof.exists()


def test_a_loader_that_unpickles_is_rejected(tmp_path: Path) -> None:
    """The payload of the test above does run where something unpickles it."""
    path, proof = tmp_path / "a.safetensors", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Payload(proof)))
    controls.unpickles(path)
    assert proof.exists()


# -- whole or not at all ---------------------------------------------------------------------------------------------------


def calls_the_system(event: str, function: Any) -> bool:
    module = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
    return event in ("c_call", "c_return") and module in ("posix", "io", "_io")


def exit_code(action: Callable[[], None]) -> int:
    """How a process of its own ends that does nothing but `action`: 0, or minus the signal that killed it."""
    process = FORK.Process(target=action)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "still running after a minute"
    return process.exitcode


def killed_at_call(action: Callable[[], None], number: int) -> int:
    """Exit code of a process that is killed just before or after its n-th call into the system."""

    def count(frame: FrameType, event: str, function: Any) -> None:
        nonlocal number
        number -= calls_the_system(event, function)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def observed() -> None:
        sys.setprofile(count)
        action()
        sys.setprofile(None)

    return exit_code(observed)


def killed_at_byte(action: Callable[[], None], number: int) -> int:
    """Exit code of a process that the kernel kills in the middle of a write, when a file grows beyond `number` bytes."""

    def observed() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with largest_file(number):
            action()

    return exit_code(observed)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full once a file has `size` bytes. Nothing may be printed meanwhile: output may be a file as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_dies_cleanly(save: Save, path: Path) -> None:
    """Kill the save at every call into the system and at several bytes: the file is the old or the new one, and both occur."""

    def action() -> None:
        save(path, *NEW)

    found = []
    for kill, moments in ((killed_at_call, range(200)), (killed_at_byte, (0, 1, 100, 4096, 9000, 100_000))):
        for moment in moments:
            artifacts.save(path, *OLD)
            code = kill(action, moment)
            assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ)
            loaded = artifacts.load(path)
            assert equal(loaded, OLD) or equal(loaded, NEW), (kill.__name__, moment)
            found.append(equal(loaded, NEW))
            if code == 0:
                break
        assert code == 0, "the last moment is the end"
        assert moment > 0
    assert set(found) == {True, False}


@pytest.mark.slow
def test_a_process_that_dies_while_saving_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """Killed at any moment of a save, even in the middle of a write, a process leaves the old file or the new one, whole."""
    assert_dies_cleanly(artifacts.save, tmp_path / "a.safetensors")


@pytest.mark.parametrize("save", [controls.saves_in_place, controls.removes_before_it_saves])
def test_a_save_that_is_not_atomic_is_rejected(save: Save, tmp_path: Path) -> None:
    """Writing over the old file, or removing it first, leaves neither the old file nor the new one at some moment."""
    with pytest.raises((CorruptArtifact, FileNotFoundError)):
        assert_dies_cleanly(save, tmp_path / "a.safetensors")


def everything_below(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def assert_fails_cleanly(save: Save, path: Path, folder: Path, after: int = 2**30) -> None:
    """One line that names the file and the cure; nothing in the folder has changed."""
    before = everything_below(folder)
    with pytest.raises(VpError) as failed, largest_file(after):
        save(path, *NEW)
    message = str(failed.value)
    assert str(path) in message
    assert "VP_HOME" in message
    assert "\n" not in message
    assert everything_below(folder) == before


@pytest.mark.parametrize("after", [0, 1, 100, 4096, 9000])
def test_a_full_disk_says_so_and_leaves_everything_as_it_was(after: int, tmp_path: Path) -> None:
    """When the disk is full after any number of bytes, the old file stands and no part of the new one."""
    artifacts.save(tmp_path / "a.safetensors", *OLD)
    assert_fails_cleanly(artifacts.save, tmp_path / "a.safetensors", tmp_path, after)


@pytest.mark.parametrize("obstacle", ["a file for a folder", "a folder for the file", "a name too long", "no space to rename"])
def test_a_save_that_fails_says_why_and_leaves_everything_as_it_was(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that cannot be written is one line that names it and the cure, and nothing is left behind."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    path = {
        "a file for a folder": tmp_path / "file" / "deeper" / "a.safetensors",
        "a folder for the file": tmp_path / "folder",
        "a name too long": tmp_path / ("a" * 300),
        "no space to rename": tmp_path / "a.safetensors",
    }[obstacle]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if obstacle == "no space to rename":
        monkeypatch.setattr(os, "replace", full)
    assert_fails_cleanly(artifacts.save, path, tmp_path)


def test_a_save_that_leaves_its_parts_is_rejected(tmp_path: Path) -> None:
    """A save that does not tidy up when the disk is full leaves half a file."""
    with pytest.raises(AssertionError):
        assert_fails_cleanly(controls.leaves_what_it_wrote, tmp_path / "a.safetensors", tmp_path, after=100)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_save_leaves_nothing_behind(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C in the middle of a save leaves the old file and no part of the new one."""
    path = tmp_path / "a.safetensors"
    artifacts.save(path, *OLD)

    def interrupted(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(interruption):
        artifacts.save(path, *NEW)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    assert equal(artifacts.load(path), OLD)
