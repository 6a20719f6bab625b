"""How a Run is performed, and the content hash that addresses what comes out.

The statements of this module and of those it builds, trains and evaluates with are part of that hash, as are the versions of the
packages below them; the list of runs in vp.experiments is not, so that a new run leaves the results of all others valid.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from functools import lru_cache
from typing import Any

import torch

from vp.computed import address, code_version
from vp.data import GaussianNoise, ImageSet, load_images, split_indices
from vp.evaluation import (
    Batches,
    FeatureBatches,
    FlippedAtRandom,
    ImageBatches,
    PrefixBatches,
    Subset,
    per_image_correctness,
)
from vp.experiments import DeepTokens, Result, Run, source_of
from vp.models import (
    FineTunedFromFeatures,
    FineTunedNetwork,
    FrozenCLIP,
    PretrainedNetwork,
    is_network,
    load_clip,
    load_network,
)
from vp.prompts import VISUAL_PROMPTS, BatchScrambledDeepPrompt, DeepPrompt, FastDeepPromptedCLIP, PromptedCLIP
from vp.prompts.deep import last_block_kind
from vp.runtime import pick_device, precision, provenance, seed_everything, versions
from vp.training import Fit, fit, load_trained, trained_parameters

Classifier = PromptedCLIP | FineTunedNetwork


@lru_cache(maxsize=2)
def _clip(name: str, device: torch.device) -> FrozenCLIP:
    return load_clip(name, device)


@lru_cache(maxsize=2)
def _network(name: str) -> PretrainedNetwork:
    return load_network(name)


@lru_cache(maxsize=4)
def _backbone_fingerprint(name: str, device: torch.device) -> str:
    return (_network(name) if is_network(name) else _clip(name, device)).fingerprint


def images_of(run: Run, split: str) -> ImageSet:
    """The images of one split that a Run looks at: all, or as many as its limit says."""
    return load_images(run.dataset, split, run.limit)


def build_model(run: Run, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> Classifier:
    """The classifier of a Run, its prompt or head with random initial values."""
    if run.head:
        network, head = _network(run.backbone), run.head
        if head.from_features:
            return FineTunedFromFeatures(network, len(class_names), stages=head.stages).to(device)
        return FineTunedNetwork(network, len(class_names), stages=head.stages, statistics=head.statistics).to(device)
    clip = _clip(run.backbone, torch.device(device))
    if isinstance(run.prompt, DeepTokens):
        return FastDeepPromptedCLIP(clip, class_names, run.template, prompt=_deep_prompt(run.prompt, clip)).to(device)
    prompt = VISUAL_PROMPTS[run.prompt.kind](run.prompt.size, clip.preprocess.size) if run.prompt else None
    return PromptedCLIP(clip, class_names, run.template, prompt).to(device)


def _deep_prompt(tokens: DeepTokens, clip: FrozenCLIP) -> DeepPrompt:
    kind = BatchScrambledDeepPrompt if tokens.scrambled else DeepPrompt
    return kind(tokens.n, clip.model.visual.transformer.width, tokens.block, tokens.position, tokens.readout)


def restore_model(run: Run, trained: Result, class_names: tuple[str, ...], device: torch.device | str = "cpu") -> Classifier:
    """The classifier of a Run with trained weights: its own Result's, or those of the run it takes its weights from.

    Raises ValueError for the Result of any other run, or for weights of another shape.
    """
    source = source_of(run)
    expected, given = ((some.scale, some.dataset, some.backbone) for some in (source, trained))
    if trained.run != source.name or given != expected:
        raise ValueError(
            f"run {run.name!r} takes the weights of {source.name!r}, trained at {', '.join(expected)}; given those of "
            f"{trained.run!r}, trained at {', '.join(given)}"
        )
    model = build_model(run, class_names, device)
    prefix = f"{run.tested_epoch}/"
    load_trained(model, {k.removeprefix(prefix): v for k, v in trained.weights.items() if k.startswith(prefix)})
    return model


_PREFIX: dict[tuple[str, str, int, torch.device], dict[type | None, PrefixBatches]] = {}  # of the last block there are two kinds


def forget_prefixes() -> None:
    """Give back the memory of what is kept for runs to come; it is computed, or read, again."""
    _PREFIX.clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _training_prefix(images: ImageSet, clip: FrozenCLIP, prompt: DeepPrompt, device: torch.device, shared: bool) -> PrefixBatches:
    """The prefixes of one dataset and block at a time, kept for all runs of this process that train on them."""
    key = (images.fingerprint, clip.name, prompt.block, device)
    if key not in _PREFIX:
        _PREFIX.clear()
    kept, kind = _PREFIX.setdefault(key, {}), last_block_kind(clip, prompt)
    if kind not in kept:
        name = None  # before block 0 stands the patch embedding only, which costs next to nothing beside the training
        if prompt.block and shared:
            name = _address("prefix", images, clip, device, block=prompt.block, kind=kind and kind.__name__)
        kept[kind] = PrefixBatches(ImageBatches(images, clip.preprocess, device), clip, prompt, name=name)
    return kept[kind]


def _address(what: str, images: ImageSet, frozen: FrozenCLIP | FineTunedFromFeatures, device: torch.device, **more: Any) -> str:
    """By which all processes that compute the same, to the bit, find what one of them has computed."""
    return address(
        what,
        images=images.fingerprint,
        frozen=frozen.fingerprint,  # its preprocessing included
        code=code_version(_CODE_OF_A_RUN),
        machine=platform.node(),
        where={key: value for key, value in provenance(device).items() if key != "commit"},
        **more,
    )


def training_batches(model: Classifier, images: ImageSet, device: torch.device, *, shared: bool = True) -> Batches:
    """What `model` takes of images that are looked at in every epoch: what cannot change is computed once, and `shared` with all
    processes of this machine."""
    if isinstance(model, FastDeepPromptedCLIP):
        return _training_prefix(images, model.clip, model.prompt, device, shared)
    batches = ImageBatches(images, model.preprocess, device)
    if isinstance(model, FineTunedFromFeatures):
        return FeatureBatches(batches, model, name=_address("features", images, model, device) if shared else None)
    return batches


def evaluation_batches(model: Classifier, images: ImageSet, device: torch.device, noise: GaussianNoise | None = None) -> Batches:
    """What `model` takes of images that are looked at once: nothing is kept."""
    batches = ImageBatches(images, model.preprocess, device, noise)
    if isinstance(model, FastDeepPromptedCLIP):
        return PrefixBatches(batches, model.clip, model.prompt, keep=False)
    return FeatureBatches(batches, model, keep=False) if isinstance(model, FineTunedFromFeatures) else batches


def train(run: Run, model: Classifier, seed: int, device: torch.device, progress: bool = True) -> Fit:
    """Train the prompt or head of `model` by the Run's recipe on a seeded split of the training images."""
    if run.recipe is None:
        raise ValueError(f"run {run.name!r} has no recipe: there is nothing to train")
    images = images_of(run, "train")
    training, validation = split_indices(len(images), seed, run.validation_share)
    batches = training_batches(model, images, device)
    shown: Batches = Subset(batches, training)
    if run.head and run.head.flip:
        mirrored = Subset(training_batches(model, images.flipped(), device), training)
        shown = FlippedAtRandom(shown, mirrored, run.head.flip)
    return fit(model, shown, Subset(batches, validation), run.recipe, name=run.name, progress=progress)


