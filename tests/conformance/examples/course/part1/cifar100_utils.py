"""CIFAR-100 with augmentations."""

import torch
from torch.utils.data import random_split
from torchvision import transforms
from torchvision.datasets import CIFAR100

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class AddGaussianNoise(torch.nn.Module):
    def __init__(self, mean=0.0, std=0.1, always_apply=False):
        self.mean = mean
        self.std = std
        self.always_apply = always_apply

    def __call__(self, img):
        noise = torch.randn(img.shape)
        return img + noise * self.std + self.mean


def add_augmentation(augmentation_name, transform_list):
    known = {"flip": transforms.RandomHorizontalFlip(), "test_noise": AddGaussianNoise()}
    transform_list.append(known[augmentation_name])


def _transform(*augmentations):
    steps = [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    for name in augmentations:
        add_augmentation(name, steps)
    return transforms.Compose(steps)


def get_train_validation_set(data_dir, validation_size=5000, augmentation_name=None):
    augmentations = [] if augmentation_name is None else [augmentation_name]
    train = CIFAR100(root=data_dir, train=True, download=True, transform=_transform(*augmentations))
    val = CIFAR100(root=data_dir, train=True, download=True, transform=_transform())
    sizes = [len(train) - validation_size, validation_size]
    train, _ = random_split(train, sizes, generator=torch.Generator().manual_seed(42))
    _, val = random_split(val, sizes, generator=torch.Generator().manual_seed(42))
    return train, val


def get_test_set(data_dir, test_noise):
    return CIFAR100(root=data_dir, train=False, download=True, transform=_transform(*["test_noise"] * test_noise))
