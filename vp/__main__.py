"""python -m vp list | run NAME | ask | pretrain | fetch | doctor | bench. Errors a user can mend are one line, exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from torch import Tensor

from vp.runtime import VpError, home, pick_device
from vp.sharing import this_device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vp", description="An executable report: list and perform its runs.")
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="the runs behind the report's tables")
    listing.add_argument("--json", action="store_true")

    running = commands.add_parser("run", help="perform one run, or read it from the store")
    running.add_argument("name", help="as `list` prints it")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--fresh", action="store_true", help="train again even if the store has it")
    running.add_argument("--json", action="store_true")
    running.add_argument("--limit", type=int, metavar="N", help="N test images, and N training images, in place of all")
    running.add_argument(
        "--data", metavar="ROOT", help="where CIFAR is: torchvision's files, or class folders below train and test"
    )
    for command in (listing, running):
        command.add_argument("--scale", default="mini", help="mini (default) or full")

    asking = commands.add_parser("ask", help="free-form prompting of your own pictures")
    asking.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="pictures of any size, anywhere below it")
    asking.add_argument("--template", required=True, help='e.g. "This image is mostly coloured {}"')
    asking.add_argument("--labels", nargs="+", required=True, help="what may stand for {}")
    asking.add_argument("--out", type=Path, help="also draw some of the pictures with probability bars (.png, .svg or .pdf)")
    asking.add_argument("--most", type=int, default=8, help="how many pictures to draw (default 8)")
    asking.add_argument("--backbone", default="mini-clip", help="mini-clip, or MODEL/PRETRAINED of open_clip")
    asking.add_argument("--json", action="store_true")

    pretraining = commands.add_parser("pretrain", help="train a miniature model from the embedded world, resumable")
    pretraining.add_argument("model", nargs="?", default="mini-clip", choices=("mini-clip", "mini-resnet"))
    pretraining.add_argument("--steps", type=int, help="fewer for a try (default: what the shipped weights were trained with)")
    pretraining.add_argument("--out", type=Path, help="where to write the weights (default: into the package)")

    fetching = commands.add_parser("fetch", help="download what full scale needs into VP_HOME; goes on where it stopped")
    fetching.add_argument("names", nargs="*", help="datasets or weights, e.g. cifar10 ViT-B-32-quickgelu/openai (default: all)")

    examining = commands.add_parser("doctor", help="what is here, what can run, how long it takes, and what to type next")

    timing = commands.add_parser("bench", help="images a second of each kind of work, and the time each table takes")
    timing.add_argument("--scale", default="full", choices=("mini", "full"))
    timing.add_argument("--images", type=int, help="how many to measure on (default: 5,120 on CUDA; 8 elsewhere, a rehearsal)")
    timing.add_argument("--batch", type=int, help="images of a training step (default: 128 on CUDA, 4 elsewhere)")
    timing.add_argument("--json", action="store_true")

    for command in (running, asking, pretraining, examining, timing):
        command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    return parser


def _list(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from vp.experiments import runs

    known = runs(arguments.scale)
    if arguments.json:
        print(json.dumps([asdict(run) for run in known.values()], indent=2))
        return
    for run in known.values():
        prompt = str(run.adaptation or "zero-shot")
        print(f"{run.name:<22} {run.table:<9} {run.dataset:<9} {run.split:<6} {prompt:<20} {run.backbone}")


def _run(arguments: argparse.Namespace) -> None:
    import time

    from vp.data.sources import DATA
    from vp.experiments import find_run, vary
    from vp.store import obtain

    if arguments.data:
        os.environ[DATA] = arguments.data
    run = vary(find_run(arguments.name, arguments.scale), arguments.limit)
    if not 0 <= arguments.seed < 2**32:
        raise VpError(f"--seed {arguments.seed}: give 0 to 2^32 - 1")
    result = obtain(run, arguments.seed, device=arguments.device, newer_than=time.time() if arguments.fresh else None)
    if arguments.json:
        print(json.dumps(result.summary(), indent=2))
        return
    low, high = result.interval()
    print(f"{run.name} ({run.scale}, seed {result.seed}): {result.correct} of {result.total} correct, top-1 {result.top1:.2f}%")
    print(f"95% interval {low:.2f} to {high:.2f}%; {result.trained_parameters} trained parameters; {result.seconds:.1f} s")


def _ask(arguments: argparse.Namespace) -> None:
    import torch

    from vp.data import list_pictures, read_picture, square
    from vp.models import fill_template, label_probabilities, load_clip

    texts = fill_template(arguments.template, arguments.labels)
    if arguments.most < 1:
        raise VpError(f"--most {arguments.most}: give at least 1")
    paths = list_pictures(arguments.images)
    clip = load_clip(arguments.backbone, pick_device(arguments.device))
    size = clip.preprocess.size
    pixels = torch.stack([square(read_picture(path), size) for path in paths])
    probabilities = label_probabilities(clip, pixels, arguments.template, arguments.labels)
    if arguments.out:
        _draw(arguments, paths, probabilities)
    if unknown := clip.unknown_words(texts):
        print(f"note: {clip.name} has never seen the word(s) {', '.join(unknown)}; its answer ignores them", file=sys.stderr)
    rows = probabilities.tolist()
    if arguments.json:
        answers = [
            {"image": _shown(p), "probabilities": dict(zip(arguments.labels, row, strict=True))}
            for p, row in zip(paths, rows, strict=True)
        ]
        print(json.dumps(answers, indent=2))
        return
    for path, row in zip(paths, rows, strict=True):
        print(f"{_shown(path)}\t" + "\t".join(f"{label} {value:.1%}" for label, value in zip(arguments.labels, row, strict=True)))


def _shown(path: Path) -> str:
    """A path as text: bytes of its name that are none, as on old disks, become the sign for what cannot be shown."""
    return os.fsencode(path).decode(errors="replace")


def _draw(arguments: argparse.Namespace, paths: Sequence[Path], probabilities: Tensor) -> None:
    """The picture is drawn to a temporary name first: it is there whole or not at all."""
    from vp.data import read_picture, square
    from vp.writeup import prediction_bars

    chosen = sorted(random.Random(0).sample(range(len(paths)), min(arguments.most, len(paths))))
    shown = [square(read_picture(paths[i]), 224) for i in chosen]
    titles = [_shown(paths[i].relative_to(arguments.images)) for i in chosen]
    figure = prediction_bars(shown, probabilities[chosen], arguments.labels, titles)
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


def _pretrain(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from vp.models import mini_clip, mini_resnet

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


def _fetch(arguments: argparse.Namespace) -> None:
    from vp.fetch import fetch, needed

    fetch(arguments.names or needed(), say=print)
    print(f"all here, in {home()}: copy that folder to machines without network. next: python -m vp doctor")


def _doctor(arguments: argparse.Namespace) -> None:
    from vp.doctor import examine

    examine(arguments.device, say=print)


def _bench(arguments: argparse.Namespace) -> None:
    from vp.bench import bench

    for option in ("images", "batch"):
        if (given := getattr(arguments, option)) is not None and given < 2:
            raise VpError(f"--{option} {given}: give at least 2")
    say = (lambda _: None) if arguments.json else print
    device = pick_device(arguments.device)
    with this_device().alone():
        measured = bench(arguments.scale, device, arguments.images, arguments.batch, say)
    if arguments.json:
        print(json.dumps(measured, indent=2))


_COMMANDS = {
    "list": _list,
    "run": _run,
    "ask": _ask,
    "pretrain": _pretrain,
    "fetch": _fetch,
    "doctor": _doctor,
    "bench": _bench,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; 0 when done, 2 for an error the user can mend, 130 when interrupted."""
    arguments = _parser().parse_args(words)
    try:
        with nullcontext() if arguments.command in ("list", "fetch", "bench") else this_device().share():
            _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except VpError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished runs and downloads so far are kept, start again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
