"""The seven networks that the report compares, by name, with random weights: a network's cost does not depend on them.

Names are those of the libraries that build them: torchvision, and timm for ViT-S/8. Source: report 1.1.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import timm
import torch
from torch import nn
from torchvision import models

from vp.machine.errors import VpError

PIXEL_STEP = 32  # all seven take images whose side is a multiple of this: five halvings, patches of 32, patches of 8


@dataclass(frozen=True)
class Network:
    """A network of the report. `weights` is torchvision's entry of trained weights, whose metadata are read and never its file.

    `image_option` is the constructor's name for the side of its images, where positions are learnt; None: any side will do.
    """

    name: str
    label: str
    build: Callable[..., nn.Module]
    weights: Any  # torchvision's enumerations carry no types
    image_option: str | None = None
    literature_top1: float | None = None  # where the libraries know none
    top1_source: str = "torchvision's metadata of its ImageNet weights"

    @property
    def top1(self) -> float:
        """ImageNet top-1 accuracy in percent, for which `top1_source` vouches."""
        if self.literature_top1 is not None:
            return self.literature_top1
        return float(self.weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])

    @cached_property
    def parameters(self) -> int:
        """Number of parameters: torchvision's metadata, or counted where there are none."""
        if self.weights is not None:
            return int(self.weights.meta["num_params"])
        return sum(parameter.numel() for parameter in build_network(self.name, device="meta").parameters())


def _vit_small_patch8_224(**options: Any) -> nn.Module:
    """ViT-S/8 without a classifier: timm has self-supervised weights only, so no number of classes belongs to it."""
    network: nn.Module = timm.create_model("vit_small_patch8_224", num_classes=0, **options)
    return network


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("vgg11", "VGG11", models.vgg11, models.VGG11_Weights.IMAGENET1K_V1),
        Network("vgg11_bn", "VGG11-BN", models.vgg11_bn, models.VGG11_BN_Weights.IMAGENET1K_V1),
        Network("resnet18", "ResNet18", models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1),
        Network("densenet121", "DenseNet121", models.densenet121, models.DenseNet121_Weights.IMAGENET1K_V1),
        Network("mobilenet_v3_small", "MobileNetV3-S", models.mobilenet_v3_small, models.MobileNet_V3_Small_Weights.IMAGENET1K_V1),
        Network("vit_b_32", "ViT-B/32", models.vit_b_32, models.ViT_B_32_Weights.IMAGENET1K_V1, image_option="image_size"),
        Network(
            "vit_small_patch8_224",
            "ViT-S/8",
            _vit_small_patch8_224,
            None,
            image_option="img_size",
            literature_top1=80.0,
            top1_source="literature: about 80, a linear probe on DINO features (79.7 in Caron et al. 2021); no library has a "
            "supervised head",
        ),
    )
}


def build_network(name: str, image_px: int = 224, device: torch.device | str = "cpu") -> nn.Module:
    """One of NETWORKS in evaluation mode, for images (B, 3, image_px, image_px), its weights N(0, 1/fan-in) of the global stream.

    Built without memory first (the `meta` device), then filled once: a constructor's own initialisation takes several times as
    long. Raises VpError for an unknown name or a side that is no multiple of 32.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=3) or list(NETWORKS)
        raise VpError(f"no network {name!r}: did you mean {', '.join(near)}? vp.models.NETWORKS lists all seven")
    if image_px < PIXEL_STEP or image_px % PIXEL_STEP:
        raise VpError(f"images of {image_px} px given to {name}: give a multiple of {PIXEL_STEP}, such as 224")
    network = NETWORKS[name]
    with torch.device("meta"):
        built = network.build(**({network.image_option: image_px} if network.image_option else {})).eval()
    if torch.device(device).type == "meta":
        return built
    return _filled(built.to_empty(device=device))


@torch.no_grad()
def _filled(network: nn.Module) -> nn.Module:
    """Weights of unit gain, biases 0, norms the identity: no activation overflows or becomes denormal, which would cost time."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, (parameter.numel() / len(parameter)) ** -0.5)
        else:
            parameter.fill_(0 if name.endswith("bias") else 1)
    for name, buffer in network.named_buffers():
        buffer.fill_(1 if name.endswith("running_var") else 0)
    return network
