"""Files that verify themselves: safetensors with a JSON note and a checksum of both, written atomically, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vp.machine.errors import VpError


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
    text = json.dumps(note, sort_keys=True)
    plain = _apart(tensors)
    metadata = {"note": text, "sha256": content_hash(plain, text)}
    temporary = path.parent / f".{path.name}.{uuid4().hex}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask gives it, which safetensors does not ask
        save_file(plain, temporary, metadata)
        temporary.chmod(mode)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VpError(f"cannot write {path} ({reason}): free space there or set VP_HOME to a folder you can write") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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
    text = metadata.get("note", "")
    if metadata.get("sha256") != content_hash(tensors, text):
        raise CorruptArtifact(f"{path} does not match its checksum: delete it and it will be made again")
    # Copies, unless told otherwise: what stays mapped from the file changes with the file.
    return {name: tensor.to(device, copy=not mapped) for name, tensor in tensors.items()}, json.loads(text)
