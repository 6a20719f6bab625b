"""vp.models.mini_resnet: the miniature residual network, its file, and a pre-training that can be interrupted."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.models.resnet import ResNet

from tests.support.strategies import tensor
from vp.data.world import COLOUR_NAMES, TEN, draw, training_scenes
from vp.machine import artifacts
from vp.machine.errors import VpError
from vp.models import load_network, mini_resnet
from vp.models.mini_resnet import PREPROCESS, SETTINGS, WEIGHTS, load_mini_resnet, new_mini_resnet, pretrain, training_batch
from vp.models.pretraining import IMAGE_PX, Pretraining


def test_the_miniature_is_torchvisions_own_network() -> None:
    """The miniature residual network is torchvision's own ResNet: a stem, four stages of two blocks each, a linear layer."""
    network = new_mini_resnet(1).eval()
    images = tensor(0, 2, 3, IMAGE_PX, IMAGE_PX)
    sizes = []
    with torch.no_grad():
        x = relu(network.bn1(network.conv1(images)))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)
            sizes.append(tuple(x.shape[1:]))
        expected = x.mean((2, 3)) @ network.fc.weight.T + network.fc.bias
        torch.testing.assert_close(network(images), expected)
    assert isinstance(network, ResNet)
    assert sizes == [(16, 21, 21), (32, 11, 11), (64, 6, 6), (128, 3, 3)]
    assert [len(network.get_submodule(f"layer{i}")) for i in range(1, 5)] == [2, 2, 2, 2]
    assert sum(p.numel() for p in network.parameters()) == 713_076


def test_a_seed_gives_one_network() -> None:
    """One seed gives one network, another seed another, and torch's global stream stays where it was."""
    before = torch.get_rng_state()
    one, same, other = (new_mini_resnet(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_shipped_weights_are_whole_and_say_where_they_come_from() -> None:
    """The package's weights load, match their checksum, take at most 4 MB and carry settings, time and provenance."""
    assert WEIGHTS.stat().st_size <= 4e6
    tensors, note = artifacts.load(WEIGHTS)
    assert note["source"] == "vp.models.mini_resnet.pretrain"
    assert note["settings"] == asdict(SETTINGS)
    assert note["seconds"] > 0
    assert {"torch", "python", "device", "threads", "commit"} <= note["provenance"].keys()
    assert all(value.isfinite().all() for value in tensors.values())
    loaded = load_network("mini-resnet")
    assert not loaded.network.training
    assert all(torch.equal(value, tensors[name]) for name, value in loaded.network.state_dict().items())


def test_the_shipped_weights_know_what_they_were_trained_on() -> None:
    """On new clean scenes of its own classes the shipped network is right in at least nine of ten."""
    scenes, _ = training_scenes(500, step=10**6, seed=1, things=len(TEN))
    with torch.no_grad():
        predicted = load_mini_resnet()(PREPROCESS(draw(scenes, IMAGE_PX))).argmax(1)
    assert (predicted == scenes.silhouette * len(COLOUR_NAMES) + scenes.colour).float().mean() >= 0.9


def test_pretraining_never_shows_the_silhouettes_of_mini100() -> None:
    """Pre-training shows the ten silhouettes of mini10 in every colour; those of mini100 are new to the network."""
    labels = torch.cat([training_batch(96, step, 0)[1] for step in range(20)])
    assert labels.min() >= 0
    assert set(range(100)) == set(labels.tolist())
    scenes, _ = training_scenes(1000, step=0, seed=0, things=len(TEN))
    assert set(scenes.silhouette.tolist()) == set(range(len(TEN)))


@pytest.mark.parametrize("damage", ["missing", "altered", "another"])
def test_weights_that_are_missing_or_damaged_name_the_cure(damage: str, tmp_path: Path) -> None:
    """Weights that are missing, altered or another model's are an error of one line that names file and cure."""
    path = tmp_path / "weights.safetensors"
    if damage == "another":
        artifacts.save(path, nn.Linear(2, 2).state_dict(), {})
    if damage == "altered":
        content = bytearray(WEIGHTS.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
    with pytest.raises(VpError, match="run `python -m vp pretrain mini-resnet`") as error:
        load_mini_resnet(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# -- pre-training ----------------------------------------------------------------------------------------------------------

QUICK = Pretraining(steps=4, batch_size=8, warmup=2)
EVERY_TWO: dict[str, Any] = {"save_every": 2, "progress": False}


class Interrupted(Exception):
    pass


def pretrained(folder: Path, settings: Pretraining = QUICK) -> dict[str, Tensor]:
    pretrain(folder / "weights", folder / "checkpoint", settings, **EVERY_TWO)
    assert not (folder / "checkpoint").exists()
    return artifacts.load(folder / "weights")[0]


def test_an_interrupted_pretraining_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted and started again, pre-training ends at bit-equal weights and running statistics."""
    straight = pretrained(tmp_path / "straight")
    taken: list[int] = []

    def watched(batch_size: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
        if len(taken) == 3:
            raise Interrupted
        taken.append(step)
        return training_batch(batch_size, step, seed)

    monkeypatch.setattr(mini_resnet, "training_batch", watched)
    with pytest.raises(Interrupted):
        pretrained(tmp_path / "resumed")
    assert taken == [0, 1, 2]
    taken.clear()
    resumed = pretrained(tmp_path / "resumed")
    assert taken == [2, 3]
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_pretraining_moves_all_weights_and_statistics(tmp_path: Path) -> None:
    """Pre-training moves every weight and every running statistic, and another seed leads elsewhere."""
    started, ended = new_mini_resnet(QUICK.seed).state_dict(), pretrained(tmp_path / "one")
    assert all(not torch.equal(value, ended[name]) for name, value in started.items())
    other = pretrained(tmp_path / "other", replace(QUICK, seed=1))
    assert not torch.equal(other["fc.weight"], ended["fc.weight"])
