"""vp.data: the embedded world and its captions, resizing as Pillow does it, image sets, splits, and the reading of files."""

from __future__ import annotations

import io
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from tests.controls import data as controls
from tests.controls.data import train_validation_split
from tests.support.strategies import pixels, seeds
from vp.data import (
    ImageSet,
    Preprocess,
    centre_crop,
    list_pictures,
    load_cifar,
    load_images,
    read_picture,
    resize,
    square,
    world,
)
from vp.data.preprocess import CLIP_MEAN, CLIP_STD
from vp.data.world import (
    CAPTIONS,
    COLOUR_NAMES,
    COLOURS,
    DOWNSTREAM,
    DOWNSTREAM_PX,
    MINIMUM_CONTRAST,
    OTHER_TEN,
    PRETRAINING,
    SILHOUETTES,
    TEN,
    WORLD_NAMES,
    Family,
    Scenes,
    draw,
    sample_scenes,
    training_scenes,
    vocabulary,
)
from vp.machine.errors import NotAvailable, VpError

RGB = torch.tensor(list(COLOURS.values()))
RED, BLUE = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("blue")


def scenes(count: int, **changes: Tensor | float) -> Scenes:
    """Scenes of the pre-training stream, some fields set to one value for all."""
    drawn = training_scenes(count, step=0, seed=0)[0]
    for name, value in changes.items():
        field = getattr(drawn, name)
        drawn = replace(drawn, **{name: torch.as_tensor(value, dtype=field.dtype).expand_as(field)})
    return drawn


Draw = Callable[[Scenes, int], Tensor]


def bare(shown: Scenes, contrast: float = 1.0) -> Scenes:
    """The scenes without clutter, in one light."""
    light, dark = torch.full_like(shown.contrast, contrast), torch.zeros_like(shown.brightness)
    return replace(shown, clutter=torch.full_like(shown.clutter, -1), contrast=light, brightness=dark)


def coverage(shown: Scenes, size: int, draw: Draw = draw) -> Tensor:
    """How much of each pixel the silhouette covers, (B, size, size), read off the pixels.

    Red on blue: texture, surface and shading are shades of grey, which leave the difference of the two colours alone. Three
    quarters of the contrast keep all values between 0 and 1.
    """
    count = len(shown)
    shown = replace(shown, colour=torch.full((count,), RED), background=torch.full((count,), BLUE), tint=torch.zeros(count, 2, 3))
    images = (draw(bare(shown, contrast=0.75), size).float() / 255 - 0.5) / 0.75 + 0.5
    red, blue = RGB[RED] - RGB[RED].mean(), RGB[BLUE] - RGB[BLUE].mean()
    along = (red - blue) / (red - blue).square().sum()
    return torch.einsum("bchw,c->bhw", images, along) - blue @ along


# -- the embedded world ----------------------------------------------------------------------------------------------------

World = Callable[[str, str], ImageSet]
drawn = cache(world)  # for tests that only look at it


def assert_same_at_every_call(world: World, name: str = "mini10", split: str = "test") -> None:
    torch.manual_seed(0)
    first = world(name, split)
    torch.manual_seed(1)
    assert world(name, split).fingerprint == first.fingerprint


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", WORLD_NAMES)
def test_the_world_is_the_same_at_every_call(name: str, split: str) -> None:
    """The embedded world has the same pixels and labels at every call, whatever torch's global seed."""
    assert_same_at_every_call(partial(world, count=500), name, split)


def assert_no_image_in_two_streams(world: World) -> None:
    sets = [world(name, split).pixels for name in WORLD_NAMES for split in ("train", "test")]
    steps = [draw(training_scenes(500, step, 0)[0], DOWNSTREAM_PX) for step in range(3)]
    images = [image.numpy().tobytes() for pixels in (*sets, *steps) for image in pixels]
    assert len(set(images)) == len(images)


@pytest.mark.slow
def test_no_image_is_in_two_streams() -> None:
    """No image of train is in test, none of either is in pre-training, and none occurs twice."""
    assert_no_image_in_two_streams(drawn)


def assert_steps_differ(training_scenes: Callable[[int, int, int], tuple[Scenes, torch.Generator]]) -> None:
    centres = [training_scenes(8, step, seed)[0].centre for step, seed in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(centre.flatten().tolist()) for centre in centres}) == 3
    assert torch.equal(centres[1], training_scenes(8, 1, 0)[0].centre)


def test_every_step_of_pretraining_has_scenes_of_its_own() -> None:
    """Pre-training shows other scenes at each step and with each seed, and the same when it is resumed."""
    assert_steps_differ(training_scenes)


def assert_balanced_in_random_order(labels: Tensor, classes: int) -> None:
    counts = labels.bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1
    expected = len(labels) / classes
    for step, order in enumerate(("class by class", "in turn")):
        pairs = ((labels[1:] - labels[:-1]) % classes == step).sum().item()
        assert pairs < expected + 5 * math.sqrt(expected), f"labels come {order}"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", WORLD_NAMES)
def test_classes_are_balanced_and_in_random_order(name: str, split: str) -> None:
    """Every class of the world has the same number of images, in random order."""
    images = drawn(name, split)
    assert len(images.class_names) == {"mini10": 10, "mini100": 100}[name]
    assert_balanced_in_random_order(images.labels, len(images.class_names))


