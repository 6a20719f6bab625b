"""Pictures from files: any format that Pillow reads, one by one."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vp.data.preprocess import centre_crop, resize
from vp.machine.errors import VpError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


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


def is_hidden(path: Path, folder: Path) -> bool:
    """Is it, or anything between it and `folder`, called `.something`, as notebooks and file managers call their own?"""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def list_pictures(folder: Path) -> list[Path]:
    """Picture files anywhere below `folder`, sorted; hidden ones are not looked at.

    Raises VpError when there is no such folder or no picture in it.
    """
    if not folder.is_dir():
        raise VpError(f"{folder} is not a folder: give a folder of pictures ({', '.join(sorted(PICTURES))})")
    try:
        found = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and not is_hidden(path, folder) and path.is_file()
        )
    except OSError as error:
        raise VpError(f"cannot read {folder} ({error.strerror}): check its permissions") from error
    if not found:
        raise VpError(f"no pictures in {folder}: expected files ending in {', '.join(sorted(PICTURES))}")
    return found


def square(picture: Tensor, size: int) -> Tensor:
    """(3, H, W) to (3, size, size): shorter side resized bicubically, centre cropped, as CLIP does."""
    return centre_crop(resize(picture[None], size), size)[0]
