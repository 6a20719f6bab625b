"""From uint8 pixels to a network's input, in batches on any device: resize as PIL does, centre crop, normalise.

`resize` follows Pillow's two-pass resampling (horizontal, then vertical, each rounded and clamped to 8 bits), so that it
agrees with open_clip's per-image transform: torch's native 8-bit resampling on the CPU, elsewhere two matrix products.
tests/test_data.py holds both to at most 2 grey levels from Pillow. The order of the passes is that of Pillow up to 12; from
13 on, Pillow goes vertically first when the height loses more than twice the pixels that the width loses, which for a
picture that keeps its shape means one more than twice as tall as wide that shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


def _cubic(t: float) -> float:
    """Keys' cubic convolution kernel with a = -1/2, as in Pillow (Keys 1981)."""
    t = abs(t)
    if t < 1:
        return (1.5 * t - 2.5) * t * t + 1
    return ((-0.5 * t + 2.5) * t - 4) * t + 2 if t < 2 else 0.0


def _triangle(t: float) -> float:
    return max(0.0, 1 - abs(t))


_KERNELS = {"bicubic": (_cubic, 2.0), "bilinear": (_triangle, 1.0)}


@lru_cache(maxsize=64)
def _weights(size_in: int, size_out: int, mode: str) -> Tensor:
    """(size_out, size_in) matrix of Pillow's resampling weights: the kernel is widened when shrinking (antialias)."""
    kernel, support = _KERNELS[mode]
    step = size_in / size_out
    widen = max(step, 1.0)
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    for i in range(size_out):
        centre = (i + 0.5) * step
        low = max(int(centre - support * widen + 0.5), 0)
        high = min(int(centre + support * widen + 0.5), size_in)
        taps = torch.tensor([kernel((j - centre + 0.5) / widen) for j in range(low, high)], dtype=torch.float64)
        matrix[i, low:high] = taps / taps.sum()
    return matrix.float()


def _to_grey_levels(values: Tensor) -> Tensor:
    return (values + 0.5).floor_().clamp_(0, 255)


def resize(pixels: Tensor, size: int | tuple[int, int], mode: str = "bicubic") -> Tensor:
    """uint8 (B, 3, H, W) to uint8 (B, 3, height, width) as Pillow resizes, antialias included.

    An int `size` is the new length of the shorter side, the aspect ratio kept as torchvision's `Resize` keeps it.
    Raises ValueError for another dtype, mode or an empty size.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(f"resize takes uint8 (B, C, H, W), given {pixels.dtype} {tuple(pixels.shape)}")
    if mode not in _KERNELS:
        raise ValueError(f"no resize mode {mode!r}: give one of {', '.join(_KERNELS)}")
    height, width = pixels.shape[-2:]
    if isinstance(size, int):
        short = min(height, width)
        new_height, new_width = size * height // short, size * width // short
    else:
        new_height, new_width = size
    if min(new_height, new_width) < 1:
        raise ValueError(f"cannot resize {height} x {width} px to {new_height} x {new_width} px: give at least 1 px a side")
    if (new_height, new_width) == (height, width):
        return pixels
    if pixels.device.type == "cpu":
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return interpolate(pixels, (new_height, new_width), mode=mode, antialias=True, align_corners=False)
    return resize_by_matrices(pixels, (new_height, new_width), mode)


def resize_by_matrices(pixels: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """`resize` as rows @ across^T, then down @ columns, with Pillow's rounding between: runs on any device."""
    (height, width), (new_height, new_width) = pixels.shape[-2:], size
    across, down = (_weights(n, m, mode).to(pixels.device) for n, m in ((width, new_width), (height, new_height)))
    rows = pixels.float()
    if new_width != width:
        rows = _to_grey_levels(rows @ across.T)
    if new_height != height:
        rows = _to_grey_levels(down @ rows)
    return rows.to(torch.uint8)


def centre_crop(pixels: Tensor, size: int) -> Tensor:
    """The middle size x size pixels, rounded as torchvision's `CenterCrop` rounds. Both sides must be at least `size`."""
    height, width = pixels.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"cannot crop {size} px from {height} x {width} px: resize first")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[..., top : top + size, left : left + size]


@dataclass(frozen=True)
class Preprocess:
    """What a network does to its images: resize the shorter side, centre crop, scale to [0, 1], normalise per channel."""

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    mode: str = "bicubic"

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 (B, 3, size, size)."""
        return self.normalise(centre_crop(resize(pixels, self.size, self.mode), self.size))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 to (value / 255 - mean) / std, as one multiplication and one addition per value."""
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, device=pixels.device)[:, None, None]
        return pixels.float().mul_(1 / (255 * std)).sub_(mean / std)

    def to_rgb(self, images: Tensor) -> Tensor:
        """Back from normalised images to [0, 1], clamped, for pictures."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (images * std + mean).clamp(0, 1)
