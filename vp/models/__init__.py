"""Frozen CLIP with its zero-shot head, at full size through open_clip and in miniature with the package's own weights."""

from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, cosine_logits, fill_template, label_probabilities, load_clip
from vp.models.probe import FineTunedCLIP, LinearProbe

__all__ = [
    "DEFAULT_TEMPLATE",
    "FineTunedCLIP",
    "FrozenCLIP",
    "LinearProbe",
    "cosine_logits",
    "fill_template",
    "label_probabilities",
    "load_clip",
]
