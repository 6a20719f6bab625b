"""Wrong prompts and wrong zero-shot heads: each breaks one sentence of sections 2.1 and 2.2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from tests.controls import control
from vp.prompts import FixedPatch, Padding


@control("FixedPatch", "test_a_prompt_never_modifies_the_batch_it_is_given")
class ModifiesItsInput(FixedPatch):
    """Adds in place, to the caller's batch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.add_(self.canvas().detach())


@control("Padding", "test_padding_leaves_the_inside_as_it_was_and_adds_each_parameter_once")
class CornersCountedTwice(Padding):
    """Sides as tall as the image, corners twice."""

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__(size, image_size)
        self.left = torch.nn.Parameter(torch.randn(1, 3, image_size, size))
        self.right = torch.nn.Parameter(torch.randn(1, 3, image_size, size))

    def canvas(self) -> Tensor:
        size, image_size = self.up.shape[-2:]
        rest = image_size - size
        sides = pad(self.left, (0, rest)) + pad(self.right, (rest, 0))
        return sides + pad(self.up, (0, 0, 0, rest)) + pad(self.down, (0, 0, rest, 0))


@control("Padding", "test_a_prompt_keeps_the_shape_of_its_images")
class EnlargesTheImage(Padding):
    """Puts the frame around the image instead of onto it."""

    def forward(self, images: Tensor) -> Tensor:
        return pad(images, (1, 1, 1, 1))


@control("FixedPatch", "test_the_fixed_patch_is_added_at_the_top_left")
class OverwritesPixels(FixedPatch):
    """Replaces the pixels under the patch instead of adding to them."""

    def forward(self, images: Tensor) -> Tensor:
        size = self.patch.shape[-1]
        mask = pad(torch.ones_like(self.patch), (0, self.image_size - size, 0, self.image_size - size))
        return images * (1 - mask) + self.canvas()


@control("FixedPatch", "test_the_fixed_patch_is_added_at_the_top_left")
class PatchAtTheBottomRight(FixedPatch):
    """Pads on the wrong sides."""

    def canvas(self) -> Tensor:
        rest = self.image_size - self.patch.shape[-1]
        return pad(self.patch, (rest, 0, rest, 0))


@control("Padding", "test_gradients_reach_every_prompt_parameter")
class CutFromTheGraph(Padding):
    """Uses the values of its parameters only."""

    def canvas(self) -> Tensor:
        return super().canvas().detach()


@control("Padding", "test_gradients_reach_every_prompt_parameter")
class CopiesASide(Padding):
    """Shows `up` twice and never `down`."""

    def canvas(self) -> Tensor:
        canvas = super().canvas()
        return torch.cat([canvas[:, :, : -self.up.shape[2]], self.up], dim=2)


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_without_exponential(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """logit_scale x cosine."""
    return logit_scale * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_scaled_twice(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """exp(logit_scale)^2 x cosine."""
    return torch.tensor(2 * logit_scale).exp() * normalize(images, dim=-1) @ normalize(texts, dim=-1).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_of_unnormalised_texts(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """Text features of any length."""
    return torch.tensor(logit_scale).exp() * normalize(images, dim=-1) @ texts.T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_of_texts_normalised_over_classes(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """Normalised over the class axis."""
    return torch.tensor(logit_scale).exp() * normalize(images, dim=-1) @ normalize(texts, dim=0).T


@control("zero_shot_logits", "test_logits_are_the_scaled_cosine")
def logits_after_softmax(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """Probabilities in place of logits."""
    cosine = normalize(images, dim=-1) @ normalize(texts, dim=-1).T
    return (torch.tensor(logit_scale).exp() * cosine).softmax(1)
