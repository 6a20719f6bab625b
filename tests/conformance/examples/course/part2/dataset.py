"""CIFAR for CLIP, with noise on the test images where it is asked for."""

import torch
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import Compose

DATASET = {"cifar10": CIFAR10, "cifar100": CIFAR100}


class AddGaussianNoise(torch.nn.Module):
    def __init__(self, mean=0.0, std=0.1):
        self.mean = mean
        self.std = std

    def __call__(self, img):
        return img + torch.randn_like(img) * self.std + self.mean


def load_dataset(args, preprocess):
    kind = DATASET[args.dataset]
    train = kind(args.root, transform=preprocess, download=True, train=True)
    val_size = int(len(train) * 0.2)
    train, val = random_split(train, [len(train) - val_size, val_size])
    if args.test_noise:
        preprocess = Compose([*preprocess.transforms, AddGaussianNoise()])
    test = kind(args.root, transform=preprocess, download=True, train=False)
    return train, val, test


def construct_dataloader(args, dataset):
    return DataLoader(dataset=dataset, batch_size=args.batch_size, num_workers=args.num_workers)
