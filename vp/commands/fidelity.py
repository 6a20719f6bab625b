"""python -m vp fidelity: how many differences between runs the miniature shares with full scale. Nothing is trained."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Collection
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import fmean

from vp.experiments import Run, runs
from vp.experiments.store import stored_result, stored_results
from vp.machine.errors import NotAvailable, VpError
from vp.report.expectations import load_expectations
from vp.report.fidelity import FILE, HEAD, in_words, judge, load_fidelity, rows_of

EXPECTATIONS = Path(__file__).parents[2] / "expectations"


def stored(run: Run, names: Collection[str]) -> float | None:
    """The run's top-1 in percent if the store, which has runs of these `names`, has it: the mean over seeds 0, 1, ... as far as
    they are there. Trains nothing."""
    if run.name not in names:
        return None  # so that neither images nor weights need to be read for its key
    found: list[float] = []
    for seed in count():
        try:
            result = stored_result(run, seed)
        except NotAvailable:
            break
        if result is None:
            break
        found.append(result.top1)
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
    there = {one.run for one in stored_results()}
    measured = {name: top1 for name in names if (top1 := stored(known[name], there)) is not None}
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
