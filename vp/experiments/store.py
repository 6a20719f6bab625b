"""Results in a store, addressed by what they depend on: trained once, however many tests, workers and nodes want them.

`obtain` is the one way in. The store is `results` in VP_HOME, or what VP_STORE says: a folder that nodes share, or a bucket.
A file lock per key lets one process of a machine train while the others wait; a lock dies with its process, so a killed run
leaves nothing behind but the work it had not finished. Where two finish the same run all the same, as nodes without a lock in
common may, one result is kept if both say the same; else both are, and `obtain` refuses. A file that fails its checksum is
reported, set aside and computed again, never used. A result that cannot be written after its training is kept on this machine.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock

from vp.evaluation import NetworkCost, Timing, network_cost
from vp.experiments import Result, Run, source_of
from vp.experiments.activations import CODE_OF_A_RUN, forget_prefixes
from vp.experiments.methods import Method, fingerprint_of
from vp.experiments.perform import images_of, perform
from vp.machine import artifacts
from vp.machine.computed_once import code_version, statements_of
from vp.machine.device_lock import patiently
from vp.machine.errors import VpError
from vp.machine.file_locks import locks_work, say_there_are_no_locks
from vp.machine.home import given_store, home, writing_to
from vp.machine.provenance import provenance, versions
from vp.machine.runtime import pick_device, precision
from vp.machine.shelves import Content, FolderShelf, Shelf, Version, shelf_at
from vp.models import build_network
from vp.models.networks import NETWORKS

T = TypeVar("T")
NAME_OF_A_RESULT = re.compile(r"(.+)-([0-9a-f]{24})\.safetensors")
COSTS = tuple(f"cost-{network}" for network in NETWORKS)  # stored beside results, and none


class CorruptResultWarning(UserWarning):
    """A stored result was damaged; it was set aside and computed again."""


class ConflictingResults(VpError):
    """Two results of one run and seed differ; both are kept."""


def run_key(run: Run, seed: int, device: str = "auto") -> str:
    """Content hash that addresses a Result: the Run's canonical form, seed, data, backbone, kind of device, code and versions."""
    chosen = pick_device(device)
    splits = {run.split, "train"} if run.recipe else {run.split}
    parts = {
        "run": run.canonical(),
        "seed": seed if run.method.learns else 0,
        "data": {split: images_of(run, split).fingerprint for split in sorted(splits)},
        "backbone": fingerprint_of(run.backbone, chosen),
        "device": chosen.type,
        "precision": str(precision(chosen)),
        "code": code_version(CODE_OF_A_RUN),
        "method": _code_of(run.method),
        "versions": versions(),
        "weights": run_key(source_of(run), seed, device) if run.weights_from else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _code_of(method: Method) -> str:
    """The statements of the file that a method from elsewhere is defined in; empty for ours. Raises VpError without a file."""
    kind = type(method)
    if kind.__module__ in CODE_OF_A_RUN:
        return ""
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # defined at a prompt or in a notebook
        file = None
    if not file or not Path(file).is_file():
        raise VpError(f"the code of {kind.__name__} has no file, and a stored result must know it: define the method in a .py file")
    return hashlib.sha256(statements_of(Path(file).read_text(encoding="utf-8")).encode()).hexdigest()


# -- where results are ------------------------------------------------------------------------------------------------------


def store_folder() -> Path:
    """The folder of results: that of VP_STORE, or `results` in VP_HOME, also where VP_STORE is a bucket."""
    shelf = results_shelf()
    return shelf.folder if isinstance(shelf, FolderShelf) else home() / "results"


def results_shelf() -> Shelf:
    """Where results are kept: what VP_STORE says, or `results` in VP_HOME. Raises VpError for an address of an unknown kind."""
    return shelf_at(given_store()) if given_store() else FolderShelf(home() / "results")


def result_name(run: Run, key: str) -> str:
    """The file name of a result: the run's name for people, the key for the machine."""
    return f"{run.name}-{key[:24]}.safetensors"


def result_path(run: Run, key: str) -> Path:
    """The file of a result, where the store is a folder."""
    return store_folder() / result_name(run, key)


def save_result(path: Path, result: Result, key: str) -> None:
    """Write a result, complete or not at all."""
    artifacts.save(path, *_content_of(result, key))


def load_result(path: Path, key: str) -> Result:
    """Read a result back. Raises FileNotFoundError, or CorruptArtifact when it is damaged or belongs to another key."""
    return result_in(artifacts.load(path), key, str(path))


def result_in(content: Content, key: str, where: str) -> Result:
    """The result in what was read from `where`. Raises CorruptArtifact when it belongs to another key."""
    tensors, note = content
    if note.get("key") != key:
        raise artifacts.CorruptArtifact(f"{where} belongs to another run: delete it and it will be made again")
    weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
    plain = {field.name: note[field.name] for field in fields(Result) if field.name in note}
    return Result(correct_images=tensors["correct_images"].to(torch.bool), weights=weights, **plain)


def _content_of(result: Result, key: str) -> Content:
    """What is written of a result; where nodes share the store, also which of them made it."""
    tensors = {"correct_images": result.correct_images, **{f"weights/{k}": v for k, v in result.weights.items()}}
    return tensors, result.summary() | {"key": key} | ({"node": platform.node()} if given_store() else {})


# -- obtaining them --------------------------------------------------------------------------------------------------------


def obtain(
    run: Run,
    seed: int = 0,
    *,
    device: str = "auto",
    newer_than: float | None = None,
    progress: bool = True,
    performing: Callable[[], object] = lambda: None,
) -> Result:
    """The result of a Run for a seed: from the store if it is there, otherwise performed and stored.

    newer_than: results written before that time (seconds since the epoch) are computed again (`--fresh`).
    performing: called before the Run is performed, and not where its result is read.
    While another process of this machine is on the same run, waits for its result. Raises VpError when the store cannot be read
    or written, ConflictingResults when it has two results of the run that differ, NotAvailable when data, weights or the device
    are missing.
    """
    key = run_key(run, seed, device)
    shelf, name = results_shelf(), result_name(run, key)

    def stored(set_aside: bool) -> Result | None:
        return _stored(shelf, name, lambda: result_in(shelf.load(name), key, shelf.where(name)), newer_than, set_aside)

    if (found := stored(set_aside=False)) is not None:  # which a store that cannot be written has as well
        return found
    with _one_at_a_time(shelf, name, f"waiting: another process performs {run.name} (seed {seed}), for this one as well"):
        outdated = shelf.look([name]).get(name)
        if (found := stored(set_aside=True)) is not None:
            return found
        _check_writable(shelf)
        if (result := _unsent(name, key, newer_than)) is None:
            trained = None
            if run.weights_from:
                trained = obtain(source_of(run), seed, device=device, newer_than=newer_than, progress=progress)
            performing()
            result = perform(run, seed, device, progress, trained)
        return _keep(shelf, name, result, key, outdated)


def stored_result(run: Run, seed: int = 0, *, device: str = "auto") -> Result | None:
    """What `obtain` would read from the store; None where it would train. Raises VpError as `obtain` does."""
    key = run_key(run, seed, device)
    shelf, name = results_shelf(), result_name(run, key)
    return _stored(shelf, name, lambda: result_in(shelf.load(name), key, shelf.where(name)), None, set_aside=False)


@contextmanager
def _one_at_a_time(shelf: Shelf, name: str, said: str) -> Iterator[None]:
    """One process of this machine, or of all that share the folder, where its file system has locks."""
    with ExitStack() as held:
        with writing_to(shelf.locks):
            shelf.locks.mkdir(parents=True, exist_ok=True)
            if locks_work(shelf.locks):
                lock = FileLock((shelf.locks / name).with_suffix(".lock"))
                held.enter_context(patiently(lock, said))
            else:
                say_there_are_no_locks(shelf.locks)
        yield


def _stored(shelf: Shelf, name: str, read: Callable[[], T], newer_than: float | None, set_aside: bool = True) -> T | None:
    """What is there and may be used; None where it has to be made. Only who holds its lock may set aside what is damaged."""
    there = shelf.look([name, _conflicting(name, 1)])
    if _conflicting(name, 1) in there:
        raise _conflict(shelf, name, _conflicting(name, 1))
    if name not in there or (newer_than is not None and there[name].since < newer_than):
        return None
    try:
        return read()
    except FileNotFoundError:
        return None
    except artifacts.CorruptArtifact as error:
        if not set_aside:
            return None
        aside = shelf.set_aside(name)
        warnings.warn(f"{error}; kept as {aside}, computed again", CorruptResultWarning, stacklevel=3)
        return None


def store_result(run: Run, result: Result, key: str) -> Result:
    """Store a result that was performed elsewhere, by the same rules as `obtain`; what is stored comes back."""
    shelf, name = results_shelf(), result_name(run, key)
    _stored(shelf, name, lambda: result_in(shelf.load(name), key, shelf.where(name)), None)  # what is damaged is set aside
    return _keep(shelf, name, result, key, None)


def _check_writable(shelf: Shelf) -> None:
    """Fail before the training, not after it."""
    shelf.check_writable()


def _keep(shelf: Shelf, name: str, result: Result, key: str, outdated: Version | None) -> Result:
    """Store a result, and return what is stored: this one, or an equal one that another process or node was first to store."""
    content = _content_of(result, key)
    try:
        kept = result if shelf.put(name, *content, over=outdated) else _agreed(shelf, name, result, key)
    except ConflictingResults:
        _forget_unsent(name)
        raise
    except (VpError, OSError) as error:
        raise VpError(f"{error}; {_keep_here(name, content)}") from error
    _forget_unsent(name)
    return kept


def _forget_unsent(name: str) -> None:
    """The store has it now."""
    for folder in unsent_folders():
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def _agreed(shelf: Shelf, name: str, result: Result, key: str) -> Result:
    """The result that is stored already, if it says the same as this one; else this one is stored beside it, and refused."""
    first = result_in(shelf.load(name), key, shelf.where(name))
    if same_numbers(first, result):
        return first
    for number in count(1):
        other = _conflicting(name, number)
        if shelf.put(other, *_content_of(result, key)):
            break
        if same_numbers(result_in(shelf.load(other), key, shelf.where(other)), result):
            break
    raise _conflict(shelf, name, other)


def same_numbers(first: Result, second: Result) -> bool:
    """Do two results say the same: correctness image by image, weights bit by bit, history? Time and place may differ."""

    def plain(result: Result) -> str:
        return json.dumps([result.history, result.best_epoch, result.trained_parameters])

    def tensors(result: Result) -> str:
        return artifacts.content_hash({"correct_images": result.correct_images, **result.weights})

    return plain(first) == plain(second) and tensors(first) == tensors(second)


def _conflicting(name: str, number: int) -> str:
    """Under which name a result is kept that differs from the one under `name`."""
    return f"{Path(name).stem}-conflict-{number}.safetensors"


def _conflict(shelf: Shelf, first: str, second: str) -> ConflictingResults:
    notes = dict(shelf.notes([first, second]))
    told = [f"{shelf.where(name)} (by {notes.get(name, {}).get('node', 'unknown')})" for name in (first, second)]
    return ConflictingResults(
        f"two results of one run differ, and both are kept: {' and '.join(told)}. Delete both, and it is computed again; or only "
        "the second, to trust the first"
    )


# -- results that could not be stored ----------------------------------------------------------------------------------------


def unsent_folders() -> list[Path]:
    """Where results are kept that the store did not take: `unsent` in VP_HOME; where that is full, a folder of this user's among
    temporary files."""
    return [home() / "unsent", Path(tempfile.gettempdir()) / f"vp-unsent-{os.getuid() if hasattr(os, 'getuid') else ''}"]


def _keep_here(name: str, content: Content) -> str:
    """Keep a result on this machine; the sentence that says where."""
    for folder in unsent_folders():
        with suppress(VpError, OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if _is_ours(folder):
                artifacts.save(folder / name, *content)
                return (
                    f"nothing is lost: the result is kept as {folder / name}. When that is mended, `python -m vp send` stores "
                    "it, and so does the next start of the run, which does not train again"
                )
    return f"the result is lost, for neither {' nor '.join(map(str, unsent_folders()))} can be written"


def _is_ours(folder: Path) -> bool:
    """Others may have made a folder of that name among temporary files."""
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _unsent(name: str, key: str, newer_than: float | None) -> Result | None:
    """A result of an earlier training that could not be stored then."""
    for folder in unsent_folders():
        with suppress(OSError, artifacts.CorruptArtifact):
            if _is_ours(folder) and (folder / name).stat().st_mtime >= (newer_than or 0):
                return load_result(folder / name, key)
    return None


def send_unsent() -> list[str]:
    """Store what could not be stored before; their names. Raises VpError as soon as the store cannot be written, and in the end
    where some are damaged, which stay where they are, or differ from what the store has, which then has both."""
    shelf, sent, wrong = results_shelf(), [], list[str]()
    for path in [path for folder in unsent_folders() if folder.is_dir() for path in sorted(folder.glob("*.safetensors"))]:
        if not _is_ours(path.parent):
            continue
        shelf.check_writable()
        try:
            tensors, note = artifacts.load(path)
            if not shelf.put(path.name, tensors, note):
                _agreed(shelf, path.name, result_in((tensors, note), note["key"], str(path)), note["key"])
            sent.append(path.name)
        except artifacts.CorruptArtifact as error:
            wrong.append(str(error))
            continue
        except ConflictingResults as error:
            wrong.append(str(error))
        path.unlink()
    if wrong:
        raise VpError("; ".join([*([f"{len(sent)} result(s) sent"] if sent else []), *wrong]))
    return sent


# -- listing ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A result in the store: its file name, its run's name, and the first 24 digits of its key."""

    name: str
    run: str
    key: str
    summary: dict[str, Any] | None = None  # as Result.summary, from the head of the file: its checksum is not asked


def stored_results(prefix: str = "", summaries: bool = False) -> Iterator[Stored]:
    """The results whose run's name begins with `prefix`, in the order of their names, without their tensors.

    summaries: also read what each says of itself, which opens each file. Raises VpError where the store cannot be read.
    """
    shelf = results_shelf()
    matches = (NAME_OF_A_RESULT.fullmatch(name) for name in shelf.names() if name.startswith(prefix))
    found = sorted((match[0], match[1], match[2]) for match in matches if match and match[1] not in COSTS)
    if not summaries:
        yield from (Stored(*one) for one in found)
        return
    notes = shelf.notes(name for name, _, _ in found)
    known = {name: (run, key) for name, run, key in found}
    yield from (Stored(name, *known[name], note) for name, note in notes)


# -- costs of networks -------------------------------------------------------------------------------------------------------


def obtain_cost(name: str, device: torch.device, *, newer_than: float | None = None, **settings: Any) -> NetworkCost:
    """The cost of one of the seven networks on this machine: from the store, otherwise measured and stored (report 1.1).

    `settings` are those of `network_cost`, image_px included. Have the device alone (vp.machine.device_lock).
    Machine, device, threads, versions and the code that measures are part of what a stored cost is addressed by.
    """
    where = {key: value for key, value in provenance(device).items() if key != "commit"}
    code = code_version(("vp.evaluation.cost", "vp.models.networks"))
    parts = [name, settings, where, platform.node(), code]
    name_of = f"cost-{name}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}.safetensors"
    path = home() / "results" / name_of  # times are this machine's, whoever else shares its results
    if (stored := _stored(FolderShelf(path.parent), path.name, lambda: load_cost(path), newer_than)) is not None:
        return stored
    forget_prefixes()  # what they take of a GPU's memory, the network could not
    cost = network_cost(build_network(name, settings["image_px"], device), **settings)
    if (cost.without.batch, cost.memory_batch) == (cost.asked_time_batch, cost.asked_memory_batch):
        artifacts.save(path, {}, asdict(cost))  # else memory did not suffice this time, and may the next
    return cost


def load_cost(path: Path) -> NetworkCost:
    _, note = artifacts.load(path)
    timings = {key: Timing(note[key]["batch"], tuple(note[key]["seconds"])) for key in ("without", "with_gradients")}
    return NetworkCost(**{**note, **timings})
