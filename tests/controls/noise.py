"""Wrong noise. Each breaks one sentence of section 2.4."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from tests.controls import control
from vp.data import GaussianNoise


def _noise(images: Tensor, std: float, seed: int) -> Tensor:
    return std * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


@control("gaussian_noise", "test_the_noise_is_gaussian_with_the_std_given")
def no_noise(images: Tensor, std: float, seed: int) -> Tensor:
    """The images themselves."""
    return images.clone()


@control("gaussian_noise", "test_the_noise_is_gaussian_with_the_std_given")
def variance_for_std(images: Tensor, std: float, seed: int) -> Tensor:
    """Takes the number for the variance."""
    return images + _noise(images, std**0.5, seed)


@control("gaussian_noise", "test_the_noise_is_gaussian_with_the_std_given")
def half_of_the_time(images: Tensor, std: float, seed: int) -> Tensor:
    """Applied with probability 0.5, as augmentations are: half of the images stay clean."""
    applied = torch.rand(len(images), 1, 1, 1, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    return images + _noise(images, std, seed) * applied


@control("gaussian_noise", "test_the_noise_is_gaussian_with_the_std_given")
def noise_of_one_value_for_all_channels(images: Tensor, std: float, seed: int) -> Tensor:
    """One value for all channels of a pixel."""
    return images + _noise(images[:, :1], std, seed)


@control("gaussian_noise", "test_different_seeds_and_images_have_different_noise")
def noise_of_the_first_image(images: Tensor, std: float, seed: int) -> Tensor:
    """Draws the noise of one image and adds it to all."""
    return images + _noise(images[:1], std, seed)


@control("gaussian_noise", "test_the_noise_is_gaussian_with_the_std_given")
def uniform_noise(images: Tensor, std: float, seed: int) -> Tensor:
    """Uniform, of the right standard deviation."""
    drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + std * 12**0.5 * (drawn - 0.5)


@control("gaussian_noise", "test_noise_cuts_nothing_off")
def always_clamped(images: Tensor, std: float, seed: int) -> Tensor:
    """Cut to [0, 1], as pixels are before they are normalised."""
    return (images + _noise(images, std, seed)).clamp(0, 1)


@control("gaussian_noise", "test_the_same_seed_gives_the_same_noise")
def unseeded_noise(images: Tensor, std: float, seed: int) -> Tensor:
    """Another noise at every evaluation."""
    return images + _noise(images, std, random.SystemRandom().randrange(2**20))


@control("gaussian_noise", "test_different_seeds_and_images_have_different_noise")
def noise_of_one_seed(images: Tensor, std: float, seed: int) -> Tensor:
    """Seeded, but always alike."""
    return images + _noise(images, std, 0)


def by_place_in_the_batch(images: Tensor, indices: Tensor) -> Tensor:
    """Noise follows the place in the batch, not the image: test_every_model_sees_the_same_noise."""
    return GaussianNoise(0.1)(images, torch.arange(len(images)))


@control("gaussian_noise", "test_the_noise_is_gaussian_with_the_std_given")
def noise_without_tails(images: Tensor, std: float, seed: int) -> Tensor:
    """Draws again what is beyond three standard deviations."""
    noise = torch.empty(images.shape)
    torch.nn.init.trunc_normal_(noise, 0.0, 1.0, -3.0, 3.0, generator=torch.Generator().manual_seed(seed))
    return images + std * noise
