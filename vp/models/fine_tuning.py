"""A pre-trained network with a new head: transfer learning by fine-tuning (report 1.2).

`FineTunedNetwork` is the definition: the network's own forward with its last linear layer replaced. `FineTunedFromFeatures`
computes the same from features, what enters the first module that trains: with frozen statistics, training cannot change it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vp.data.preprocess import Preprocess
from vp.machine.artifacts import content_hash
from vp.machine.errors import VpError

Statistics = Literal["drifting", "frozen"]


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network with its pre-trained weights, and how its images are preprocessed."""

    name: str
    network: nn.Module
    preprocess: Preprocess

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, running statistics and the preprocessing."""
        return content_hash(self.network.state_dict(), note=f"{self.name} {self.preprocess}")


def final_linear(network: nn.Module) -> str:
    """The name of the linear layer that a network ends in, e.g. `fc`. Raises VpError when it ends in anything else."""
    name: str
    last: nn.Module
    *_, (name, last) = network.named_modules()  # in the order of their definition, a parent before its children
    if not name or not isinstance(last, nn.Linear):
        raise VpError(
            f"{type(network).__name__} ends in {type(last).__name__}, not in a linear layer inside it: give a network with a "
            "classification head, such as resnet18"
        )
    return name


class PreciseLinear(nn.Linear):
    """A linear layer in the precision of its weights also where the network computes in less: a bfloat16 has ties of logits."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) to logits (B, K)."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


class FineTunedNetwork(nn.Module):
    """A copy of a pre-trained network with a new last linear layer, for K classes: weight N(0, 0.01^2), bias 0.

    The new head trains, (D + 1) K parameters (51,300 for ResNet-18 and 100 classes); so do the submodules named in `stages`,
    such as `layer4`; everything else stays bit-equal, but for BatchNorm's running statistics where these are `drifting`.
    statistics: `drifting` is `model.train()`, as in the report: while training, BatchNorm layers normalise by their batch and
    move their running mean and variance, frozen weights or not. `frozen` keeps the whole network in evaluation mode.

    Raises VpError for a network that does not end in a linear layer, or that has no such stage; ValueError for fewer than two
    classes or unknown statistics.
    """

    def __init__(
        self, pretrained: PretrainedNetwork, classes: int, *, stages: tuple[str, ...] = (), statistics: Statistics = "drifting"
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a head for {classes} class(es): give at least 2 to tell apart")
        if statistics not in get_args(Statistics):
            raise ValueError(f"no statistics {statistics!r}: give {' or '.join(get_args(Statistics))}")
        self.preprocess, self.statistics = pretrained.preprocess, statistics
        # Convolutions take less time where an image's channels lie side by side.
        self.network = copy.deepcopy(pretrained.network).requires_grad_(False).to(memory_format=torch.channels_last)
        self.head_name = final_linear(self.network)
        old = self.network.get_submodule(self.head_name)
        assert isinstance(old, nn.Linear)
        head = PreciseLinear(old.in_features, classes, device=old.weight.device, dtype=old.weight.dtype)
        nn.init.normal_(head.weight, 0.0, 0.01)
        nn.init.zeros_(head.bias)
        self.network.set_submodule(self.head_name, head)
        for stage in stages:
            if stage not in dict(self.network.named_children()):
                given = ", ".join(name for name, _ in self.network.named_children())
                raise VpError(f"{pretrained.name} has no stage {stage!r}: give one of {given}")
            self.network.get_submodule(stage).requires_grad_(True)

    @property
    def head(self) -> nn.Module:
        """The new last layer."""
        return self.network.get_submodule(self.head_name)

    @property
    def replayable(self) -> bool:
        """Is a training step always the same kernels? Only drifting statistics change by it, and dropout sleeps with them."""
        return self.statistics == "frozen"

    def train(self, mode: bool = True) -> FineTunedNetwork:
        """Training mode reaches the network only where its statistics drift."""
        super().train(mode)
        if self.statistics == "frozen":
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to logits (B, K)."""
        logits: Tensor = self.network(images)
        return logits


class _Reached(Exception):
    """Ends a forward pass at a module, with what the module was given."""


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """The first argument that `run()` calls `module` with, where it ends; without gradients.

    Raises LookupError when `run` ends without calling it.
    """

    def stop(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        raise _Reached(arguments[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            run()
    except _Reached as reached:
        given: Tensor = reached.args[0]
        return given
    finally:
        handle.remove()
    raise LookupError(f"{type(module).__name__} is never called")


class FineTunedFromFeatures(FineTunedNetwork):
    """A FineTunedNetwork of frozen statistics that takes `features(images)`: what enters the first module that trains.

    That is the head, or the first of `stages`; what comes before it cannot change. With `stages`, the network must hand on the
    output of each of its children to the next and do nothing else, as torchvision's ResNet does; `check` says whether it does.
    """

    def __init__(self, pretrained: PretrainedNetwork, classes: int, *, stages: tuple[str, ...] = ()) -> None:
        super().__init__(pretrained, classes, stages=stages, statistics="frozen")
        self.network.eval()
        self.name = pretrained.name
        self.first_trained = next((name for name, _ in self.network.named_children() if name in stages), self.head_name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what `features` depends on: where training begins, preprocessing, and all weights but what trains."""
        trained = {name for name, p in self.network.named_parameters() if p.requires_grad}
        frozen = {name: t for name, t in self.network.state_dict().items() if name not in trained}
        return content_hash(frozen, note=f"{self.name} {self.preprocess} {self.first_trained}")

    def forward(self, features: Tensor) -> Tensor:
        """Features, (B, D) for a head alone, (B, C, H, W) for a stage of a residual network, to logits (B, K)."""
        rest: nn.Module = self.head
        if self.first_trained != self.head_name:  # the network's own forward, with nothing in place of what comes before
            names = list(self.network._modules)
            rest = copy.copy(self.network)
            rest._modules = self.network._modules | dict.fromkeys(names[: names.index(self.first_trained)], nn.Identity())
        logits: Tensor = rest(features)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to the inputs of `forward`, without gradients."""
        return input_of(self.network.get_submodule(self.first_trained), lambda: self.network(images))

    def check(self, images: Tensor) -> None:
        """Raises VpError unless `forward` gives, of the features of images (B, 3, S, S), the whole network's logits, nearly."""
        why = "its logits are others"
        with torch.no_grad():
            whole = self.network(images)
            try:
                if torch.allclose(self(self.features(images)), whole, rtol=0.05, atol=0.05 * whole.abs().max().item()):
                    return
            except Exception as error:  # a forward pass that is given what it does not take raises anything
                why = str(error)
        raise VpError(f"{self.name} cannot be trained from what enters {self.first_trained!r} ({why}): give FineTunedNetwork")
