"""What is here, which scale can run, how long it will take, and the next command to type."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from vp.commands.bench import TABLES, Speed, matrix_rate, measure, project, works
from vp.commands.fetch import needed, piece
from vp.data import data_root
from vp.data.cifar import load_cifar
from vp.evaluation.batches import KEPT_SHARE
from vp.experiments import SCALES
from vp.experiments.speed import duration
from vp.experiments.store import stored_results
from vp.machine.devices import usable_cores
from vp.machine.downloads import offline_because
from vp.machine.errors import NotAvailable
from vp.machine.home import given_store, home
from vp.machine.runtime import pick_device, precision

ASSUMED_SHARE = 0.35  # of the matrix rate, where full scale is not measured: `python -m vp bench` measures it
LEAST_SECONDS = 1e-5  # an image: a step of 128 takes a millisecond, however few its operations, unless it is recorded
GFLOP = {  # 1e9 operations an image of each kind of full-scale work: what `python -m vp bench --json` counts
    "visual prompt": 16.3,
    "deep prompt, k = 0": 18.4,
    "deep prompt, k = 6": 8.5,
    "deep prompt, k = 11": 0.03,
    "deep prompt, k = 11, prompt read out": 0.03,
    "head, drifting statistics": 3.6,
    "head, frozen statistics": 0.0,
    "head and layer1, frozen statistics": 7.7,
    "head and layer4, frozen statistics": 2.3,
    "evaluation, ViT-B-32-quickgelu": 8.1,
    "evaluation, resnet18": 3.6,
}
LAPTOP = "pytest -m gpu --device cpu --limit 1000 -k table_1_zero_shot"  # collects what trains nothing
LEAST_GIB = 4.0  # of a GPU: what training the padding prompt of ViT-B/32 takes in batches of 128
KEPT_GIB = 50_000 * (2 * 50 + 4) * 768 * 2 / 2**30  # of deep prompts for the last block: KeysAndValues and ClassTokenInputs


def examine(device_name: str, say: Callable[[str], None]) -> None:
    """Print line by line what this machine has and can do, and the next command to type."""
    device = pick_device(device_name)
    say(f"device: {_device(device)}")
    say(f"folder: {home()} ({_folder(home())})")
    missing = _missing(say)
    elsewhere = f" {given_store()}" if given_store() else ""
    say(f"results in the store{elsewhere}: {sum(1 for _ in stored_results())}")
    mini = sum(_project_mini(torch.device("cpu")).values())
    say(f"mini scale: can run here, about {duration(mini)} of training and evaluation in one process, without any download")
    full = sum(seconds for table, seconds in project("full", _assumed(device)).items() if table in TABLES)
    estimate = f"about {duration(full)} in one process, at {ASSUMED_SHARE:.0%} of this device's matrix rate"
    if small := _too_small(device):
        say(f"full scale: cannot run on this device, {small}; --device cpu can, with --limit")
    elif missing:
        say(f"full scale: cannot run yet, {', '.join(missing)} missing; then {estimate}")
    else:
        say(f"full scale: can run here, {estimate}")
    say(f"next: {_next(missing, device)}")


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        cores = f"{torch.get_num_threads()} threads" if device.type == "cpu" else "float32"
        return f"{device.type} ({cores}); no CUDA device is used"
    properties = torch.cuda.get_device_properties(device)
    dtype = str(precision(device)).removeprefix("torch.")
    small = f"; {_too_small(device)}" if _too_small(device) else ""
    return f"{torch.cuda.device_count()} x {properties.name}, {_gib(device):.0f} GiB, {dtype}{small}"


def _gib(device: torch.device) -> float:
    return float(torch.cuda.get_device_properties(device).total_memory / 2**30)


def _too_small(device: torch.device) -> str:
    """Why full scale cannot run on a GPU, if so."""
    if device.type != "cuda" or _gib(device) >= LEAST_GIB:
        return ""
    return f"too small for full scale, which takes {LEAST_GIB:.0f} GiB"


def _workers(device: torch.device) -> int:
    """How many test workers can keep what they compute once, as many on each GPU as on `device`, and the machine has cores for.

    With more, every step would compute it again: one on each GPU where not even one can keep it.
    """
    on_each = max(1, int(KEPT_SHARE * _gib(device) // KEPT_GIB))
    return min(torch.cuda.device_count() * on_each, usable_cores())


def _folder(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = "writable" if os.access(existing, os.W_OK) else "NOT writable: set VP_HOME to a folder you can write"
    return f"{writable}, {shutil.disk_usage(existing).free / 2**30:.0f} GiB free"


def _missing(say: Callable[[str], None]) -> list[str]:
    """The pieces of full scale that are not here; each is said with where it comes from, or why it is not taken."""
    missing = []
    for name in needed():
        if name in SCALES["full"].datasets.values():
            try:
                sources = dict.fromkeys(load_cifar(name, split, data_root()).source for split in ("train", "test"))
                say(f"data: {' and '.join(sources)}")
                continue
            except NotAvailable as error:
                say(f"data: {error}")
        elif piece(name).is_here():
            say(f"weights: {name}, here")
            continue
        else:
            say(f"weights: {name}, not here")
        missing.append(name)
    return missing


def _project_mini(device: torch.device) -> dict[str, float]:
    speeds: dict[str, Speed] = {work.name: measure(work, device, images=32, batch=32, repeats=1) for work in works("mini")}
    return project("mini", lambda kind: 1 / speeds[kind].images_per_s)


def _assumed(device: torch.device) -> Callable[[str], float]:
    """Seconds an image of each kind of full-scale work, from the matrix rate measured now."""
    rate = ASSUMED_SHARE * matrix_rate(device)
    return lambda kind: max(LEAST_SECONDS, 1e9 * GFLOP[kind.replace(" under noise", "")] / rate)


def _next(missing: list[str], device: torch.device) -> str:
    if missing and (variable := offline_because()):
        return f"unset {variable} and `python -m vp fetch`, or copy a folder that has it; `pytest --scale mini` runs without"
    if missing:
        return "`python -m vp fetch` for full scale; `pytest --scale mini --html=report.html` runs now"
    if device.type == "cuda" and not _too_small(device):
        return f"`pytest -m gpu -n {_workers(device)} --html=report.html --self-contained-html`"
    return f"`{LAPTOP}` for real CLIP on 1,000 real images"


def command(arguments: Namespace) -> None:
    examine(arguments.device, say=print)
