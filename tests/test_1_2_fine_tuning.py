"""Report 1.2: fine-tuning a residual network: a new head, flips, and whether the last or the first stage should train with it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conformance.agree import agree
from tests.controls import fine_tuning as controls
from tests.support.strategies import pixels, seeds, tensor
from vp.data import ImageSet, Preprocess
from vp.evaluation import Batches, FeatureBatches, FlippedAtRandom, ImageBatches, contrast_test, per_image_correctness
from vp.experiments import HEADS, find_run, runs
from vp.experiments.perform import build_model, perform
from vp.machine.downloads import weights_folder
from vp.machine.errors import NotAvailable, VpError
from vp.machine.runtime import seed_everything
from vp.models import FineTunedFromFeatures, FineTunedNetwork, PretrainedNetwork, final_linear, is_network, load_network
from vp.training import Fit, Recipe, fit, load_trained

CLASSES, PX = 5, 8
QUICK = Recipe("adam", learning_rate=0.05, warmup_steps=0, schedule="constant", epochs=3, batch_size=4)


class Small(nn.Module):
    """Two stages with BatchNorm and a linear layer: all that fine-tuning tells apart, in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer4(self.layer1(images)).mean((2, 3)))
        return logits


def small(seed: int = 0) -> PretrainedNetwork:
    """A network whose running statistics are none of its initial ones."""
    seed_everything(seed)
    network = Small()
    network.train()(tensor(seed, 16, 3, PX, PX) + 0.5)
    return PretrainedNetwork("small", network.eval(), Preprocess(PX, (0.5,) * 3, (0.25,) * 3, "bilinear"))


def some_images(seed: int, count: int = 12) -> ImageSet:
    names = tuple(f"class {i}" for i in range(CLASSES))
    return ImageSet("some", "train", pixels(seed, count, 3, PX, PX), torch.arange(count) % CLASSES, names)


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def fitted(model: FineTunedNetwork, images: ImageSet, recipe: Recipe = QUICK) -> Fit:
    batches = ImageBatches(images, model.preprocess)
    return fit(model, batches, batches, recipe, progress=False)


# -- the new head ----------------------------------------------------------------------------------------------------------


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """What requires a gradient, by name; the head's weight before its bias."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(sorted(found.items(), key=lambda item: -item[1].ndim))


def head_of(model: nn.Module, classes: int, features: int) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the new head: all that requires a gradient."""
    found = [tuple(p.shape) for p in trainable(model).values()]
    expected = [(classes, features), (classes,)]
    assert found == expected, f"parameters that require a gradient have shapes {found}: expected the new head's alone, {expected}"
    weight, bias = trainable(model).values()
    return weight, bias


@pytest.mark.claim("new-head-starts-small")
@pytest.mark.specifies("new_head")
def test_a_new_head_starts_small(impl) -> None:
    """A new head's weights are drawn from N(0, 0.01^2) and its bias is 0."""
    torch.manual_seed(0)
    wide = small().network
    wide.fc = nn.Linear(2000, 7)
    weight, bias = (p.detach().double() for p in head_of(impl.new_head(wide, 50), 50, 2000))
    count, mean, std, largest = weight.numel(), weight.mean().item(), weight.std().item(), weight.abs().max().item()
    assert not bias.any(), f"the new head's bias starts with values up to {bias.abs().max():.3g}: expected 0"
    assert abs(std - 0.01) < 5 * 0.01 / (2 * count) ** 0.5, f"the new head's weights have std {std:.4g}: expected about 0.01"
    assert abs(mean) < 5 * 0.01 / count**0.5, f"the new head's weights have mean {mean:.3g}: expected about 0"
    # normal, not uniform: among 100,000 values some are beyond four standard deviations
    assert largest > 0.04, f"the largest of {count:,} weights is {largest:.3g}, which normal values of std 0.01 go beyond"


