"""The embedded world: silhouettes drawn in batches by signed-distance functions, so that nothing needs a download.

A *scene* says what is on an image (silhouette, colour, surface, background, pose, clutter, light); `draw` turns scenes into
pixels of any size. A *style* says how scenes are sampled. `mini10` and `mini100` are the two downstream sets. They differ from what
models are pre-trained on as CIFAR differs from photographs: shrunk to a few pixels and enlarged again, framed tightly, pale, and
in colours that are harder to name. `CAPTIONS` name what is on a scene, for pre-training.

Distances follow the usual constructions for two-dimensional signed-distance functions (negative inside, positive outside;
union = minimum, cut = maximum with the negative), in a frame of [-1, 1] x [-1, 1] with y upwards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from vp.data.images import ImageSet
from vp.data.preprocess import resize

Distance = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["human-made", "from-nature"]


def _circle(x: Tensor, y: Tensor, cx: float, cy: float, r: float) -> Tensor:
    return torch.hypot(x - cx, y - cy) - r


def _ellipse(x: Tensor, y: Tensor, cx: float, cy: float, a: float, b: float) -> Tensor:
    return (torch.hypot((x - cx) / a, (y - cy) / b) - 1) * min(a, b)


def _box(x: Tensor, y: Tensor, cx: float, cy: float, half_width: float, half_height: float) -> Tensor:
    dx, dy = (x - cx).abs() - half_width, (y - cy).abs() - half_height
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _stick(x: Tensor, y: Tensor, x0: float, y0: float, x1: float, y1: float, r: float) -> Tensor:
    length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2
    t = (((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length2).clamp(0, 1)
    return torch.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0)) - r


def _convex(x: Tensor, y: Tensor, *corners: tuple[float, float]) -> Tensor:
    """Convex polygon, corners counter-clockwise: the largest distance to an edge's line."""
    edges = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        edges.append(((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length)
    return torch.stack(edges).amax(0)


def _union(*parts: Tensor) -> Tensor:
    return torch.stack(parts).amin(0)


def _cut(whole: Tensor, hole: Tensor) -> Tensor:
    return torch.maximum(whole, -hole)


# -- mini10: ten silhouettes in any colour ---------------------------------------------------------------------------------


def _house(x: Tensor, y: Tensor) -> Tensor:
    roof = _convex(x, y, (-1.0, 0.1), (1.0, 0.1), (0.0, 1.0))
    return _cut(_union(_box(x, y, 0, -0.4, 0.7, 0.6), roof), _box(x, y, 0, -0.65, 0.2, 0.4))


def _car(x: Tensor, y: Tensor) -> Tensor:
    cabin = _convex(x, y, (-0.65, 0.0), (0.55, 0.0), (0.3, 0.5), (-0.4, 0.5))
    wheels = _union(_circle(x, y, -0.55, -0.4, 0.28), _circle(x, y, 0.55, -0.4, 0.28))
    return _union(_box(x, y, 0, -0.15, 1.0, 0.22), cabin, wheels)


def _cup(x: Tensor, y: Tensor) -> Tensor:
    handle = _cut(_circle(x, y, 0.55, 0.0, 0.45), _circle(x, y, 0.55, 0.0, 0.22))
    return _union(_box(x, y, -0.2, 0.0, 0.6, 0.75), handle)


def _key(x: Tensor, y: Tensor) -> Tensor:
    bow = _cut(_circle(x, y, 0, 0.55, 0.45), _circle(x, y, 0, 0.55, 0.2))
    teeth = _union(_box(x, y, 0.25, -0.55, 0.25, 0.1), _box(x, y, 0.25, -0.88, 0.25, 0.1))
    return _union(bow, _box(x, y, 0, -0.4, 0.12, 0.6), teeth)


def _hammer(x: Tensor, y: Tensor) -> Tensor:
    return _union(_box(x, y, 0, 0.65, 0.85, 0.3), _box(x, y, 0, -0.3, 0.14, 0.7))


def _tree(x: Tensor, y: Tensor) -> Tensor:
    tiers = [_convex(x, y, (-w, b), (w, b), (0.0, b + 0.75)) for w, b in ((0.8, -0.6), (0.62, -0.15), (0.45, 0.28))]
    return _union(*tiers, _box(x, y, 0, -0.8, 0.13, 0.2))


def _fish(x: Tensor, y: Tensor) -> Tensor:
    tail = _convex(x, y, (-1.0, -0.5), (-0.35, 0.0), (-1.0, 0.5))
    return _union(_ellipse(x, y, 0.2, 0.0, 0.75, 0.45), tail)


def _mushroom(x: Tensor, y: Tensor) -> Tensor:
    cap = torch.maximum(_ellipse(x, y, 0, 0.0, 0.95, 0.85), -y)
    return _union(cap, _box(x, y, 0, -0.45, 0.25, 0.5))


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return _cut(_circle(x, y, 0, 0, 0.95), _circle(x, y, 0.5, 0.15, 0.75))


def _flower(x: Tensor, y: Tensor) -> Tensor:
    angles = [2 * math.pi * k / 5 + math.pi / 2 for k in range(5)]
    petals = [_circle(x, y, 0.6 * math.cos(a), 0.6 * math.sin(a), 0.36) for a in angles]
    return _cut(_union(*petals, _circle(x, y, 0, 0, 0.4)), _circle(x, y, 0, 0, 0.2))


# -- mini100: ten other silhouettes, each in ten colours -------------------------------------------------------------------


def _boat(x: Tensor, y: Tensor) -> Tensor:
    hull = _convex(x, y, (-0.65, -0.85), (0.65, -0.85), (1.0, -0.4), (-1.0, -0.4))
    sail = _convex(x, y, (0.1, -0.25), (0.85, -0.25), (0.1, 0.95))
    return _union(hull, sail, _box(x, y, -0.02, 0.2, 0.07, 0.75), _convex(x, y, (-0.7, -0.25), (-0.1, -0.25), (-0.1, 0.6)))


def _umbrella(x: Tensor, y: Tensor) -> Tensor:
    dome = _cut(torch.maximum(_circle(x, y, 0, 0, 0.95), -y), _union(*(_circle(x, y, c, 0, 0.26) for c in (-0.63, 0.0, 0.63))))
    hook = torch.maximum(_cut(_circle(x, y, 0.18, -0.7, 0.27), _circle(x, y, 0.18, -0.7, 0.1)), y + 0.7)
    return _union(dome, _box(x, y, 0, -0.1, 0.09, 0.6), hook)


def _chair(x: Tensor, y: Tensor) -> Tensor:
    legs = _union(_box(x, y, -0.5, -0.6, 0.11, 0.4), _box(x, y, 0.5, -0.6, 0.11, 0.4))
    return _union(_box(x, y, -0.5, 0.4, 0.13, 0.6), _box(x, y, 0.0, -0.12, 0.62, 0.16), legs)


def _rocket(x: Tensor, y: Tensor) -> Tensor:
    nose = _convex(x, y, (-0.3, 0.45), (0.3, 0.45), (0.0, 1.0))
    fins = _convex(x, y, (-0.8, -0.85), (0.8, -0.85), (0.25, -0.1), (-0.25, -0.1))
    return _cut(_union(nose, _box(x, y, 0, -0.1, 0.3, 0.6), fins), _circle(x, y, 0, 0.25, 0.15))


def _bottle(x: Tensor, y: Tensor) -> Tensor:
    shoulder = _convex(x, y, (-0.45, 0.1), (0.45, 0.1), (0.16, 0.5), (-0.16, 0.5))
    return _union(_box(x, y, 0, -0.45, 0.45, 0.55), shoulder, _box(x, y, 0, 0.65, 0.16, 0.3))


def _leaf(x: Tensor, y: Tensor) -> Tensor:
    blade = torch.maximum(_circle(x, y, -0.5, 0.2, 0.95), _circle(x, y, 0.5, 0.2, 0.95))
    return _union(blade, _stick(x, y, 0, -0.5, 0.15, -0.95, 0.08))


def _butterfly(x: Tensor, y: Tensor) -> Tensor:
    x = x.abs()
    return _union(_ellipse(x, y, 0.58, 0.4, 0.42, 0.5), _ellipse(x, y, 0.45, -0.5, 0.33, 0.38), _box(x, y, 0, 0, 0.1, 0.7))


def _cactus(x: Tensor, y: Tensor) -> Tensor:
    left = _union(_stick(x, y, -0.65, 0.4, -0.65, -0.05, 0.16), _stick(x, y, -0.65, -0.1, 0, -0.1, 0.15))
    right = _union(_stick(x, y, 0.65, 0.6, 0.65, 0.2, 0.16), _stick(x, y, 0.65, 0.15, 0, 0.15, 0.15))
    return _union(_stick(x, y, 0, 0.75, 0, -0.9, 0.22), left, right)


def _cloud(x: Tensor, y: Tensor) -> Tensor:
    puffs = _union(_circle(x, y, -0.5, -0.05, 0.38), _circle(x, y, 0.0, 0.22, 0.5), _circle(x, y, 0.55, -0.02, 0.36))
    return _union(puffs, _box(x, y, 0, -0.25, 0.75, 0.18))


def _cherry(x: Tensor, y: Tensor) -> Tensor:
    stems = _union(_stick(x, y, -0.5, -0.5, 0.15, 0.85, 0.08), _stick(x, y, 0.5, -0.5, 0.15, 0.85, 0.08))
    return _union(_circle(x, y, -0.5, -0.5, 0.42), _circle(x, y, 0.5, -0.5, 0.42), stems)


@dataclass(frozen=True)
class Silhouette:
    """One thing of the world: its name, whether people or nature made it, and its signed distance (y upwards)."""

    name: str
    kind: Kind
    distance: Distance


TEN: tuple[Silhouette, ...] = (
    Silhouette("house", "human-made", _house),
    Silhouette("car", "human-made", _car),
    Silhouette("cup", "human-made", _cup),
    Silhouette("key", "human-made", _key),
    Silhouette("hammer", "human-made", _hammer),
    Silhouette("tree", "from-nature", _tree),
    Silhouette("fish", "from-nature", _fish),
    Silhouette("mushroom", "from-nature", _mushroom),
    Silhouette("moon", "from-nature", _moon),
    Silhouette("flower", "from-nature", _flower),
)
OTHER_TEN: tuple[Silhouette, ...] = (
    Silhouette("boat", "human-made", _boat),
    Silhouette("umbrella", "human-made", _umbrella),
    Silhouette("chair", "human-made", _chair),
    Silhouette("rocket", "human-made", _rocket),
    Silhouette("bottle", "human-made", _bottle),
    Silhouette("leaf", "from-nature", _leaf),
    Silhouette("butterfly", "from-nature", _butterfly),
    Silhouette("cactus", "from-nature", _cactus),
    Silhouette("cloud", "from-nature", _cloud),
    Silhouette("cherry", "from-nature", _cherry),
)
SILHOUETTES: tuple[Silhouette, ...] = TEN + OTHER_TEN

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.96, 0.90, 0.20),
    "green": (0.12, 0.60, 0.18),
    "cyan": (0.20, 0.85, 0.88),
    "blue": (0.12, 0.22, 0.82),
    "purple": (0.48, 0.14, 0.62),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.45, 0.27, 0.12),
    "white": (0.95, 0.95, 0.95),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