def perform(run: Run, seed: int = 0, device: str = "auto", progress: bool = True, trained: Result | None = None) -> Result:
    """Train and evaluate `run` from scratch; the store keeps what comes back.

    Seeds are set before the split and the initial values. The validation part of the training images chooses the best epoch;
    test images are looked at once, at the end. A run with `weights_from` needs the Result of that run as `trained`: raises
    ValueError without it, for random weights must never be taken for trained ones. Raises NotAvailable when data, weights, the
    device or its memory are missing, TrainingDiverged when the loss was not finite.
    """
    chosen = pick_device(device)
    started = time.perf_counter()
    evaluated = images_of(run, run.split)
    if run.weights_from and trained is None:
        raise ValueError(f"run {run.name!r} needs the trained weights of {run.weights_from!r}: perform that run first")
    seed_everything(seed)
    fitted, parameters = None, 0
    if trained is not None:
        model, parameters = restore_model(run, trained, evaluated.class_names, chosen), trained.trained_parameters
    else:
        model = build_model(run, evaluated.class_names, chosen)
    if run.recipe:
        fitted = train(run, model, seed, chosen, progress)
        load_trained(model, fitted.last if run.tested_epoch == "last" else fitted.best)
        parameters = sum(p.numel() for p in trained_parameters(model).values())
    correct = per_image_correctness(model, evaluation_batches(model, evaluated, chosen, run.noise))
    weights = {f"{epoch}/{k}": v.cpu() for epoch in ("last", "best") for k, v in (getattr(fitted, epoch) if fitted else {}).items()}
    return Result(
        run=run.name,
        scale=run.scale,
        dataset=run.dataset,
        backbone=run.backbone,
        seed=seed,
        correct_images=correct,
        weights=weights,
        history=fitted.history if fitted else [],
        best_epoch=fitted.best_epoch if fitted else None,
        trained_parameters=parameters,
        seconds=round(time.perf_counter() - started, 2),
        provenance=provenance(chosen) | ({"images": evaluated.source} if evaluated.source else {}),
    )


# -- what a Result is addressed by -----------------------------------------------------------------------------------------

_CODE_OF_A_RUN = (
    "vp.data.cifar",
    "vp.data.images",
    "vp.data.noise",
    "vp.data.pictures",
    "vp.data.preprocess",
    "vp.data.sources",
    "vp.evaluation.accuracy",
    "vp.evaluation.batches",
    "vp.performing",
    "vp.models.clip",
    "vp.models.fast_blocks",
    "vp.models.fine_tuning",
    "vp.models.mini_clip",
    "vp.models.mini_resnet",
    "vp.models.vision",
    "vp.prompts.deep",
    "vp.prompts.prompted",
    "vp.prompts.visual",
    "vp.recording",
    "vp.runtime",
    "vp.training",
)


def run_key(run: Run, seed: int, device: str = "auto") -> str:
    """Content hash that addresses a Result: the Run's canonical form, seed, data, backbone, kind of device, code and versions."""
    chosen = pick_device(device)
    splits = {run.split, "train"} if run.recipe else {run.split}
    parts = {
        "run": run.canonical(),
        "seed": seed if run.adaptation else 0,
        "data": {split: images_of(run, split).fingerprint for split in sorted(splits)},
        "backbone": _backbone_fingerprint(run.backbone, chosen),
        "device": chosen.type,
        "precision": str(precision(chosen)),
        "code": code_version(_CODE_OF_A_RUN),
        "versions": versions(),
        "weights": run_key(source_of(run), seed, device) if run.weights_from else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
