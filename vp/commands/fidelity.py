"""python -m vp fidelity: how many differences between runs the miniature shares with full scale. Nothing is trained."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import fmean

from vp.experiments import Run, runs
from vp.experiments.store import load_result, result_path, run_key, store_folder
from vp.machine.artifacts import CorruptArtifact
from vp.machine.errors import NotAvailable, VpError
from vp.report.expectations import load_expectations
from vp.report.fidelity import FILE, HEAD, in_words, judge, load_fidelity, rows_of

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
ANY_KEY = "[0-9a-f]" * 24


def stored(run: Run) -> float | None:
    """The run's top-1 in percent if the store has it, the mean over seeds 0, 1, ... as far as they are there. Trains nothing."""
    if not any(store_folder().glob(f"{run.name}-{ANY_KEY}.safetensors")):
        return None  # so that neither images nor weights need to be read for its key
    found: list[float] = []
    for seed in count():
        try:
            key = run_key(run, seed)
            found.append(load_result(result_path(run, key), key).top1)
        except (NotAvailable, CorruptArtifact, OSError):
            break
        if not run.method.learns:
            break  # the same for every seed
    return fmean(found) if found else None


def command(arguments: Namespace) -> None:
    """Print the contrasts, what each is here, and the line that counts those that agree."""
    if not (EXPECTATIONS / FILE).is_file():
        raise VpError(
            f"{EXPECTATIONS / FILE} is missing: the package is installed without the project's folder expectations/. "
            "Run `python -m vp fidelity` with the package of a clone: pip install -e ."
        )
    contrasts = load_fidelity(EXPECTATIONS)
    known, expected = runs(arguments.scale), load_expectations(EXPECTATIONS, arguments.scale)
    names = dict.fromkeys(name for contrast in contrasts for name in (contrast.first, contrast.second))
    measured = {name: top1 for name in names if (top1 := stored(known[name])) is not None}
    judged = judge(contrasts, {name: one.value for name, one in expected.items()} | measured)
    if arguments.json:
        shown = [{**asdict(one.contrast), "own": one.own, "sign": one.sign, "size": one.size} for one in judged]
        print(json.dumps({"scale": arguments.scale, "line": in_words(judged), "stored": [*measured], "contrasts": shown}, indent=2))
        return
    table = [HEAD[:-1], *(row[:-1] for row in rows_of(judged))]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD) - 1)]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    committed = sum(name in expected and name not in measured for name in names)
    print(
        f"\nvalues at scale {arguments.scale}: {len(measured)} of {len(names)} runs from the store, "
        f"{committed} from expectations/{arguments.scale}"
    )
    print(in_words(judged))
