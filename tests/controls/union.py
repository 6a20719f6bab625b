"""Wrong unions of two image sets, rejected by test_the_union_keeps_every_image_with_its_own_class_name."""

from __future__ import annotations

from dataclasses import replace

import torch

from vp.data import ImageSet, union


def unshifted_labels(first: ImageSet, second: ImageSet) -> ImageSet:
    """Labels of the second set start from 0 again."""
    return replace(union(first, second), labels=torch.cat([first.labels, second.labels]))


def names_exchanged(first: ImageSet, second: ImageSet) -> ImageSet:
    """Class names of the second set come first."""
    return replace(union(first, second), class_names=second.class_names + first.class_names)


def second_set_alone(first: ImageSet, second: ImageSet) -> ImageSet:
    """The first set's images are lost."""
    both = union(first, second)
    return both.take(torch.arange(len(first), len(both)))
