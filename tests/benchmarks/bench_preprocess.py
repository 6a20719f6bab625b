"""What full scale costs on a CPU beside the work itself: `pytest -s tests/benchmarks/bench_preprocess.py` prints medians of
interleaved pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from tests.support.strategies import pixels
from vp.data import ImageSet, Preprocess
from vp.data.preprocess import CLIP_MEAN, CLIP_STD
from vp.evaluation import ImageBatches, per_image_correctness, time_each
from vp.models import FrozenCLIP
from vp.prompts import PromptedCLIP


@pytest.fixture
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], images: int, repeats: int
) -> tuple[float, float, list[float]]:
    """Milliseconds an image of both, medians, and the sorted ratios theirs / ours of interleaved pairs."""
    seconds = time_each({"ours": ours, "theirs": theirs}, repeats)
    ratios = sorted(their / our for our, their in zip(seconds["ours"], seconds["theirs"], strict=True))
    return *(1000 * median(seconds[side]) / images for side in ("ours", "theirs")), ratios


@pytest.mark.usefixtures("_one_core")
@pytest.mark.parametrize("batch", [32, 128, 250])
def test_preprocessing_against_open_clips_transform(batch: int) -> None:
    """Prints ms per image on one core, 32 to 224 px, for batches and for open_clip's PIL transform and a stack of its images."""
    images, preprocess = pixels(0, batch, 3, 32, 32), Preprocess(224)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    transform = image_transform(224, False, CLIP_MEAN, CLIP_STD, interpolation="bicubic")
    ours, theirs, ratios = compare(
        lambda: preprocess(images), lambda: torch.stack([transform(picture) for picture in pictures]), batch, 9
    )
    print(
        f"\nbatch of {batch}: {ours:.3f} ms an image, PIL {theirs:.3f} ms: {median(ratios):.1f} times faster "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f}; bar: at least 4)",
        end="",
    )


def test_evaluation_against_the_bare_forward_pass() -> None:
    """Prints what evaluating 256 images takes beside forward passes of preprocessed images through open_clip's own ViT-B/32."""
    name = "ViT-B-32-quickgelu"
    own = open_clip.create_model(name).eval()
    clip = FrozenCLIP(name, own, open_clip.get_tokenizer(name), Preprocess(224))
    images = ImageSet("random", "test", pixels(0, 256, 3, 32, 32), torch.arange(256) % 10, tuple("abcdefghij"))
    model = PromptedCLIP(clip, images.class_names)
    batches = ImageBatches(images, clip.preprocess)
    inputs = clip.preprocess(images.pixels)

    @torch.inference_mode()
    def bare() -> None:
        for part in inputs.split(128):
            own.encode_image(part)

    ours, theirs, ratios = compare(lambda: per_image_correctness(model, batches, 128), bare, 256, 7)
    print(
        f"\nevaluation {ours:.1f} ms an image, bare forward pass {theirs:.1f} ms: ratio {1 / median(ratios):.3f} "
        f"({1 / ratios[-1]:.3f} to {1 / ratios[0]:.3f}; bar: at most 1.05)",
        end="",
    )
