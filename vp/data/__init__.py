"""Images in memory: the embedded world, CIFAR, folders; splits; and the batched way from pixels to a network's input."""

from vp.data.cifar import generate_cifar, load_cifar
from vp.data.images import ImageSet, union
from vp.data.noise import GaussianNoise
from vp.data.pictures import list_pictures, read_picture, square
from vp.data.preprocess import Preprocess, centre_crop, resize
from vp.data.sources import data_root, load_images, split_indices
from vp.data.world import world

__all__ = [
    "GaussianNoise",
    "ImageSet",
    "Preprocess",
    "centre_crop",
    "data_root",
    "generate_cifar",
    "list_pictures",
    "load_cifar",
    "load_images",
    "read_picture",
    "resize",
    "split_indices",
    "square",
    "union",
    "world",
]
