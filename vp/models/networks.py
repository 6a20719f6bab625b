"""The seven networks that the report compares, by name, with random weights: a network's cost does not depend on them.

Names are those of the libraries that build them: torchvision, and timm for ViT-S/8. Source: report 1.1.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from vp.machine.errors import VpError

PIXEL_STEP = 32  # all seven take images whose side is a multiple of this: five halvings, patches of 32, patches of 8


@dataclass(frozen=True)
class Network:
    """A network of the report: torchvision's, or timm's where no top-1 is in torchvision's metadata.

    `image_option` is the constructor's name for the side of its images, where positions are learnt; None: any side will do.
    """

    name: str
    label: str
    image_option: str | None = None
    literature_top1: float | None = None  # where the libraries know none
    top1_source: str = "torchvision's metadata of its ImageNet weights"

    @property
    def weights(self) -> Any:
        """torchvision's entry of trained weights, whose metadata are read and never its file."""
        from torchvision.models import get_model_weights

        return get_model_weights(self.name)["IMAGENET1K_V1"]

    @property
    def top1(self) -> float:
        """ImageNet top-1 accuracy in percent, for which `top1_source` vouches."""
        if self.literature_top1 is not None:
            return self.literature_top1
        return float(self.weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])

    @cached_property
    def parameters(self) -> int:
        """Number of parameters: torchvision's metadata, or counted where there are none."""
        if self.literature_top1 is None:
            return int(self.weights.meta["num_params"])
        return sum(parameter.numel() for parameter in build_network(self.name, device="meta").parameters())

    def build(self, **options: Any) -> nn.Module:
        """The library's network; ViT-S/8 without a classifier, for timm has self-supervised weights only."""
        if self.literature_top1 is None:
            from torchvision.models import get_model

            network: nn.Module = get_model(self.name, **options)
            return network
        import timm

        network = timm.create_model(self.name, num_classes=0, **options)
        return network


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("vgg11", "VGG11"),
        Network("vgg11_bn", "VGG11-BN"),
        Network("resnet18", "ResNet18"),
        Network("densenet121", "DenseNet121"),
        Network("mobilenet_v3_small", "MobileNetV3-S"),
        Network("vit_b_32", "ViT-B/32", image_option="image_size"),
        Network(
            "vit_small_patch8_224",
            "ViT-S/8",
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