@pytest.mark.claim("fc-parameters")
@pytest.mark.specifies("new_head")
def test_the_head_of_resnet_18_has_51300_parameters(impl) -> None:
    """Retraining ResNet-18's fully connected layer for 100 classes trains 51,300 parameters, those of that layer alone."""
    model = impl.new_head(torchvision.models.resnet18(), 100)
    count = sum(p.numel() for p in trainable(model).values())
    assert count == 51_300, f"{count:,} parameters of ResNet-18 require a gradient: expected 51,300"
    head_of(model, 100, 512)


@pytest.mark.specifies("new_head")
@given(seed=seeds, classes=st.integers(2, 9))
def test_a_new_head_stands_on_the_given_networks_features(impl, seed: int, classes: int) -> None:
    """Logits are W f + b with the features f of the network that was given, in evaluation mode."""
    network = small(seed).network
    images = tensor(seed, 3, 3, PX, PX)
    with torch.no_grad():
        features = network.layer4(network.layer1(images)).mean((2, 3))
    model = impl.new_head(network, classes)
    weight, bias = head_of(model, classes, features.shape[1])
    with torch.no_grad():
        bias += torch.arange(classes)  # a bias that starts from 0 says nothing
    model.eval()
    agree(model(images), (features @ weight.T + bias).detach(), "logits of the network with its new head")


def assert_given_network_stays(build: controls.Build) -> None:
    pretrained = small()
    before, children = state(pretrained.network), dict(pretrained.network.named_children())
    fitted(build(pretrained, CLASSES), some_images(1))
    assert changed(before, pretrained.network.state_dict()) == set()
    assert dict(pretrained.network.named_children()) == children
    assert all(p.requires_grad for p in pretrained.network.parameters())


def test_the_network_given_stays_as_it_was() -> None:
    """Fine-tuning works on a copy: the pre-trained network keeps its head, its weights and its running statistics."""
    assert_given_network_stays(FineTunedNetwork)


# -- what trains and what stays ----------------------------------------------------------------------------------------------

HEAD = {"network.fc.weight", "network.fc.bias"}
STAGE = ("0.weight", "1.weight", "1.bias")


def trained_names(*stages: str) -> set[str]:
    """What trains with the head, by name."""
    return HEAD | {f"network.{stage}.{name}" for stage in stages for name in STAGE}


STATISTICS = {
    f"network.{layer}.1.{name}" for layer in ("layer1", "layer4") for name in ("running_mean", "running_var", "num_batches_tracked")
}


