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
from vp.data.folders import PictureWarning, doubtful, load_folder
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
    name: str, split: str, limit: int | None = None, *, strict: bool = False, class_names: tuple[str, ...] = ()
) -> ImageSet:
    """`mini10`, `mini100`, `cifar10`, `cifar100` (from `data_root()`), `A+B` for the union of two of these (report 2.5), or the
    path of a folder with one folder per class.

    A folder may hold its class folders below `train` and `test` (or `val`); without these it is divided once, seeded and by
    content (vp.data.folders). `strict` refuses a folder with a broken picture. `class_names` stand for the set's own, in order.
    With `limit`, that many images of each set, always the same ones.
    Raises VpError for an unknown name or split or another number of class names, NotAvailable for CIFAR where it is not there.
    """
    if split not in SPLITS:
        raise VpError(f"no split {split!r}: give one of {', '.join(SPLITS)}")
    if strict and Path(name).is_dir():
        load_folder(Path(name), split, strict=True)
    images = _load(name, split, data_root(), limit, class_names)
    if Path(name).is_dir() and (why := doubtful(images.class_names)):
        warnings.warn(why, PictureWarning, stacklevel=2)
    return images


@lru_cache(maxsize=12)
def _load(name: str, split: str, root: Path, limit: int | None, class_names: tuple[str, ...] = ()) -> ImageSet:
    if class_names:
        images = _load(name, split, root, limit)
        if len(class_names) != len(images.class_names):
            raise VpError(f"{len(class_names)} class names for the {len(images.class_names)} classes of {name}: give one for each")
        return replace(images, class_names=class_names)
    if "+" in name and not Path(name).is_dir():
        first, second = name.split("+", 1)
        return union(_load(first, split, root, limit), _load(second, split, root, limit))
    if limit is not None:
        return _load(name, split, root, None).sample(limit)
    if name in WORLD_NAMES:
        return world(name, split)
    if name in CLASS_NAMES:
        return _decoded_once(name, split, root)
    if Path(name).is_dir():
        return load_folder(Path(name), split)
    raise VpError(f"no dataset {name!r}: give one of {', '.join((*WORLD_NAMES, *CLASS_NAMES))} or a folder of class folders")


def _decoded_once(name: str, split: str, root: Path) -> ImageSet:
    """CIFAR as it was decoded and verified when its files had the size and time they have now, once for all processes.

    Decoding takes 1.5 to 2.5 s for 50,000 images. A split of the embedded world is drawn in 0.05 s, which no file would save.
    """
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of_cifar(name, split, root.absolute())]
    if not files:
        return load_cifar(name, split, root)  # which says what is missing
    decoded_by = code_version(("vp.data.cifar", "vp.data.images", "vp.data.pictures")), PIL.__version__

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
