"""Images in memory: the embedded world, CIFAR, folders; splits; and the batched way from pixels to a network's input."""

from vp.data.images import ImageSet
from vp.data.preprocess import Preprocess, centre_crop, resize
from vp.data.sources import (
    list_pictures,
    load_cifar,
    load_class_folders,
    load_images,
    read_picture,
    square,
    train_validation_split,
)
from vp.data.world import world

__all__ = [
    "ImageSet",
    "Preprocess",
    "centre_crop",
    "list_pictures",
    "load_cifar",
    "load_class_folders",
    "load_images",
    "read_picture",
    "resize",
    "square",
    "train_validation_split",
    "world",
]
