"""python -m vp ask: free-form prompting of your own pictures."""

from __future__ import annotations

import json
import os
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from vp.data import list_pictures, read_picture, square
from vp.data.folders import NAMED, read_all, shown
from vp.machine.errors import VpError
from vp.machine.runtime import pick_device
from vp.models import fill_template, label_probabilities, load_clip
from vp.report.writeup import prediction_bars


def ask(arguments: Namespace) -> None:
    """Print, and draw, how probable each label is for each picture."""
    texts = fill_template(arguments.template, arguments.labels)
    if arguments.most < 1:
        raise VpError(f"--most {arguments.most}: give at least 1")
    listed = list_pictures(arguments.images)
    clip = load_clip(arguments.backbone, pick_device(arguments.device))
    paths, pixels, _, broken = read_all(listed, shown(arguments.images), clip.preprocess.size, keep=False)
    if broken and arguments.strict:
        raise VpError("; ".join(broken[:NAMED]))
    for told in broken:
        print(f"note: left out: {told}", file=sys.stderr)
    if broken:
        print(f"note: {len(broken)} of {len(listed)} pictures left out", file=sys.stderr)
    probabilities = label_probabilities(clip, pixels, arguments.template, arguments.labels)
    if arguments.out:
        _draw(arguments, paths, probabilities)
    if unknown := clip.unknown_words(texts):
        print(f"note: {clip.name} has never seen the word(s) {', '.join(unknown)}; its answer ignores them", file=sys.stderr)
    rows = probabilities.tolist()
    if arguments.json:
        answers = [
            {"image": shown(p), "probabilities": dict(zip(arguments.labels, row, strict=True))}
            for p, row in zip(paths, rows, strict=True)
        ]
        print(json.dumps(answers, indent=2))
        return
    for path, row in zip(paths, rows, strict=True):
        print(f"{shown(path)}\t" + "\t".join(f"{label} {value:.1%}" for label, value in zip(arguments.labels, row, strict=True)))


def _draw(arguments: Namespace, paths: Sequence[Path], probabilities: Tensor) -> None:
    """The picture is drawn to a temporary name first: it is there whole or not at all."""
    chosen = sorted(random.Random(0).sample(range(len(paths)), min(arguments.most, len(paths))))
    drawn = [square(read_picture(paths[i]), 224) for i in chosen]
    titles = [shown(paths[i].relative_to(arguments.images)) for i in chosen]
    figure = prediction_bars(drawn, probabilities[chosen], arguments.labels, titles)
    out: Path = arguments.out
    temporary = out.parent / f".vp-{os.getpid()}.part"
    try:
        figure.savefig(temporary, dpi=150, format=out.suffix.removeprefix("."))
        temporary.replace(out)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VpError(
            f"cannot write {out} ({reason}): give a file ending in .png, .svg or .pdf in a folder you can write"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