def assert_disjoint_classes(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    assert len(set(first)) == len(first)
    assert len(set(second)) == len(second)
    assert not {name.split()[-1] for name in first} & {name.split()[-1] for name in second}


def test_the_two_sets_share_no_class() -> None:
    """mini10 and mini100 have no class in common, not even a thing of another colour."""
    assert_disjoint_classes(world("mini10", "test").class_names, world("mini100", "test").class_names)


def test_class_names_say_what_the_labels_mean() -> None:
    """A label of mini10 names the silhouette, one of mini100 its colour and silhouette."""
    assert world("mini10", "test", count=1).class_names == tuple(thing.name for thing in TEN)
    names = [f"{colour} {thing.name}" for thing in OTHER_TEN for colour in COLOURS]
    assert world("mini100", "test", count=1).class_names == tuple(names)


@pytest.mark.parametrize("things", [TEN, OTHER_TEN], ids=WORLD_NAMES)
def test_half_of_the_silhouettes_are_human_made(things: tuple) -> None:
    """Each ten holds five things made by people and five from nature."""
    assert sorted(thing.kind for thing in things) == ["from-nature"] * 5 + ["human-made"] * 5


def assert_told_apart(masks: Tensor, things: Tensor) -> None:
    """No two masks (M, P, P) of different things overlap by more than three quarters of what they cover together."""
    flat = masks.flatten(1)
    common, together = (f(flat[:, None], flat[None]).sum(-1) for f in (torch.minimum, torch.maximum))
    overlap = (common / together).masked_fill(things[:, None] == things[None], 0)
    assert overlap.max() < 0.75


def masks_at_all_angles() -> tuple[Tensor, Tensor]:
    turns = 7
    things = torch.arange(len(SILHOUETTES)).repeat_interleave(turns)
    angles = torch.linspace(-0.45, 0.45, turns).repeat(len(SILHOUETTES))
    shown = replace(scenes(len(things), centre=0.0, size=0.8), silhouette=things, angle=angles)
    return coverage(shown, 20), things


def test_every_pair_of_silhouettes_is_told_apart_by_its_mask() -> None:
    """No silhouette looks like another, however the two are turned."""
    assert_told_apart(*masks_at_all_angles())


Sample = Callable[[Tensor, Tensor, torch.Generator], Scenes]


def assert_backgrounds_contrast(sample_scenes: Sample) -> None:
    colour = torch.arange(len(COLOURS)).repeat(300)
    shown = sample_scenes(torch.zeros_like(colour), colour, torch.Generator().manual_seed(0))
    seen = set(zip(shown.colour.tolist(), shown.background.tolist(), strict=True))
    assert all(torch.dist(RGB[front], RGB[back]) > MINIMUM_CONTRAST for front, back in seen)
    assert {back for _, back in seen} == set(range(len(COLOURS)))


def test_the_background_contrasts_with_the_silhouette() -> None:
    """The background never has the silhouette's colour, nor one close to it, and every colour is some background."""
    assert_backgrounds_contrast(sample_scenes)


def centres_of_mass(masks: Tensor) -> Tensor:
    """(B, 2) in the frame [-1, 1], y upwards."""
    size = masks.shape[-1]
    ticks = (torch.arange(size) + 0.5) * 2 / size - 1
    x, y = (masks * ticks).sum((1, 2)), (masks * -ticks[:, None]).sum((1, 2))
    return torch.stack([x, y], 1) / masks.sum((1, 2))[:, None]


def assert_moves(draw: Draw) -> None:
    here, there = (scenes(100, centre=torch.tensor(place), size=0.5) for place in ([0.0, 0.0], [0.2, -0.1]))
    moved = centres_of_mass(coverage(there, 44, draw)) - centres_of_mass(coverage(here, 44, draw))
    torch.testing.assert_close(moved, torch.tensor([0.2, -0.1]).expand_as(moved), atol=0.01, rtol=0)


def assert_grows(draw: Draw) -> None:
    small, large = (coverage(scenes(100, centre=0.0, size=size), 88, draw).sum((1, 2)) for size in (0.4, 0.8))
    torch.testing.assert_close(large / small, torch.full((100,), 4.0), atol=0, rtol=0.03)


def assert_turns(draw: Draw) -> None:
    upright, turned = (coverage(scenes(100, centre=0.0, angle=angle), 44, draw) for angle in (0.0, math.pi / 2))
    torch.testing.assert_close(turned, upright.rot90(1, (1, 2)), atol=0.1, rtol=0)


def test_the_mask_follows_the_centre() -> None:
    """Moving a scene's centre moves the silhouette's centre of mass as much, x to the right and y upwards."""
    assert_moves(draw)


def test_the_area_grows_with_the_square_of_the_size() -> None:
    """A silhouette of twice the size covers four times the area."""
    assert_grows(draw)


def test_the_mask_turns_counter_clockwise() -> None:
    """A quarter turn of a scene is a quarter turn of its mask, counter-clockwise."""
    assert_turns(draw)


def assert_antialiased(draw: Draw) -> None:
    coarse, fine = (coverage(scenes(100), size, draw) for size in (11, 88))
    assert (coarse.mean((1, 2)) - fine.mean((1, 2))).abs().max() < 0.025
    assert (coarse - avg_pool2d(fine, 8)).abs().mean((1, 2)).max() < 0.04


def test_a_coarse_drawing_covers_what_a_fine_one_covers() -> None:
    """Edges are anti-aliased: a pixel of 11 is covered as much as its 64 pixels of 88 are together."""
    assert_antialiased(draw)


def assert_nothing_is_random(draw: Draw) -> None:
    assert torch.equal(draw(scenes(20), 20), draw(scenes(20), 20))


def test_a_scene_says_all_that_is_drawn() -> None:
    """The same scenes give the same pixels at every call: there is no grain, so that noise is something new to the models."""
    assert_nothing_is_random(draw)


def assert_clutter_stays_behind(draw: Draw) -> None:
    covered = coverage(scenes(200), 42) > 0.999
    shown, without = scenes(200, contrast=1.0, brightness=0.0), bare(scenes(200))
    changed = (draw(shown, 42) != draw(without, 42)).any(1)
    assert changed.any()
    assert not (changed & covered).any()


def test_clutter_lies_behind_the_silhouette() -> None:
    """Objects in the background change no pixel that the silhouette covers."""
    assert_clutter_stays_behind(draw)


def assert_light_scales_contrast(draw: Draw) -> None:
    full, half, none = (draw(scenes(50, tint=0.0, contrast=c, brightness=0.0), 20).float() / 255 for c in (0.6, 0.3, 0.0))
    torch.testing.assert_close(half - 0.5, (full - 0.5) / 2, atol=1.5 / 255, rtol=0)
    assert (none - 0.5).abs().max() < 1 / 255


def test_half_the_contrast_is_half_the_distance_from_grey() -> None:
    """A scene's contrast scales all colours towards one grey."""
    assert_light_scales_contrast(draw)


def test_the_downstream_sets_are_paler_and_larger_than_what_was_seen() -> None:
    """mini10 and mini100 are shown in another light and more tightly than pre-training shows its scenes."""
    count = torch.zeros(500, dtype=torch.long)
    seen, met = (sample_scenes(count, count, torch.Generator().manual_seed(0), style) for style in (PRETRAINING, DOWNSTREAM))
    assert met.contrast.max() < seen.contrast.min()
    assert met.size.mean() > 1.1 * seen.size.mean()
    assert met.tint.abs().max() > 1.4 * seen.tint.abs().max()


def test_too_small_a_drawing_is_refused() -> None:
    """A scene needs 4 pixels a side."""
    with pytest.raises(ValueError, match="at least 4"):
        draw(scenes(1), 3)


@pytest.mark.parametrize(("name", "split"), [("mini11", "test"), ("mini10", "validation")])
def test_unknown_worlds_are_refused(name: str, split: str) -> None:
    """The world has two sets with two splits each."""
    with pytest.raises(ValueError, match="mini10, mini100 and train or test"):
        world(name, split)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        (assert_same_at_every_call, controls.world_of_the_global_stream),
        (assert_no_image_in_two_streams, controls.world_of_one_stream),
        (assert_steps_differ, controls.training_scenes_of_one_step),
        (assert_backgrounds_contrast, controls.scenes_on_any_background),
        (assert_moves, controls.draw_upside_down),
        (assert_turns, controls.draw_clockwise),
        (assert_grows, controls.draw_in_one_size),
        (assert_antialiased, controls.draw_with_hard_edges),
        (assert_antialiased, controls.draw_blurred),
        (assert_nothing_is_random, controls.draw_with_speckles),
        (assert_clutter_stays_behind, controls.draw_with_clutter_in_front),
        (assert_light_scales_contrast, controls.draw_as_bright_as_ever),
    ],
    ids=lambda value: value.__name__,
)
def test_wrong_worlds_are_rejected(rule: Callable, wrong: Callable) -> None:
    """Each wrong world fails the property named for it."""
    with pytest.raises(AssertionError):
        rule(wrong)


