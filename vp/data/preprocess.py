"""From uint8 pixels to a network's input, in batches on any device: resize as PIL does, centre crop, normalise.

Pillow resamples in two passes (horizontal, then vertical), each with weights of 22 bits and rounded and clamped to 8 bits, and so
does this module, as two matrix products that run on any device. tests/machinery/test_data.py holds it to Pillow, open_clip's
transform and torchvision's: at most 2 grey levels apart, more than 1 in at most 1 value of 100,000. torch's own 8-bit
interpolation is faster on a CPU, but its weights are coarser and miss that. The order of the passes is that of Pillow up to 12;
from 13 on, Pillow goes vertically first when the height loses more than twice the pixels that the width loses, which for a
picture that keeps its shape means one more than twice as tall as wide that shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)
WEIGHT_STEPS = 2**22  # of 1: PRECISION_BITS of Pillow are 32 less 8 for the values and 2 for what a sum may exceed them by
BAND_ROWS = 56  # made at a time on a CPU: each row depends on few of the old ones, and the others only cost time
CHUNK_BYTES = 2**22  # of output made at a time on a CPU, so that all steps but the first find it in the cache


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
    return ((matrix * WEIGHT_STEPS).round() / WEIGHT_STEPS).float()


@lru_cache(maxsize=64)
def _bands(size_in: int, size_out: int, mode: str, rows: int, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
    """`_weights` in bands of `rows`: which rows a band makes, from which, and their weights; what it leaves out is 0."""
    matrix, bands = _weights(size_in, size_out, mode), []
    for start in range(0, size_out, rows):
        band = matrix[start : start + rows]
        used = band.any(0).nonzero()
        needed = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + rows), needed, band[:, needed].contiguous().to(device)))
    return bands


def new_size(height: int, width: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width after `resize`: an int is the new length of the shorter side, the other cut down as torchvision cuts it."""
    if isinstance(size, tuple):
        return size
    short = min(height, width)
    return size * height // short, size * width // short


def resize(pixels: Tensor, size: int | tuple[int, int], mode: str = "bicubic") -> Tensor:
    """uint8 (B, C, H, W) to uint8 (B, C, height, width) as Pillow resizes, antialias included.

    An int `size` is the new length of the shorter side, the aspect ratio kept as torchvision's `Resize` keeps it.
    Raises ValueError for another dtype, mode or an empty size.
    """
    return _grey_levels(pixels, size, mode).to(torch.uint8, memory_format=torch.contiguous_format)


def _grey_levels(pixels: Tensor, size: int | tuple[int, int], mode: str) -> Tensor:
    """`resize`, its whole numbers still as float32 where anything was resized, and then a view of rows of all channels."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(f"resize takes uint8 (B, C, H, W), given {pixels.dtype} {tuple(pixels.shape)}")
    if mode not in _KERNELS:
        raise ValueError(f"no resize mode {mode!r}: give one of {', '.join(_KERNELS)}")
    height, width = pixels.shape[-2:]
    new_height, new_width = new_size(height, width, size)
    if min(new_height, new_width) < 1:
        raise ValueError(f"cannot resize {height} x {width} px to {new_height} x {new_width} px: give at least 1 px a side")
    if (new_height, new_width) == (height, width):
        return pixels
    return _resample(pixels, (new_height, new_width), mode)


def _resample(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """rows @ across^T, then down @ columns, each rounded half up and clamped.

    Each pass is one product for each image, the same one however many images there are: sums of another order would round another
    way. Rows of an image's channels with the same number lie side by side, (B, H, C, W), which makes the second product wide. A row
    of weights adds up to 1, so that the half that rounding adds to the result can be added to what is weighted: one pass over the
    small side of the product instead of the large one.
    """
    (height, width), (new_height, new_width) = pixels.shape[-2:], size
    batch = len(pixels)
    grey = pixels.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    with torch.autocast(pixels.device.type, enabled=False):  # 8 bits of a bfloat16 would not hold a grey level
        if new_width != width:
            [(_, needed, across)] = _bands(width, new_width, mode, new_width, pixels.device)
            wide = torch.bmm(grey.add_(0.5)[..., needed].flatten(1, 2), across.T.expand(batch, -1, -1))
            grey = wide.unflatten(1, grey.shape[1:3]).floor_().clamp_(0, 255)
        if new_height != height:
            small = grey.add_(0.5).flatten(2)
            grey = grey.new_empty(batch, new_height, *grey.shape[2:])
            rows = BAND_ROWS if pixels.device.type == "cpu" else new_height
            for made, needed, down in _bands(height, new_height, mode, rows, pixels.device):
                torch.bmm(down.expand(batch, -1, -1), small[:, needed], out=grey.flatten(2)[:, made])
            grey.floor_().clamp_(0, 255)
    return grey.permute(0, 2, 1, 3)


def centre_crop(pixels: Tensor, size: int) -> Tensor:
    """The middle size x size pixels, rounded as torchvision's `CenterCrop` rounds. Both sides must be at least `size`."""
    height, width = pixels.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"cannot crop {size} px from {height} x {width} px: resize first")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[..., top : top + size, left : left + size]


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Room for float32 values. numpy asks for large pages, without which filling new memory takes longer than computing."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)


@dataclass(frozen=True)
class Preprocess:
    """A network's preprocessing: resize the shorter side, centre crop, scale to [0, 1], normalise per channel.

    With `squash`, both sides are resized to `size`, as some models of open_clip want it.
    """

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    mode: str = "bicubic"
    squash: bool = False

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 (B, 3, size, size)."""
        inputs = _empty((len(pixels), 3, self.size, self.size), pixels.device)
        at_once = max(1, CHUNK_BYTES // (12 * self.size**2)) if pixels.device.type == "cpu" else max(1, len(pixels))
        for part, some in zip(inputs.split(at_once), pixels.split(at_once), strict=True):
            self._prepare(some, part)
        return inputs

    def _prepare(self, pixels: Tensor, inputs: Tensor) -> None:
        size = (self.size, self.size) if self.squash else self.size
        self.normalise(centre_crop(_grey_levels(pixels, size, self.mode), self.size), inputs)

    def normalise(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        """Grey levels (B, C, H, W) to float32 (value / 255 - mean) / std, in one pass over each channel; into `out` if given.

        Raises ValueError for another number of channels than `mean` and `std` have.
        """
        if pixels.shape[1] != len(self.mean):
            raise ValueError(f"images of {pixels.shape[1]} channels for {len(self.mean)} means: give RGB images (B, 3, H, W)")
        normalised = torch.empty(pixels.shape, device=pixels.device) if out is None else out
        for grey, result, mean, std in zip(pixels.unbind(1), normalised.unbind(1), self.mean, self.std, strict=True):
            start = torch.tensor(-mean / std)  # a number: it need not be on the device
            torch.add(start, grey, alpha=1 / (255 * std), out=result)
        return normalised

    def to_rgb(self, images: Tensor) -> Tensor:
        """Back from normalised images to [0, 1], clamped, for pictures."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (images * std + mean).clamp(0, 1)
