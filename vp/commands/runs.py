"""python -m vp list | run NAME."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace

from vp.commands.own import OF_ONES_OWN, run_own
from vp.data.sources import DATA
from vp.experiments import find_run, own_runs, runs, vary
from vp.experiments.store import obtain, stored_results
from vp.machine.errors import VpError


def list_runs(arguments: Namespace) -> None:
    """Print the runs of a scale, or the results in the store, one a line, or as JSON."""
    if arguments.stored:
        _list_stored(arguments.json)
        return
    known = own_runs(arguments.runs) if arguments.runs else runs(arguments.scale)
    if arguments.json:
        print(json.dumps([run.as_dict() for run in known.values()], indent=2))
        return
    for run in known.values():
        print(f"{run.name:<22} {run.table:<9} {run.dataset:<9} {run.split:<6} {run.method!s:<20} {run.backbone}")


def _list_stored(as_json: bool) -> None:
    if as_json:
        separator = "["
        for one in stored_results(summaries=True):  # printed one by one: many may not fit into memory together
            print(separator, json.dumps({"name": one.name, "key": one.key, **(one.summary or {})}, indent=2), sep="\n")
            separator = ","
        print("[]" if separator == "[" else "]")
        return
    for one in stored_results():
        print(f"{one.run:<30} {one.key}")


def run(arguments: Namespace) -> None:
    """Perform a run, or read it from the store, and print its accuracy."""
    if arguments.data:
        os.environ[DATA] = arguments.data
    newer_than = time.time() if arguments.fresh else None
    if not 0 <= arguments.seed < 2**32:
        raise VpError(f"--seed {arguments.seed}: give 0 to 2^32 - 1")
    if arguments.dataset:
        run_own(arguments, newer_than)
        return
    if given := [name for name in OF_ONES_OWN if getattr(arguments, name) not in (None, False)]:
        raise VpError(f"--{given[0].replace('_', '-')} belongs to a run of your own: give --dataset in place of {arguments.name!r}")
    asked = find_run(arguments.name, arguments.scale, own_runs(arguments.runs) if arguments.runs else None)
    if arguments.limit is not None:
        asked = vary(asked, arguments.limit)
    result = obtain(asked, arguments.seed, device=arguments.device, newer_than=newer_than)
    if arguments.json:
        print(json.dumps(result.summary(), indent=2))
        return
    low, high = result.interval()
    print(f"{asked.name} ({asked.scale}, seed {result.seed}): {result.correct} of {result.total} correct, top-1 {result.top1:.2f}%")
    print(f"95% interval {low:.2f} to {high:.2f}%; {result.trained_parameters} trained parameters; {result.seconds:.1f} s")
