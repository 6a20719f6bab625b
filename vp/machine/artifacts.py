"""Files that verify themselves: safetensors with a JSON note and a checksum of both, written atomically, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialised
from safetensors.torch import save as serialised
from safetensors.torch import save_file
from torch import Tensor

from vp.machine.errors import VpError
from vp.machine.file_locks import UNSUPPORTED
from vp.machine.home import variable_of

T = TypeVar("T")
LONGEST_HEAD = 100_000_000  # bytes, as safetensors allows


class CorruptArtifact(VpError):
    """A file that is truncated, altered or not ours: its content is never used."""


def content_hash(tensors: Mapping[str, Tensor], note: str = "") -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors in the order of their names, then over `note`."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    digest.update(note.encode())
    return digest.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Write tensors and a JSON note to `path`: complete or not at all, whenever the process is killed.

    Raises VpError when the folder is read-only or the disk is full; a file that stood there before is then untouched.
    """
    _write(path, tensors, note, os.replace)


def save_new(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> bool:
    """As `save`, where no file stands at `path`: of several processes and nodes one writes, and all others are told False."""
    return _write(path, tensors, note, _link)


def _write(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any], place: Callable[[Path, Path], T]) -> T:
    """Write a file beside `path` and `place` it there."""
    plain, metadata = _to_write(tensors, note)
    temporary = path.parent / f".{path.name}.{uuid4().hex}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask gives it, which safetensors does not ask
        save_file(plain, temporary, metadata)
        temporary.chmod(mode)
        return place(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VpError(
            f"cannot write {path} ({reason}): free space there or set {variable_of(path)} to a folder you can write"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _link(temporary: Path, path: Path) -> bool:
    """Give a file a second name, unless another has that name: one step on every node, without a lock."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return temporary.stat().st_nlink == 2  # NFS may do it and be asked again, for its answer was lost
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        with FileLock(path.parent / "publishing.lock"):  # a file system without hard links
            if path.exists():
                return False
            os.replace(temporary, path)
    return True


def _to_write(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What safetensors is given: tensors as they can be written, the note and the checksum."""
    text, plain = json.dumps(note, sort_keys=True), _apart(tensors)
    return plain, {"note": text, "sha256": content_hash(plain, text)}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, each in a memory of its own; they may be large: copied only where it is not so already."""
    plain: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().cpu().contiguous()
        memory = plain[name].untyped_storage()
        if memory.nbytes() != plain[name].nbytes or memory.data_ptr() in taken:
            plain[name] = plain[name].clone()
        taken.add(memory.data_ptr())
    return plain


def load(path: Path, device: torch.device | str = "cpu", *, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of a file that `save` wrote. Raises CorruptArtifact when the checksum fails, and OSError where there is no
    such file or it cannot be opened, which says nothing about what is in it.

    mapped: tensors on the CPU stay in the file, whose pages all processes share. For files that are never changed in place.
    """
    try:
        path.open("rb").close()  # safetensors calls every file that it cannot open missing
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, IsADirectoryError, ValueError) as error:
        raise CorruptArtifact(f"{path} cannot be read ({error}): delete it and it will be made again") from error
    tensors, note = _verified(str(path), tensors, metadata)
    # Copies, unless told otherwise: what stays mapped from the file changes with the file.
    return {name: tensor.to(device, copy=not mapped) for name, tensor in tensors.items()}, note


def _verified(where: str, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    text = metadata.get("note", "")
    if metadata.get("sha256") != content_hash(tensors, text):
        raise CorruptArtifact(f"{where} does not match its checksum: delete it and it will be made again")
    return tensors, json.loads(text)


# -- the same as bytes, for what is no file --------------------------------------------------------------------------------


def packed(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> bytes:
    """The bytes of the file that `save` writes."""
    return serialised(*_to_write(tensors, note))


def unpacked(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of such bytes, which came from `where`. Raises CorruptArtifact as `load` does."""
    try:
        return _verified(where, deserialised(data), _metadata(data))
    except (SafetensorError, ValueError) as error:
        raise CorruptArtifact(f"{where} cannot be read ({error}): delete it and it will be made again") from error


def note_in(start: bytes) -> dict[str, Any] | None:
    """The note in the first bytes of a file, unverified; None where more bytes are needed. Raises ValueError where there is no
    note."""
    if len(start) < 8 + int.from_bytes(start[:8], "little") < LONGEST_HEAD:
        return None
    note: dict[str, Any] = json.loads(_metadata(start).get("note", ""))
    return note


def _metadata(data: bytes) -> dict[str, str]:
    """safetensors' metadata: after eight bytes that say how long it is, a head in JSON."""
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] = head.get("__metadata__", {})
    return found
