"""The miniature residual network: torchvision's own `ResNet` at a quarter of ResNet-18's width, and its pre-training.

It stands for ResNet-18 with its ImageNet weights (report 1.2): pre-trained on scenes of the ten silhouettes of mini10, each
in ten colours (100 classes), it meets the ten other silhouettes of mini100 as something new. Images have 42 px and the stem
halves them once, as ResNet-18's divides 224 px by four.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import BasicBlock, ResNet

from vp.data.preprocess import CIFAR100_MEAN, CIFAR100_STD, Preprocess
from vp.data.world import COLOUR_NAMES, TEN, draw, training_scenes
from vp.machine import artifacts
from vp.machine.errors import VpError
from vp.machine.runtime import own_random_stream
from vp.models.pretraining import IMAGE_PX, Pretraining, pretrain_model

WIDTH = 16
BLOCKS = 2  # in each of the four stages
CLASSES = len(TEN) * len(COLOUR_NAMES)
WEIGHTS = Path(str(files("vp.models"))) / "mini_resnet.safetensors"
PREPROCESS = Preprocess(IMAGE_PX, CIFAR100_MEAN, CIFAR100_STD, "bilinear")
SETTINGS = Pretraining(steps=2500)


def new_mini_resnet(seed: int = 0) -> ResNet:
    """The architecture with random weights: images (B, 3, 42, 42) to logits of 100 classes."""
    with own_random_stream(seed):
        network: Any = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
        network.inplanes = WIDTH
        network.conv1 = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1, bias=False)
        network.bn1 = nn.BatchNorm2d(WIDTH)
        network.maxpool = nn.Identity()
        for stage in range(4):
            layer = network._make_layer(BasicBlock, WIDTH * 2**stage, BLOCKS, stride=1 if stage == 0 else 2)
            setattr(network, f"layer{stage + 1}", layer)
        network.fc = nn.Linear(WIDTH * 8, CLASSES)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    result: ResNet = network
    return result


def load_mini_resnet(path: Path = WEIGHTS) -> ResNet:
    """The pre-trained miniature residual network from the package. Raises VpError when the file is missing or damaged."""
    network = new_mini_resnet()
    try:
        network.load_state_dict(artifacts.load(path)[0])
    except FileNotFoundError:
        raise VpError(
            f"the miniature residual network's weights are missing ({path}): run `python -m vp pretrain mini-resnet`"
        ) from None
    except (artifacts.CorruptArtifact, RuntimeError) as error:
        raise VpError(
            f"{path} is damaged or not of this version's miniature residual network: run `python -m vp pretrain mini-resnet`"
        ) from error
    return network.eval()


def training_batch(batch_size: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, 42, 42) and labels (B,): silhouette times ten plus colour."""
    scenes, _ = training_scenes(batch_size, step, seed, things=len(TEN))
    return draw(scenes, IMAGE_PX), scenes.silhouette * len(COLOUR_NAMES) + scenes.colour


def pretrain(
    output: Path,
    checkpoint: Path,
    settings: Pretraining = SETTINGS,
    *,
    save_every: int = 200,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Pre-train, save to `output`, return the note saved with the weights. `checkpoint`: see `pretrain_model`."""
    network, preprocess = new_mini_resnet(settings.seed).to(device), PREPROCESS

    def loss_of_step(step: int) -> Tensor:
        pixels, labels = training_batch(settings.batch_size, step, settings.seed)
        return cross_entropy(network(preprocess(pixels.to(device))), labels.to(device))

    note = pretrain_model(network, loss_of_step, settings, checkpoint, save_every=save_every, progress=progress)
    note["source"] = "vp.models.mini_resnet.pretrain"
    artifacts.save(output, network.state_dict(), note)
    checkpoint.unlink(missing_ok=True)
    return note
