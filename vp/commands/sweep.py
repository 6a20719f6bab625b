"""python -m vp sweep FILE: perform all runs of a TOML file here or on Ray, or (--dry-run) say what that would be."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from vp.commands.bench import Work, measure
from vp.commands.fidelity import EXPECTATIONS
from vp.data.sources import DATA
from vp.experiments import Result, Run
from vp.experiments.speed import duration, kind_of_evaluation, kind_of_training
from vp.machine.errors import NotAvailable, VpError
from vp.machine.runtime import pick_device
from vp.report.measured import MeasuredGpu, load_measured
from vp.sweeps import Engine, Task
from vp.sweeps.estimate import estimate
from vp.sweeps.grid import expand
from vp.sweeps.progress import Progress
from vp.sweeps.stored import stored

SHOWN = 10  # names of a dry run
FAILED = 1  # exit code


def command(arguments: Namespace) -> int:
    """Perform a sweep, or say what it would be. Gives 0 when all is done, 1 when some runs failed."""
    if arguments.data:
        os.environ[DATA] = arguments.data
    tasks = expand(arguments.file)
    if arguments.dry_run:
        tell(arguments.file, tasks, arguments.device)
        return 0
    again = [
        f"--{name} {value}"
        for name, value in (("device", arguments.device), ("data", arguments.data))
        if value not in ("auto", None)
    ]
    return _perform(tasks, engine_of(arguments), " ".join([str(arguments.file), *again]))


def engine_of(arguments: Namespace) -> Engine:
    """The engine that is asked for. Raises VpError for an option of the other one, and where Ray is not installed."""
    if arguments.on == "local":
        for option in ("address", "gpu_share"):
            if getattr(arguments, option) is not None:
                raise VpError(f"--{option.replace('_', '-')} belongs to --on ray: give that, or leave it out")
        from vp.sweeps.local import LocalEngine

        return LocalEngine(arguments.workers, arguments.device)
    if arguments.workers is not None:
        raise VpError("--workers belongs to --on local: Ray knows how many its nodes have room for, see --gpu-share")
    try:
        engine: Engine = import_module("vp.sweeps.ray").RayEngine(arguments.address, arguments.gpu_share, arguments.device)
    except ModuleNotFoundError as error:
        raise VpError(f'--on ray needs Ray ({error}): pip install "vp[cluster]"') from error
    return engine


def _perform(tasks: Sequence[Task], engine: Engine, asked: str) -> int:
    progress = Progress(tasks)
    before = signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's word for Ctrl-C
    try:
        engine.perform(tasks, progress)
    finally:
        signal.signal(signal.SIGTERM, before)
        progress.close()
    if failed := progress.failed:
        print(f"{len(failed)} of {len(tasks)} runs failed; start again to try them once more. Logs:")
        for outcome in failed:
            print(f"  {outcome.log}  {outcome.words}")
        return FAILED
    print(f"all {len(tasks)} runs are in the store; next: python -m vp results {asked}")
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


# -- a dry run ------------------------------------------------------------------------------------------------------------


def tell(file: Path, tasks: Sequence[Task], device: str) -> None:
    """How many runs, how many of them in the store, how many device hours the others take, and the first names."""
    chosen = pick_device(device)
    try:
        found: list[Result | None] = [stored(task, device) for task in tasks]
        here = f"{sum(result is not None for result in found)} in the store already"
    except NotAvailable as missing:
        found, here = [None] * len(tasks), f"none can be looked up in the store: {missing}"
    print(f"{file}: {len(tasks)} runs, {here}")
    told = estimate(tasks, found, _gpu(chosen), partial(_measured, device=chosen), device)
    hours = f"{told.seconds / 3600:.3g} device hours ({duration(told.seconds)} in one process)"
    print(f"estimated for the others: {hours}" + "".join(f"\n  {words}" for words in told.rests_on))
    for task in tasks[:SHOWN]:
        print(f"{task.name:<48} {task.run.method!s}")
    if len(tasks) > SHOWN:
        print(f"... and {len(tasks) - SHOWN} more")


def _gpu(device: torch.device) -> MeasuredGpu | None:
    """What was measured on this GPU, or on any where this one was not or there is none."""
    gpus = load_measured(EXPECTATIONS)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((gpu for gpu in gpus if gpu.device == name), gpus[0] if gpus else None)


def _measured(run: Run, device: torch.device) -> Callable[[str], float]:
    """Seconds an image of the miniature's kinds of work, measured now; of full scale nothing, which would take minutes."""

    def seconds_per_image(kind: str) -> float:
        if run.scale != "mini" or kind not in (kind_of_training(run), kind_of_evaluation(run)):
            raise KeyError(kind)
        return _seconds_per_image(kind, run.backbone, run, kind == kind_of_training(run), device)

    return seconds_per_image


_MEASURED: dict[tuple[str, str], float] = {}


def _seconds_per_image(kind: str, backbone: str, run: Run, trains: bool, device: torch.device) -> float:
    if (kind, backbone) not in _MEASURED:
        speed = measure(Work(kind, run, trains), device, images=32, batch=32, repeats=1)
        _MEASURED[kind, backbone] = 1 / speed.images_per_s
    return _MEASURED[kind, backbone]