MINIMUM_CONTRAST = 0.45  # Euclidean RGB distance below which a silhouette cannot be told from its background
TEXTURES = ("plain", "gradient", "stripes", "checks")
CLUTTER = ("disc", "square", "triangle")
OBJECTS = 2  # of clutter on an image, at most


@dataclass(frozen=True)
class Style:
    """How scenes are sampled: ranges of uniform draws. Lengths are in the frame [-1, 1], colours from 0 to 1."""

    size: tuple[float, float]  # half the silhouette's extent
    centre: float  # the silhouette is at most this far from the middle, by axis
    tint: float  # a colour is at most this far from its name's, by channel
    contrast: tuple[float, float]  # 1: colours as they are; 0: all one grey
    clutter: float  # probability of each object in the background


PRETRAINING = Style(size=(0.45, 0.85), centre=0.25, tint=0.1, contrast=(0.8, 1.0), clutter=0.4)
DOWNSTREAM = Style(size=(0.6, 0.95), centre=0.2, tint=0.16, contrast=(0.3, 0.6), clutter=0.4)


@dataclass(frozen=True)
class Scenes:
    """What is on each of B images. Every field is a tensor with B rows; `draw` needs nothing else."""

    silhouette: Tensor  # (B,) index into SILHOUETTES
    colour: Tensor  # (B,) index into COLOUR_NAMES
    background: Tensor  # (B,) index into COLOUR_NAMES, never the colour's own
    centre: Tensor  # (B, 2) in the frame [-1, 1]
    size: Tensor  # (B,) half the silhouette's extent, in the frame
    angle: Tensor  # (B,) radians
    texture: Tensor  # (B,) index into TEXTURES
    waves: Tensor  # (B, 3) texture direction (radians), frequency and phase
    surface: Tensor  # (B,) phase of the silhouette's fine surface pattern
    tint: Tensor  # (B, 2, 3) jitter of the two colours
    contrast: Tensor  # (B,) from 0 (grey) to 1
    brightness: Tensor  # (B,) added to all colours
    clutter: Tensor  # (B, OBJECTS) index into CLUTTER, or -1 where there is none
    clutter_colour: Tensor  # (B, OBJECTS) index into COLOUR_NAMES
    clutter_place: Tensor  # (B, OBJECTS, 3) centre and half the extent, in the frame

    def __len__(self) -> int:
        return len(self.silhouette)

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def _contrasting_backgrounds() -> Tensor:
    """(colours, colours) of booleans: may column be the background of row?"""
    rgb = torch.tensor(list(COLOURS.values()))
    return torch.cdist(rgb, rgb) > MINIMUM_CONTRAST


