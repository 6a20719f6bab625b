"""Activations that several runs share: frozen ones are computed once, and addressed by everything that they depend on."""

from __future__ import annotations

import platform
from typing import Any

import torch

from vp.data import ImageSet
from vp.evaluation import ImageBatches, PrefixBatches
from vp.machine.computed_once import address, code_version
from vp.machine.provenance import provenance
from vp.models import FineTunedFromFeatures, FrozenCLIP, LinearProbeOfFeatures
from vp.prompts import DeepPrompt
from vp.prompts.deep import last_block_kind

# Modules whose statements change numbers. The lists of runs and scales are not among them: a new run leaves all others valid.
CODE_OF_A_RUN = (
    "vp.data.cifar",
    "vp.data.folders",
    "vp.data.images",
    "vp.data.noise",
    "vp.data.pictures",
    "vp.data.preprocess",
    "vp.data.sources",
    "vp.evaluation.accuracy",
    "vp.evaluation.batches",
    "vp.experiments.activations",
    "vp.experiments.methods",
    "vp.experiments.perform",
    "vp.machine.errors",
    "vp.machine.runtime",
    "vp.models.clip",
    "vp.models.fast_blocks",
    "vp.models.fine_tuning",
    "vp.models.loading",
    "vp.models.mini_clip",
    "vp.models.mini_resnet",
    "vp.models.probe",
    "vp.models.vision_transformer",
    "vp.prompts.deep",
    "vp.prompts.prompted",
    "vp.prompts.visual",
    "vp.training.cuda_graphs",
    "vp.training.loop",
    "vp.training.schedule",
)


_PREFIX: dict[tuple[str, str, int, torch.device], dict[type | None, PrefixBatches]] = {}  # of the last block there are two kinds


def forget_prefixes() -> None:
    """Free the cached prefixes; the next run that needs them computes or reads them again."""
    _PREFIX.clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def training_prefix(images: ImageSet, clip: FrozenCLIP, prompt: DeepPrompt, device: torch.device, shared: bool) -> PrefixBatches:
    """The prefixes of one dataset and block at a time, kept for all runs of this process that train on them."""
    key = (images.fingerprint, clip.name, prompt.block, device)
    if key not in _PREFIX:
        _PREFIX.clear()
    kept, kind = _PREFIX.setdefault(key, {}), last_block_kind(clip, prompt)
    if kind not in kept:
        name = None  # before block 0 stands the patch embedding only, which costs next to nothing beside the training
        if prompt.block and shared:
            name = address_of("prefix", images, clip, device, block=prompt.block, kind=kind and kind.__name__)
        kept[kind] = PrefixBatches(ImageBatches(images, clip.preprocess, device), clip, prompt, name=name)
    return kept[kind]


def address_of(
    what: str,
    images: ImageSet,
    frozen: FrozenCLIP | FineTunedFromFeatures | LinearProbeOfFeatures,
    device: torch.device,
    **more: Any,
) -> str:
    """The address of activations: processes that would compute the same, to the bit, share it."""
    return address(
        what,
        images=images.fingerprint,
        frozen=frozen.fingerprint,  # its preprocessing included
        code=code_version(CODE_OF_A_RUN),
        machine=platform.node(),
        where={key: value for key, value in provenance(device).items() if key != "commit"},
        **more,
    )
