"""python -m vp pretrain: a miniature model from the embedded world, resumable."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import replace

from vp.machine.errors import VpError
from vp.machine.home import home
from vp.machine.runtime import pick_device
from vp.models import mini_clip, mini_resnet


def pretrain(arguments: Namespace) -> None:
    """Train a miniature model of the package again."""
    model = {"mini-clip": mini_clip, "mini-resnet": mini_resnet}[arguments.model]
    whole = model.SETTINGS.steps
    steps = whole if arguments.steps is None else arguments.steps
    if steps < 1:
        raise VpError(f"--steps {steps}: give at least 1")
    if arguments.out is None and steps != whole:
        raise VpError(f"--steps {steps} is a try, not the {whole} steps of the package's weights: give --out a file to keep it in")
    out = arguments.out or model.WEIGHTS
    try:  # before the training, not after it
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise VpError(f"cannot write {out} ({error.strerror}): give --out a file in a folder you can write") from error
    checkpoint = home() / "pretrain" / f"{arguments.model}.safetensors"
    note = model.pretrain(out, checkpoint, replace(model.SETTINGS, steps=steps), device=pick_device(arguments.device))
    print(f"wrote {out} after {steps} steps, {note['seconds'] / 60:.1f} minutes")
