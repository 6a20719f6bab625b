"""What every process would compute alike, computed once per machine: tensors in `computed` of VP_HOME, mapped by all who want them.

`once` is the one way in. The first process computes, under a lock, and writes; the others wait for its file and map it, so that
on a CPU all share its pages; later sessions find it there. Files verify themselves and are replaced or removed
whole, never changed. What cannot be written or read is computed in the process, as if there were no such folder.

Written is what took longer to compute than it takes to read, if it fits into VP_DISK_GIB and half of the free disk. For all else
a file without tensors stands, so that nobody waits a second time. Files that were not used for longest make room for new ones.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from vp.machine import artifacts
from vp.machine.device_lock import patiently
from vp.machine.errors import VpError
from vp.machine.home import given_bytes, home

DISK_GIB = "VP_DISK_GIB"
DISK_BYTES = 16 * 2**30  # where VP_DISK_GIB is not set
LEAST_SECONDS = 0.25  # for less, no file is worth the trouble
BYTES_PER_S = 5e8  # at which a file is read from a disk and verified

Content = tuple[dict[str, Tensor], dict[str, Any]]  # at least one tensor, and plain values for JSON


def computed_folder() -> Path:
    """Where they live: `computed` in VP_HOME."""
    return home() / "computed"


def address(what: str, **depends_on: Any) -> str:
    """The name of a content: `what` for people, and a hash of everything it depends on, as JSON."""
    return f"{what}-{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]}"


def once(name: str, compute: Callable[[], Content]) -> Content:
    """The content of that `address`: read, or computed by the first process that asks for it; an error of `compute` is raised.

    What is read comes on the CPU, and is not to be changed. Raises VpError when VP_DISK_GIB is no number of at least 0.
    """
    budget = given_bytes(DISK_GIB, DISK_BYTES)
    path = computed_folder() / f"{name}.safetensors"
    if (found := _read(path, budget)) is None:
        with ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path.with_suffix(".lock"))
                held.enter_context(patiently(lock, f"waiting: another process computes {name}, for this one as well"))
            except OSError as error:
                _tell(f"cannot write to {path.parent} ({error.strerror or error})", name)
                return compute()
            if (found := _read(path, budget)) is None:  # while this process waited, another may have written it
                return _compute_and_write(path, compute, budget)
    return found if found[0] else compute()


def _read(path: Path, budget: float) -> Content | None:
    """The content of a file; without tensors where each process had better compute them. None: nobody has, or they are damaged."""
    try:
        tensors, note = artifacts.load(path, mapped=True)
        if note.get("name") != path.stem:
            raise artifacts.CorruptArtifact(f"{path} is of another content: delete it and it will be made again")
    except OSError:  # none there, or none that this process may read
        return None
    except artifacts.CorruptArtifact as error:
        _tell(str(error), path.stem, "it is computed again")
        return None
    if not tensors and _deserves_a_file(note, path.parent, budget):
        return None
    with suppress(OSError):
        os.utime(path)
    return tensors, note["of_content"]


def _compute_and_write(path: Path, compute: Callable[[], Content], budget: float) -> Content:
    started = time.perf_counter()
    tensors, of_content = compute()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    note = {"name": path.stem, "seconds": time.perf_counter() - started, "bytes": size, "of_content": of_content}
    try:
        with FileLock(path.parent / "writing.lock"):  # one at a time, so that all together keep within the budget
            written = _deserves_a_file(note, path.parent, budget)
            _make_room(path.parent, _room(path.parent, budget) - size if written else budget)
            artifacts.save(path, tensors if written else {}, note)
    except OSError as error:
        _tell(f"cannot write to {path.parent} ({error.strerror or error})", path.stem)
        return tensors, of_content
    except VpError as error:
        _tell(str(error), path.stem)
        return tensors, of_content
    return (_read(path, budget) if written else None) or (tensors, of_content)


def _deserves_a_file(note: Mapping[str, Any], folder: Path, budget: float) -> bool:
    """Did it take longer to compute than to read, and is there room for it?"""
    if note["seconds"] <= LEAST_SECONDS + note["bytes"] / BYTES_PER_S:
        return False
    if note["bytes"] > (room := _room(folder, budget)):
        if budget:  # nobody needs to be told that where nothing is to be written nothing is
            _tell(f"{folder} has room for {room / 2**30:.1f} GiB ({DISK_GIB}, and half of the free disk)", note["name"])
        return False
    return True


def _room(folder: Path, budget: float) -> float:
    """Bytes that all files together may take: the budget, or what they take now and half of the free disk."""
    return min(budget, sum(size for _, size, _ in _files(folder)) + shutil.disk_usage(folder).free / 2)


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """When each file was used last, its size and its path; the oldest first."""
    found = []
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    return sorted(found)


def _make_room(folder: Path, at_most: float) -> None:
    """Remove the files that were not used for longest, until the others have `at_most` bytes, and what killed writers left."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            part.unlink()
    files = _files(folder)
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= at_most:
            break
        path.unlink(missing_ok=True)  # whoever has mapped it keeps it
        total -= size


@cache
def _tell(what: str, name: str, outcome: str = "every process computes it for itself") -> None:
    print(f"note: {what}; {name}: {outcome}", file=sys.stderr, flush=True)


# -- of which code ---------------------------------------------------------------------------------------------------------


@cache
def code_version(modules: tuple[str, ...]) -> str:
    """Hash of the statements of the modules a content depends on; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for module in modules:
        spec = find_spec(module)
        assert spec is not None
        digest.update(statements_of(Path(str(spec.origin)).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def statements_of(source: str) -> str:
    """The statements of a module's source, without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
