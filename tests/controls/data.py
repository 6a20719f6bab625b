"""Wrong worlds, resizings, splits, readers and command lines. Each breaks one sentence and must be rejected by the test named."""

from __future__ import annotations

import random
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from tests.controls import control
from vp.data import ImageSet, Preprocess, load_cifar, resize, split_indices, world
from vp.data.preprocess import _weights
from vp.data.world import CAPTIONS, COLOUR_NAMES, DOWNSTREAM_PX, Family, Scenes, draw, sample_scenes, training_scenes
from vp.machine.errors import VpError

# -- the embedded world: test_the_world_is_the_same_at_every_call, test_no_image_is_in_two_streams --------------------------


def world_of_the_global_stream(name: str, split: str) -> ImageSet:
    """Draws from torch's global stream, which moves on at every call."""
    images = world(name, split, count=50)
    scenes, _ = training_scenes(50, step=0, seed=int(torch.randint(2**31, ())))
    return replace(images, pixels=draw(scenes, DOWNSTREAM_PX))


def world_of_one_stream(name: str, split: str) -> ImageSet:
    """Draws test from the stream of train."""
    return world(name, "train", count=200)


def training_scenes_of_one_step(count: int, step: int, seed: int) -> tuple[Scenes, torch.Generator]:
    """Shows the same scenes at every step."""
    return training_scenes(count, 0, seed)


# -- labels: test_classes_are_balanced_and_in_random_order ------------------------------------------------------------------


def labels_drawn_independently(count: int, classes: int) -> Tensor:
    """Only balanced in the mean."""
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(0))


def labels_in_order(count: int, classes: int) -> Tensor:
    """Class by class."""
    return torch.arange(count) * classes // count


def labels_in_turn(count: int, classes: int) -> Tensor:
    """0, 1, 2, ... over and over."""
    return torch.arange(count) % classes


# -- scenes and drawing: the tests of silhouettes, poses and edges ----------------------------------------------------------


def scenes_on_any_background(silhouette: Tensor, colour: Tensor, generator: torch.Generator) -> Scenes:
    """Backgrounds of every colour, the silhouette's own included."""
    scenes = sample_scenes(silhouette, colour, generator)
    return replace(scenes, background=torch.randint(len(COLOUR_NAMES), (len(scenes),), generator=generator))


def draw_upside_down(scenes: Scenes, size: int) -> Tensor:
    """y downwards for the place of the silhouette."""
    return draw(replace(scenes, centre=scenes.centre * torch.tensor([1, -1])), size)


def draw_clockwise(scenes: Scenes, size: int) -> Tensor:
    """Turns the wrong way round."""
    return draw(replace(scenes, angle=-scenes.angle), size)


def draw_in_one_size(scenes: Scenes, size: int) -> Tensor:
    """Forgets the size of the silhouette."""
    return draw(replace(scenes, size=torch.full_like(scenes.size, 0.7)), size)


def draw_with_hard_edges(scenes: Scenes, size: int) -> Tensor:
    """A pixel shows the middle of three by three finer ones."""
    return draw(scenes, 3 * size)[:, :, 1::3, 1::3]


def draw_blurred(scenes: Scenes, size: int) -> Tensor:
    """Edges three pixels wide."""
    images = draw(scenes, size).float()
    return torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False).to(torch.uint8)


def draw_with_clutter_in_front(scenes: Scenes, size: int) -> Tensor:
    """Objects of the background hide the silhouette: what it does not cover is drawn over it."""
    bare, hidden = draw(scenes, size), draw(replace(scenes, size=torch.full_like(scenes.size, 1e-3)), size)
    plain = draw(replace(scenes, size=torch.full_like(scenes.size, 1e-3), clutter=torch.full_like(scenes.clutter, -1)), size)
    return torch.where((hidden != plain).any(1, keepdim=True), hidden, bare)


def draw_with_speckles(scenes: Scenes, size: int) -> Tensor:
    """Grain of its own at every call."""
    images = draw(scenes, size)
    return (images.int() + torch.randint(-3, 4, images.shape)).clamp(0, 255).to(torch.uint8)


def draw_as_bright_as_ever(scenes: Scenes, size: int) -> Tensor:
    """Forgets the light: pale scenes look like any other."""
    return draw(replace(scenes, contrast=torch.ones_like(scenes.contrast)), size)


# -- captions: test_exactly_one_caption_of_each_family_is_true_and_names_what_was_drawn -------------------------------------

