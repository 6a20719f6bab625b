"""PromptedCLIP: a prompt, a frozen CLIP and the text features of the classes, together a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vp.data import Preprocess
from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, Template, cosine_logits


class PromptedCLIP(nn.Module):
    """logits = exp(logit_scale) x cosine(encode_image(prompt(images)), text features); only the prompt trains.

    Without a prompt it is zero-shot CLIP. Text features (K, D) are computed once, at construction.
    """

    text_features: Tensor
    prompt: nn.Module

    def __init__(
        self, clip: FrozenCLIP, class_names: Sequence[str], template: Template = DEFAULT_TEMPLATE, prompt: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.clip = clip
        self.prompt = nn.Identity() if prompt is None else prompt
        self.register_buffer("text_features", clip.class_features(class_names, template))

    @property
    def replayable(self) -> bool:
        """Is a training step always the same kernels? Frozen CLIP's are; a prompt says so of itself."""
        return bool(getattr(self.prompt, "replayable", False))

    @property
    def preprocess(self) -> Preprocess:
        """The frozen CLIP's preprocessing of pixels."""
        return self.clip.preprocess

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to logits (B, K)."""
        return cosine_logits(self.clip.encode_image(self.prompt(images)), self.text_features, self.clip.scale)