@pytest.mark.claim("only-the-head-trains")
@pytest.mark.specifies("new_head")
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_only_the_head_trains(impl, mode: str) -> None:
    """While the head trains, every other parameter of the network stays bit-equal."""
    model = impl.new_head(small().network, CLASSES)
    model.train(mode == "training")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for seed in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(tensor(seed, CLASSES, 3, PX, PX)), torch.arange(CLASSES)).backward()
        optimiser.step()
    moved = {name: tuple(p.shape) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    told = ", ".join(f"{name} {shape}" for name, shape in moved.items()) or "no parameter"
    expected = [(CLASSES, 8), (CLASSES,)]
    assert sorted(moved.values(), key=len, reverse=True) == expected, (
        f"{told} changed in training: expected the new head's {expected}"
    )


@pytest.mark.claim("only-the-head-trains")
@pytest.mark.parametrize("statistics", ["drifting", "frozen"])
def test_only_the_head_trains_whatever_the_statistics_do(statistics) -> None:
    """While the head trains on drifting or frozen statistics, every other parameter of the network stays bit-equal."""
    model = FineTunedNetwork(small(), CLASSES, statistics=statistics)
    before = state(model)
    fitted(model, some_images(1))
    parameters = {name for name, _ in model.named_parameters()}
    assert changed(before, model.state_dict()) & parameters == HEAD


def assert_frozen_statistics_stay(kind: type[FineTunedNetwork]) -> None:
    model = kind(small(), CLASSES, statistics="frozen")
    before = state(model)
    fitted(model, some_images(1))
    assert changed(before, model.state_dict()) == HEAD


@pytest.mark.claim("statistics-drift-or-stay")
def test_frozen_statistics_stay() -> None:
    """With frozen statistics the network's buffers stay bit-equal as well."""
    assert_frozen_statistics_stay(FineTunedNetwork)


def assert_drifting_statistics_move(kind: type[FineTunedNetwork]) -> None:
    model = kind(small(), CLASSES, statistics="drifting")
    before = state(model)
    fitted(model, some_images(1))
    assert changed(before, model.state_dict()) == HEAD | STATISTICS


@pytest.mark.claim("statistics-drift-or-stay")
def test_drifting_statistics_move() -> None:
    """In the report's training mode BatchNorm's running statistics drift to the new images, though no weight of theirs trains."""
    assert_drifting_statistics_move(FineTunedNetwork)


@pytest.mark.claim("a-stage-trains-with-the-head")
@pytest.mark.parametrize("stage", ["layer1", "layer4"])
def test_a_stage_trains_with_the_head(stage: str) -> None:
    """A stage asked for trains with the head, and nothing else does."""
    model = FineTunedNetwork(small(), CLASSES, stages=(stage,), statistics="frozen")
    before = state(model)
    fitted(model, some_images(1))
    assert changed(before, model.state_dict()) == trained_names(stage)


@given(seed=seeds, stages=st.sampled_from([(), ("layer4",)]))
def test_the_backbone_alone_decides_the_features(seed: int, stages: tuple[str, ...]) -> None:
    """Features are those of the pre-trained network, whatever mode the model is in, and asking for them leaves no trace."""
    pretrained = small(seed)
    images = tensor(seed, 3, 3, PX, PX)
    with torch.no_grad():
        expected = pretrained.network.layer1(images)
        if not stages:
            expected = pretrained.network.layer4(expected).mean((2, 3))
    model = FineTunedFromFeatures(pretrained, CLASSES, stages=stages).train()
    before = state(model)
    torch.testing.assert_close(model.features(images), expected)
    assert changed(before, model.state_dict()) == set()
    assert not any(module._forward_pre_hooks for module in model.modules())


class Skipping(Small):
    """A network whose forward hands the images past all its children."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + images.sum((1, 2, 3))[:, None]


class Flattening(Small):
    """A network whose forward changes the images before its first child has them."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1).unflatten(1, (3, PX, PX)))


class Unused(Small):
    """A network with a stage that its forward leaves out."""

    def __init__(self) -> None:
        super().__init__()
        del self.fc
        self.layer5, self.fc = nn.Linear(2, 2), nn.Linear(8, 3)


@pytest.mark.parametrize(
    ("network", "stage", "why"),
    [(Skipping(), "layer4", "its logits are others"), (Flattening(), "layer4", "unflatten"), (Unused(), "layer5", "never called")],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_a_network_that_is_no_chain_of_stages_is_refused(network: nn.Module, stage: str, why: str) -> None:
    """Features before a stage of a network that does more than hand on outputs are refused, with what to take instead."""
    pretrained = replace(small(), network=network.eval())
    images = ImageBatches(some_images(1), pretrained.preprocess)
    with pytest.raises(VpError, match=rf"small cannot be trained from what enters '{stage}' \(.*{why}.*give FineTunedNetwork"):
        FeatureBatches(images, FineTunedFromFeatures(pretrained, CLASSES, stages=(stage,)))


# -- training on features --------------------------------------------------------------------------------------------------


def assert_features_and_rest_are_the_network(
    kind: type[FineTunedFromFeatures], pretrained: PretrainedNetwork, stages: tuple[str, ...], seed: int
) -> None:
    whole = FineTunedNetwork(pretrained, CLASSES, stages=stages, statistics="frozen").eval()
    fast = kind(pretrained, CLASSES, stages=stages)
    fast.load_state_dict(whole.state_dict())
    images = tensor(seed, 2, 3, pretrained.preprocess.size, pretrained.preprocess.size)
    features = fast.features(images)
    for p in [*whole.parameters(), *fast.parameters()]:  # the rest trains on
        p.data += 0.1 * p.requires_grad
    torch.testing.assert_close(fast(features), whole(images))


@given(seed=seeds, stages=st.sampled_from([(), ("layer4",), ("layer4", "layer1"), ("fc",)]))
def test_features_and_what_trains_are_the_whole_network(seed: int, stages: tuple[str, ...]) -> None:
    """The head, or stages and head, on features give the logits of the whole network."""
    assert_features_and_rest_are_the_network(FineTunedFromFeatures, small(seed), stages, seed)


@pytest.mark.parametrize("stages", [(), ("layer4",), ("layer3",), ("layer1", "layer4")], ids=" ".join)
def test_features_of_a_residual_network_and_what_trains_are_the_whole(stages: tuple[str, ...]) -> None:
    """So they do for torchvision's own residual network, from any stage on."""
    assert_features_and_rest_are_the_network(FineTunedFromFeatures, load_network("mini-resnet"), stages, 0)


def cached(images: ImageBatches, flipped: ImageBatches, model: FineTunedFromFeatures) -> Batches:
    return FlippedAtRandom(FeatureBatches(images, model, batch_size=5), FeatureBatches(flipped, model), 0.5)


def assert_trains_alike(batches: Callable[..., Batches], seed: int, stages: tuple[str, ...] = ()) -> None:
    pretrained, images = small(seed), some_images(seed)
    ended = []
    for kind in (partial(FineTunedNetwork, statistics="frozen"), FineTunedFromFeatures):
        seed_everything(seed)
        model = kind(pretrained, CLASSES, stages=stages)
        plain, flipped = (ImageBatches(some, model.preprocess) for some in (images, images.flipped()))
        if isinstance(model, FineTunedFromFeatures):
            shown, validation = batches(plain, flipped, model), FeatureBatches(plain, model)
        else:
            shown, validation = FlippedAtRandom(plain, flipped, 0.5), plain
        ended.append(fit(model, shown, validation, QUICK, progress=False))
    whole, fast = ended
    assert whole.last.keys() == fast.last.keys() == trained_names(*stages)
    for name in whole.last:
        torch.testing.assert_close(fast.last[name], whole.last[name], atol=1e-4, rtol=1e-4)
    for one, other in zip(whole.history, fast.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.claim("features-computed-once")
@settings(max_examples=8)
@given(seed=seeds)
def test_training_on_features_is_training_on_images(seed: int) -> None:
    """With frozen statistics, training on features computed once (twice with flips) equals plain training, to rounding."""
    assert_trains_alike(cached, seed)


@pytest.mark.claim("features-computed-once")
def test_training_a_stage_on_features_is_training_on_images() -> None:
    """So does training the last stage on what enters it."""
    assert_trains_alike(cached, 0, stages=("layer4",))


# -- flips -----------------------------------------------------------------------------------------------------------------


class Numbered:
    """Images whose left column says which they are, row by row different; label i for image i."""

    def __init__(self, count: int, mirrored: bool) -> None:
        images = torch.zeros(count, 1, 2, 2)
        images[:, 0, :, 0] = torch.arange(1, count + 1)[:, None] + torch.tensor([0.0, 0.5])
        self.inputs, self.labels = images.flip(-1) if mirrored else images, torch.arange(count)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.labels[indices]


def assert_each_image_or_its_mirror(kind: type[FlippedAtRandom], count: int, seed: int, p: float = 0.5) -> None:
    torch.manual_seed(seed)
    plain, mirrored = Numbered(count, False), Numbered(count, True)
    order = torch.randperm(count)
    inputs, labels = kind(plain, mirrored, p)[order]
    assert torch.equal(labels, order)
    for image, i in zip(inputs, order.tolist(), strict=True):
        assert torch.equal(image, plain.inputs[i]) or torch.equal(image, mirrored.inputs[i])


@pytest.mark.claim("flip-half-of-the-images")
@given(seed=seeds, count=st.integers(1, 6), p=st.floats(0, 1))
def test_a_flipped_batch_holds_each_image_or_its_mirror_image(seed: int, count: int, p: float) -> None:
    """A batch holds, in its order and with its label, each image or its left-right mirror image."""
    assert_each_image_or_its_mirror(FlippedAtRandom, count, seed, p)


def assert_has_probability(kind: type[FlippedAtRandom], p: float = 0.5) -> None:
    torch.manual_seed(0)
    count, epochs = 64, 100
    flips = kind(Numbered(count, False), Numbered(count, True), p)
    flipped = torch.stack([flips[torch.arange(count)][0][:, 0, 0, 0] == 0 for _ in range(epochs)]).double()
    assert ((flipped.mean(0) - p).abs() <= 5 * (p * (1 - p) / epochs) ** 0.5).all()  # each image, over the epochs
    pairs = flipped[:, ::2] * flipped[:, 1::2]  # one image apart from another
    assert abs(pairs.mean().item() - p * p) <= 5 * (p * p * (1 - p * p) / pairs.numel()) ** 0.5


@pytest.mark.claim("flip-half-of-the-images")
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_flips_have_their_probability(p: float) -> None:
    """By RandomHorizontalFlip(p = 0.5), around half of the images are flipped, each image anew in every epoch and by itself."""
    assert_has_probability(FlippedAtRandom, p)


def test_a_mirror_image_has_left_and_right_exchanged() -> None:
    """The mirror images of a set have its pixels from right to left, and its labels; mirrored twice they are the set."""
    images = some_images(3)
    assert torch.equal(images.flipped().pixels, torchvision.transforms.functional.hflip(images.pixels))
    assert torch.equal(images.flipped().labels, images.labels)
    assert images.flipped().flipped().fingerprint == images.fingerprint


def test_flips_of_other_images_are_refused() -> None:
    """As many flipped examples as examples, and a probability, or an error that says so."""
    with pytest.raises(ValueError, match=r"3 examples and 2 flipped with p = 0\.5: give as many of each"):
        FlippedAtRandom(Numbered(3, False), Numbered(2, True))
    with pytest.raises(ValueError, match=r"p = 1\.5.*p in \[0, 1\]"):
        FlippedAtRandom(Numbered(3, False), Numbered(3, True), 1.5)


# -- the best epoch --------------------------------------------------------------------------------------------------------


def assert_best_epoch_comes_back_whole(loop: Callable[..., Fit]) -> None:
    model, images = FineTunedNetwork(small(), CLASSES), some_images(2, count=10)
    batches = ImageBatches(images, model.preprocess)
    states: list[dict[str, Tensor]] = []

    class Watched(ImageBatches):
        """Validation images: when they are asked for, an epoch has ended. All count as right after the second epoch, then none."""

        def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            states.append(state(model))
            inputs, _ = super().__getitem__(indices)
            return inputs, model(inputs).argmax(1) + (len(states) != 2)

    ended = loop(model, batches, Watched(images, model.preprocess), replace(QUICK, epochs=4))
    assert (len(states), ended.best_epoch) == (4, 2)
    assert ended.best.keys() == HEAD | STATISTICS
    load_trained(model, ended.best)
    assert changed(states[ended.best_epoch - 1], model.state_dict()) == set()


@pytest.mark.claim("best-epoch-is-tested")
def test_the_best_epoch_comes_back_whole() -> None:
    """The best validation epoch is tested: its head with the running statistics that BatchNorm had then."""
    assert_best_epoch_comes_back_whole(partial(fit, progress=False))


# -- wrong ways ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (controls.head_in_the_given_network, assert_given_network_stays),
        (controls.network_of_the_given_tensors, assert_given_network_stays),
        (controls.FrozenThatDrifts, assert_frozen_statistics_stay),
        (controls.DriftingThatIsFrozen, assert_drifting_statistics_move),
        (controls.FeaturesOfTrainingMode, lambda kind: assert_features_and_rest_are_the_network(kind, small(1), (), 1)),
        (controls.FeaturesBehindTheStage, lambda kind: assert_features_and_rest_are_the_network(kind, small(1), ("layer4",), 1)),
        (controls.features_of_plain_images_only, lambda batches: assert_trains_alike(batches, 1)),
        (controls.WholeBatchesFlipped, assert_has_probability),
        (controls.FlippedOnce, assert_has_probability),
        (controls.AlwaysFlipped, assert_has_probability),
        (controls.FlippedLast, lambda kind: assert_each_image_or_its_mirror(kind, 6, 1)),
        (controls.UpsideDown, lambda kind: assert_each_image_or_its_mirror(kind, 6, 1)),
        (controls.keeps_parameters_only, assert_best_epoch_comes_back_whole),
    ],
    ids=lambda value: value.__name__,
)
def test_wrong_fine_tuning_is_rejected(wrong, rule) -> None:
    """Each wrong way of fine-tuning fails the property named for it."""
    with pytest.raises(AssertionError):
        rule(wrong)


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnet81/IMAGENET1K_V1", "no network 'resnet81': did you mean resnet18"),
        ("fasterrcnn_resnet50_fpn/COCO_V1", "no network 'fasterrcnn_resnet50_fpn': did you mean"),
        ("mini-resnet/IMAGENET1K_V1", "no weights 'IMAGENET1K_V1' of mini-resnet: it has its own only"),
        ("resnet18", "no weights '' of resnet18: give resnet18/IMAGENET1K_V1"),
        ("resnet18/IMAGENET22K", "no weights 'IMAGENET22K' of resnet18: give resnet18/IMAGENET1K_V1"),
    ],
)
def test_no_such_network_is_refused(name: str, advice: str) -> None:
    """A network or weights that do not exist are refused with the nearest names that do."""
    with pytest.raises(VpError, match=advice):
        load_network(name)


