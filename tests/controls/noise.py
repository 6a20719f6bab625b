"""Wrong noise, std 0.1 claimed. Each must be rejected by the test named."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from vp.data import GaussianNoise


def no_noise(images: Tensor, indices: Tensor) -> Tensor:
    """The images themselves: test_the_noise_is_gaussian_with_the_std_given."""
    return images


def variance_for_std(images: Tensor, indices: Tensor) -> Tensor:
    """The variance is 0.1: test_the_noise_is_gaussian_with_the_std_given."""
    return GaussianNoise(0.1**0.5)(images, indices)


def half_of_the_time(images: Tensor, indices: Tensor) -> Tensor:
    """Every other image stays clean: test_the_noise_is_gaussian_with_the_std_given."""
    return torch.where((indices % 2 == 0)[:, None, None, None], GaussianNoise(0.1 * 2**0.5)(images, indices), images)


def uniform_noise_of_one_value(images: Tensor, indices: Tensor) -> Tensor:
    """One value for all channels of a pixel: test_the_noise_is_gaussian_with_the_std_given."""
    return images + (GaussianNoise(0.1)(images, indices) - images)[:, :1]


def always_clamped(images: Tensor, indices: Tensor) -> Tensor:
    """Cut to [0, 1] without being asked: test_the_noise_is_gaussian_with_the_std_given."""
    return GaussianNoise(0.1, clamp=True)(images, indices)


def unseeded(images: Tensor, indices: Tensor) -> Tensor:
    """Another noise at every evaluation: test_every_model_sees_the_same_noise."""
    return GaussianNoise(0.1, seed=random.SystemRandom().randrange(2**20))(images, indices)


def by_place_in_the_batch(images: Tensor, indices: Tensor) -> Tensor:
    """Noise follows the place in the batch, not the image: test_every_model_sees_the_same_noise."""
    return GaussianNoise(0.1)(images, torch.arange(len(images)))
