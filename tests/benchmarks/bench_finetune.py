"""Fine-tuning ResNet-18 at 224 px (random weights) against the plain way, on this machine's CPU.

`pytest -s tests/benchmarks/bench_finetune.py` prints two comparisons and the peak memory of the process:
- head-only training with frozen statistics, 30 epochs on 2,000 images: from features computed once, against the whole network in
  every step (one epoch measured and multiplied by 30; bar 20x);
- evaluating 2,000 images of 32 px: batched resize and ResNet-18, against a DataLoader of two workers that resizes by PIL.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from vp.data import ImageSet
from vp.data.preprocess import CIFAR100_MEAN, CIFAR100_STD, Preprocess
from vp.evaluation import FeatureBatches, ImageBatches, Subset, predict
from vp.machine.runtime import seed_everything
from vp.models import FineTunedFromFeatures, FineTunedNetwork, PretrainedNetwork
from vp.training import Recipe, fit

pytestmark = pytest.mark.alone
IMAGES, EPOCHS, PAIRS = 2000, 30, 3
RECIPE = Recipe("adam", learning_rate=1e-3, warmup_steps=0, schedule="constant", epochs=EPOCHS)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module")
def pretrained() -> PretrainedNetwork:
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    return PretrainedNetwork("resnet18, random weights", network, Preprocess(224, CIFAR100_MEAN, CIFAR100_STD, "bilinear"))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ImageSet("random", "train", pixels, torch.arange(IMAGES) % 100, tuple(f"class {i}" for i in range(100)))


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def test_head_training_against_the_plain_loop(pretrained: PretrainedNetwork, images: ImageSet) -> None:
    """Prints how much faster 30 epochs on features are than 30 plain epochs."""

    def from_features() -> None:
        seed_everything(0)
        model = FineTunedFromFeatures(pretrained, 100)
        features = FeatureBatches(ImageBatches(images, model.preprocess), model)
        fit(model, features, Subset(features, torch.arange(100)), RECIPE, progress=False)

    def plainly() -> None:
        seed_everything(0)
        model = FineTunedNetwork(pretrained, 100, statistics="frozen")
        batches = ImageBatches(images, model.preprocess)
        fit(model, batches, Subset(batches, torch.arange(1)), replace(RECIPE, epochs=1), progress=False)

    fast = seconds_of(from_features)
    memory = peak_mib()
    plain = EPOCHS * seconds_of(plainly)
    print(
        f"\n{EPOCHS} epochs on {IMAGES} images: {fast:.1f} s from features (peak {memory:,.0f} MiB), {plain:.0f} s plainly: "
        f"{plain / fast:.1f}x (bar 20x)",
        end="",
    )


class _Pictures(Dataset):
    """As the assignment's template loads images: one by one, through PIL."""

    def __init__(self, images: ImageSet) -> None:
        self.pictures = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in images.pixels]
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(CIFAR100_MEAN, CIFAR100_STD)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def test_evaluation_against_a_data_loader(pretrained: PretrainedNetwork, images: ImageSet) -> None:
    """Prints the time of an evaluation against that of a DataLoader with two workers; both must predict the same."""
    model = FineTunedNetwork(pretrained, 100, statistics="frozen").eval()
    found: dict[str, Tensor] = {}

    def batched() -> None:
        found["batched"], _ = predict(model, ImageBatches(images, model.preprocess), batch_size=128)

    def loader() -> None:
        predicted = []
        with torch.inference_mode():
            for inputs, _ in DataLoader(_Pictures(images), batch_size=128, num_workers=2):
                predicted.append(model(inputs).argmax(1))
        found["loader"] = torch.cat(predicted)

    pairs = [(seconds_of(batched), seconds_of(loader)) for _ in range(PAIRS)]
    ratios = sorted(slow / fast for fast, slow in pairs)
    print(
        f"\nevaluating {IMAGES} images: {median(f for f, _ in pairs):.1f} s batched, {median(s for _, s in pairs):.1f} s by a "
        f"DataLoader: {median(ratios):.2f}x (pairs {ratios[0]:.2f} to {ratios[-1]:.2f}; bar 1x), peak {peak_mib():,.0f} MiB",
        end="",
    )
    assert (found["batched"] == found["loader"]).float().mean() > 0.95  # of 1000 classes: a guess would agree on 1 in 100
