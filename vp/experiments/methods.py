"""Methods, one class each: how a classifier is built on a frozen backbone, and which inputs it takes.

A Run holds one method, and `vp.experiments.perform` asks it for all that differs between methods. A method of your own is a
subclass of `Method`, a frozen dataclass with its settings as fields: `classifier` is all that it must have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from typing import Any, ClassVar, cast

import torch
from torch import nn

from vp.data import GaussianNoise, ImageSet
from vp.evaluation import Batches, FeatureBatches, FlippedAtRandom, ImageBatches, PrefixBatches
from vp.experiments.activations import address_of, training_prefix
from vp.models import (
    FineTunedFromFeatures,
    FineTunedNetwork,
    FrozenCLIP,
    LinearProbeOfFeatures,
    PretrainedNetwork,
    Statistics,
    Template,
    is_network,
    load_clip,
    load_network,
)
from vp.prompts import VISUAL_PROMPTS, BatchScrambledDeepPrompt, DeepPrompt, FastDeepPromptedCLIP, PromptedCLIP
from vp.prompts.deep import Position, Readout, reads_prompt


@lru_cache(maxsize=2)
def clip_of(name: str, device: torch.device | str = "cpu") -> FrozenCLIP:
    """The frozen CLIP of that name on a device, one for all runs of this process."""
    return load_clip(name, device)


@lru_cache(maxsize=2)
def network_of(name: str) -> PretrainedNetwork:
    """The pre-trained network of that name, one for all runs of this process."""
    return load_network(name)


@lru_cache(maxsize=4)
def fingerprint_of(name: str, device: torch.device) -> str:
    """SHA-256 of a backbone's weights and preprocessing."""
    return (network_of(name) if is_network(name) else clip_of(name, device)).fingerprint


class Method:
    """Everything that a Run needs of a method; the defaults fit any prompt on images.

    A classifier maps the inputs in its batches to logits (B, K). Only parameters that require a gradient train.
    """

    learns: ClassVar[bool] = True  # False: there is nothing to train
    part: ClassVar[str] = "prompt"  # under this name a Run as JSON has the method's settings: prompt or head

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Template, device: torch.device) -> nn.Module:
        """The classifier on the frozen backbone of that name; initial values come from torch's global stream."""
        raise NotImplementedError(f"{type(self).__name__} has no `classifier`: say how it is built")

    def training_batches(self, model: Any, images: ImageSet, device: torch.device, *, shared: bool = True) -> Batches:
        """The classifier's inputs for images that every epoch uses. Frozen activations may be computed once, and `shared` with all
        processes of this machine."""
        return ImageBatches(images, model.preprocess, device)

    def augmented(self, model: Any, images: ImageSet, batches: Batches, device: torch.device) -> Batches:
        """The training batches as they are shown in training; validation sees them as they are."""
        return batches

    def evaluation_batches(self, model: Any, images: ImageSet, device: torch.device, noise: GaussianNoise | None = None) -> Batches:
        """The classifier's inputs for images that are used once: nothing is cached."""
        return ImageBatches(images, model.preprocess, device, noise)

    def blocks_passed(self, blocks: int) -> float:
        """How many of the backbone's blocks a training step passes: its cost, for scheduling."""
        return blocks

    def spreads_like(self, table: str, noisy: bool) -> str:
        """Runs for which this is the same spread alike over seeds."""
        return "noise" if noisy else table

    def work(self, blocks: int) -> str:
        """Runs for which this is the same train equally fast on a backbone of that many blocks."""
        return "visual prompt"

    def keeps(self) -> int:
        """How many sets of activations of all training images are computed once, and kept for further runs."""
        return 0

    def as_dict(self) -> dict[str, Any]:
        """The settings by `part`."""
        return {self.part: asdict(cast(Any, self)) if is_dataclass(self) else {}}


class ZeroShot(Method):
    """CLIP as it is: nothing is learnt."""

    learns = False
    part = ""

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Template, device: torch.device) -> nn.Module:
        """CLIP and the text features of the classes."""
        return PromptedCLIP(clip_of(backbone, device), class_names, template).to(device)

    def as_dict(self) -> dict[str, Any]:
        """No part of a network."""
        return {}

    def __str__(self) -> str:
        return "zero-shot"


ZERO_SHOT = ZeroShot()


@dataclass(frozen=True)
class VisualPrompt(Method):
    """Which visual prompt: a kind of VISUAL_PROMPTS and its size in pixels."""

    kind: str
    size: int

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Template, device: torch.device) -> nn.Module:
        """CLIP behind the prompt."""
        clip = clip_of(backbone, device)
        prompt = VISUAL_PROMPTS[self.kind](self.size, clip.preprocess.size)
        return PromptedCLIP(clip, class_names, template, prompt).to(device)

    def __str__(self) -> str:
        return f"{self.kind.replace('-', ' ')}, {self.size} px"


