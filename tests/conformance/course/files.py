"""The template's files in a folder. Nothing here imports torch: pytest's controller asks, before workers start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PREFIX = "course:"
PART1 = ("train.py", "cifar100_utils.py")
PART2 = (
    *("vp.py", "vpt_model.py", "dpt_model.py", "clipzs.py", "learner.py", "cross_dataset.py"),
    *("main.py", "dataset.py", "utils.py", "robustness.py"),
)
TELLING = {"cifar100_utils.py", "vpt_model.py", "dpt_model.py", "clipzs.py", "learner.py", "cross_dataset.py", "vp.py"}
DEPTH = 4  # folders below the one given: assignment2/part2 of a whole repository, and a little more
SKIPPED = {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv", "env"}


def course_folder(label: str) -> Path | None:
    """The folder of a label `course:FOLDER`; None of any other label."""
    return Path(label.removeprefix(PREFIX)) if label.startswith(PREFIX) else None


def unusable(label: str) -> str:
    """Why `course:FOLDER` cannot be a solution of the template, in words; "" where it may be one."""
    folder = Path(label.removeprefix(PREFIX))
    if label == PREFIX:
        return "it names no folder: give course:FOLDER"
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is no folder: give the folder with the template's files, or a .py file without course:"
    if not parts_of(folder):
        return f"{folder} has none of the template's files, nor have its folders: expected any of {', '.join(sorted(TELLING))}"
    return ""


def parts_of(folder: Path) -> dict[str, Path]:
    """Where each part of the template lies: {"part1": folder, "part2": folder}, those that are there.

    The folder with the most of a part's files has that part; of equals the one that is less deep, then the first by name.
    """
    found: dict[str, tuple[int, Path]] = {}
    for place, names in _folders(folder, DEPTH):
        for part, files in (("part1", PART1), ("part2", PART2)):
            here = names.intersection(files)
            if here & TELLING and len(here) > found.get(part, (0, folder))[0]:
                found[part] = len(here), place
    return {part: place for part, (_, place) in sorted(found.items())}


def _folders(top: Path, depth: int) -> Iterator[tuple[Path, set[str]]]:
    """Folders with the names of their files, less deep ones first."""
    level = [top]
    for _ in range(depth + 1):
        below: list[Path] = []
        for place in level:
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:
                continue
            yield place, {entry.name for entry in entries if entry.is_file()}
            below += [
                Path(entry.path)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in SKIPPED
            ]
        level = below
