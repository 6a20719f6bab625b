"""Images whose split and index can be read off their pixels, and a method whose classifier notes what it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vp.data import ImageSet
from vp.experiments import Method

SPLITS = {"train": 1, "test": 2}
LATE = 0.3  # of the one weight, which grows step by step: when the answers change


def images(name: str, split: str, count: int) -> ImageSet:
    """`count` images of 2 x 2 px: index in the red channel, split in the green; labels are all 0."""
    pixels = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    pixels[:, 0] = torch.arange(count)[:, None, None]
    pixels[:, 1] = SPLITS[split]
    return ImageSet(name, split, pixels, torch.zeros(count, dtype=torch.long), ("right", "wrong"))


@dataclass
class Shown:
    """A batch that the classifier was shown: in which mode, of which split, which images, and whether their pixels were whole."""

    training: bool
    splits: set[int]
    indices: list[int]
    whole: bool


class Watcher(nn.Module):
    """Notes what it is shown. Right about a training image when early; about a test image when late, if 3 divides its index."""

    def __init__(self, notes: list[Shown]) -> None:
        super().__init__()
        self.notes = notes
        self.weight = nn.Parameter(torch.zeros(()))

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Pixels as they are, as numbers."""
        return pixels.float()

    def forward(self, shown: Tensor) -> Tensor:
        """Images (B, 3, 2, 2) to logits (B, 2)."""
        index, split = (shown[:, channel].mean((1, 2)).round().long() for channel in (0, 1))
        whole = bool((shown == shown.round()).all())
        self.notes.append(Shown(self.training, {*split.tolist()}, index.tolist(), whole))
        late = bool(self.weight.detach() > LATE)
        right = torch.where(split == SPLITS["test"], (index % 3 == 0) & late, torch.tensor(not late))
        first = torch.where(right, 1.0, -1.0) + 1e-3 * self.weight  # labels are 0: the weight grows at every step
        return torch.stack([first, -first], dim=1)


@dataclass(frozen=True)
class Watched(Method):
    """The method of a Watcher; its notes are no setting."""

    notes: list[Shown] = field(default_factory=list, compare=False, repr=False)

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: str, device: torch.device) -> nn.Module:
        """A new Watcher on the method's notes."""
        return Watcher(self.notes)

    def as_dict(self) -> dict[str, Any]:
        """No settings."""
        return {self.part: {}}
