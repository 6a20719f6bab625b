"""What the properties range over. Structure is drawn (sizes, kinds); tensor contents come from a drawn seed, so that failures
shrink and replay."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from vp.prompts import FixedPatch, Padding, RandomPatch

seeds = st.integers(0, 2**32 - 1)


def tensor(seed: int, *shape: int) -> Tensor:
    """N(0, 1) values of a shape, from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int, *shape: int) -> Tensor:
    """Uniform uint8 values of a shape, from a seed."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


image_sizes = st.integers(5, 24)
batches = st.integers(1, 5)


@st.composite
def fixed_patches(draw: st.DrawFn) -> FixedPatch:
    size = draw(image_sizes)
    return FixedPatch(draw(st.integers(1, size)), size)


@st.composite
def random_patches(draw: st.DrawFn) -> RandomPatch:
    size = draw(image_sizes)
    return RandomPatch(draw(st.integers(1, size)), size)


@st.composite
def paddings(draw: st.DrawFn) -> Padding:
    size = draw(image_sizes)
    return Padding(draw(st.integers(1, (size - 1) // 2)), size)


visual_prompts = st.one_of(fixed_patches(), random_patches(), paddings())
