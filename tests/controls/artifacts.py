"""Wrong ways to save files and to keep results. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialised
from torch import Tensor

from vp.experiments import Result, Run
from vp.experiments.store import _stored, result_in
from vp.machine import artifacts
from vp.machine.artifacts import content_hash
from vp.machine.errors import VpError
from vp.machine.shelves import Content, Shelf


def _content(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> bytes:
    text = json.dumps(note, sort_keys=True)
    return serialised(dict(tensors), metadata={"note": text, "sha256": content_hash(tensors, text)})


def saves_in_place(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Writes over the old file: test_a_process_that_dies_while_saving_leaves_the_old_or_the_new_file."""
    path.write_bytes(_content(tensors, note))


def removes_before_it_saves(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """For a moment there is no file: test_a_process_that_dies_while_saving_leaves_the_old_or_the_new_file."""
    path.unlink(missing_ok=True)
    artifacts.save(path, tensors, note)


def leaves_what_it_wrote(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Atomic, but untidy when it fails: test_a_save_that_fails_says_why_and_leaves_everything_as_it_was."""
    temporary = path.parent / f".{path.name}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_content(tensors, note))
        os.replace(temporary, path)
    except OSError as error:
        raise VpError(f"cannot write {path} ({error.strerror}): set VP_HOME to a folder you can write") from error


def no_hash(tensors: Mapping[str, Tensor], note: str = "") -> str:
    """No checksum: test_any_damage_to_a_file_is_noticed."""
    return ""


def hash_without_note(tensors: Mapping[str, Tensor], note: str = "") -> str:
    """A checksum of the tensors alone: test_any_damage_to_a_file_is_noticed."""
    return content_hash(tensors)


def hash_of_values_alone(tensors: Mapping[str, Tensor], note: str = "") -> str:
    """Leaves out names, dtypes and shapes: test_any_damage_to_a_file_is_noticed."""
    values = b"".join(tensor.contiguous().numpy().tobytes() for _, tensor in sorted(tensors.items()))
    return hashlib.sha256(values + note.encode()).hexdigest()


def unpickles(path: Path) -> Any:
    """Runs what the file tells it to run: test_nothing_is_unpickled."""
    return pickle.loads(path.read_bytes())


def trusts_any_file(content: Content, key: str, where: str) -> Result:
    """Does not ask whose result a file is: test_a_file_that_belongs_to_another_key_is_not_used."""
    return result_in(content, content[1]["key"], where)


def ignores_age(
    shelf: Shelf, name: str, read: Callable[[], Result], newer_than: float | None, set_aside: bool = True
) -> Result | None:
    """Takes a stored result however old: test_results_older_than_asked_for_are_performed_again."""
    return _stored(shelf, name, read, None, set_aside)


def checks_nothing(shelf: Shelf) -> None:
    """Finds out after the training that the disk is full: test_a_full_store_is_refused_before_training."""


def key_of_names(run: Run, seed: int, device: str = "auto") -> str:
    """Believes that a name stands for a number: test_a_key_changes_with_what_the_number_depends_on_and_nothing_else."""
    return f"{run.name} {run.scale} {seed}"


def key_of_settings(run: Run, seed: int, device: str = "auto") -> str:
    """Forgets data, weights and code: test_a_key_changes_with_what_the_number_depends_on_and_nothing_else."""
    return f"{run.canonical()} {seed}"


def text_of(source: str) -> str:
    """Trains again for a comment: test_only_statements_are_code."""
    return source


def names_in(source: str) -> str:
    """Blind to a changed operator or constant: test_only_statements_are_code."""
    return " ".join(re.findall(r"[A-Za-z_]+", source))
