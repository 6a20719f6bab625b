"""The store on several nodes: a shared folder or a bucket keeps one result of a run, whole, and loses none.

Tests of S3 need the extra `cluster` and run on moto, which speaks as S3 does; without it they are NOT RUN.
"""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from tests.controls import shared_store as controls
from tests.machinery.test_store import KEY, RUN, Performer, result_of, same
from tests.support import buckets
from vp.__main__ import main
from vp.experiments import Result, nodes, store
from vp.experiments.store import ConflictingResults, CorruptResultWarning, obtain, stored_result, stored_results
from vp.machine import artifacts, computed_once, file_locks, shelves
from vp.machine.device_lock import SharedDevice
from vp.machine.errors import VpError
from vp.machine.file_locks import NoLocksWarning
from vp.machine.shelves import BucketShelf, FolderShelf, Shelf

# Newer Pythons warn of forks beside threads; what a child does here waits for no lock of another thread.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")
LONG_S = 60
S3 = pytest.param("s3", marks=pytest.mark.cluster)
KINDS = ["folder", "memory", S3]
TENSORS = {"a": torch.arange(5.0)}
NAME = "a.safetensors"


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """NOT RUN without the extra."""
    if cure := buckets.lacking():
        pytest.skip(f"NOT RUN: {cure}")
    with buckets.server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket."""
    for name, value in buckets.environment(s3_port).items():
        monkeypatch.setenv(name, value)
    return f"s3://{buckets.new_bucket(s3_port)}/some/prefix"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """VP_STORE of the kind that the test is asked for."""
    kind = getattr(request, "param", "folder")
    shelves._check_once.cache_clear()
    file_locks.say_there_are_no_locks.cache_clear()
    MemoryFileSystem.store.clear()
    found = {"folder": str(tmp_path / "shared"), "memory": "memory://shared/prefix"}.get(kind) or request.getfixturevalue("s3")
    monkeypatch.setenv("VP_STORE", found)
    return str(found)


@pytest.fixture
def shelf(place: str) -> Shelf:
    return shelves.shelf_at(place)


@pytest.fixture
def performer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Performer:
    """No images, no model: runs are performed by a Performer and addressed by their seed."""
    fake = Performer(tmp_path / "performed")
    monkeypatch.setattr(store, "perform", fake)
    monkeypatch.setattr(store, "run_key", lambda run, seed, device: f"{seed}{KEY}")
    return fake


def name_of(seed: int) -> str:
    return store.result_name(RUN, f"{seed}{KEY}")


def conflict_of(seed: int, number: int = 1) -> str:
    return name_of(seed).replace(".safetensors", f"-conflict-{number}.safetensors")


def put(shelf: Shelf, result: Result, seed: int = 3) -> bool:
    """Store a result as another node would."""
    return shelf.put(name_of(seed), *store._content_of(result, f"{seed}{KEY}"))


def delete(shelf: Shelf, name: str) -> None:
    files, root = fsspec.core.url_to_fs(shelf.where(name))
    files.rm(root)


OTHER = replace(result_of(3), weights={"last/up": torch.ones(1, 3, 1, 2), "best/up": torch.zeros(1, 3, 1, 2)})
ELSEWHERE = replace(result_of(3), seconds=99.0, provenance={"torch": "2", "device": "cuda"})


# -- where the store is ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_what_one_node_stores_another_reads(
    place: str, performer: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes have a folder or bucket in common, each a home of its own: what is performed on one is read on all."""
    assert stored_result(RUN, 3, device="cpu") is None
    for node in ("one", "two"):
        monkeypatch.setenv("VP_HOME", str(tmp_path / node))
        assert same(obtain(RUN, 3), result_of(3))
        assert not (tmp_path / node / "results").exists()
    assert performer.count == 1
    found = stored_result(RUN, 3, device="cpu")
    assert found is not None
    assert same(found, result_of(3))
    assert [one.name for one in stored_results()] == [name_of(3)]


