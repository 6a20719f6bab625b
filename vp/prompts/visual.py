"""Visual prompts: a learnt picture added to every image AFTER normalisation (report 2.2; Bahng et al. 2022).

Each takes images (B, 3, I, I) and returns new images of the same shape; the batch given is never modified. Initial values
are N(0, 1). C = 3 channels, I = image side, p = prompt size, all in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vp.machine.runtime import to_device


def _check(kind: str, size: int, largest: int, image_size: int) -> None:
    if not isinstance(size, int) or not 1 <= size <= largest:
        raise ValueError(f"{kind} of {size} px does not fit an image of {image_size} px: give 1 to {largest}")


class _VisualPrompt(nn.Module):
    replayable = True  # neither draws nor counts: see vp.training.cuda_graphs

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    def _check_batch(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1:] != (3, self.image_size, self.image_size):
            expected = f"(B, 3, {self.image_size}, {self.image_size})"
            raise ValueError(f"images are {tuple(images.shape)}: this {type(self).__name__} was made for {expected}")


class FixedPatch(_VisualPrompt):
    """A p x p patch at the top left: 3 p^2 parameters (3 for the report's single pixel).

    x'[b, :, i, j] = x[b, :, i, j] + patch[:, i, j] for i, j < p, else x[b, :, i, j].
    """

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__(image_size)
        _check("a patch", size, image_size, image_size)
        self.patch = nn.Parameter(torch.randn(1, 3, size, size))

    def canvas(self) -> Tensor:
        """The prompt as a picture (1, 3, I, I), zero where no pixel is learnt."""
        rest = self.image_size - self.patch.shape[-1]
        return pad(self.patch, (0, rest, 0, rest))

    def forward(self, images: Tensor) -> Tensor:
        self._check_batch(images)
        return images + self.canvas()


class RandomPatch(_VisualPrompt):
    """A p x p patch at a uniformly random place, drawn anew for every image of every batch: 3 p^2 parameters.

    The place is drawn from torch's global random stream, so that `seed_everything` makes it repeatable.
    """

    replayable = False

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__(image_size)
        _check("a patch", size, image_size, image_size)
        self.patch = nn.Parameter(torch.randn(1, 3, size, size))

    def forward(self, images: Tensor) -> Tensor:
        self._check_batch(images)
        size = self.patch.shape[-1]
        corner = to_device(images.device, torch.randint(self.image_size - size + 1, (2, len(images), 1)))
        row, column = corner + torch.arange(size, device=images.device)  # each (B, p)
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        canvas = torch.zeros_like(images).permute(0, 2, 3, 1)  # B, I, I, C
        values = self.patch.permute(0, 2, 3, 1).expand(len(images), -1, -1, -1).to(images.dtype)
        canvas = canvas.index_put((batch, row[:, :, None], column[:, None, :]), values)
        return images + canvas.permute(0, 3, 1, 2)


class Padding(_VisualPrompt):
    """A frame of p pixels: 12 p (I - p) parameters (69,840 for p = 30, I = 224). Corners belong to up and down only.

    x' = x + frame, with up and down (3, p, I), left and right (3, I - 2p, p): 2 * 3 p I + 2 * 3 (I - 2p) p = 12 p (I - p).
    """

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__(image_size)
        _check("padding", size, (image_size - 1) // 2, image_size)
        inner = image_size - 2 * size
        self.up = nn.Parameter(torch.randn(1, 3, size, image_size))
        self.down = nn.Parameter(torch.randn(1, 3, size, image_size))
        self.left = nn.Parameter(torch.randn(1, 3, inner, size))
        self.right = nn.Parameter(torch.randn(1, 3, inner, size))

    def canvas(self) -> Tensor:
        """The prompt as a picture (1, 3, I, I), zero inside the frame."""
        inner = self.left.shape[-2]
        middle = torch.cat([self.left, self.left.new_zeros(1, 3, inner, inner), self.right], dim=3)
        return torch.cat([self.up, middle, self.down], dim=2)

    def forward(self, images: Tensor) -> Tensor:
        self._check_batch(images)
        return images + self.canvas()


VISUAL_PROMPTS: dict[str, type[FixedPatch] | type[RandomPatch] | type[Padding]] = {
    "fixed-patch": FixedPatch,
    "random-patch": RandomPatch,
    "padding": Padding,
}
