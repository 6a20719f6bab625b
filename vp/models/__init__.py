"""Frozen CLIP with its zero-shot head, networks to fine-tune, in full and in miniature; the seven networks of 1.1."""

from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, Template, cosine_logits, fill_template, label_probabilities
from vp.models.fine_tuning import FineTunedFromFeatures, FineTunedNetwork, PretrainedNetwork, Statistics, final_linear
from vp.models.loading import load_clip, load_network
from vp.models.networks import NETWORKS, Network, build_network
from vp.models.probe import FineTunedCLIP, LinearProbe, LinearProbeOfFeatures
from vp.models.weights import is_network

__all__ = [
    "DEFAULT_TEMPLATE",
    "NETWORKS",
    "FineTunedCLIP",
    "FineTunedFromFeatures",
    "FineTunedNetwork",
    "FrozenCLIP",
    "LinearProbe",
    "LinearProbeOfFeatures",
    "Network",
    "PretrainedNetwork",
    "Statistics",
    "Template",
    "build_network",
    "cosine_logits",
    "fill_template",
    "final_linear",
    "is_network",
    "label_probabilities",
    "load_clip",
    "load_network",
]
