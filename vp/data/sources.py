"""Image sets by name: the embedded world, CIFAR through torchvision, folders of pictures; and the train/validation split."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vp.data.images import ImageSet, union
from vp.data.preprocess import centre_crop, resize
from vp.data.world import WORLD_NAMES, world
from vp.runtime import NotAvailable, VpError, home

CIFAR_NAMES = ("cifar10", "cifar100")
SPLITS = ("train", "test")
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


@lru_cache(maxsize=8)
def load_images(name: str, split: str) -> ImageSet:
    """`mini10`, `mini100`, `cifar10`, `cifar100` (from VP_HOME/data), `A+B` for the union of two of these (report 2.5), or the
    path of a folder with one folder per class.

    A folder may hold its class folders below `train` and `test`; without these, both splits are all of its pictures.
    Raises VpError for an unknown name or split, NotAvailable for CIFAR where it has not been downloaded.
    """
    if split not in SPLITS:
        raise VpError(f"no split {split!r}: give one of {', '.join(SPLITS)}")
    if name in WORLD_NAMES:
        return world(name, split)
    if "+" in name:
        first, second = name.split("+", 1)
        return union(load_images(first, split), load_images(second, split))
    if name in CIFAR_NAMES:
        return load_cifar(name, split, home() / "data")
    root = Path(name)
    if root.is_dir():
        divided = any((root / part).is_dir() for part in SPLITS)
        return load_class_folders(root / split if divided else root, name=root.name, split=split)
    raise VpError(f"no dataset {name!r}: give one of {', '.join((*WORLD_NAMES, *CIFAR_NAMES))} or a folder of class folders")


def load_cifar(name: str, split: str, root: Path) -> ImageSet:
    """CIFAR-10 or CIFAR-100 as torchvision reads and checks it. Raises NotAvailable when it is not under `root`."""
    from torchvision.datasets import CIFAR10, CIFAR100

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's warning about the alignment of CIFAR's old pickles says nothing to a user
            source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name](str(root), train=split == "train")
    except RuntimeError as error:
        raise NotAvailable(
            f"{name} is missing or damaged in {root}: let torchvision.datasets download it there, on a machine with network"
        ) from error
    pixels = torch.from_numpy(np.ascontiguousarray(source.data)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(source.targets, dtype=torch.int64)
    return ImageSet(name, split, pixels, labels, tuple(class_name.replace("_", " ") for class_name in source.classes))


def read_picture(path: Path) -> Tensor:
    """Any picture file as uint8 (3, H, W) in RGB: turned upright by its EXIF note; transparency shown on white.

    Raises VpError when the file is not a readable picture.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:  # damaged notes warn, damaged pixels raise
            upright = ImageOps.exif_transpose(picture)
            if upright.mode == "F":
                raise ValueError("its pixels are fractions of no known scale")
            if upright.mode.startswith("I"):  # 16-bit grey, which PIL's own conversion would clip; or integers of no more than 255
                grey = np.asarray(upright, dtype=np.float64)
                upright = Image.fromarray((grey / (256 if grey.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            array = np.array(upright.convert("RGB"))
    except Exception as error:  # Pillow's readers raise many types on damaged files
        raise VpError(f"cannot read {path} as a picture ({error}): replace or remove the file") from error
    return torch.from_numpy(array).permute(2, 0, 1)


def list_pictures(folder: Path) -> list[Path]:
    """Picture files anywhere below `folder`, sorted. Raises VpError when there is no such folder or no picture in it."""
    if not folder.is_dir():
        raise VpError(f"{folder} is not a folder: give a folder of pictures ({', '.join(sorted(PICTURES))})")
    try:
        found = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.name[0] != "." and path.is_file()
        )
    except OSError as error:
        raise VpError(f"cannot read {folder} ({error.strerror}): check its permissions") from error
    if not found:
        raise VpError(f"no pictures in {folder}: expected files ending in {', '.join(sorted(PICTURES))}")
    return found


def square(picture: Tensor, size: int) -> Tensor:
    """(3, H, W) to (3, size, size): shorter side resized bicubically, centre cropped, as CLIP does."""
    return centre_crop(resize(picture[None], size), size)[0]


def load_class_folders(root: Path, name: str, split: str, size: int | None = None) -> ImageSet:
    """One folder per class below `root`; the folder's name, with `_` as space, is the class name.

    Pictures of one size are kept as they are; otherwise give `size` to bring each to a square of that many pixels.
    """
    folders = sorted(path for path in root.glob("*/") if not path.name.startswith("."))
    if not folders:
        raise VpError(f"no class folders in {root}: expected one folder of pictures per class")
    pictures, labels = [], []
    for label, folder in enumerate(folders):
        for path in list_pictures(folder):
            picture = read_picture(path)
            pictures.append(picture if size is None else square(picture, size))
            labels.append(label)
    shapes = {tuple(picture.shape[1:]) for picture in pictures}
    if len(shapes) > 1 and size is None:
        raise VpError(f"pictures in {root} have {len(shapes)} sizes, e.g. {sorted(shapes)[:2]}: bring them to one size first")
    class_names = tuple(folder.name.replace("_", " ") for folder in folders)
    return ImageSet(name, split, torch.stack(pictures), torch.tensor(labels), class_names)


def split_indices(count: int, seed: int, validation_share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Indices of a seeded random split of `count` images: 40,000 to train and 10,000 to validate of CIFAR's 50,000.

    No image is in both parts, none is lost. Raises ValueError when either part would be empty.
    """
    held_out = round(count * validation_share)
    if not 0 < held_out < count:
        raise ValueError(f"a share of {validation_share} of {count} images leaves a part empty: give one within (0, 1)")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:], order[:held_out]
