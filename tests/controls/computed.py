"""Wrong ways to compute once for all processes. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from vp.data import ImageSet
from vp.machine.artifacts import CorruptArtifact, load
from vp.machine.computed_once import address


class NoLock:
    """Lets everyone in: test_of_two_processes_one_computes, test_of_two_workers_that_want_a_run_one_performs_it."""

    def __init__(self, *_: object) -> None:
        self.acquire = self.release = self.__enter__

    def __enter__(self, **_: object) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def copies(path: Path, *, mapped: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gives each process a memory of its own: test_what_is_read_is_the_file."""
    return load(path)


def trusts(path: Path, *, mapped: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Takes what stands in the file: test_a_damaged_file_is_computed_again."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, {"name": path.stem, "of_content": {}}
    except Exception as error:
        raise CorruptArtifact(str(error)) from error


def forgets_use(path: Path) -> None:
    """Makes room by the age of files, used or not: test_what_was_not_used_for_longest_makes_room."""
    os.stat(path)


def keeps_all(folder: Path, at_most: float) -> None:
    """Never makes room: test_what_was_not_used_for_longest_makes_room."""


def address_of_names(what: str, images: ImageSet, frozen: Any, device: object, **more: Any) -> str:
    """Believes that names stand for what they name: test_an_address_changes_with_all_that_a_prefix_depends_on."""
    return address(what, images=images.name, backbone=frozen.name, device=str(device), **more)


def address_without_circumstances(what: str, images: ImageSet, frozen: Any, device: object, **more: Any) -> str:
    """Forgets precision, code and threads: test_an_address_changes_with_all_that_a_prefix_depends_on."""
    return address(what, images=images.fingerprint, backbone=frozen.fingerprint, device=str(device), **more)