@pytest.mark.parametrize(
    "wrong",
    [controls.labels_drawn_independently, controls.labels_in_order, controls.labels_in_turn],
    ids=lambda wrong: wrong.__name__,
)
def test_wrong_labels_are_rejected(wrong: Callable[[int, int], Tensor]) -> None:
    """Labels that are unbalanced, sorted or in turn fail the property."""
    with pytest.raises(AssertionError):
        assert_balanced_in_random_order(wrong(2000, 10), 10)


def test_a_silhouette_under_two_names_is_rejected() -> None:
    """Two things of one shape cannot pass as told apart, nor one thing as two classes."""
    masks, things = masks_at_all_angles()
    with pytest.raises(AssertionError):
        assert_told_apart(masks, torch.where(torch.arange(len(things)) == 0, len(SILHOUETTES), things))
    with pytest.raises(AssertionError):
        assert_disjoint_classes(("house", "car"), ("red house", "red boat"))


# -- captions --------------------------------------------------------------------------------------------------------------


def colours_seen(shown: Scenes) -> tuple[list[str], list[str]]:
    """Names of the colours nearest to the mean colour inside and outside the silhouette, read off the pixels."""
    images = draw(bare(shown), 40).float() / 255
    covered = coverage(shown, 40)
    means = [(images * m[:, None]).sum((2, 3)) / m.sum((1, 2))[:, None] for m in (covered > 0.95, covered < 0.05)]
    front, back = ([COLOUR_NAMES[i] for i in torch.cdist(mean, RGB).argmin(1).tolist()] for mean in means)
    return front, back


def true_words(family: str, shown: Scenes) -> list[str]:
    things = [SILHOUETTES[i] for i in shown.silhouette.tolist()]
    front, back = colours_seen(shown)
    return {
        "silhouette": [thing.name for thing in things],
        "colour and silhouette": [f"{colour} {thing.name}" for colour, thing in zip(front, things, strict=True)],
        "background": back,
        "kind": [thing.kind for thing in things],
    }[family]


def assert_one_true_caption(family: Family) -> None:
    shown = scenes(300)
    meaning = {template.format(name): name for template in family.templates for name in family.names}
    assert len(meaning) == len(family.templates) * len(set(family.names)), "a caption has two meanings"
    said = [meaning[caption] for caption in family.captions(torch.Generator().manual_seed(0))]
    for words, chosen in zip(true_words(family.name, shown), family.truth(shown).tolist(), strict=True):
        assert [i for i, name in enumerate(said) if name == words] == [chosen]


@pytest.mark.parametrize("family", CAPTIONS, ids=lambda family: family.name)
def test_exactly_one_caption_of_each_family_is_true_and_names_what_was_drawn(family: Family) -> None:
    """Of each family of captions exactly one is true of an image, and it names what the pixels show."""
    assert_one_true_caption(family)


@pytest.mark.parametrize(
    "wrong",
    [controls.NAMES_THE_WRONG_COLOUR, controls.COLOURS_BEFORE_SILHOUETTES, controls.TWO_TRUE_CAPTIONS],
    ids=["silhouette's colour for background", "colours before silhouettes", "two true captions"],
)
def test_wrong_captions_are_rejected(wrong: Family) -> None:
    """Captions that name another colour or thing, or that are true twice, fail the property."""
    with pytest.raises(AssertionError):
        assert_one_true_caption(wrong)


def test_every_image_is_mostly_background() -> None:
    """More than half of each image is background, so that "mostly coloured" is true of it."""
    assert coverage(scenes(2000), 20).mean((1, 2)).max() < 0.5


def test_the_vocabulary_holds_every_caption() -> None:
    """Whatever caption pre-training shows, the vocabulary knows, of every family and every name."""
    known = set(vocabulary())
    for family in CAPTIONS:
        for seed in range(5):
            captions = family.captions(torch.Generator().manual_seed(seed))
            assert len(captions) == len(family.names)
            assert known.issuperset(captions)


# -- resizing as Pillow does -----------------------------------------------------------------------------------------------

Resize = Callable[[Tensor, tuple[int, int], str], Tensor]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
OFF_BY_TWO = 1e-5  # share of values that may be 2 grey levels off; no value may be 3


