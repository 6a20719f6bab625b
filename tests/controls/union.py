"""Wrong unions of two image sets."""

from __future__ import annotations

import torch

from tests.conformance.ours import Images
from tests.controls import control

REJECTED_BY = "test_the_union_keeps_every_image_with_its_own_class_name"


@control("union", REJECTED_BY)
def unshifted_labels(first: Images, second: Images) -> Images:
    """Labels of the second set start from 0 again."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]), [*first[2], *second[2]]


@control("union", REJECTED_BY)
def labels_shifted_by_images(first: Images, second: Images) -> Images:
    """Labels of the second set are shifted by the number of the first set's images, not classes."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1] + len(first[1])]), [*first[2], *second[2]]


@control("union", REJECTED_BY)
def labels_shifted_by_the_largest(first: Images, second: Images) -> Images:
    """Labels of the second set are shifted by the first set's largest label: its last class and the next one are mixed up."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1] + first[1].max()]), [*first[2], *second[2]]


@control("union", REJECTED_BY)
def names_exchanged(first: Images, second: Images) -> Images:
    """Class names of the second set come first."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1] + len(first[2])]), [*second[2], *first[2]]


@control("union", REJECTED_BY)
def second_set_alone(first: Images, second: Images) -> Images:
    """The first set's images are lost."""
    return second[0], second[1] + len(first[2]), [*first[2], *second[2]]


@control("union", REJECTED_BY)
def labels_shifted_by_those_seen(first: Images, second: Images) -> Images:
    """Counts the classes that have images: wrong where the first set's last class has none."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1] + first[1].max() + 1]), [*first[2], *second[2]]


@control("union", REJECTED_BY)
def names_in_order_of_the_alphabet(first: Images, second: Images) -> Images:
    """Sorts the class names, and leaves the labels."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1] + len(first[2])]), sorted([*first[2], *second[2]])