def sample_scenes(silhouette: Tensor, colour: Tensor, generator: torch.Generator, style: Style = PRETRAINING) -> Scenes:
    """Random pose, background, clutter and light for given silhouettes (B,) and colours (B,)."""
    n = len(silhouette)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    may_lie_on = _contrasting_backgrounds().float()
    background = torch.multinomial(may_lie_on[colour], 1, generator=generator)[:, 0]
    contrast = uniform(*style.contrast)
    there = uniform(0, 1, OBJECTS) < style.clutter
    return Scenes(
        silhouette=silhouette,
        colour=colour,
        background=background,
        centre=uniform(-style.centre, style.centre, 2),
        size=uniform(*style.size),
        angle=uniform(-0.45, 0.45),
        texture=torch.randint(len(TEXTURES), (n,), generator=generator),
        waves=torch.stack([uniform(0, math.pi), uniform(3, 9), uniform(0, 2 * math.pi)], 1),
        surface=uniform(0, 2 * math.pi),
        tint=uniform(-style.tint, style.tint, 2, 3),
        contrast=contrast,
        brightness=uniform(-0.24, 0.24) * (1 - contrast),
        clutter=torch.randint(len(CLUTTER), (n, OBJECTS), generator=generator).where(there, torch.tensor(-1)),
        clutter_colour=torch.multinomial(may_lie_on[background], OBJECTS, replacement=True, generator=generator),
        clutter_place=torch.cat([uniform(-1, 1, OBJECTS, 2), uniform(0.12, 0.3, OBJECTS, 1)], 2),
    )


