"""Frozen CLIP with its zero-shot head, at full size and in miniature; what prompting is compared with; the networks of 1.1."""

from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, cosine_logits, fill_template, label_probabilities, load_clip
from vp.models.networks import NETWORKS, Network, build_network
from vp.models.probe import FineTunedCLIP, LinearProbe

__all__ = [
    "DEFAULT_TEMPLATE",
    "NETWORKS",
    "FineTunedCLIP",
    "FrozenCLIP",
    "LinearProbe",
    "Network",
    "build_network",
    "cosine_logits",
    "fill_template",
    "label_probabilities",
    "load_clip",
]
