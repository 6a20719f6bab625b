"""python -m vp results FILE: what came out of a sweep as tables and plots. Nothing is performed."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path

from vp.data.sources import DATA
from vp.sweeps.grid import expand
from vp.sweeps.plots import FIGURES, save
from vp.sweeps.results import aggregate, check_formats, missing_of, rows_of, write

SHOWN = 10  # missing runs that are named


def command(arguments: Namespace) -> None:
    """Write runs and runs-over-seeds in each format, and the plots; name what is missing."""
    if arguments.data:
        os.environ[DATA] = arguments.data
    check_formats(arguments.format)
    tasks = expand(arguments.file)
    table = rows_of(tasks, arguments.device)
    over_seeds = aggregate(table)
    out: Path = arguments.out or arguments.file.with_name(f"{arguments.file.stem}-results")
    written = []
    for name, some in (("runs", table), ("over-seeds", over_seeds)):
        for suffix in dict.fromkeys(arguments.format):
            written.append(out / f"{name}.{suffix}")
            write(some, written[-1])
    for name, draw in FIGURES.items():
        if (figure := draw(over_seeds.rows)) is not None:
            written.append(out / f"{name}.svg")
            save(figure, written[-1])
    missing = missing_of(table)
    print(f"{len(tasks) - len(missing)} of {len(tasks)} runs, {len(over_seeds.rows)} over seeds:")
    for path in written:
        print(f"  {path}")
    if missing:
        few = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        print(
            f"note: {len(missing)} runs are missing, or differ in the store (status `missing` or `conflict` in the table): {few}",
            file=sys.stderr,
        )
        print(f"note: `python -m vp sweep {arguments.file}` performs them", file=sys.stderr)
