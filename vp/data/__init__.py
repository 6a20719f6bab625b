"""Images in memory: the embedded world, CIFAR, folders; splits; and the batched way from pixels to a network's input."""

from vp.data.images import ImageSet, union
from vp.data.noise import GaussianNoise
from vp.data.preprocess import Preprocess, centre_crop, resize
from vp.data.sources import (
    list_pictures,
    load_cifar,
    load_class_folders,
    load_images,
    read_picture,
    split_indices,
    square,
)
from vp.data.world import world

__all__ = [
    "GaussianNoise",
    "ImageSet",
    "Preprocess",
    "centre_crop",
    "list_pictures",
    "load_cifar",
    "load_class_folders",
    "load_images",
    "read_picture",
    "resize",
    "split_indices",
    "square",
    "union",
    "world",
]
