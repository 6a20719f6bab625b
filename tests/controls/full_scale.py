"""Wrong assignments, downloads, gradients, samples and rehearsals. Each breaks a sentence of tests/machinery/test_full_scale.py."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vp.data import ImageSet

# -- devices: test_workers_share_the_callers_devices_evenly -----------------------------------------------------------------


def everyone_on_the_first(worker: int, workers: int, devices: list[str]) -> tuple[str, int]:
    """The other devices idle."""
    return (devices[0], workers) if devices else ("", 1)


def by_number_alone(worker: int, workers: int, devices: list[str]) -> tuple[str, int]:
    """Counts from 0, whatever the caller made visible."""
    place = worker % len(devices)
    return str(place), len(range(place, workers, len(devices)))


def forgets_who_shares(worker: int, workers: int, devices: list[str]) -> tuple[str, int]:
    """Every worker believes that it is alone."""
    return devices[worker % len(devices)], 1


def blocks_of_workers(worker: int, workers: int, devices: list[str]) -> tuple[str, int]:
    """Workers in blocks, rounded up: five workers on four devices leave one of them idle."""
    each = -(-workers // len(devices))
    place = worker // each
    return devices[place], min(each, workers - place * each)


# -- downloads: the tests of interrupted and damaged downloads --------------------------------------------------------------


def download_from_the_start(url: str, path: Path, checksum: str, progress: bool = True) -> None:
    """Throws away what has come."""
    urllib.request.urlretrieve(url, path)


def download_appending(url: str, path: Path, checksum: str, progress: bool = True) -> None:
    """Appends whatever the server sends, also where it cannot go on in the middle."""
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request) as response, part.open("ab") as file:
        file.write(response.read())
    part.replace(path)


def download_believing(url: str, path: Path, checksum: str, progress: bool = True) -> None:
    """No checksum."""
    with suppress(OSError), urllib.request.urlopen(url) as response:
        path.write_bytes(response.read())


# -- gradients in parts: test_a_batch_in_parts_has_the_gradient_of_the_whole ------------------------------------------------


def mean_of_means(model: nn.Module, inputs: Tensor, labels: Tensor, at_once: int) -> float:
    """Parts weigh alike, whatever their size."""
    parts = list(zip(inputs.split(at_once), labels.split(at_once), strict=True))
    losses = [cross_entropy(model(some), true) / len(parts) for some, true in parts]
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.item()


def sum_of_means(model: nn.Module, inputs: Tensor, labels: Tensor, at_once: int) -> float:
    """As if each part were a batch of its own."""
    losses = [cross_entropy(model(i), t) for i, t in zip(inputs.split(at_once), labels.split(at_once), strict=True)]
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.item()


def drops_the_rest(model: nn.Module, inputs: Tensor, labels: Tensor, at_once: int) -> float:
    """Half a batch for a whole one."""
    loss = cross_entropy(model(inputs[:at_once]), labels[:at_once])
    loss.backward()
    return loss.item()


def logits_in_mixed_precision(image_features: Tensor, text_features: Tensor, scale: float) -> Tensor:
    """As autocast has them: test_logits_keep_their_precision."""
    return scale * image_features @ text_features.T


# -- some of the images: test_a_sample_is_the_same_at_every_call_and_of_all_classes -----------------------------------------


def the_first(images: ImageSet, count: int) -> ImageSet:
    """Of class folders: the first classes alone."""
    return images.take(torch.arange(count))


def another_each_time(images: ImageSet, count: int) -> ImageSet:
    """From torch's global stream."""
    return images.take(torch.randperm(len(images))[:count])


def with_repeats(images: ImageSet, count: int) -> ImageSet:
    """Some images twice."""
    return images.take(torch.randint(len(images), (count,), generator=torch.Generator().manual_seed(0)))


# -- rehearsals: test_a_rehearsal_forgives_verdicts_and_nothing_else --------------------------------------------------------


@contextmanager
def forgives_everything(recorded: Callable[[], list[Any]]) -> Iterator[None]:
    """What breaks passes, too."""
    with suppress(Exception, pytest.fail.Exception):
        yield


@contextmanager
def forgives_any_failure(recorded: Callable[[], list[Any]]) -> Iterator[None]:
    """Also one before anything was rehearsed."""
    with suppress(pytest.fail.Exception):
        yield