NAMES_THE_WRONG_COLOUR = replace(CAPTIONS[2], truth=lambda scenes: scenes.colour)
COLOURS_BEFORE_SILHOUETTES = replace(CAPTIONS[1], truth=lambda scenes: scenes.colour * 20 + scenes.silhouette)
TWO_TRUE_CAPTIONS = Family("kind", ("human-made", "from-nature", "human-made"), CAPTIONS[3].templates, CAPTIONS[3].truth)


# -- resizing and preprocessing: test_resize_agrees_with_pillow, test_preprocess_agrees_with_open_clips_transform -----------


def resize_in_floats(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Neither rounds nor clamps between the two passes."""
    resized = interpolate(pixels.float(), size, mode=mode, antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)


def resize_without_antialias(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Skips pixels when shrinking."""
    return interpolate(pixels.float(), size, mode=mode, align_corners=False).round().clamp(0, 255).to(torch.uint8)


def resize_vertically_first(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """The passes in the other order."""
    return resize(pixels.mT, (size[1], size[0]), mode).mT


def resize_with_coarse_weights(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """torch's own 8-bit interpolation on the CPU: fast, but by 2 grey levels off in 2 of 100,000 values."""
    return interpolate(pixels.contiguous(memory_format=torch.channels_last), size, mode=mode, antialias=True)


def resize_in_mixed_precision(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """The two products as they come in a region of autocast: test_resizing_knows_no_autocast."""
    across, down = (_weights(n, m, mode) for n, m in zip(pixels.shape[:-3:-1], size[::-1], strict=True))
    rows = (pixels.float() @ across.T + 0.5).floor().clamp(0, 255)
    return (down @ rows + 0.5).floor().clamp(0, 255).to(torch.uint8)


def resize_with_aligned_corners(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Puts pixel centres onto the corners."""
    return interpolate(pixels.float(), size, mode=mode, align_corners=True).round().clamp(0, 255).to(torch.uint8)


def crop_rounding_down(pixels: Tensor, size: int) -> Tensor:
    """Half pixels always to the top left: test_centre_crop_agrees_with_torchvision."""
    top, left = ((side - size) // 2 for side in pixels.shape[-2:])
    return pixels[..., top : top + size, left : left + size]


class SquashesTheImage(Preprocess):
    """Resizes both sides to the size instead of the shorter one."""

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.normalise(resize(pixels, (self.size, self.size)))


class ResizesInFloats(Preprocess):
    """open_clip's steps, on floats throughout."""

    def __call__(self, pixels: Tensor) -> Tensor:
        short = min(pixels.shape[-2:])
        resized = resize_in_floats(pixels, tuple(self.size * side // short for side in pixels.shape[-2:]), "bicubic")
        top, left = (round((side - self.size) / 2) for side in resized.shape[-2:])
        return self.normalise(resized[..., top : top + self.size, left : left + self.size])


class NormalisesBlueFirst(Preprocess):
    """Mean and deviation in the order blue, green, red."""

    def normalise(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        return Preprocess(self.size, self.mean[::-1], self.std[::-1]).normalise(pixels, out)


class ForgetsTheMean(Preprocess):
    """Undoes the scale only: test_to_rgb_inverts_normalise."""

    def to_rgb(self, images: Tensor) -> Tensor:
        return images * torch.tensor(self.std)[:, None, None]


# -- image sets and splits: test_the_fingerprint_..., test_a_split_... ------------------------------------------------------


def fingerprint_of_pixels_alone(images: ImageSet) -> str:
    """Labels may be swapped unseen."""
    return replace(images, labels=torch.zeros_like(images.labels)).fingerprint


def fingerprint_without_names(images: ImageSet) -> str:
    """Classes may be renamed unseen."""
    return replace(images, class_names=tuple(map(str, range(len(images.class_names))))).fingerprint


def fingerprint_of_the_mean(images: ImageSet) -> str:
    """Two pixels may be swapped unseen."""
    return f"{images.pixels.double().mean()} {images.labels.tolist()} {images.class_names}"


def fingerprint_of_the_memory(images: ImageSet) -> str:
    """Depends on how the pixels lie in memory."""
    return f"{images.fingerprint} {images.pixels.stride()}"


Parts = tuple[ImageSet, ImageSet]


def train_validation_split(images: ImageSet, seed: int, validation_share: float = 0.2) -> Parts:
    """The parts that the package's split_indices names: right, for the properties and for the controls to spoil."""
    train, validation = split_indices(len(images), seed, validation_share)
    return images.take(train, "train"), images.take(validation, "validation")


def split_that_swaps_labels(images: ImageSet, seed: int) -> Parts:
    """Shuffles the pixels, not the labels."""
    train, validation = train_validation_split(images, seed)
    return replace(train, labels=train.labels.roll(1)), validation


Indices = tuple[Tensor, Tensor]
SPLITS = "test_a_split_overlaps_nowhere_loses_nothing_and_follows_its_seed"


@control("split", SPLITS)
def leaking_split(count: int, validation_share: float, seed: int) -> Indices:
    """Both parts have the right size, but one validation image is among the training images."""
    train, validation = split_indices(count, seed, validation_share)
    return torch.cat([validation[-1:], train[:-1]]), validation


@control("split", SPLITS)
def trains_on_all_images(count: int, validation_share: float, seed: int) -> Indices:
    """Holds validation images out, but trains on them, too."""
    return torch.arange(count), split_indices(count, seed, validation_share)[1]


@control("split", SPLITS)
def losing_split(count: int, validation_share: float, seed: int) -> Indices:
    """The last training image is in neither part."""
    train, validation = split_indices(count, seed, validation_share)
    return train[:-1], validation


@control("split", SPLITS)
def unseeded_split(count: int, validation_share: float, seed: int) -> Indices:
    """Another split at every call."""
    return split_indices(count, random.SystemRandom().randrange(2**31), validation_share)


@control("split", "test_different_seeds_give_different_splits")
def split_without_shuffling(count: int, validation_share: float, seed: int) -> Indices:
    """The first images validate, whatever the seed."""
    indices, held_out = torch.arange(count), round(count * validation_share)
    return indices[held_out:], indices[:held_out]


@control("split", SPLITS)
def split_rounded_down(count: int, validation_share: float, seed: int) -> Indices:
    """Rounds the share down: of 9 images a fifth is 1, not 2."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = int(count * validation_share)
    return order[held_out:], order[:held_out]


@control("split", SPLITS)
def parts_exchanged(count: int, validation_share: float, seed: int) -> Indices:
    """Gives the validation images first: a fifth trains, the rest validates."""
    train, validation = split_indices(count, seed, validation_share)
    return validation, train


@control("split", "test_the_share_is_the_one_asked_for")
def always_a_fifth(count: int, validation_share: float, seed: int) -> Indices:
    """Holds out a fifth, whatever the share."""
    return split_indices(count, seed)


# -- readers: test_every_kind_of_picture_is_read, test_cifar_is_read_as_published -------------------------------------------


def _as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def read_as_stored(path: Path) -> Tensor:
    """Not turned upright."""
    return _as_tensor(Image.open(path).convert("RGB"))


def read_on_black(path: Path) -> Tensor:
    """Transparent pixels show what lies under them."""
    return _as_tensor(ImageOps.exif_transpose(Image.open(path)).convert("RGBA").convert("RGB"))


def read_last_frame(path: Path) -> Tensor:
    """The end of an animation."""
    with Image.open(path) as picture:
        picture.seek(getattr(picture, "n_frames", 1) - 1)
        return _as_tensor(picture.convert("RGB"))


def cifar_column_by_column(name: str, split: str, root: Path) -> ImageSet:
    """Rows and columns exchanged."""
    images = load_cifar(name, split, root)
    return replace(images, pixels=images.pixels.mT)


def cifar_blue_first(name: str, split: str, root: Path) -> ImageSet:
    """Colour planes in the order blue, green, red."""
    images = load_cifar(name, split, root)
    return replace(images, pixels=images.pixels.flip(1))


def cifar_with_underscores(name: str, split: str, root: Path) -> ImageSet:
    """Class names as in the file."""
    images = load_cifar(name, split, root)
    return replace(images, class_names=tuple(n.replace(" ", "_") for n in images.class_names))


# -- command lines: every error of test_command_line ------------------------------------------------------------------------


def main_with_traceback(words: list[str]) -> int:
    """Shows the programmer's view."""
    try:
        raise VpError("no such run")
    except VpError:
        traceback.print_exc()
    return 2


def main_that_reports_to_stdout(words: list[str]) -> int:
    """A pipe would take the error for the answer."""
    print("error: no such run")
    return 2


def main_that_claims_success(words: list[str]) -> int:
    """A script would go on."""
    print("error: no such run", file=sys.stderr)
    return 0


def main_of_two_lines(words: list[str]) -> int:
    """A note before the error."""
    print("note: never seen the word zebra\nerror: no such run", file=sys.stderr)
    return 2
