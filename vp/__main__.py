"""python -m vp list | run NAME | sweep | results | ask | check | pretrain | fetch | doctor | bench | fidelity | send.

Errors a user can mend are one line, exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TextIO

from vp.machine.device_lock import this_device
from vp.machine.errors import VpError

# Commands that need not wait for a measurement: they compute nothing, or take the device themselves, run by run.
OWN_TURN = ("list", "check", "fetch", "bench", "send", "sweep", "results")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vp", description="An executable report: list and perform its runs.")
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="the runs behind the report's tables")
    listing.add_argument("--json", action="store_true")
    listing.add_argument("--stored", action="store_true", help="the results in the store, in place of the runs")

    running = commands.add_parser("run", help="perform one run, or read it from the store")
    running.add_argument("name", nargs="?", help="as `list` prints it; or give --dataset and --method")
    own = running.add_argument_group("a run of your own")
    own.add_argument("--dataset", metavar="FOLDER", help="a folder of class folders, divided into train and test (or val) or not")
    own.add_argument("--method", help="padding, fixed-patch, ..., deep, linear-probe or zero-shot (default)")
    for setting in ("size", "n", "block"):
        own.add_argument(f"--{setting}", type=int, help="of the prompt")
    own.add_argument("--position", help="of deep prompts")
    own.add_argument("--readout", help="of deep prompts")
    own.add_argument("--backbone", help="mini-clip (default), or MODEL/PRETRAINED of open_clip")
    own.add_argument("--recipe", metavar="KEY=VALUE,...", help="e.g. optimiser=adam,learning_rate=0.1,epochs=3")
    own.add_argument("--template", help="e.g. 'a drawing of a {}' (default: This is a photo of a {})")
    own.add_argument("--templates", metavar="FILE", help="an ensemble: one template a line, or `openai` or `simple`")
    own.add_argument("--seeds", type=int, help="how many, from --seed on (default 1)")
    own.add_argument("--class-names", type=Path, metavar="FILE", help="one name a line, or a .toml file of FOLDER = 'name'")
    own.add_argument("--strict", action="store_true", help="refuse a folder with a broken picture, which else is left out")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--fresh", action="store_true", help="train again even if the store has it")
    running.add_argument("--json", action="store_true")
    running.add_argument("--limit", type=int, metavar="N", help="N test images, and N training images, in place of all")
    running.add_argument(
        "--data", metavar="ROOT", help="where CIFAR is: torchvision's files, or class folders below train and test"
    )
    for command in (listing, running):
        command.add_argument("--runs", type=Path, metavar="FILE", help="a Python file with your own runs: RUNS = [Run(...), ...]")
        command.add_argument("--scale", default="mini", help="mini (default) or full")

    sweeping = commands.add_parser("sweep", help="perform all runs of a TOML file of grids, here or on Ray")
    sweeping.add_argument("file", type=Path, metavar="FILE", help="[[grid]] tables: see vp/README.md")
    sweeping.add_argument("--dry-run", action="store_true", help="say how many runs, how many are stored, how long, and names")
    sweeping.add_argument("--on", default="local", choices=("local", "ray"), help="processes of this machine (default), or Ray")
    sweeping.add_argument("--workers", type=int, metavar="N", help="local: processes (default: one a core, or one a GPU)")
    sweeping.add_argument("--address", help="ray: of a cluster that this machine is in: auto or HOST:PORT (default: starts one)")
    sweeping.add_argument("--gpu-share", type=float, metavar="SHARE", help="ray: of a GPU for each run, e.g. 0.25")

    tabling = commands.add_parser("results", help="the results of a sweep as tables and plots")
    tabling.add_argument("file", type=Path, metavar="FILE", help="as given to sweep")
    tabling.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: FILE without .toml, and -results)")
    tabling.add_argument("--format", nargs="+", default=["csv"], choices=("csv", "parquet"), help="of the tables (default csv)")
    for command in (sweeping, tabling):
        command.add_argument("--data", metavar="ROOT", help="where CIFAR is, as for run")

    asking = commands.add_parser("ask", help="free-form prompting of your own pictures")
    asking.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="pictures of any size, anywhere below it")
    asking.add_argument("--template", required=True, help='e.g. "This image is mostly coloured {}"')
    asking.add_argument("--labels", nargs="+", required=True, help="what may stand for {}")
    asking.add_argument("--out", type=Path, help="also draw some of the pictures with probability bars (.png, .svg or .pdf)")
    asking.add_argument("--most", type=int, default=8, help="how many pictures to draw (default 8)")
    asking.add_argument("--backbone", default="mini-clip", help="mini-clip, or MODEL/PRETRAINED of open_clip")
    asking.add_argument("--json", action="store_true")
    asking.add_argument("--strict", action="store_true", help="refuse a folder with a broken picture, which else is left out")

    checking = commands.add_parser("check", help="ask the specification of solutions: points, and feedback for their authors")
    checking.add_argument("solutions", nargs="*", metavar="SOLUTION", help="FILE.py, NOTEBOOK.ipynb, a FOLDER of one solution, ...")
    checking.add_argument(
        "--course", action="append", default=[], metavar="FOLDER", help="each file and folder in it is a solution"
    )
    checking.add_argument("--scores", metavar="FILE", help="points for sections, names or statements (TOML; default: 100 in all)")
    checking.add_argument("--out", default="checked", metavar="FOLDER", help="results, and what a second call need not ask again")
    checking.add_argument(
        "--format",
        nargs="+",
        default=["html", "csv"],
        metavar="FORMAT",
        help="html (default: with csv), csv, gradescope, classroom, junit, json",
    )
    checking.add_argument(
        "--time-limit", type=float, default=10.0, metavar="S", help="seconds for one call of a solution (default 10)"
    )
    checking.add_argument("--jobs", type=int, metavar="N", help="solutions at the same time (default: one a core)")
    checking.add_argument("--fresh", action="store_true", help="ask again what is kept")
    checking.add_argument("--isolated", action="store_true", help="as another user, without a network, as far as the system allows")

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

    comparing = commands.add_parser("fidelity", help="how many differences between runs the miniature shares with full scale")
    comparing.add_argument("--scale", default="mini", choices=("mini", "full"))
    comparing.add_argument("--json", action="store_true")

    sending = commands.add_parser("send", help="store the results that the store did not take when they were made")

    for command in (running, sweeping, tabling, asking, pretraining, examining, timing):
        command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    performs = {listing: "runs:list_runs", running: "runs:run", asking: "ask:ask", pretraining: "pretrain:pretrain"}
    commands_of_a_file = (sweeping, tabling, checking, fetching, examining, timing, comparing, sending)
    performs |= {command: f"{command.prog.split()[-1]}:command" for command in commands_of_a_file}
    for command, function in performs.items():
        command.set_defaults(performs=function)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; 0 when done, 1 where a run of a sweep or a checked solution fails, 2 for an error the user can mend, 130 when
    interrupted."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.command == "run" and (arguments.name is None) == (arguments.dataset is None):
        parser.error("run: give the name of a run, or --dataset and --method")
    try:
        with warnings.catch_warnings(), nullcontext() if arguments.command in OWN_TURN else this_device().share():
            warnings.showwarning = _note
            module, _, function = arguments.performs.partition(":")
            code = getattr(import_module(f"vp.commands.{module}"), function)(arguments)
        sys.stdout.flush()
        return int(code or 0)
    except VpError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished runs and downloads so far are kept, start again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    """A warning of vp's is one line for people; one of a library keeps the place that it comes from."""
    ours = category.__module__.partition(".")[0] == "vp"
    told = (
        f"note: {' '.join(str(message).split())}\n" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    )
    (file or sys.stderr).write(told)


if __name__ == "__main__":
    sys.exit(main())
