"""Frozen CLIP with its zero-shot head, and networks to fine-tune: at full size, and in miniature with the package's own weights."""

from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, cosine_logits, fill_template, label_probabilities, load_clip
from vp.models.fine_tuning import (
    FineTunedFromFeatures,
    FineTunedNetwork,
    PretrainedNetwork,
    Statistics,
    final_linear,
    is_network,
    load_network,
)
from vp.models.probe import FineTunedCLIP, LinearProbe

__all__ = [
    "DEFAULT_TEMPLATE",
    "FineTunedCLIP",
    "FineTunedFromFeatures",
    "FineTunedNetwork",
    "FrozenCLIP",
    "LinearProbe",
    "PretrainedNetwork",
    "Statistics",
    "cosine_logits",
    "fill_template",
    "final_linear",
    "is_network",
    "label_probabilities",
    "load_clip",
    "load_network",
]
