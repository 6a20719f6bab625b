"""Wrong ways of fine-tuning. Each breaks one sentence; those of no public name say which test must reject them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tests.conformance import ours
from tests.controls import control
from vp.evaluation import Batches, FeatureBatches, FlippedAtRandom, ImageBatches
from vp.models import FineTunedFromFeatures, FineTunedNetwork, PretrainedNetwork
from vp.models.fine_tuning import input_of
from vp.training import Fit, Recipe, fit, trained_parameters

Build = Callable[[PretrainedNetwork, int], FineTunedNetwork]


# -- the new head ------------------------------------------------------------------------------------------------------------

SMALL = "test_a_new_head_starts_small"
ALONE = "test_only_the_head_trains"


@control("new_head", SMALL)
def bias_as_torch_draws_it(network: nn.Module, classes: int) -> nn.Module:
    """Leaves the bias at its random initial values."""
    model = ours.new_head(network, classes)
    model.head.bias = nn.Linear(model.head.in_features, classes).bias
    return model


@control("new_head", SMALL)
def weight_of_variance_for_std(network: nn.Module, classes: int) -> nn.Module:
    """Takes 0.01 for the variance: a standard deviation of 0.1."""
    model = ours.new_head(network, classes)
    nn.init.normal_(model.head.weight, 0, 0.01**0.5)
    return model


@control("new_head", SMALL)
def weight_of_std_1(network: nn.Module, classes: int) -> nn.Module:
    """Standard normal initial values."""
    model = ours.new_head(network, classes)
    nn.init.normal_(model.head.weight)
    return model


@control("new_head", SMALL)
def weight_as_torch_draws_it(network: nn.Module, classes: int) -> nn.Module:
    """Uniform initial values."""
    model = ours.new_head(network, classes)
    model.head.reset_parameters()
    nn.init.zeros_(model.head.bias)
    return model


@control("new_head", SMALL)
def uniform_weight_of_the_right_std(network: nn.Module, classes: int) -> nn.Module:
    """Uniform initial values, of standard deviation 0.01."""
    model = ours.new_head(network, classes)
    nn.init.uniform_(model.head.weight, -(3**0.5) / 100, 3**0.5 / 100)
    return model


@control("new_head", ALONE)
def backbone_trains(network: nn.Module, classes: int) -> nn.Module:
    """Forgets to freeze the rest."""
    return ours.new_head(network, classes).requires_grad_(True)


@control("new_head", ALONE)
def head_is_frozen_too(network: nn.Module, classes: int) -> nn.Module:
    """Freezes after it has made the head, and trains the first layer instead."""
    model = ours.new_head(network, classes).requires_grad_(False)
    next(model.parameters()).requires_grad_(True)
    return model


@control("new_head", ALONE)
def head_without_a_bias(network: nn.Module, classes: int) -> nn.Module:
    """The new head's bias stays at 0: it does not train."""
    model = ours.new_head(network, classes)
    model.head.bias.requires_grad_(False)
    return model


@control("new_head", "test_a_new_head_stands_on_the_given_networks_features")
def backbone_starts_anew(network: nn.Module, classes: int) -> nn.Module:
    """Builds the network again, without its pre-trained weights."""
    model = ours.new_head(network, classes)
    for module in model.network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return model


# -- networks: what stays ----------------------------------------------------------------------------------------------------


def head_in_the_given_network(pretrained: PretrainedNetwork, classes: int) -> FineTunedNetwork:
    """Puts the new head into the network it was given: test_the_network_given_stays_as_it_was."""
    model = FineTunedNetwork(pretrained, classes)
    pretrained.network.set_submodule(model.head_name, model.head)
    return model


def network_of_the_given_tensors(pretrained: PretrainedNetwork, classes: int) -> FineTunedNetwork:
    """Shares its running statistics with the network it was given: test_the_network_given_stays_as_it_was."""
    model = FineTunedNetwork(pretrained, classes)
    for name, module in pretrained.network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            model.network.set_submodule(name, module)
    return model


class FrozenThatDrifts(FineTunedNetwork):
    """Frozen in name only: training mode reaches the BatchNorm layers: test_frozen_statistics_stay."""

    def train(self, mode: bool = True) -> FineTunedNetwork:
        nn.Module.train(self, mode)
        return self


class DriftingThatIsFrozen(FineTunedNetwork):
    """Never leaves evaluation mode: test_drifting_statistics_move."""

    def train(self, mode: bool = True) -> FineTunedNetwork:
        nn.Module.train(self, False)
        return self


class FeaturesOfTrainingMode(FineTunedFromFeatures):
    """Computes features with the statistics of their batch: test_features_and_what_trains_are_the_whole_network."""

    def features(self, images: Tensor) -> Tensor:
        twin = copy.deepcopy(self)
        return input_of(twin.head, lambda: twin.network.train()(images))


class FeaturesBehindTheStage(FineTunedFromFeatures):
    """Keeps what the head is given though a stage trains before it: test_features_and_what_trains_are_the_whole_network."""

    def __init__(self, pretrained: PretrainedNetwork, classes: int, *, stages: tuple[str, ...] = ()) -> None:
        super().__init__(pretrained, classes, stages=stages)
        self.first_trained = self.head_name


# -- flips: test_a_flipped_batch_holds_each_image_or_its_mirror_image, test_flips_have_their_probability -----------------------


class WholeBatchesFlipped(FlippedAtRandom):
    """Flips all images of a batch or none."""

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return (self.flipped if torch.rand(()) < self.p else self.batches)[indices]


class FlippedOnce(FlippedAtRandom):
    """Draws once for all epochs which images are flipped."""

    def __init__(self, batches: Batches, flipped: Batches, p: float = 0.5) -> None:
        super().__init__(batches, flipped, p)
        self.drawn = torch.rand(len(batches)) < p

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        one, other = self.batches[indices], self.flipped[indices]
        return torch.where(self.drawn[indices][:, None, None, None], other[0], one[0]), one[1]


class FlippedLast(FlippedAtRandom):
    """Puts the flipped images of a batch behind the others, but not their labels."""

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        flip = torch.rand(len(indices)) < self.p
        order = torch.cat([indices[~flip], indices[flip]])
        inputs = (
            torch.cat([self.batches[indices[~flip]][0], self.flipped[indices[flip]][0]]) if flip.any() else self.batches[order][0]
        )
        return inputs, self.batches[indices][1]


class AlwaysFlipped(FlippedAtRandom):
    """Shows mirror images only."""

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.flipped[indices]


class UpsideDown(FlippedAtRandom):
    """Flips up and down for left and right."""

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = self.batches[indices]
        flip = torch.rand(len(indices)) < self.p
        return torch.where(flip[:, None, None, None], inputs.flip(-2), inputs), labels


# -- training ----------------------------------------------------------------------------------------------------------------


def keeps_parameters_only(model: nn.Module, train: Batches, validation: Batches, recipe: Recipe) -> Fit:
    """Forgets the running statistics that training moved: test_the_best_epoch_comes_back_whole."""
    fitted = fit(model, train, validation, recipe)
    statistics = {name: value for name, value in fitted.last.items() if name not in trained_parameters(model)}
    return replace(fitted, best={**fitted.best, **statistics})


def features_of_plain_images_only(images: ImageBatches, flipped: ImageBatches, model: FineTunedFromFeatures) -> Batches:
    """Has one set of features for images and mirror images: test_training_on_features_is_training_on_images."""
    return FlippedAtRandom(FeatureBatches(images, model), FeatureBatches(images, model), 0.5)