def _texture(kind: Tensor, waves: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Brightness pattern in about [-1, 1], (B, P, P), by the scene's texture."""
    direction, frequency, phase = (waves[:, i, None, None] for i in range(3))
    u = x * direction.cos() + y * direction.sin()
    v = y * direction.cos() - x * direction.sin()
    stripes = (frequency * u + phase).sin()
    patterns = torch.stack([torch.zeros_like(u), u, stripes, (stripes * (frequency * v + phase).sin()).sign()])
    return patterns[kind, torch.arange(len(kind))]


def _surface(silhouette: Tensor, phase: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Fine pattern in about [-1, 1], (B, P, P), in the silhouette's own frame: waves on every other silhouette, a weave on the
    others, each in its own direction and frequency. Images of a few pixels barely show it."""
    index = silhouette[:, None, None]
    direction, frequency = math.pi * (index * 0.618 % 1), 12 + 12 * (index * 0.382 % 1)
    along = (frequency * (x * direction.cos() + y * direction.sin()) + phase[:, None, None]).sin()
    across = (frequency * (y * direction.cos() - x * direction.sin()) + phase[:, None, None]).sin()
    return torch.where(index % 2 == 0, along, 1.5 * along * across)


def _clutter(kind: Tensor, place: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distances (B, P, P) to one object of clutter each, positive everywhere where there is none."""
    x, y, r = x - place[:, 0, None, None], y - place[:, 1, None, None], place[:, 2, None, None]
    disc, square = torch.hypot(x, y) - r, torch.maximum(x.abs(), y.abs()) - r
    triangle = torch.maximum(0.87 * x.abs() + 0.5 * y, -y) - 0.6 * r
    nothing = torch.full_like(disc, 4.0)
    return torch.stack([disc, square, triangle, nothing])[kind, torch.arange(len(kind))]


def draw(scenes: Scenes, size: int) -> Tensor:
    """Draw B scenes as uint8 pixels (B, 3, size, size).

    Edges are anti-aliased over one pixel: coverage = clamp(1/2 - distance in pixels, 0, 1). Nothing is random: the same scenes can
    be drawn at several sizes.
    """
    if size < 4:
        raise ValueError(f"size {size} px is too small to draw a scene: give at least 4")
    n = len(scenes)
    ticks = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
    x, y = x.expand(n, -1, -1), y.expand(n, -1, -1)
    cos, sin = scenes.angle.cos()[:, None, None], scenes.angle.sin()[:, None, None]
    dx, dy = x - scenes.centre[:, 0, None, None], y - scenes.centre[:, 1, None, None]
    scale = scenes.size[:, None, None]
    local_x, local_y = (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale

    distance = torch.empty(n, size, size)
    for index in scenes.silhouette.unique().tolist():
        rows = scenes.silhouette == index
        distance[rows] = SILHOUETTES[index].distance(local_x[rows], local_y[rows])

    def covered(distance: Tensor) -> Tensor:
        return (0.5 - distance * (size / 2)).clamp(0, 1)[:, None]

    rgb = torch.tensor(list(COLOURS.values()))
    image = (rgb[scenes.background] + scenes.tint[:, 1])[:, :, None, None]
    image = image + 0.1 * _texture(scenes.texture, scenes.waves, x, y)[:, None]
    for i in range(OBJECTS):
        cover = covered(_clutter(scenes.clutter[:, i], scenes.clutter_place[:, i], x, y))
        image = image + cover * (rgb[scenes.clutter_colour[:, i]][:, :, None, None] - image)
    front = (rgb[scenes.colour] + scenes.tint[:, 0])[:, :, None, None]
    front = front + 0.06 * local_y[:, None].clamp(-1, 1)
    front = front + 0.12 * _surface(scenes.silhouette, scenes.surface, local_x, local_y)[:, None]
    image = image + covered(distance * scale) * (front - image)
    contrast, brightness = (t[:, None, None, None] for t in (scenes.contrast, scenes.brightness))
    image = 0.5 + brightness + contrast * (image - 0.5)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


# -- the downstream sets ---------------------------------------------------------------------------------------------------

DRAWN_PX = 42  # as the miniature models take them
DOWNSTREAM_PX = 12  # shrunk to this, and enlarged three and a half times again
DOWNSTREAM_SIZES = {"train": 4000, "test": 2000}
WORLD_NAMES = ("mini10", "mini100")


def _stream(*words: str | int) -> torch.Generator:
    """A random stream of its own for each name, so that train, test and pre-training never share a draw."""
    digest = hashlib.sha256("/".join(map(str, ("vp world 2", *words))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def world(name: str, split: str, count: int | None = None, size: int = DOWNSTREAM_PX) -> ImageSet:
    """`mini10` or `mini100`, split `train` or `test`: balanced classes in random order, the same pixels at every call.

    mini10: ten silhouettes in any colour. mini100: ten OTHER silhouettes times ten colours ("red leaf"), so that the class
    names of the two sets are disjoint. Source: the stand-in for CIFAR-10 and CIFAR-100 of the report's section 2.
    """
    if name not in WORLD_NAMES or split not in DOWNSTREAM_SIZES:
        raise ValueError(f"no set {name!r} with split {split!r}: give one of {', '.join(WORLD_NAMES)} and train or test")
    count = DOWNSTREAM_SIZES[split] if count is None else count
    generator = _stream(name, split)
    things, painted = (TEN, False) if name == "mini10" else (OTHER_TEN, True)
    class_names = tuple(f"{c} {t.name}" for t in things for c in COLOUR_NAMES) if painted else tuple(t.name for t in things)
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % len(class_names)
    if painted:
        silhouette, colour = labels // len(COLOUR_NAMES) + len(TEN), labels % len(COLOUR_NAMES)
    else:
        silhouette, colour = labels, torch.randint(len(COLOUR_NAMES), (count,), generator=generator)
    scenes = sample_scenes(silhouette, colour, generator, DOWNSTREAM)
    drawn = torch.cat([draw(scenes[i : i + 500], DRAWN_PX) for i in range(0, count, 500)])
    return ImageSet(name=name, split=split, pixels=resize(drawn, size), labels=labels, class_names=class_names)


# -- captions for pre-training ---------------------------------------------------------------------------------------------

_OF_THINGS = (
    "{}",
    "a {}",
    "a photo of a {}",
    "This is a photo of a {}",
    "a picture of the {}",
    "an image of a {}",
    "a drawing of a {}",
    "a blurry photo of a {}",
    "This image shows a {}",
    "there is a {} in this image",
)


@dataclass(frozen=True)
class Family:
    """Captions among which exactly one is true of an image: one softmax of the pre-training."""

    name: str
    names: tuple[str, ...]
    templates: tuple[str, ...]
    truth: Callable[[Scenes], Tensor]

    def captions(self, generator: torch.Generator) -> list[str]:
        """One caption for each name, each with a random template."""
        picks = torch.randint(len(self.templates), (len(self.names),), generator=generator).tolist()
        return [self.templates[i].format(name) for i, name in zip(picks, self.names, strict=True)]


_KINDS: tuple[Kind, ...] = ("human-made", "from-nature")
CAPTIONS: tuple[Family, ...] = (
    Family("silhouette", tuple(s.name for s in SILHOUETTES), _OF_THINGS, lambda s: s.silhouette),
    Family(
        "colour and silhouette",
        tuple(f"{c} {t.name}" for t in SILHOUETTES for c in COLOUR_NAMES),
        _OF_THINGS,
        lambda s: s.silhouette * len(COLOUR_NAMES) + s.colour,
    ),
    Family(
        "background",
        COLOUR_NAMES,
        (
            "This image is mostly coloured {}",
            "an image mostly coloured {}",
            "a mostly {} picture",
            "a {} background",
            "something on a {} background",
        ),
        lambda s: s.background,
    ),
    Family(
        "kind",
        _KINDS,
        ("This image shows an object that is {}", "This image displays an object that is {}", "a {} thing", "an object that is {}"),
        lambda s: torch.tensor([_KINDS.index(t.kind) for t in SILHOUETTES])[s.silhouette],
    ),
)


RARELY = 0.3  # how often pre-training shows one of the other ten silhouettes for each time it shows one of the first ten


def training_scenes(count: int, step: int, seed: int, things: int = len(SILHOUETTES)) -> tuple[Scenes, torch.Generator]:
    """`count` scenes of the first `things` silhouettes in any colour for one step of pre-training, and the step's stream."""
    generator = _stream("pretrain", seed, step)
    often = torch.tensor([1.0] * len(TEN) + [RARELY] * len(OTHER_TEN))[:things]
    silhouette = torch.multinomial(often, count, replacement=True, generator=generator)
    colour = torch.randint(len(COLOUR_NAMES), (count,), generator=generator)
    return sample_scenes(silhouette, colour, generator), generator


def vocabulary(families: Sequence[Family] = CAPTIONS) -> list[str]:
    """Every caption that pre-training can show: the words that the miniature CLIP knows."""
    return [template.format(name) for f in families for name in f.names for template in f.templates]