def test_a_file_address_is_a_folder(tmp_path: Path, performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """file:///path is the folder /path."""
    monkeypatch.setenv("VP_STORE", f"file://{tmp_path}/shared")
    obtain(RUN, 3)
    assert store.result_path(RUN, f"3{KEY}") == tmp_path / "shared" / name_of(3)
    assert store.result_path(RUN, f"3{KEY}").is_file()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("http://host/path", "give a folder or one of s3://"),
        ("sftp://host/path", "mount others"),
        ("simplecache::s3://bucket", "give a folder or one of s3://"),
        ("s3://", "name the bucket, e.g. s3://bucket/prefix"),
        ("s3:///", "name the bucket"),
        ("s3:/bucket", "or an address such as s3://bucket/prefix"),
    ],
)
def test_an_address_of_another_kind_is_refused(
    wrong: str, says: str, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that cannot be a store is one line that names it and what can be, before anything trains."""
    monkeypatch.setenv("VP_STORE", wrong)
    with pytest.raises(VpError, match=rf"^VP_STORE is '{wrong}': .*{says}"):
        obtain(RUN, 3)
    assert performer.count == 0


def test_a_bucket_without_its_package_names_the_extra(performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without s3fs, or fsspec, the line says what to install."""
    monkeypatch.setenv("VP_STORE", "s3://bucket/prefix")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(VpError, match=r"needs s3fs, which is not installed .*pip install 'vp\[cluster\]'"):
        obtain(RUN, 3)
    assert performer.count == 0


# -- one result ------------------------------------------------------------------------------------------------------------


def assert_what_stands_stays(shelf: Shelf) -> None:
    assert shelf.look([NAME, "b.safetensors"]) == {}
    assert shelf.put(NAME, TENSORS, {"by": 1})
    assert not shelf.put(NAME, TENSORS, {"by": 2})
    assert shelf.load(NAME)[1] == {"by": 1}
    old = shelf.look([NAME, "b.safetensors"])[NAME]
    assert shelf.put(NAME, TENSORS, {"by": 33}, over=old)
    assert shelf.look([NAME])[NAME] != old
    assert not shelf.put(NAME, TENSORS, {"by": 4}, over=old)
    assert shelf.load(NAME)[1] == {"by": 33}
    assert torch.equal(shelf.load(NAME)[0]["a"], TENSORS["a"])
    assert [*shelf.names()] == [NAME]
    assert [*shelf.notes([NAME, "b.safetensors"])] == [(NAME, {"by": 33})]
    with pytest.raises(FileNotFoundError):
        shelf.load("b.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_what_stands_under_a_name_stays(shelf: Shelf) -> None:
    """Who writes second is told so and changes nothing; only the version that was seen may be replaced, and is replaced once."""
    assert_what_stands_stays(shelf)


def test_a_shelf_that_overwrites_is_rejected(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write without a condition loses what another node found."""
    monkeypatch.setattr(FolderShelf, "put", controls.overwrites)
    with pytest.raises(AssertionError):
        assert_what_stands_stays(shelf)


@pytest.mark.parametrize("place", [S3], indirect=True)
def test_s3_itself_asks_what_is_replaced(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the write another node may replace an outdated result: S3 refuses to replace that one."""
    shelf.put(NAME, TENSORS, {"by": 1})
    old = shelf.look([NAME])[NAME]
    assert shelf.put(NAME, TENSORS, {"by": 22}, over=old)
    monkeypatch.setattr(shelf, "look", lambda names: {NAME: old})
    assert not shelf.put(NAME, TENSORS, {"by": 3}, over=old)
    assert shelf.load(NAME)[1] == {"by": 22}


@pytest.mark.parametrize("place", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("answers", "wrote"), [(["PreconditionFailed"], False), (["ConditionalRequestConflict"] * 2, True), (["SlowDown"], None)]
)
def test_answers_of_other_servers_are_understood(
    answers: list[str], wrote: bool | None, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses in S3's words is believed, one that asks to try again is asked again, and all else is an error."""

    class Refused(Exception):
        response = {"Error": {"Code": answers[0]}}  # noqa: RUF012

    own, left = MemoryFileSystem.pipe_file, [*answers]

    def pipe(*given: Any, **named: Any) -> None:
        if left:
            raise OSError(errno.EIO, left.pop()) from Refused()
        own(*given, **named)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe)
    if wrote is None:
        with pytest.raises(VpError, match=r"cannot write memory://.*SlowDown"):
            shelf.put(NAME, TENSORS, {})
    else:
        assert shelf.put(NAME, TENSORS, {}) == wrote
    assert left == []
    assert [*shelf.names()] == [NAME] * bool(wrote)


def assert_one_of_those_that_meet_writes(shelf: Shelf) -> None:
    """Each of four writers has come as far as to look, then all go on."""
    met = threading.Barrier(4)
    own, told = FolderShelf.look, []

    def look(self: FolderShelf, names: Any) -> Any:
        found = own(self, names)
        met.wait(LONG_S)
        return found

    def write(number: int) -> None:
        if FolderShelf.put is not controls.looks_before_it_writes:
            met.wait(LONG_S)
        told.append((shelf.put(NAME, TENSORS, {"by": number}), number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderShelf, "look", look)
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(LONG_S)
    (winner,) = [number for wrote, number in told if wrote]
    assert len(told) == 4
    assert shelf.load(NAME)[1] == {"by": winner}


def test_of_writers_that_meet_one_writes(shelf: Shelf) -> None:
    """Of four that write under one name at once, one is told that it did, and its content is there."""
    assert_one_of_those_that_meet_writes(shelf)


def test_a_shelf_that_looks_before_it_writes_is_rejected(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the write another node may write."""
    monkeypatch.setattr(FolderShelf, "put", controls.looks_before_it_writes)
    with pytest.raises(ValueError, match="too many values"):
        assert_one_of_those_that_meet_writes(shelf)


def meets(performer: Performer, shelf: Shelf, other: Result) -> None:
    """While this node performs the run, another finishes it."""
    performer.before_it_ends = lambda: put(shelf, other)


def assert_the_same_is_one(performer: Performer, shelf: Shelf) -> None:
    meets(performer, shelf, ELSEWHERE)
    assert same(obtain(RUN, 3), ELSEWHERE)
    assert [*shelf.names()] == [name_of(3)]
    assert same(obtain(RUN, 3), ELSEWHERE)
    assert performer.count == 1


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_two_results_that_say_the_same_are_one(shelf: Shelf, performer: Performer) -> None:
    """The first of two equal results is kept and is what both nodes get, whatever time each took."""
    assert_the_same_is_one(performer, shelf)


def test_a_store_that_compares_time_is_rejected(shelf: Shelf, performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and place are no part of what a result says."""
    monkeypatch.setattr(store, "same_numbers", controls.compares_time)
    with pytest.raises(ConflictingResults):
        assert_the_same_is_one(performer, shelf)


def assert_those_that_differ_are_refused(performer: Performer, shelf: Shelf) -> None:
    meets(performer, shelf, OTHER)
    for _ in range(2):
        with pytest.raises(ConflictingResults) as refused:
            obtain(RUN, 3)
        assert shelf.where(name_of(3)) in str(refused.value)
        assert shelf.where(conflict_of(3)) in str(refused.value)
        assert os.uname().nodename in str(refused.value)
    assert performer.count == 1
    contents = [store.result_in(shelf.load(name), f"3{KEY}", name) for name in (name_of(3), conflict_of(3))]
    assert [same(content, expected) for content, expected in zip(contents, (OTHER, result_of(3)), strict=True)] == [True, True]


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_two_results_that_differ_are_both_kept_and_refused(shelf: Shelf, performer: Performer) -> None:
    """The store refuses a run of which it has two results, names both with their nodes and trains nothing; without the second it
    gives the first, without both it performs the run again."""
    assert_those_that_differ_are_refused(performer, shelf)
    assert [one.name for one in stored_results()] == [name_of(3)]
    delete(shelf, conflict_of(3))
    assert same(obtain(RUN, 3), OTHER)
    delete(shelf, name_of(3))
    performer.before_it_ends = lambda: None
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 2


def test_a_store_that_trusts_the_first_is_rejected(shelf: Shelf, performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a comparison nobody learns that two nodes found different numbers."""
    monkeypatch.setattr(store, "_agreed", controls.trusts_the_first)
    with pytest.raises(pytest.fail.Exception):
        assert_those_that_differ_are_refused(performer, shelf)


def test_a_third_result_is_kept_as_well(shelf: Shelf, performer: Performer) -> None:
    """A third that differs from both has a name of its own; one that is equal to either adds nothing."""
    key = f"3{KEY}"
    first, second, third = result_of(3), OTHER, replace(OTHER, history=[])
    put(shelf, first)
    for result, number in ((second, 1), (third, 2), (second, 1), (third, 2)):
        with pytest.raises(ConflictingResults, match=rf"conflict-{number}\."):
            store._agreed(shelf, name_of(3), result, key)
    assert same(store._agreed(shelf, name_of(3), first, key), first)
    assert sorted(shelf.names()) == sorted([name_of(3), conflict_of(3), conflict_of(3, 2)])


def assert_equal_means_the_numbers() -> None:
    first = result_of(3)
    nan = replace(first, history=[{"epoch": 1.0, "loss": float("nan")}])
    assert store.same_numbers(first, ELSEWHERE)
    assert store.same_numbers(nan, replace(nan, history=[{"epoch": 1.0, "loss": float("nan")}]))
    one_bit = {**first.weights, "best/up": torch.full((1, 3, 1, 2), -0.0)}
    for changed in (
        {"correct_images": first.correct_images.flip(0)},
        {"weights": one_bit},
        {"weights": {}},
        {"history": first.history[:1]},
        {"best_epoch": 2},
        {"trained_parameters": 7},
    ):
        assert not store.same_numbers(first, replace(first, **changed)), changed


def test_equal_means_the_numbers() -> None:
    """Two results are equal when each image, each bit of the weights and the history are; a NaN is equal to a NaN."""
    assert_equal_means_the_numbers()


def test_a_comparison_of_accuracies_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal accuracy is not enough."""
    monkeypatch.setattr(store, "same_numbers", controls.compares_accuracy)
    with pytest.raises(AssertionError):
        assert_equal_means_the_numbers()


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_damaged_result_of_a_shared_store_is_set_aside(shelf: Shelf, performer: Performer) -> None:
    """What fails its checksum is reported, kept under another name, performed again, and replaced."""
    obtain(RUN, 3)
    files, path = fsspec.core.url_to_fs(shelf.where(name_of(3)))
    whole = files.cat_file(path)
    files.pipe_file(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(CorruptResultWarning, match=r"padding-2-3.*computed again"):
        assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 2
    assert same(obtain(RUN, 3), result_of(3))
    assert same(store.result_in(artifacts.unpacked(files.cat_file(path), path), f"3{KEY}", path), result_of(3))
    assert [name for name in files.ls(path.rpartition("/")[0], detail=False) if ".corrupt-" in name]


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_an_outdated_result_of_a_shared_store_is_replaced(shelf: Shelf, performer: Performer) -> None:
    """With a start time, an older result is performed again and the newer one takes its place, once."""
    obtain(RUN, 3)
    written = shelf.look([name_of(3)])[name_of(3)].since
    assert same(obtain(RUN, 3, newer_than=written), result_of(3))
    assert performer.count == 1
    asked = written + 0.01
    time.sleep(max(0.0, asked + 0.01 - time.time()))  # S3 tells whole seconds
    for _ in range(2):
        assert same(obtain(RUN, 3, newer_than=asked), result_of(3))
    assert performer.count == 2


# -- two nodes at once -----------------------------------------------------------------------------------------------------


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file system whose flock fails."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def outcomes_of_two_nodes(performer: Performer, tmp_path: Path, differ: bool) -> list[int]:
    """Two processes with homes of their own that perform the same run at the same time: 0 for a result, 1 for a refusal."""
    met = FORK.Barrier(2)
    performer.before_it_ends = lambda: met.wait(LONG_S)

    def work(node: str) -> None:
        os.environ["VP_HOME"] = str(tmp_path / node)
        if differ:
            own = store.perform
            store.perform = lambda *given: replace(own(*given), best_epoch=os.getpid())
        try:
            warnings.simplefilter("ignore")
            obtain(RUN, 3)
        except ConflictingResults:
            sys.exit(1)

    workers = [FORK.Process(target=work, args=(node,)) for node in ("one", "two")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG_S)
    return sorted(-99 if worker.exitcode is None else worker.exitcode for worker in workers)


MEETINGS = ["folder", S3]  # memory is of one process


@pytest.mark.parametrize("place", MEETINGS, indirect=True)
def test_of_two_nodes_that_finish_a_run_at_once_one_result_is_kept(
    shelf: Shelf, performer: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes without a lock in common perform the same run: both have a result, the store has one."""
    if isinstance(shelf, FolderShelf):
        without_locks(monkeypatch, errno.ENOLCK)
    assert outcomes_of_two_nodes(performer, tmp_path, differ=False) == [0, 0]
    assert performer.count == 2
    assert [*shelf.names()] == [name_of(3)]


@pytest.mark.slow
@pytest.mark.parametrize("place", MEETINGS, indirect=True)
def test_of_two_nodes_that_find_different_numbers_one_is_refused(
    shelf: Shelf, performer: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes whose results of a run differ: the second is refused, both results are kept, and nobody gets either."""
    if isinstance(shelf, FolderShelf):
        without_locks(monkeypatch, errno.ENOLCK)
    assert outcomes_of_two_nodes(performer, tmp_path, differ=True) == [0, 1]
    assert sorted(shelf.names()) == sorted([name_of(3), conflict_of(3)])
    with pytest.raises(ConflictingResults):
        stored_result(RUN, 3, device="cpu")


# -- the loss of a node ----------------------------------------------------------------------------------------------------


def killed(work: Callable[[], object]) -> int | None:
    """The exit code of a process that does `work`."""
    worker = FORK.Process(target=work)
    worker.start()
    worker.join(LONG_S)
    return worker.exitcode


def assert_a_killed_writer_leaves_nothing(shelf: Shelf) -> None:
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        os.link = die
        shelf.put(name_of(3), *store._content_of(result_of(3), f"3{KEY}"))

    assert killed(work) == -signal.SIGKILL
    assert [*shelf.names()] == []
    assert shelf.look([name_of(3)]) == {}


def test_a_killed_writer_leaves_nothing_visible(shelf: Shelf, performer: Performer) -> None:
    """A node that dies before the last step of its write leaves no result, and the next performs the run."""
    assert_a_killed_writer_leaves_nothing(shelf)
    assert same(obtain(RUN, 3), result_of(3))
    assert [one.name for one in stored_results()] == [name_of(3)]


def test_a_writer_in_place_is_rejected(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a result under the name of a whole one is what others would find."""
    store.store_folder().mkdir()
    monkeypatch.setattr(FolderShelf, "put", controls.writes_in_place)
    with pytest.raises(AssertionError):
        assert_a_killed_writer_leaves_nothing(shelf)


@pytest.mark.cluster
@pytest.mark.parametrize("place", [S3], indirect=True)
def test_a_killed_upload_leaves_nothing_visible(shelf: Shelf, place: str) -> None:
    """A node that dies in the middle of an upload in parts leaves no object."""
    from s3fs import S3FileSystem

    own_call, own_pipe, parts = S3FileSystem._call_s3, S3FileSystem._pipe_file, []

    async def call(self: Any, method: str, *given: Any, **named: Any) -> Any:
        if method == "upload_part":
            parts.append(1)
            if len(parts) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return await own_call(self, method, *given, **named)

    async def pipe(self: Any, path: str, data: bytes, mode: str = "overwrite", **named: Any) -> Any:
        return await own_pipe(self, path, data, chunksize=5 * 2**20, max_concurrency=1, mode=mode)

    def work() -> None:
        S3FileSystem._call_s3, S3FileSystem._pipe_file = call, pipe
        shelf.put(NAME, {"large": torch.zeros(4 * 2**20)}, {})

    assert killed(work) == -signal.SIGKILL
    assert shelf.look([NAME]) == {}
    assert [*shelf.names()] == []
    assert shelf.put(NAME, TENSORS, {})


# -- file systems without locks --------------------------------------------------------------------------------------------


def assert_one_is_kept_without_locks(shelf: Shelf, performer: Performer) -> None:
    with pytest.warns(NoLocksWarning, match="each train it; their results are compared, and one is kept"):
        obtain(RUN, 3)
    with warnings.catch_warnings(action="error"):
        obtain(RUN, 4)
    performer.before_it_ends = lambda: put(shelf, replace(result_of(5), seconds=2.0), 5)
    assert obtain(RUN, 5).seconds == 2
    assert performer.count == 3
    assert sorted(shelf.names()) == sorted(map(name_of, (3, 4, 5)))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.__getitem__)
def test_without_locks_one_result_is_kept(number: int, shelf: Shelf, performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flock fails, runs are performed and stored all the same, that is said once, and two nodes still leave one result."""
    without_locks(monkeypatch, number)
    assert_one_is_kept_without_locks(shelf, performer)


def test_a_store_that_takes_locks_for_granted_is_rejected(
    shelf: Shelf, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not ask whether locks work can store nothing where they do not."""
    without_locks(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(store, "locks_work", controls.trusts_all_locks)
    with pytest.raises(VpError, match=os.strerror(errno.ENOLCK)):
        obtain(RUN, 3)


@pytest.fixture
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("_no_links")
def test_without_hard_links_a_lock_decides(shelf: Shelf, performer: Performer) -> None:
    """Where a file cannot have two names, what stands under a name stays as well."""
    assert_what_stands_stays(shelf)
    assert same(obtain(RUN, 3), result_of(3))


@pytest.mark.usefixtures("_no_links")
@pytest.mark.filterwarnings("ignore::vp.machine.file_locks.NoLocksWarning")
def test_with_neither_locks_nor_links_nothing_is_trained(
    shelf: Shelf, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system on which two nodes could overwrite each other's results is refused before training."""
    without_locks(monkeypatch, errno.EOPNOTSUPP)
    with pytest.raises(VpError, match=r"neither file locks nor hard links.* set VP_STORE to another folder"):
        obtain(RUN, 3)
    assert performer.count == 0
    assert [*shelf.names()] == []


def test_a_home_without_locks_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where VP_HOME has no locks, devices are shared and activations computed all the same."""
    without_locks(monkeypatch, errno.ENOLCK)
    with SharedDevice(tmp_path).share():
        found, _ = computed_once.once("a", lambda: ({"a": torch.ones(1)}, {}))
    assert torch.equal(found["a"], torch.ones(1))


# -- stores that cannot be reached, and those that are full ---------------------------------------------------------------------


def assert_refused_before_training(performer: Performer, says: str) -> None:
    with pytest.raises(VpError, match=says) as failed:
        obtain(RUN, 3)
    assert "\n" not in str(failed.value)
    assert performer.count == 0


def test_a_folder_that_may_not_be_written_is_refused_before_training(
    place: str, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission to write to a shared folder is one line that names it and VP_STORE; what is there is read all the same."""
    obtain(RUN, 4)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert same(obtain(RUN, 4), result_of(4))
    performer.log.unlink()
    assert_refused_before_training(
        performer, rf"^cannot write to {place} \(Permission denied\): .*set VP_STORE to a folder you can write"
    )


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_bucket_that_may_not_be_written_is_refused_before_training(
    place: str, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission to write is found before the training, in one line."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    assert_refused_before_training(
        performer, r"^cannot write memory://shared/prefix \(Access Denied\): its credentials must permit"
    )


@pytest.mark.parametrize("place", ["memory", S3], indirect=True)
def test_a_bucket_without_a_prefix_is_a_store(place: str, performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole bucket may be the store; whether it can be written is asked once."""
    monkeypatch.setenv("VP_STORE", place.removesuffix("/some/prefix").removesuffix("/prefix"))
    for _ in range(2):
        assert [same(obtain(RUN, seed), result_of(seed)) for seed in (3, 4)] == [True, True]
    assert performer.count == 2
    assert [one.name for one in stored_results()] == [name_of(3), name_of(4)]
    assert shelves._check_once.cache_info().misses == 1


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_bucket_that_ignores_conditions_is_refused(place: str, performer: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that overwrites though told not to is found before the training."""
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", controls.ignores_conditions)
    assert_refused_before_training(performer, r"overwrites what it was told to keep .*If-None-Match")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("place", [S3], indirect=True)
@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("bucket", r"^cannot write to s3://no-such-bucket/p \(.*bucket does not exist.*\): is there such a bucket"),
        ("server", r"^cannot read s3://.* \(Could not connect to the endpoint.*\): check the address in VP_STORE, the network"),
        ("credentials", r"^cannot read s3://.* \(Unable to locate credentials\): check .* the credentials"),
    ],
)
def test_a_bucket_that_cannot_be_reached_is_refused_before_training(
    lost: str, says: str, place: str, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such bucket, no server, no credentials: one line with the reason and the cure, before anything trains."""
    import s3fs

    if lost == "bucket":
        monkeypatch.setenv("VP_STORE", "s3://no-such-bucket/p")
    elif lost == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for check in (lambda: assert_refused_before_training(performer, says), lambda: None):
        s3fs.S3FileSystem.clear_instance_cache()  # clients that were made before know another server
        shelves._session.cache_clear()
        check()


@pytest.fixture(params=["folder", "memory"])
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A store that is full by the time the training has ended."""

    def refuse(*given: Any, **_: object) -> None:
        if ".vp-store" not in str(given):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = {"folder": "shared", "memory": "memory://full/prefix"}[request.param]
    monkeypatch.setenv("VP_STORE", str(request.getfixturevalue("tmp_path") / place) if request.param == "folder" else place)
    shelves._check_once.cache_clear()
    MemoryFileSystem.store.clear()
    with pytest.MonkeyPatch.context() as patch:
        own = MemoryFileSystem.pipe_file
        patch.setattr(os, "link", refuse)
        patch.setattr(MemoryFileSystem, "pipe_file", lambda *given, **named: refuse(*given) or own(*given, **named))
        yield patch


def refused(performer: Performer) -> str:
    with pytest.raises(VpError, match=os.strerror(errno.ENOSPC)) as failed:
        obtain(RUN, 3)
    assert performer.count == 1
    return str(failed.value)


def test_a_result_that_cannot_be_stored_is_kept_and_stored_later(
    full: pytest.MonkeyPatch, performer: Performer, tmp_path: Path
) -> None:
    """A full disk after the training loses nothing: the line says where the result is kept; the next start stores it and does
    not train again."""
    unsent = store.unsent_folders()[0] / name_of(3)
    said = refused(performer)
    assert str(unsent) in said
    assert "nothing is lost" in said
    assert same(store.load_result(unsent, f"3{KEY}"), result_of(3))
    assert str(unsent) in refused(performer)
    full.undo()
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 1
    assert not unsent.exists()
    assert [one.name for one in stored_results()] == [name_of(3)]


def test_results_are_sent_when_that_is_mended(
    full: pytest.MonkeyPatch, performer: Performer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`send` stores what is kept, or says in a line why it cannot, and then keeps it."""
    refused(performer)
    assert main(["send"]) == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    full.undo()
    for expected in ([name_of(3), "1 result(s) sent to "], ["0 result(s) sent to "]):
        assert main(["send"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line.startswith(start) for line, start in zip(said, expected, strict=True)] == [True] * len(expected)
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 1


@pytest.mark.usefixtures("full")
def test_where_home_is_full_as_well_temporary_files_keep_the_result(
    performer: Performer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What VP_HOME does not take either is kept in a folder of temporary files; where that fails, too, the loss is said."""
    places = [tmp_path / "in-the-way" / "unsent", tmp_path / "temporary"]
    (tmp_path / "in-the-way").write_text("a file")
    monkeypatch.setattr(store, "unsent_folders", lambda: places)
    assert str(places[1] / name_of(3)) in refused(performer)
    monkeypatch.setattr(store, "unsent_folders", lambda: places[:1])
    with pytest.raises(VpError, match="the result is lost"):
        obtain(RUN, 3)
    assert performer.count == 2


def test_what_was_kept_and_differs_from_the_store_is_refused(
    full: pytest.MonkeyPatch, performer: Performer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result that is sent late meets another one's: if they differ both are in the store, and that is said; once both are deleted
    there the run is computed again."""
    refused(performer)
    full.undo()
    put(store.results_shelf(), OTHER)
    assert main(["send"]) == 2
    assert "two results of one run differ, and both are kept" in capsys.readouterr().err
    with pytest.raises(ConflictingResults):
        obtain(RUN, 3)
    assert main(["send"]) == 0
    shelf = store.results_shelf()
    files, root = fsspec.core.url_to_fs(shelf.where(""))
    for name in [name for name in shelf.names() if name.startswith(RUN.name)]:
        files.rm_file(f"{root.rstrip('/')}/{name}")
    before = performer.count
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == before + 1


def test_one_damaged_result_does_not_keep_the_others_from_being_sent(
    full: pytest.MonkeyPatch, performer: Performer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be read stays where it is and is named; all others are stored."""
    refused(performer)
    full.undo()
    torn = store.unsent_folders()[0] / f"a-{name_of(3)}"
    torn.write_bytes(b"torn")
    assert main(["send"]) == 2
    assert f"1 result(s) sent; {torn} cannot be read" in capsys.readouterr().err
    assert torn.exists()
    assert same(obtain(RUN, 3), result_of(3))
    assert performer.count == 1


# -- listing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_results_are_listed_by_name_and_prefix(shelf: Shelf, performer: Performer, capsys: pytest.CaptureFixture[str]) -> None:
    """A listing has the results in order, with what each says of itself when asked; no costs, conflicts, or other files."""
    for seed in (4, 3):
        obtain(RUN, seed)
    shelf.put("cost-resnet18-" + "a" * 24 + ".safetensors", {}, {})
    shelf.put(conflict_of(3), TENSORS, {"key": ""})
    files, root = fsspec.core.url_to_fs(shelf.where(""))
    files.pipe_file(f"{root.rstrip('/')}/other-{'b' * 24}.safetensors", b"no artifact")
    files.pipe_file(f"{root.rstrip('/')}/remarks.txt", b"text")
    assert [(one.run, one.key) for one in stored_results("padding")] == [(RUN.name, f"{seed}{KEY}"[:24]) for seed in (3, 4)]
    assert [one.run for one in stored_results()] == ["other", RUN.name, RUN.name]
    assert [*stored_results("nothing")] == []
    said = [one.summary for one in stored_results("padding", summaries=True)]
    assert [(one["seed"], one["top1"], one["node"]) for one in said if one] == [
        (seed, result_of(seed).top1, os.uname().nodename) for seed in (3, 4)
    ]
    assert [one.run for one in stored_results(summaries=True)] == [RUN.name, RUN.name]
    assert main(["list", "--stored"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{RUN.name:<30} {seed}{KEY}"[: 31 + 24] for seed in (3, 4)]
    assert main(["list", "--stored", "--json"]) == 0
    assert [one["seed"] for one in json.loads(capsys.readouterr().out)] == [3, 4]


def test_an_empty_store_lists_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A store that nothing was written to yet is empty, not an error."""
    for place in ("", "memory://nothing/there"):
        monkeypatch.setenv("VP_STORE", place)
        assert [*stored_results()] == []
        assert main(["list", "--stored", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []


# -- artifacts as bytes ----------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_a_file(tmp_path: Path) -> None:
    """What is in a bucket can be copied into a folder, and back; any damage to it is noticed."""
    note = {"by": "größer", "history": [1.5] * 3}
    whole = artifacts.packed(TENSORS, note)
    artifacts.save(tmp_path / NAME, TENSORS, note)
    (tmp_path / "b").write_bytes(whole)
    for tensors, found in (
        artifacts.unpacked(whole, NAME),
        artifacts.unpacked((tmp_path / NAME).read_bytes(), NAME),
        artifacts.load(tmp_path / "b"),
    ):
        assert found == note
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": TENSORS["a"].tolist()}
    assert len(whole) == (tmp_path / NAME).stat().st_size
    for damaged in (b"", whole[:4], whole[:-1], whole[: len(whole) // 2], b"text in place of tensors"):
        with pytest.raises(artifacts.CorruptArtifact):
            artifacts.unpacked(damaged, NAME)
    for place in range(len(whole)):
        with pytest.raises(artifacts.CorruptArtifact):
            artifacts.unpacked(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], NAME)


def test_a_long_note_is_read_from_more_than_the_first_bytes(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a result says of itself is read whole, however long its history."""
    monkeypatch.setattr(shelves, "HEAD_BYTES", 100)
    for one in (shelf, BucketShelf("memory://long/notes")):
        one.put(NAME, TENSORS, {"history": [*range(1000)]})
        assert [*one.notes([NAME])] == [(NAME, {"history": [*range(1000)]})]


# -- the same code on all nodes --------------------------------------------------------------------------------------------


def test_a_node_with_the_same_code_differs_in_nothing() -> None:
    """The driver's own description, sent as JSON, is this node's."""
    assert nodes.differences(json.loads(json.dumps(nodes.code_here()))) == ""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"vp.training.loop": "0"}, "other code in vp.training.loop"),
        ({"torch": "1.0"}, r"torch \S+ in place of 1.0"),
        ({"vp.a": "0", "vp.b": "0", "vp.c": "0", "vp.d": "0"}, "other code in vp.a, vp.b, vp.c and 1 more"),
        ({"vp.training.loop": "0", "numpy": "1.0"}, r"other code in vp.training.loop; numpy \S+ in place of 1.0"),
    ],
)
def test_what_differs_on_a_node_is_named(changed: dict[str, str], says: str) -> None:
    """Modules or versions other than the driver's are named in a line."""
    assert re.fullmatch(says, nodes.differences({**nodes.code_here(), **changed}))