def test_weights_that_are_not_here_are_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights that are not on this machine are NOT RUN, with the command that cures it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        NotAvailable, match="the weights of resnet18/IMAGENET1K_V1 are not on this machine: run `python -m vp fetch"
    ):
        load_network("resnet18/IMAGENET1K_V1")


def test_resnet_18_is_given_what_the_report_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 comes with its ImageNet weights, in evaluation mode, its images resized bilinearly to 224 px as CIFAR-100's."""
    weights, asked = torchvision.models.resnet18().state_dict(), []

    def read(name: str, url: str) -> dict[str, Tensor]:
        asked.append(url)
        return weights

    monkeypatch.setattr("vp.models.loading._read_weights", read)
    pretrained = load_network("resnet18/IMAGENET1K_V1")
    assert asked == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert all(torch.equal(value, weights[name]) for name, value in pretrained.network.state_dict().items())
    assert not pretrained.network.training
    assert pretrained.preprocess == Preprocess(224, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "bilinear")


@pytest.mark.parametrize("brought_by", ["python -m vp fetch", "torch.hub"])
def test_torchvisions_weights_are_read_from_their_file(brought_by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights in their file, here or where torch.hub has put them before, are those of the network of that name."""
    monkeypatch.setenv("VP_HOME", str(tmp_path / "vp"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = weights_folder() if brought_by == "python -m vp fetch" else Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True)
    saved = torchvision.models.get_model("shufflenet_v2_x0_5").state_dict()
    torch.save(saved, tmp_path / "saved")
    content = (tmp_path / "saved").read_bytes()
    name = f"shufflenet-v2-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setattr("vp.models.loading.network_source", lambda *_: f"https://somewhere/models/{name}")
    found = load_network("shufflenet_v2_x0_5/IMAGENET1K_V1")
    assert found.name == "shufflenet_v2_x0_5/IMAGENET1K_V1"
    assert all(torch.equal(value, saved[key]) for key, value in found.network.state_dict().items())


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_holds_more_than_weights_is_not_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a file of weights would do on being unpickled is not done: the file is refused, with the command that cures it."""
    monkeypatch.setattr("vp.models.loading.network_weights", lambda _: (tmp_path / "trap.pth", "sha256:"))
    torch.save({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(
        NotAvailable, match=r"trap.pth is damaged \(Weights only load failed.*: delete it and run `python -m vp fetch"
    ):
        load_network("resnet18/IMAGENET1K_V1")
    assert not (tmp_path / "sprung").exists()


def test_the_miniature_network_with_random_weights_is_another() -> None:
    """`mini-resnet/random` has the architecture of mini-resnet and other weights; each goes by its name."""
    ours, random = load_network("mini-resnet"), load_network("mini-resnet/random")
    assert (ours.name, random.name) == ("mini-resnet", "mini-resnet/random")
    weights, others = ours.network.state_dict(), random.network.state_dict()
    assert weights.keys() == others.keys()
    assert not any(torch.equal(value, others[name]) for name, value in weights.items() if name.endswith("conv1.weight"))


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Conv2d(3, 3, 1), nn.Linear(3, 3)], ids=str)
def test_a_network_without_a_final_linear_layer_is_refused(network: nn.Module) -> None:
    """A network that does not end in a linear layer has no head to replace: refused with what it ends in."""
    with pytest.raises(VpError, match=r"ends in (ReLU|Conv2d|Linear), not in a linear layer inside it: give a network with"):
        FineTunedNetwork(PretrainedNetwork("odd", network, Preprocess(PX)), CLASSES)


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "mobilenet_v3_small", "vit_b_32", "resnet18", "convnext_tiny"])
def test_torchvisions_networks_end_in_a_linear_layer(name: str) -> None:
    """Any classifier of torchvision can get a new head: its last linear layer is the one before its logits."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    assert network.get_submodule(final_linear(network)).out_features == 1000


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    """A head for fewer than two classes tells nothing apart: refused with the number."""
    with pytest.raises(ValueError, match=rf"a head for {classes} class\(es\): give at least 2"):
        FineTunedNetwork(small(), classes)


def test_an_unknown_stage_is_refused() -> None:
    """A stage that the network lacks is refused with those that it has."""
    with pytest.raises(VpError, match="small has no stage 'layer7': give one of layer1, layer4, fc"):
        FineTunedNetwork(small(), CLASSES, stages=("layer7",))


def test_unknown_statistics_are_refused() -> None:
    """Statistics are drifting or frozen."""
    with pytest.raises(ValueError, match="no statistics 'moving': give drifting or frozen"):
        FineTunedNetwork(small(), CLASSES, statistics="moving")


def test_cuda_asked_for_and_absent_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning on CUDA where there is none is NOT RUN, with what to give instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotAvailable, match="device 'cuda' asked for, but this machine has none: give --device auto or cpu"):
        perform(find_run("residual-100", "mini"), device="cuda")


def test_clip_and_networks_are_told_apart_by_name() -> None:
    """A backbone's name says whether it is a network to fine-tune or a CLIP."""
    assert [is_network(name) for name in ("mini-resnet", "resnet18/IMAGENET1K_V1")] == [True, True]
    assert [is_network(name) for name in ("mini-clip", "RN50/openai", "ViT-B-32-quickgelu/openai")] == [False, False, False]