def smooth_and_noisy(seed: int, height: int, width: int) -> Tensor:
    """A slowly changing image and a noise image, uint8 (2, 3, height, width)."""
    coarse = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * 255
    smooth = interpolate(coarse, (height, width), mode="bilinear", align_corners=True).to(torch.uint8)
    return torch.cat([smooth, pixels(seed, 1, 3, height, width)])


def as_pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def as_tensor(pictures: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


@cache
def resized_by_pillow(mode: str) -> list[tuple[Tensor, Tensor]]:
    """Random images of random sizes, and what Pillow makes of them, one call for each axis: width first in every version."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for seed in range(30):
        height, width, new_height, new_width = torch.randint(1, 120, (4,), generator=generator).tolist()
        images = smooth_and_noisy(seed, height, width)
        wide = [picture.resize((new_width, height), FILTERS[mode]) for picture in as_pictures(images)]
        pairs.append((images, as_tensor([picture.resize((new_width, new_height), FILTERS[mode]) for picture in wide])))
    return pairs


def assert_close_in_grey_levels(pairs: list[tuple[Tensor, Tensor]]) -> None:
    deviations = torch.cat([(ours.int() - theirs.int()).abs().flatten() for ours, theirs in pairs])
    assert deviations.max() <= 2
    assert (deviations > 1).float().mean() <= OFF_BY_TWO


def assert_resizes_as_pillow(resize: Resize, mode: str) -> None:
    expected = resized_by_pillow(mode)
    assert_close_in_grey_levels([(resize(images, tuple(theirs.shape[-2:]), mode), theirs) for images, theirs in expected])


@pytest.mark.parametrize("mode", FILTERS)
def test_resize_agrees_with_pillow(mode: str) -> None:
    """Enlarged or shrunk, to any size, pixels are at most 2 grey levels from Pillow's, and hardly ever more than 1."""
    assert_resizes_as_pillow(resize, mode)


def test_resizing_knows_no_autocast() -> None:
    """Within a region of mixed precision pixels come out the same: half a precision would lose grey levels."""
    images = smooth_and_noisy(0, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = resize(images, 224)
    assert torch.equal(mixed, resize(images, 224))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(AssertionError):
        assert_resizes_as_pillow(controls.resize_in_mixed_precision, "bicubic")


@pytest.mark.parametrize(
    ("wrong", "mode"),
    [
        (controls.resize_in_floats, "bicubic"),
        (controls.resize_without_antialias, "bicubic"),
        (controls.resize_without_antialias, "bilinear"),
        (controls.resize_vertically_first, "bicubic"),
        (controls.resize_with_coarse_weights, "bicubic"),
        (controls.resize_with_aligned_corners, "bilinear"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_wrong_resizings_are_rejected(wrong: Resize, mode: str) -> None:
    """Resizing without Pillow's rounding, antialias, pass order, fine weights or pixel centres fails the comparison."""
    with pytest.raises(AssertionError):
        assert_resizes_as_pillow(wrong, mode)


@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 40))
def test_resizing_the_shorter_side_keeps_the_shape_as_torchvision_does(height: int, width: int, size: int) -> None:
    """An int is the new length of the shorter side; the other side is rounded as torchvision rounds it."""
    import torchvision

    expected = torchvision.transforms.Resize(size)(Image.new("L", (width, height)))
    assert resize(pixels(0, 1, 3, height, width), size).shape[-2:] == (expected.height, expected.width)


@pytest.mark.parametrize(
    ("images", "size", "mode", "message"),
    [
        (torch.zeros(1, 3, 4, 4), 2, "bicubic", "uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), 2, "bicubic", r"\(B, C, H, W\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2, "nearest", "bicubic, bilinear"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 0, "bicubic", "at least 1 px"),
    ],
    ids=["floats", "one image", "unknown mode", "no pixels"],
)
def test_what_cannot_be_resized_is_refused(images: Tensor, size: int, mode: str, message: str) -> None:
    """Resizing takes batches of uint8 images, a known mode and a size of at least one pixel."""
    with pytest.raises(ValueError, match=message):
        resize(images, size, mode)


def assert_crops_as_torchvision(centre_crop: Callable[[Tensor, int], Tensor]) -> None:
    import torchvision

    for height in range(5, 11):
        for width in range(5, 11):
            image = pixels(0, 1, 3, height, width)
            assert torch.equal(centre_crop(image, 5), torchvision.transforms.functional.center_crop(image, [5, 5]))


def test_centre_crop_agrees_with_torchvision() -> None:
    """The crop has the same pixels as torchvision's, for odd and even margins; too small an image is refused."""
    assert_crops_as_torchvision(centre_crop)
    with pytest.raises(AssertionError):
        assert_crops_as_torchvision(controls.crop_rounding_down)
    with pytest.raises(ValueError, match="resize first"):
        centre_crop(pixels(0, 1, 3, 4, 9), 5)


# open_clip calls Pillow once for both axes, and Pillow 13 shrinks what is more than twice as tall as wide vertically first.
SHAPES = [(32, 32), (DOWNSTREAM_PX, DOWNSTREAM_PX), (40, 40), (60, 90), (90, 60), (33, 47), (100, 51), (41, 173), (300, 224)]


def deviations(ours: Preprocess, transform: Callable[[Image.Image], Tensor], images: Tensor, device: str = "cpu") -> Tensor:
    """How many grey levels apart the two make each value of a batch."""
    expected = torch.stack([transform(picture) for picture in as_pictures(images)])
    return (ours(images.to(device)).cpu() - expected).abs() * 255 * torch.tensor(ours.std)[:, None, None]


def assert_preprocesses_as_open_clip(kind: type[Preprocess], height: int, width: int, size: int, squash: bool = False) -> None:
    mode = "squash" if squash else "shortest"
    theirs = image_transform(size, False, CLIP_MEAN, CLIP_STD, resize_mode=mode, interpolation="bicubic")
    images = torch.cat([smooth_and_noisy(seed, height, width) for seed in range(3)])
    assert deviations(kind(size, squash=squash), theirs, images).max() < 2.01


@pytest.mark.parametrize("size", [40, 224])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_preprocess_agrees_with_open_clips_transform(height: int, width: int, size: int) -> None:
    """Batched preprocessing gives, within 2 grey levels, what open_clip's own transform gives image by image."""
    assert_preprocesses_as_open_clip(Preprocess, height, width, size)


def test_models_that_squash_images_get_them_squashed() -> None:
    """A model of open_clip that wants whole pictures in a square gets them so."""
    assert_preprocesses_as_open_clip(Preprocess, 60, 90, 40, squash=True)


def imagenet_transform(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Image.Image], Tensor]:
    import torchvision

    steps = torchvision.transforms
    return steps.Compose([steps.Resize(224), steps.ToTensor(), steps.Normalize(mean, std)])


CIFAR_TRANSFORMS = {  # what each full-scale network does to CIFAR's images
    "CLIP": (Preprocess(224), image_transform(224, False, CLIP_MEAN, CLIP_STD, interpolation="bicubic")),
    "ResNet-18": (
        Preprocess(224, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "bilinear"),
        imagenet_transform((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("network", CIFAR_TRANSFORMS)
def test_images_of_cifars_size_come_out_as_from_pillow(network: str, device: str) -> None:
    """From 32 to 224 px, at most 1 of 100,000 values is more than 1 grey level off, and none more than 2, for both networks."""
    ours, theirs = CIFAR_TRANSFORMS[network]
    apart = deviations(ours, theirs, torch.cat([smooth_and_noisy(seed, 32, 32) for seed in range(8)]), device)
    assert apart.max() < 2.01
    assert (apart > 1.5).float().mean() <= OFF_BY_TWO


def test_a_large_batch_is_prepared_as_its_images_are() -> None:
    """A batch that takes several chunks of memory gives the images that its parts give, to a grey level."""
    images, grey_level = pixels(0, 7, 3, 32, 32), 1 / (255 * min(CLIP_STD))
    one_by_one = torch.cat([Preprocess(224)(image[None]) for image in images])
    torch.testing.assert_close(Preprocess(224)(images), one_by_one, atol=1.01 * grey_level, rtol=0)
    assert Preprocess(224)(images[:0]).shape == (0, 3, 224, 224)


@pytest.mark.parametrize(
    "wrong", [controls.SquashesTheImage, controls.ResizesInFloats, controls.NormalisesBlueFirst], ids=lambda kind: kind.__name__
)
def test_wrong_preprocessing_is_rejected(wrong: type[Preprocess]) -> None:
    """Preprocessing that squashes, that works on floats or that mixes up the channels fails the comparison."""
    with pytest.raises(AssertionError):
        assert_preprocesses_as_open_clip(wrong, 60, 90, 40)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_the_mean_has_are_refused(channels: int) -> None:
    """Grey or transparent pictures have no mean and standard deviation for each channel: an error, not a channel left out."""
    with pytest.raises(ValueError, match=rf"images of {channels} channels for 3 means: give RGB"):
        Preprocess(8)(pixels(0, 2, channels, 16, 16))


def assert_to_rgb_inverts_normalise(preprocess: Preprocess) -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(1, 3, 1, 1)
    torch.testing.assert_close(preprocess.to_rgb(preprocess.normalise(images)), images / 255, atol=1e-6, rtol=0)


def test_to_rgb_inverts_normalise() -> None:
    """From pixels to a network's input and back gives every one of the 256 values again."""
    assert_to_rgb_inverts_normalise(Preprocess(8))
    with pytest.raises(AssertionError):
        assert_to_rgb_inverts_normalise(controls.ForgetsTheMean(8))


def test_to_rgb_stays_within_what_can_be_shown() -> None:
    """A prompted or noisy image, which may be beyond black and white, is cut to them."""
    shown = Preprocess(8).to_rgb(torch.tensor([-9.0, 9.0]).repeat(1, 3, 1, 1))
    assert shown.flatten().tolist() == [0, 1] * 3


@pytest.mark.parametrize("size", [4, 8])
def test_resized_images_lie_in_memory_as_they_are_read(size: int) -> None:
    """Resized images are contiguous, channel by channel, whether anything had to be resized or not."""
    assert resize(pixels(0, 2, 3, 8, 8), size).is_contiguous()


# -- image sets and splits -------------------------------------------------------------------------------------------------


def numbered(count: int, classes: int = 7) -> ImageSet:
    """Images that can be told apart: the three channels of image i spell i, and its label is i modulo the classes."""
    index = torch.arange(count)
    spelt = torch.stack([index % 256, index // 256 % 256, index // 65536], 1).to(torch.uint8)
    return ImageSet("numbered", "train", spelt[:, :, None, None], index % classes, tuple("abcdefghij"[:classes]))


def numbers(images: ImageSet) -> Tensor:
    return images.pixels[:, :, 0, 0].long() @ torch.tensor([1, 256, 65536])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": torch.zeros(2, 3, 4, 4)}, "torch.uint8"),
        ({"pixels": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, r"\(N, 3, H, W\)"),
        ({"pixels": torch.zeros(3, 4, 4, dtype=torch.uint8)}, r"\(N, 3, H, W\)"),
        ({"labels": torch.tensor([0, 1], dtype=torch.int32)}, "torch.int64"),
        ({"labels": torch.tensor([0, 1, 1])}, r"\(2,\)"),
        ({"labels": torch.tensor([[0], [1]])}, r"\(2,\)"),
        ({"labels": torch.tensor([0, 2])}, "from 0 to 2: expected 0 to 1"),
        ({"labels": torch.tensor([-1, 0])}, "from -1 to 0: expected 0 to 1"),
    ],
    ids=["float", "grey", "one image", "int32", "too many", "column", "label without a name", "negative label"],
)
def test_an_image_set_refuses_what_does_not_fit(changes: dict[str, Tensor], message: str) -> None:
    """Pixels are uint8 (N, 3, H, W), labels int64 (N,), and every label has a name."""
    fitting = ImageSet("fine", "test", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match=message):
        replace(fitting, **changes)


def test_take_keeps_images_with_their_labels() -> None:
    """Taking images keeps the order asked for, each image's label, and the split's name unless another is given."""
    taken = numbered(300).take(torch.tensor([280, 3, 3]))
    assert numbers(taken).tolist() == [280, 3, 3]
    assert taken.labels.tolist() == [0, 3, 3]
    assert (taken.split, numbered(9).take(torch.tensor([1]), "validation").split) == ("train", "validation")
    assert len(numbered(9).take(torch.tensor([], dtype=torch.int64)).fingerprint) == 64


Fingerprint = Callable[[ImageSet], str]
SMALL = ImageSet("small", "test", pixels(0, 4, 3, 5, 6), torch.tensor([0, 1, 1, 0]), ("red leaf", "boat"))


def assert_fingerprint_shows_pixels(fingerprint: Fingerprint, place: int, value: int) -> None:
    changed = SMALL.pixels.clone().flatten()
    changed[place] = value
    same = changed[place] == SMALL.pixels.flatten()[place]
    assert (fingerprint(replace(SMALL, pixels=changed.view_as(SMALL.pixels))) == fingerprint(SMALL)) == same


def assert_fingerprint_shows_all_that_matters(fingerprint: Fingerprint) -> None:
    changes = [
        {"pixels": SMALL.pixels.flip(3)},
        {"pixels": SMALL.pixels.view(4, 3, 6, 5)},
        {"labels": SMALL.labels.flip(0).roll(1)},
        {"class_names": ("red leaf", "goat")},
        {"class_names": ("red", "leaf boat")},
    ]
    prints = [fingerprint(replace(SMALL, **change)) for change in ({}, *changes)]
    assert len(set(prints)) == len(prints)
    channels_last = SMALL.pixels.contiguous(memory_format=torch.channels_last)
    for change in ({"name": "other"}, {"split": "train"}, {"pixels": channels_last}):
        assert fingerprint(replace(SMALL, **change)) == prints[0]


@given(place=st.integers(0, SMALL.pixels.numel() - 1), value=st.integers(0, 255))
def test_the_fingerprint_changes_with_any_pixel(place: int, value: int) -> None:
    """Two sets that differ in one pixel have two fingerprints."""
    assert_fingerprint_shows_pixels(lambda images: images.fingerprint, place, value)


def test_the_fingerprint_changes_with_all_that_matters_and_nothing_else() -> None:
    """Pixels, their shape, labels and class names change the fingerprint; name, split and memory layout do not."""
    assert_fingerprint_shows_all_that_matters(lambda images: images.fingerprint)


@pytest.mark.parametrize(
    "wrong",
    [
        controls.fingerprint_of_pixels_alone,
        controls.fingerprint_without_names,
        controls.fingerprint_of_the_mean,
        controls.fingerprint_of_the_memory,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_wrong_fingerprints_are_rejected(wrong: Fingerprint) -> None:
    """A fingerprint blind to labels, names or places, or that sees the memory layout, fails the property."""
    with pytest.raises(AssertionError):
        assert_fingerprint_shows_all_that_matters(wrong)


def parts_of(impl, count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    train, validation = impl.split(count, share, seed)
    return [int(i) for i in train], [int(i) for i in validation]


def assert_splits(impl, count: int, share: float, seed: int) -> None:
    """No overlap, nothing lost, and the same parts for the same seed."""
    train, validation = parts_of(impl, count, share, seed)
    told, expected = f"{count} images, a share of {share:g} for validation:", Counter(range(count))
    both = Counter(train) & Counter(validation)
    assert not both, f"{told} {len(both)} of them in both parts, such as image {min(both)}"
    lost, beyond = expected - Counter(train + validation), Counter(train + validation) - expected
    assert not lost, f"{told} {len(lost)} of them in neither part, such as image {min(lost)}"
    assert not beyond, f"{told} the parts have indices that are not 0 to {count - 1} once each, such as {min(beyond)}"
    held_out = round(share * count)
    assert len(validation) == held_out, (
        f"{told} {len(validation)} are held out, expected {held_out}, the nearest to {share * count:g}"
    )
    again = parts_of(impl, count, share, seed)
    assert again == (train, validation), f"{told} another call with seed {seed} chose other parts"


@pytest.mark.specifies("split")
@given(count=st.integers(3, 300), seed=seeds)
def test_a_split_overlaps_nowhere_loses_nothing_and_follows_its_seed(impl, count: int, seed: int) -> None:
    """Every image is in training or validation, none in both, and the seed decides which."""
    assert_splits(impl, count, 0.2, seed)


@pytest.mark.specifies("split")
def test_the_share_is_the_one_asked_for(impl) -> None:
    """Any share can be held out."""
    for share in (0.1, 0.25, 0.4):
        assert_splits(impl, 103, share, 0)


@pytest.mark.specifies("split")
def test_different_seeds_give_different_splits(impl) -> None:
    """The validation images of two seeds have no more in common than chance gives them."""
    chosen = [frozenset(parts_of(impl, 1000, 0.2, seed)[1]) for seed in range(5)]
    for one, other in combinations(range(5), 2):
        shared = len(chosen[one] & chosen[other])  # 40 expected, standard deviation 5
        assert 20 <= shared <= 60, (
            f"of {len(chosen[one])} validation images, seeds {one} and {other} share {shared}: expected about 40"
        )


@pytest.mark.specifies("split")
def test_fifty_thousand_images_split_into_forty_and_ten(impl) -> None:
    """CIFAR's 50,000 training images become 40,000 to train on and 10,000 to validate on."""
    assert_splits(impl, 50_000, 0.2, 0)
    train, validation = map(len, parts_of(impl, 50_000, 0.2, 0))
    assert (train, validation) == (40_000, 10_000), f"50,000 images became {train:,} and {validation:,}: expected 40,000 and 10,000"


def assert_keeps_labels(split: Callable[[ImageSet, int], tuple[ImageSet, ImageSet]]) -> None:
    parts = split(numbered(300), 0)
    for part in parts:
        assert torch.equal(part.labels, numbers(part) % 7)
    assert [(part.split, len(part)) for part in parts] == [("train", 240), ("validation", 60)]


def test_the_parts_of_a_split_keep_their_labels() -> None:
    """Every image of either part has its own label."""
    assert_keeps_labels(train_validation_split)


def test_a_split_that_swaps_labels_is_rejected() -> None:
    """Parts whose pixels were shuffled without their labels fail the property."""
    with pytest.raises(AssertionError):
        assert_keeps_labels(controls.split_that_swaps_labels)


@pytest.mark.parametrize(("count", "share"), [(10, 0.0), (10, 1.0), (2, 0.2), (0, 0.2)])
def test_a_split_with_an_empty_part_is_refused(count: int, share: float) -> None:
    """A share that leaves no image to train or to validate on is an error."""
    with pytest.raises(ValueError, match="leaves a part empty"):
        train_validation_split(numbered(count), 0, share)


# -- CIFAR -----------------------------------------------------------------------------------------------------------------

LABEL_NAMES = {"cifar10": ["airplane", "truck"], "cifar100": ["maple_tree", "pickup_truck", "sea"]}
CIFAR_FILES = {
    "cifar10": ("cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "batches.meta", ""),
    "cifar100": ("cifar-100-python", ["train", "test"], "meta", "fine_"),
}


def write_cifar(root: Path, name: str, split: str) -> tuple[Tensor, list[int]]:
    """CIFAR in its published format with four images a file: a row is 1,024 red, 1,024 green, 1,024 blue values, line by line."""
    folder, files, meta, prefix = CIFAR_FILES[name]
    (root / folder).mkdir(parents=True)
    labels = [[i % 2, 1, 0, 1] for i in range(len(files))]
    for i, file in enumerate(files):
        batch = {"data": pixels(i, 4, 3072).numpy(), f"{prefix}labels": labels[i]}
        (root / folder / file).write_bytes(pickle.dumps(batch))
    (root / folder / meta).write_bytes(pickle.dumps({f"{prefix}label_names": LABEL_NAMES[name]}))
    these = range(len(files))[-1:] if split == "test" else range(len(files))[:-1]
    return torch.cat([pixels(i, 4, 3, 32, 32) for i in these]), [label for i in these for label in labels[i]]


@pytest.fixture
def _without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


def assert_reads_cifar(load: Callable[[str, str, Path], ImageSet], root: Path, name: str, split: str) -> None:
    expected, labels = write_cifar(root, name, split)
    images = load(name, split, root)
    assert torch.equal(images.pixels, expected)
    assert images.labels.tolist() == labels
    assert images.class_names == tuple(n.replace("_", " ") for n in LABEL_NAMES[name])
    assert (images.name, images.split) == (name, split)


@pytest.mark.usefixtures("_without_checksums")
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", CIFAR_FILES)
def test_cifar_is_read_as_published(tmp_path: Path, name: str, split: str) -> None:
    """Pixels, labels and class names come out of CIFAR's files as they went in, `_` in names as a space."""
    assert_reads_cifar(load_cifar, tmp_path, name, split)


@pytest.mark.usefixtures("_without_checksums")
@pytest.mark.parametrize(
    "wrong",
    [controls.cifar_column_by_column, controls.cifar_blue_first, controls.cifar_with_underscores],
    ids=lambda wrong: wrong.__name__,
)
def test_wrong_readers_of_cifar_are_rejected(tmp_path: Path, wrong: Callable) -> None:
    """Exchanged axes, exchanged channels or names with underscores fail the comparison."""
    with pytest.raises(AssertionError):
        assert_reads_cifar(wrong, tmp_path, "cifar100", "test")


@pytest.mark.parametrize("name", LABEL_NAMES)
def test_missing_cifar_is_not_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Without its files CIFAR is NOT RUN, in one line that says where they were looked for and how to get them."""
    monkeypatch.setenv("VP_HOME", str(tmp_path))
    with pytest.raises(NotAvailable, match=f"{name} is not in .*data: run `python -m vp fetch`, or give --data"):
        load_images(name, "test")


def test_damaged_cifar_is_not_available(tmp_path: Path) -> None:
    """Files with another checksum than CIFAR's are not read."""
    write_cifar(tmp_path, "cifar10", "test")
    with pytest.raises(NotAvailable, match="damaged"):
        load_cifar("cifar10", "test", tmp_path)


# -- pictures --------------------------------------------------------------------------------------------------------------

HEIGHT, WIDTH = 7, 5
COLOURED = pixels(0, 3, HEIGHT, WIDTH)
GREY = COLOURED[:1].expand(3, -1, -1)
ALPHA = pixels(1, 1, HEIGHT, WIDTH)


def picture(values: Tensor, mode: str = "RGB") -> Image.Image:
    array = values.permute(1, 2, 0).squeeze(2).contiguous().numpy()
    return Image.fromarray(array) if mode in ("L", "RGB", "RGBA", "LA") else Image.fromarray(array).convert(mode)


def encoded(image: Image.Image, suffix: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, Image.registered_extensions()[suffix], **options)
    return data.getvalue()


def on_white(values: Tensor) -> Tensor:
    share = ALPHA / 255
    return (values * share + 255 * (1 - share)).round().to(torch.uint8)


def paletted(**options: object) -> bytes:
    """Colour i of the palette is that of pixel i."""
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putdata(range(WIDTH * HEIGHT))
    image.putpalette(COLOURED.permute(1, 2, 0).flatten().tolist())
    return encoded(image, ".png", **options)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(COLOURED), ".png", exif=exif)


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(GREY[0].numpy().astype(np.uint16) * 257), ".png")


def animation() -> bytes:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], ".gif", save_all=True, append_images=frames[1:])


def flat(colour: list[int], height: int, width: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).contiguous()


FIRST_TRANSPARENT = COLOURED.clone()
FIRST_TRANSPARENT[:, 0, 0] = 255
LEFT_HALF = torch.where(torch.arange(WIDTH) < 2, 255, 0).to(torch.uint8).expand(3, HEIGHT, WIDTH)
KINDS: dict[str, tuple[bytes, str, Tensor]] = {
    "colour": (encoded(picture(COLOURED), ".png"), ".png", COLOURED),
    "upper-case suffix": (encoded(picture(COLOURED), ".bmp"), ".BMP", COLOURED),
    "grey": (encoded(picture(GREY[:1]), ".png"), ".png", GREY),
    "16-bit grey": (sixteen_bits(), ".png", GREY),
    "transparent": (encoded(picture(torch.cat([COLOURED, ALPHA]), "RGBA"), ".png"), ".png", on_white(COLOURED)),
    "transparent grey": (encoded(picture(torch.cat([GREY[:1], ALPHA]), "LA"), ".png"), ".png", on_white(GREY)),
    "palette": (paletted(), ".png", COLOURED),
    "palette with a transparent colour": (paletted(transparency=0), ".png", FIRST_TRANSPARENT),
    "CMYK": (encoded(picture(COLOURED).convert("CMYK"), ".tif"), ".tif", COLOURED),
    "black and white": (encoded(picture(LEFT_HALF).convert("1"), ".png"), ".png", LEFT_HALF),
    "mirrored by its EXIF note": (turned(2), ".png", COLOURED.flip(2)),
    "upside down by its EXIF note": (turned(3), ".png", COLOURED.rot90(2, (1, 2))),
    "turned right by its EXIF note": (turned(6), ".png", COLOURED.rot90(-1, (1, 2))),
    "turned left by its EXIF note": (turned(8), ".png", COLOURED.rot90(1, (1, 2))),
    "animation": (animation(), ".gif", flat([255, 0, 0], HEIGHT, WIDTH)),
    "one pixel": (encoded(Image.new("RGB", (1, 1), (9, 8, 7)), ".png"), ".png", flat([9, 8, 7], 1, 1)),
    "very wide": (encoded(Image.new("RGB", (400, 3), (9, 8, 7)), ".png"), ".png", flat([9, 8, 7], 3, 400)),
    "very tall": (encoded(Image.new("RGB", (3, 400), (9, 8, 7)), ".png"), ".png", flat([9, 8, 7], 400, 3)),
}


def assert_reads(read: Callable[[Path], Tensor], kind: str, folder: Path) -> None:
    data, suffix, expected = KINDS[kind]
    path = folder / f"picture{suffix}"
    path.write_bytes(data)
    assert list_pictures(folder) == [path]
    shown = read(path)
    assert (shown.dtype, shown.shape) == (torch.uint8, expected.shape)
    assert (shown.int() - expected.int()).abs().max() <= 1
    assert square(shown, 16).shape == (3, 16, 16)
    assert square(shown, 16).dtype == torch.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_read(tmp_path: Path, kind: str) -> None:
    """Any picture becomes uint8 (3, H, W): upright, in RGB, transparency on white, the first frame; and fits a square."""
    assert_reads(read_picture, kind, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (controls.read_as_stored, "turned right by its EXIF note"),
        (controls.read_as_stored, "mirrored by its EXIF note"),
        (controls.read_as_stored, "transparent"),
        (controls.read_as_stored, "16-bit grey"),
        (controls.read_on_black, "palette with a transparent colour"),
        (controls.read_last_frame, "animation"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_wrong_readers_are_rejected(tmp_path: Path, wrong: Callable[[Path], Tensor], kind: str) -> None:
    """Readers that forget orientation, transparency, depth or the first frame fail the comparison."""
    with pytest.raises(AssertionError):
        assert_reads(wrong, kind, tmp_path)


def damaged_jpeg() -> bytes:
    """Its EXIF note gives text where a width belongs, on which Pillow breaks with an error of the struct module."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "abc"
    return encoded(picture(COLOURED), ".jpg", exif=exif).replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")


LARGE = Image.effect_noise((64, 64), 50)
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "text": b"not a picture\n",
    "truncated PNG": encoded(LARGE, ".png")[:-200],
    "truncated JPEG": encoded(LARGE, ".jpg")[:-200],
    "truncated TIFF": encoded(LARGE, ".tif")[:-200],
    "header of a PNG": encoded(LARGE, ".png")[:20],
    "altered PNG": encoded(LARGE, ".png").replace(b"IDAT", b"IDAT\0\0"),
    "damaged EXIF note": damaged_jpeg(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_picture_is_one_line_with_its_name(tmp_path: Path, kind: str) -> None:
    """Damaged, empty and other files are an error of one line that names the file and says what to do with it."""
    path = tmp_path / "holiday.png"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(VpError, match=r"cannot read .*holiday\.png as a picture .*: replace or remove the file") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def fill(root: Path, *names: str, side: int = 4) -> None:
    """Write pictures under these names, each a plain grey of its own."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (i, i, i)).save(root / name)


def test_pictures_are_listed_in_order_from_all_folders_below(tmp_path: Path) -> None:
    """Pictures anywhere below a folder are listed in the order of their paths; hidden ones, other files and folders are not."""
    fill(tmp_path, "b.png", "a/deep/z.JPG", "a/c.webp", ".thumbnails/b.png", "a/.ipynb_checkpoints/c-checkpoint.png", "a/._c.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path)] == ["a/c.webp", "a/deep/z.JPG", "b.png"]


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    """A missing folder, a file, an empty folder and a folder of folders without pictures are errors that name the folder."""
    (tmp_path / "of" / "folders").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(VpError, match=r"missing is not a folder: give a folder of pictures \(.bmp"):
        list_pictures(tmp_path / "missing")
    with pytest.raises(VpError, match="file is not a folder"):
        list_pictures(tmp_path / "file")
    for folder in (tmp_path / "of", tmp_path / "of" / "folders"):
        with pytest.raises(VpError, match=f"no pictures in {folder}: expected files ending in"):
            list_pictures(folder)


# -- folders of classes, and sets by name ----------------------------------------------------------------------------------


def test_a_folder_serves_as_a_dataset(tmp_path: Path) -> None:
    """A folder's path is a dataset's name: split by its `train` and `test` folders if it has them (test_folders.py has more)."""
    for nth, file in enumerate(("train/boat/1.png", "train/leaf/2.png", "test/boat/3.png", "test/leaf/4.png")):
        fill(tmp_path, f"photos+drawings/{file}", side=8 + nth)
    divided = load_images(str(tmp_path / "photos+drawings"), "test")
    assert (divided.name, divided.split, divided.class_names) == ("photos+drawings", "test", ("boat", "leaf"))


@pytest.mark.slow
def test_a_named_world_is_a_dataset() -> None:
    """`mini10` and `mini100` are the embedded world."""
    for name in WORLD_NAMES:
        assert load_images(name, "test").fingerprint == world(name, "test").fingerprint


def test_unknown_datasets_and_splits_are_refused() -> None:
    """An unknown dataset or split is an error that lists the known ones."""
    with pytest.raises(VpError, match="no dataset 'mini11': give one of mini10, mini100, cifar10, cifar100 or a folder"):
        load_images("mini11", "test")
    with pytest.raises(VpError, match="no split 'validation': give one of train, test"):
        load_images("mini10", "validation")
