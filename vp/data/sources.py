"""Image sets by name: the embedded world, CIFAR, folders of pictures; and the train/validation split."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import PIL
import torch
from torch import Tensor

from vp.data.cifar import CLASS_NAMES, files_of_cifar, load_cifar
from vp.data.folders import SIDE, PictureWarning, doubtful, load_folder
from vp.data.images import ImageSet, union
from vp.data.world import WORLD_NAMES, world
from vp.machine.computed_once import Content, address, code_version, once
from vp.machine.errors import VpError
from vp.machine.home import home

SPLITS = ("train", "test")
DATA = "VP_DATA"


def data_root() -> Path:
    """The folder of CIFAR: VP_DATA if that is set (`--data ROOT`), else `data` in VP_HOME."""
    given = os.environ.get(DATA)
    return Path(given).expanduser() if given else home() / "data"


def load_images(
    name: str, split: str, limit: int | None = None, *, strict: bool = False, class_names: tuple[str, ...] = (), side: int = SIDE
) -> ImageSet:
    """`mini10`, `mini100`, `cifar10`, `cifar100` (from `data_root()`), `A+B` for the union of two of these (report 2.5), or the
    path of a folder with one folder per class.

    A folder may hold its class folders below `train` and `test` (or `val`); without these it is divided once, seeded and by
    content (vp.data.folders). `strict` refuses a folder with a broken picture. `class_names` stand for the set's own, in order.
    Pictures of a folder that have several sizes, or are larger, become squares of `side` px. A training image of a union with a
    folder is left out where either part tests on it.
    With `limit`, that many images of each set, always the same ones.
    Raises VpError for an unknown name or split or another number of class names, NotAvailable for CIFAR where it is not there.
    """
    if split not in SPLITS:
        raise VpError(f"no split {split!r}: give one of {', '.join(SPLITS)}")
    folders = [part for part in parts_of_union(name) if Path(part).is_dir()]
    for folder in folders if strict else ():
        load_folder(Path(folder), split, strict=True, side=side)
    images = _load(name, split, data_root(), limit, class_names, side)
    if folders and (why := doubtful(images.class_names)):
        warnings.warn(why, PictureWarning, stacklevel=2)
    return images


def parts_of_union(name: str) -> list[str]:
    """The sets that `A+B` names; a folder whose name has a plus is one set."""
    return [name] if "+" not in name or Path(name).is_dir() else name.split("+", 1)


@lru_cache(maxsize=12)
def _load(name: str, split: str, root: Path, limit: int | None, class_names: tuple[str, ...] = (), side: int = SIDE) -> ImageSet:
    if class_names:
        images = _load(name, split, root, limit, side=side)
        if len(class_names) != len(images.class_names):
            raise VpError(f"{len(class_names)} class names for the {len(images.class_names)} classes of {name}: give one for each")
        return replace(images, class_names=class_names)
    if len(parts := parts_of_union(name)) > 1:
        both = union(*(_load(part, split, root, limit, side=side) for part in parts))
        if split == "train" and any(Path(part).is_dir() for part in parts):
            both = both.without(union(*(_load(part, "test", root, None, side=side) for part in parts)))
        return both
    if limit is not None:
        return _load(name, split, root, None, side=side).sample(limit)
    if name in WORLD_NAMES:
        return world(name, split)
    if name in CLASS_NAMES:
        return _decoded_once(name, split, root)
    if Path(name).is_dir():
        return load_folder(Path(name), split, side=side)
    raise VpError(f"no dataset {name!r}: give one of {', '.join((*WORLD_NAMES, *CLASS_NAMES))} or a folder of class folders")


def _decoded_once(name: str, split: str, root: Path) -> ImageSet:
    """CIFAR as it was decoded and verified when its files had the size and time they have now, once for all processes.

    Decoding takes 1.5 to 2.5 s for 50,000 images. A split of the embedded world is drawn in 0.05 s, which no file would save.
    """
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of_cifar(name, root.absolute())]
    if not files:
        return load_cifar(name, split, root)  # which says what is missing
    decoded_by = code_version(("vp.data.cifar", "vp.data.folders", "vp.data.images", "vp.data.pictures")), PIL.__version__

    def decode() -> Content:
        images = load_cifar(name, split, root)
        return {"pixels": images.pixels, "labels": images.labels}, {"class_names": images.class_names, "source": images.source}

    tensors, note = once(address(f"{name}-{split}", files=files, decoded_by=decoded_by), decode)
    return ImageSet(name, split, tensors["pixels"], tensors["labels"], tuple(note["class_names"]), note["source"])


def split_indices(count: int, seed: int, validation_share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Indices of a seeded random split of `count` images: 40,000 to train and 10,000 to validate of CIFAR's 50,000.

    No image is in both parts, none is lost. Raises ValueError when either part would be empty.
    """
    held_out = round(count * validation_share)
    if not 0 < held_out < count:
        raise ValueError(f"a share of {validation_share} of {count} images leaves a part empty: give one within (0, 1)")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:], order[:held_out]