@dataclass(frozen=True)
class DeepTokens(Method):
    """Which deep prompt: n tokens before block k, where they stand, which token is read out, and whether it is the control."""

    n: int
    block: int
    position: Position
    readout: Readout
    scrambled: bool = False

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Template, device: torch.device) -> nn.Module:
        """CLIP with the tokens in its sequence, computed from the frozen activations before them."""
        clip = clip_of(backbone, device)
        kind = BatchScrambledDeepPrompt if self.scrambled else DeepPrompt
        prompt = kind(self.n, clip.model.visual.transformer.width, self.block, self.position, self.readout)
        return FastDeepPromptedCLIP(clip, class_names, template, prompt=prompt).to(device)

    def training_batches(self, model: Any, images: ImageSet, device: torch.device, *, shared: bool = True) -> Batches:
        """The sequences that enter block k."""
        return training_prefix(images, model.clip, model.prompt, device, shared)

    def evaluation_batches(self, model: Any, images: ImageSet, device: torch.device, noise: GaussianNoise | None = None) -> Batches:
        """The sequences that enter block k, computed as they are asked for."""
        return PrefixBatches(ImageBatches(images, model.preprocess, device, noise), model.clip, model.prompt, keep=False)

    def blocks_passed(self, blocks: int) -> float:
        """Those from k on."""
        return blocks - self.block

    def spreads_like(self, table: str, noisy: bool) -> str:
        """Those of one block and readout. One token cannot be scrambled: such a run spreads like those that are not."""
        return f"{table}, block {self.block}, {self.readout}, {self.scrambled and self.n > 1}"

    def work(self, blocks: int) -> str:
        """By block, and before the last by which token is read out."""
        kept_otherwise = self.block == blocks - 1 and reads_prompt(self.n, self.position, self.readout)
        return f"deep prompt, k = {self.block}" + (", prompt read out" if kept_otherwise else "")

    def keeps(self) -> int:
        """The sequences; before block 0 stands next to nothing."""
        return int(self.block > 0)

    def __str__(self) -> str:
        control = ", batch-scrambled (control)" if self.scrambled else ""
        return f"{self.n} token(s) before block {self.block}, {self.position}, {self.readout} readout{control}"


@dataclass(frozen=True)
class LinearProbing(Method):
    """A linear probe: logits = W x + b on the frozen CLIP's unit features x (D,); W (K, D) and b (K,) train, (D + 1) K parameters
    (report 2.6). Features are computed once, and an epoch then costs next to nothing."""

    part = "head"

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Template, device: torch.device) -> nn.Module:
        """The layer on features; names and template are not used."""
        return LinearProbeOfFeatures(clip_of(backbone, device), len(class_names)).to(device)

    def training_batches(self, model: Any, images: ImageSet, device: torch.device, *, shared: bool = True) -> Batches:
        """Unit features, computed once."""
        name = address_of("features", images, model, device) if shared else None
        return FeatureBatches(ImageBatches(images, model.preprocess, device), model, name=name)

    def evaluation_batches(self, model: Any, images: ImageSet, device: torch.device, noise: GaussianNoise | None = None) -> Batches:
        """Unit features, computed as they are asked for."""
        return FeatureBatches(ImageBatches(images, model.preprocess, device, noise), model, keep=False)

    def blocks_passed(self, blocks: int) -> float:
        """From features an epoch costs next to nothing."""
        return blocks / 40

    def spreads_like(self, table: str, noisy: bool) -> str:
        """All probes alike."""
        return "linear probe"

    def work(self, blocks: int) -> str:
        """A layer on features."""
        return "linear probe"

    def keeps(self) -> int:
        """Features."""
        return 1

    def __str__(self) -> str:
        return "linear probe"


@dataclass(frozen=True)
class NewHead(Method):
    """Fine-tuning: a new last layer, stages that train with it, what BatchNorm's statistics do, how often images are flipped."""

    part = "head"
    statistics: Statistics = "drifting"
    flip: float = 0.0  # probability that a training image is mirrored
    stages: tuple[str, ...] = ()

    @property
    def from_features(self) -> bool:
        """Are the inputs of the first trained module constant, and worth caching? The stem before `layer1` costs too little."""
        return self.statistics == "frozen" and "layer1" not in self.stages

    def classifier(self, backbone: str, class_names: tuple[str, ...], template: Template, device: torch.device) -> nn.Module:
        """The network with a new last layer; the template belongs to CLIP and is not used."""
        network, classes = network_of(backbone), len(class_names)
        if self.from_features:
            return FineTunedFromFeatures(network, classes, stages=self.stages).to(device)
        return FineTunedNetwork(network, classes, stages=self.stages, statistics=self.statistics).to(device)

    def training_batches(self, model: Any, images: ImageSet, device: torch.device, *, shared: bool = True) -> Batches:
        """Features where they are always the same, else images."""
        batches = ImageBatches(images, model.preprocess, device)
        if not self.from_features:
            return batches
        return FeatureBatches(batches, model, name=address_of("features", images, model, device) if shared else None)

    def augmented(self, model: Any, images: ImageSet, batches: Batches, device: torch.device) -> Batches:
        """Each image mirrored with probability `flip`."""
        if not self.flip:
            return batches
        return FlippedAtRandom(batches, self.training_batches(model, images.flipped(), device), self.flip)

    def evaluation_batches(self, model: Any, images: ImageSet, device: torch.device, noise: GaussianNoise | None = None) -> Batches:
        """Features where these are trained on, else images."""
        batches = ImageBatches(images, model.preprocess, device, noise)
        return FeatureBatches(batches, model, keep=False) if self.from_features else batches

    def blocks_passed(self, blocks: int) -> float:
        """From features an epoch costs next to nothing; a small residual network trains as fast as a few blocks."""
        return blocks / (4 if self.stages or self.statistics == "drifting" else 40)

    def spreads_like(self, table: str, noisy: bool) -> str:
        """All heads alike."""
        return "fine-tuning"

    def work(self, blocks: int) -> str:
        """By the modules that train."""
        return " and ".join(("head", *self.stages)) + f", {self.statistics} statistics"

    def keeps(self) -> int:
        """Features, and those of mirror images."""
        return (1 + bool(self.flip)) if self.from_features else 0

    def __str__(self) -> str:
        trained = " and ".join(("new head", *self.stages))
        return f"{trained}, {self.statistics} statistics" + (f", flipped with p = {self.flip:g}" if self.flip else "")