# -- the runs of section 1.2 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_a_run_builds_what_it_names(name: str) -> None:
    """A run's head, stages and statistics are its model's; on frozen statistics a head or last stage trains from features."""
    run = find_run(name, "mini")
    model: Any = build_model(run, tuple(f"class {i}" for i in range(100)))
    assert isinstance(model, FineTunedFromFeatures) == ("frozen" in name or "last" in name)
    trained = {key.split(".")[1] for key, p in model.named_parameters() if p.requires_grad}
    assert trained == {"fc"} | {"first": {"layer1"}, "last": {"layer4"}}.get(name.rsplit("-", 1)[1], set())
    assert (run.tested_epoch, run.validation_share, model.statistics) == ("best", 0.1, run.method.statistics)
    assert run.method.flip == (0.5 if "flip" in name else 0)


@pytest.mark.claim("fc-specifications")
def test_full_scale_trains_as_the_report_did() -> None:
    """At full scale: ResNet-18, Adam at a constant 1e-3, batch 128, 30 epochs, one tenth of the images for validation."""
    run = find_run("residual-100", "full")
    assert run.backbone == "resnet18/IMAGENET1K_V1"
    recipe = Recipe("adam", learning_rate=1e-3, warmup_steps=0, schedule="constant", epochs=30, batch_size=128, shuffle=True)
    assert (run.recipe, run.validation_share) == (recipe, 0.1)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.reproduces(name)) for name in HEADS])
