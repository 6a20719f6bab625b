"""The alternatives to prompting: a linear probe on frozen features, and fine-tuning the whole vision tower (report 2.6)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vp.data.preprocess import Preprocess
from vp.machine.artifacts import content_hash
from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, Template, cosine_logits
from vp.models.fine_tuning import PreciseLinear


class LinearProbe(nn.Module):
    """A linear layer on the frozen CLIP's unit features: (D + 1) K parameters, 51,300 for ViT-B/32 and 100 classes."""

    def __init__(self, clip: FrozenCLIP, classes: int) -> None:
        super().__init__()
        self.clip = clip
        self.head = PreciseLinear(clip.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to logits (B, K)."""
        with torch.no_grad():
            features = self.clip.encode_image(images)
        logits: Tensor = self.head(features)
        return logits


class LinearProbeOfFeatures(LinearProbe):
    """The same logits as LinearProbe, W x + b, from unit features x (B, D), which are computed once: only W and b change."""

    @property
    def preprocess(self) -> Preprocess:
        """The frozen CLIP's preprocessing of pixels."""
        return self.clip.preprocess

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what `features` depends on: the frozen CLIP."""
        return content_hash({}, note=f"linear probe of {self.clip.fingerprint}")

    def features(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to unit features (B, D), without gradients."""
        with torch.no_grad():
            return self.clip.encode_image(images)

    def check(self, images: Tensor) -> None:
        """Every CLIP has features before the head."""

    def forward(self, features: Tensor) -> Tensor:
        """Unit features (B, D) to logits (B, K)."""
        logits: Tensor = self.head(features)
        return logits


class FineTunedCLIP(nn.Module):
    """CLIP whose whole vision tower trains, a copy of the frozen one's; text features and logit scale stay."""

    text_features: Tensor

    def __init__(self, clip: FrozenCLIP, class_names: Sequence[str], template: Template = DEFAULT_TEMPLATE) -> None:
        super().__init__()
        self.vision = copy.deepcopy(clip.model.visual).requires_grad_(True)
        self.register_buffer("text_features", clip.class_features(class_names, template))
        self.scale = clip.scale.item()

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to logits (B, K)."""
        return cosine_logits(normalize(self.vision(images), dim=-1), self.text_features, self.scale)
