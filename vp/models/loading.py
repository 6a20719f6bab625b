"""Backbones by name: CLIPs and networks to fine-tune, full-size or miniature; libraries are imported where one is asked for."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vp.data.preprocess import CIFAR100_MEAN, CIFAR100_STD, CLIP_MEAN, CLIP_STD, Preprocess
from vp.machine.downloads import matches
from vp.machine.errors import NotAvailable, VpError
from vp.machine.runtime import own_random_stream
from vp.models.clip import FrozenCLIP
from vp.models.fine_tuning import PretrainedNetwork
from vp.models.weights import (
    RANDOM,
    _torchvision_names,
    check_clip_name,
    find_clip_weights,
    network_source,
    network_weights,
    weights_are_whole,
)


def load_clip(name: str, device: torch.device | str = "cpu") -> FrozenCLIP:
    """`mini-clip`, `MODEL/PRETRAINED` of open_clip, e.g. `ViT-B-32-quickgelu/openai`, or `MODEL/random` to rehearse.

    Raises VpError for an unknown name or the wrong activation function, NotAvailable when the weights are not on this machine.
    """
    if name in ("mini-clip", f"mini-clip/{RANDOM}"):
        from vp.models.mini_clip import load_mini_clip, random_mini_clip

        return (random_mini_clip() if name == f"mini-clip/{RANDOM}" else load_mini_clip()).to(device)
    import open_clip

    architecture, tag = check_clip_name(name)
    if tag == RANDOM:
        with own_random_stream(0), _without_log():
            model = open_clip.create_model(architecture)
    else:
        weights = find_clip_weights(architecture, tag)
        if weights is None:
            raise NotAvailable(f"the weights of {name} are not on this machine: run `python -m vp fetch {name}`")
        if not weights_are_whole(weights):
            raise NotAvailable(
                f"{weights} is truncated or altered, its checksum is wrong: delete it and run `python -m vp fetch {name}`"
            )
        try:
            with _without_log():
                model = open_clip.create_model(architecture, pretrained=str(weights))
        except Exception as error:  # damaged files make the readers raise many types
            raise NotAvailable(
                f"{weights} is truncated or damaged ({error}): delete it and run `python -m vp fetch {name}`"
            ) from error
    tokenizer = open_clip.get_tokenizer(architecture)
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        raise VpError(f"{name} reads text by {type(tokenizer).__name__}: give a model with open_clip's own, such as ViT-B-32")
    return FrozenCLIP(name, model, tokenizer, preprocess_of(model, architecture, tag)).to(device)


@contextmanager
def _without_log() -> Iterator[None]:
    """open_clip notes on the root logger what its caller has decided: random weights, weights from a file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def preprocess_of(model: Any, architecture: str, tag: str) -> Preprocess:
    """How a model's images are prepared, from open_clip's own records. Raises VpError for a way that is not built here."""
    from open_clip.pretrained import get_pretrained_cfg

    size = model.visual.image_size
    sides = size if isinstance(size, tuple) else (size, size)
    wanted: dict[str, Any] = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    wanted |= {key: value for key, value in get_pretrained_cfg(architecture, tag).items() if key in wanted and value}
    if sides[0] != sides[1] or wanted["resize_mode"] not in ("shortest", "squash"):
        raise VpError(
            f"{architecture}/{tag} takes images of {sides} px, resized by {wanted['resize_mode']!r}: give a model of square images "
            "that resizes by shortest or squash"
        )
    return Preprocess(
        sides[0],
        tuple(wanted["mean"]),
        tuple(wanted["std"]),
        wanted["interpolation"],
        wanted["resize_mode"] == "squash",
    )


def load_network(name: str) -> PretrainedNetwork:
    """`mini-resnet`, or `NETWORK/WEIGHTS` of torchvision, e.g. `resnet18/IMAGENET1K_V1`, or `NETWORK/random` to rehearse.

    In evaluation mode, on the CPU. Images are resized bilinearly (to 42 or 224 px) and normalised with the mean and standard
    deviation of CIFAR-100, as the report does. Raises VpError for an unknown name, NotAvailable when the weights are not on this
    machine.
    """
    architecture, _, tag = name.partition("/")
    if architecture == "mini-resnet":
        from vp.models.mini_resnet import PREPROCESS, load_mini_resnet, new_mini_resnet

        if tag not in ("", RANDOM):
            raise VpError(f"no weights {tag!r} of mini-resnet: it has its own only, give mini-resnet")
        return PretrainedNetwork(name, new_mini_resnet().eval() if tag else load_mini_resnet(), PREPROCESS)
    import torchvision

    known = _torchvision_names()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, ["mini-resnet", *known], n=3) or ["mini-resnet", "resnet18"]
        raise VpError(f"no network {architecture!r}: did you mean {', '.join(near)}? Torchvision's classifiers serve, by name")
    weights = None if tag == RANDOM else _read_weights(name, network_source(architecture, tag))
    with own_random_stream(0):
        network: nn.Module = torchvision.models.get_model(architecture)
    if weights is not None:
        network.load_state_dict(weights)
    return PretrainedNetwork(name, network.eval(), Preprocess(224, CIFAR100_MEAN, CIFAR100_STD, "bilinear"))


def _read_weights(name: str, url: str) -> dict[str, Tensor]:
    fetched, checksum = network_weights(url)
    candidates = [fetched, Path(torch.hub.get_dir()) / "checkpoints" / fetched.name]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise NotAvailable(f"the weights of {name} are not on this machine: run `python -m vp fetch {name}`")
    if not matches(path, checksum):
        raise NotAvailable(f"{path} is truncated or altered, its checksum is wrong: delete it and run `python -m vp fetch {name}`")
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files, and files that hold more than weights, make the reader raise many types
        reason = str(error).partition("\n")[0]
        raise NotAvailable(f"{path} is damaged ({reason}): delete it and run `python -m vp fetch {name}`") from error
    return weights