def test_accuracy_of_fine_tuning(name: str, results, judge) -> None:
    """A fine-tuned residual network reaches its test accuracy on the 100-class set."""
    judge.cell(results(name))


@pytest.mark.claim("flip-improves{statistics}")
@pytest.mark.reproduces(seeds_of=("residual-100", "residual-100-flip"), seeds=3)
@pytest.mark.parametrize("statistics", ["", "-frozen"], ids=["drifting", "frozen"])
def test_flips_improve_the_accuracy(statistics: str, results, judge) -> None:
    """Random horizontal flips of the training images increase the model's performance (three seeds)."""
    flip, plain = ([results(f"residual-100{statistics}{end}", at_least=3)] for end in ("-flip", ""))
    judge.ordering(flip, plain)


@pytest.mark.claim("flip-gain-of-the-report")
def test_the_reports_improvement_by_flips_is_within_noise() -> None:
    """58.55% against 59.27% on 10,000 images is no proof: z = 1.03, p = 0.30 unpaired; only a paired test can tell."""
    plain, flip = (torch.arange(10_000) < correct for correct in (5855, 5927))
    test = contrast_test(flip.float(), -plain.float())
    assert test.mean_difference == pytest.approx(0.0072, abs=1e-6)
    assert test.p_value == pytest.approx(0.30, abs=0.005)


