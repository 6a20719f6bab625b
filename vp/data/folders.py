"""Any folder of class folders as a dataset: divided as it stands, or once, seeded and by content; no test picture is trained on.

*Divided* is a folder with class folders below `train` and below `test` (or `val`, where there is no `test`). Any other is one set,
which `divide` splits. A picture's identity is the SHA-256 of its decoded pixels: two files of one picture are one picture.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import PIL
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vp.data.images import ImageSet
from vp.data.pictures import is_hidden, list_pictures, read_picture, square
from vp.machine.computed_once import Content, address, code_version, once
from vp.machine.devices import usable_cores
from vp.machine.errors import VpError

SIDE = (
    224  # px: pictures of several sizes, or larger ones, are brought to a square of this side, or of the model's if that is larger
)
TEST_SHARE, SPLIT_SEED = 0.2, 0  # of a folder that is not divided
NAMED = 5  # broken pictures that a warning names


class PictureWarning(UserWarning):
    """Pictures were left out, or class names look as if CLIP could not read them."""


def shown(path: Path | str) -> str:
    """A path as text: bytes of its name that are none, as on old disks, become the sign for what cannot be shown."""
    return os.fsencode(path).decode(errors="replace")


# -- class folders ---------------------------------------------------------------------------------------------------------


def class_folders(root: Path) -> list[Path]:
    """The class folders of `root`, sorted by name; hidden ones are none.

    Raises VpError where there is none, or a link leads in a circle, or two folders are one, or a name cannot be read.
    """
    try:
        found = sorted(path for path in root.iterdir() if not is_hidden(path, root) and (path.is_symlink() or path.is_dir()))
    except OSError as error:
        raise VpError(f"cannot read {shown(root)} ({error.strerror}): give a folder of class folders") from error
    leads_to: dict[Path, Path] = {}
    for path in found:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise VpError(f"{shown(path)} is a link that leads nowhere or in a circle: remove it") from error
        if root.resolve().is_relative_to(target):
            raise VpError(f"{shown(path)} is a link to a folder above itself, a circle: remove it")
        if target.is_dir() and target in leads_to:
            raise VpError(f"{shown(path)} and {shown(leads_to[target])} are the same folder: remove one of these links")
        leads_to[target] = path
    folders = [path for path in found if path.is_dir()]
    if not folders:
        raise VpError(f"no class folders in {shown(root)}: expected one folder of pictures per class")
    for path in folders:
        if shown(path.name) != path.name or not path.name.isprintable():
            raise VpError(f"the name of the class folder {shown(path)!r} is no readable text: rename it")
    return folders


def parts_of(root: Path) -> tuple[Path, Path] | None:
    """The folders that are trained and tested on; None where the folder is not divided. Raises VpError where one is missing."""
    parts = {part: root / part for part in ("train", "test", "val") if _holds_folders(root / part)}
    if not parts:
        return None
    test = parts.get("test", parts.get("val"))
    if "train" not in parts or test is None:
        missing = "train" if "train" not in parts else "test or val"
        raise VpError(
            f"no class folders in {shown(root)}/{missing}, but in {', '.join(parts)}: give both, or neither for one split"
        )
    return parts["train"], test


def _holds_folders(part: Path) -> bool:
    return part.is_dir() and any(path.is_dir() and not path.name.startswith(".") for path in part.iterdir())


# -- from files to pixels --------------------------------------------------------------------------------------------------


def read_all(
    paths: Sequence[Path], what: str = "pictures", side: int = SIDE, keep: bool = True
) -> tuple[list[Path], Tensor, Tensor, list[str]]:
    """Which files could be read, their pixels uint8 (N, 3, H, W), their SHA-256 as uint8 (N, 32), and errors of the others.

    On all cores. Pictures of one size of at most `side` px stay as they are, unless `keep` is false; else each becomes a square of
    `side` px, resized and cropped as CLIP does. The hash is of the picture before that. Raises VpError when no file can be read.
    """
    native = keep and _small({_size(path) for path in paths} - {None}, side)

    def read(path: Path) -> tuple[Tensor, bytes] | str:
        try:
            picture = read_picture(path)
        except VpError as error:
            return str(error)
        digest = hashlib.sha256(repr(tuple(picture.shape)).encode() + picture.contiguous().numpy().tobytes()).digest()
        return (picture if native else square(picture, side)), digest

    # Threads that ignore warnings while they read may restore each other's filters: what was before is restored after the last.
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        told = list(tqdm(pool.map(read, paths), what, len(paths), delay=2, leave=False, unit="picture"))
    good = [(path, one) for path, one in zip(paths, told, strict=True) if not isinstance(one, str)]
    broken = [shown(one) for one in told if isinstance(one, str)]
    if not good:
        raise VpError(f"none of the {len(paths)} pictures can be read; the first: {broken[0]}")
    pictures = [picture for _, (picture, _) in good]
    if len({picture.shape for picture in pictures}) > 1:  # some are turned by their EXIF notes
        pictures = [square(picture, side) for picture in pictures]
    digests = torch.frombuffer(bytearray(b"".join(digest for _, (_, digest) in good)), dtype=torch.uint8).view(-1, 32)
    return [path for path, _ in good], torch.stack(pictures), digests, broken


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            return picture.size
    except Exception:  # Pillow's readers raise many types on damaged files
        return None


def _small(sizes: set[tuple[int, int] | None], side: int) -> bool:
    """Is it one size, of at most `side` px?"""
    return len(sizes) == 1 and all(size is not None and max(size) <= side for size in sizes)


def _pictures(root: Path, side: int) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor, list[str]]:
    """Names of the class folders, pixels, labels, hashes, and what is wrong with broken files; decoded once for all processes."""
    folders = class_folders(root)
    if len(folders) < 2:
        raise VpError(f"{shown(root)} has one class only, {folders[0].name!r}: expected at least two class folders")
    listed = [(label, path) for label, folder in enumerate(folders) for path in list_pictures(folder)]
    files = [(shown(path), label, path.stat().st_size, path.stat().st_mtime_ns) for label, path in listed]
    code = code_version(("vp.data.folders", "vp.data.pictures", "vp.data.preprocess")), PIL.__version__

    def decode() -> Content:
        good, pixels, digests, broken = read_all([path for _, path in listed], shown(root), side)
        label_of = {path: label for label, path in listed}
        labels = torch.tensor([label_of[path] for path in good])
        return {"pixels": pixels, "labels": labels, "digests": digests}, {"broken": broken}

    tensors, note = once(address("folder", files=files, side=side, decoded_by=code), decode)
    names = tuple(folder.name for folder in folders)
    return names, tensors["pixels"], tensors["labels"], tensors["digests"], note["broken"]


# -- splits ----------------------------------------------------------------------------------------------------------------


def divide(digests: Sequence[bytes], labels: Sequence[int], seed: int = SPLIT_SEED, share: float = TEST_SHARE) -> list[bool]:
    """Which of N pictures are tested on: of each class's distinct pictures the `share` with the least SHA-256(seed, picture).

    At least one of each class, and at least one stays to train on. Pictures with one digest stay on one side, also when they
    are in two classes (the first counts). The order and names of files do not matter. Raises VpError for a class with fewer than
    two distinct pictures.
    """
    of_class: dict[int, list[bytes]] = {label: [] for label in labels}
    class_of: dict[bytes, int] = {}
    for digest, label in zip(digests, labels, strict=True):
        class_of[digest] = min(label, class_of.get(digest, label))
    for digest, label in class_of.items():
        of_class[label].append(digest)
    tested: set[bytes] = set()
    for label, own in of_class.items():
        if len(own) < 2:
            raise VpError(f"class {label} has {len(own)} distinct picture(s) of its own: expected two, one for each side")
        own.sort(key=lambda digest: hashlib.sha256(f"{seed} ".encode() + digest).digest())
        tested |= set(own[: min(len(own) - 1, max(1, round(share * len(own))))])
    return [digest in tested for digest in digests]


def load_folder(root: Path, split: str, *, strict: bool = False, side: int = SIDE) -> ImageSet:
    """One split of a folder of class folders. What was left out and how it was divided is in `source`; broken files are warned of.

    Pictures of several sizes, or larger than `side` px, become squares of that side.

    A training picture that is also a test picture is left out of training, so that nothing is tested on what it was trained on.
    With `strict`, a broken picture is an error. Raises VpError for a folder that is no dataset.
    """
    images, broken = _both(root.absolute(), side)[split]
    if broken:
        few = "; ".join(broken[:NAMED]) + ("; ..." if len(broken) > NAMED else "")
        if strict:
            raise VpError(f"{len(broken)} broken picture(s): {few}")
        warnings.warn(f"{len(broken)} broken picture(s) left out: {few}", PictureWarning, stacklevel=2)
    return images


@lru_cache(maxsize=4)
def _both(root: Path, side: int) -> dict[str, tuple[ImageSet, list[str]]]:
    parts = parts_of(root)
    if parts is None:
        names, pixels, labels, digests, broken = _pictures(root, side)
        keys = [bytes(row) for row in digests.numpy()]
        try:
            tested = torch.tensor(divide(keys, labels.tolist()))
        except VpError as error:
            few = [f"{name} ({int((labels == label).sum())})" for label, name in enumerate(names)]
            raise VpError(f"{shown(root)} cannot be divided, {error}; pictures a class: {', '.join(few[:8])}") from error
        how = f"divided once by content, seed {SPLIT_SEED}, {TEST_SHARE:.0%} of each class to test"
        chosen = {"train": ~tested, "test": tested}
        how += f"; {len(broken)} broken left out"
        return {split: (_set(root, split, names, pixels, labels, which, how), broken) for split, which in chosen.items()}
    train, test = (_pictures(part, side) for part in parts)
    if train[0] != test[0]:
        odd = sorted({*train[0]} ^ {*test[0]})
        raise VpError(f"{shown(parts[0])} and {shown(parts[1])} have not the same classes: {', '.join(odd[:3])} missing in one")
    seen = {bytes(row) for row in test[3].numpy()}
    fresh = torch.tensor([bytes(row) not in seen for row in train[3].numpy()])
    if unread := {*range(len(train[0]))} - {*train[2].tolist()}:
        raise VpError(f"no readable picture of {train[0][min(unread)]!r} in {shown(parts[0])}: add some")
    if len(missing := {*range(len(train[0]))} - {*train[2][fresh].tolist()}):
        name = train[0][min(missing)]
        raise VpError(f"all training pictures of {name!r} in {shown(root)} are test pictures as well: give others to train on")
    both = int((~fresh).sum())
    how = f"train and {parts[1].name} as they stand" + (
        f", {both} training pictures left out that are also test pictures" if both else ""
    )
    how += f"; {len(train[4])} broken left out of train, {len(test[4])} of {parts[1].name}"
    everything = torch.ones(len(test[2]), dtype=torch.bool)
    return {
        "train": (_set(root, "train", *train[:3], fresh, how), train[4]),
        "test": (_set(root, "test", *test[:3], everything, how), test[4]),
    }


def _set(
    root: Path,
    split: str,
    names: tuple[str, ...],
    pixels: Tensor,
    labels: Tensor,
    which: Tensor,
    how: str,
) -> ImageSet:
    source = f"{shown(root.name)}: {int(which.sum())} {split} images from class folders, {how}"
    if len(without := {*range(len(names))} - {*labels[which].tolist()}):
        raise VpError(f"no readable picture of {names[min(without)]!r} in the {split} images of {shown(root)}: add some")
    class_names = tuple(name.replace("_", " ") for name in names)
    return ImageSet(root.name, split, pixels[which], labels[which], class_names, source)


# -- class names -----------------------------------------------------------------------------------------------------------


def doubtful(names: Sequence[str]) -> str | None:
    """Why zero-shot CLIP will be near chance with these class names, if they are WordNet ids, numbers or abbreviations."""
    kinds = {"WordNet ids": r"n\d{8}", "numbers": r"[\d ._-]+", "abbreviations": r"[A-Za-z]{1,2}|[B-DF-HJ-NP-TV-XZ]{3,5}"}
    for kind, pattern in kinds.items():
        if odd := [name for name in names if re.fullmatch(pattern, name)]:
            return (
                f"{len(odd)} of {len(names)} class names are {kind}, such as {odd[0]!r}: CLIP's text encoder knows words, so "
                "that zero-shot will be near chance for these; give words in a file, --class-names FILE"
            )
    return None


def read_class_names(file: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the classes of `folders`: one a line in the order of the sorted folders, or a TOML table FOLDER = "name".

    Raises VpError for a file that cannot be read, too few or too many names, empty or equal ones, or a folder without a name.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # a mark at its start, as editors on Windows leave, is no name
        table = tomllib.loads(text) if file.suffix == ".toml" else None
    except (OSError, ValueError) as error:
        raise VpError(
            f"cannot read class names from {file} ({error}): give one a line, or a .toml file of FOLDER = 'name'"
        ) from error
    if table is not None:
        table = {key.replace("_", " "): name for key, name in table.items()}
        if {*table} != {*folders}:
            odd = sorted({*table} ^ {*folders})
            raise VpError(f"{file} does not name the classes one by one: {', '.join(odd[:3])} missing there or not a class")
        names = tuple(table[folder] for folder in folders)
    else:
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != len(folders):
        raise VpError(f"{file} has {len(names)} names for {len(folders)} classes: give one a line, in the order of the folders")
    if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
        raise VpError(f"{file} has equal or empty names: name each class once, in words")
    return names