@pytest.mark.claim("last-layers-beat-first")
@pytest.mark.reproduces(seeds_of=("residual-100-last", "residual-100-first"), seeds=3)
def test_the_last_stage_is_worth_more_than_the_first(results, judge) -> None:
    """Better performance is achievable by fine-tuning the last layers than the first, along with the classifier (three seeds)."""
    last, first = (results(f"residual-100-{which}", at_least=3) for which in ("last", "first"))
    judge.ordering([last], [first])


@pytest.mark.claim("last-layers-beat-the-head")
@pytest.mark.reproduces
def test_fine_tuning_a_stage_beats_the_head_alone(results, judge) -> None:
    """Fine-tuning the last layers along with the classifier does better than the classifier alone (three seeds)."""
    last, head = (results(name, at_least=3) for name in ("residual-100-last", "residual-100-frozen"))
    judge.ordering([last], [head])


def test_correctness_of_a_trained_network_is_per_image() -> None:
    """What the paired tests need is kept: for each test image whether the fine-tuned network is right."""
    model, images = FineTunedNetwork(small(), CLASSES), some_images(4)
    fitted(model, images)
    batches = ImageBatches(images, model.preprocess)
    with torch.no_grad():
        expected = model.eval()(batches[torch.arange(len(images))][0]).argmax(1) == images.labels
    assert torch.equal(per_image_correctness(model, batches), expected)


def test_runs_of_one_section_share_data_and_backbone() -> None:
    """All runs of section 1.2 fine-tune one network on one set, so that their images can be paired."""
    of_section = [run for run in runs("mini").values() if run.table == "table_1_2"]
    assert {(run.dataset, run.split, run.backbone) for run in of_section} == {("mini100", "test", "mini-resnet")}
