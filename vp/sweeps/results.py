"""The results of a sweep as tables: a row a run and seed, and a row a run with mean and spread over its seeds."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vp.experiments import Result
from vp.experiments.store import ConflictingResults
from vp.machine.errors import VpError
from vp.sweeps.grid import FIELDS, settings_of
from vp.sweeps.stored import stored
from vp.sweeps.tasks import Task

Row = dict[str, Any]
SETTINGS = tuple(key for key in FIELDS if key not in ("seeds", "templates"))
OUTCOME = ("correct", "total", "top1", "low95", "high95", "validation_top1", "trained_parameters", "best_epoch", "seconds")
PROVENANCE = (
    *("vp", "torch", "torchvision", "open_clip_torch", "numpy", "pillow", "python"),
    *("precision", "device", "threads", "commit", "images"),
)
SPREAD = ("seeds", "seeds_missing", "mean_top1", "std_top1", "lowest_top1", "highest_top1", "mean_validation_top1")
MEANS = ("trained_parameters", "mean_seconds", "total_seconds")


@dataclass(frozen=True)
class Table:
    """Rows with the same columns; None where a row has no such value."""

    columns: tuple[str, ...]
    rows: list[Row]


def rows_of(tasks: Sequence[Task], device: str = "auto") -> Table:
    """A row a Task: status `stored`, `missing` or `conflict` (two results differ), its settings, and of a stored one what came out.

    top1 is in percent, with its Wilson interval low95 to high95; seconds are those of the run, in its process; provenance_* says
    with what and where it was computed. Raises VpError where no Task is stored.
    """
    rows = [_row(task, device) for task in tasks]
    if all(row["status"] != "stored" for row in rows):
        raise VpError(f"none of the {len(rows)} runs is in the store: perform them by `python -m vp sweep` first")
    outcome = (*OUTCOME, *(f"provenance_{key}" for key in PROVENANCE))
    return Table(("run", "seed", "status", "scale", "split", *SETTINGS, "weights_from", *outcome), rows)


def _row(task: Task, device: str) -> Row:
    try:
        return row_of(task, stored(task, device))
    except ConflictingResults:
        return row_of(task, None) | {"status": "conflict"}


def row_of(task: Task, result: Result | None) -> Row:
    """The row of a Task and its Result, None where it is missing."""
    run, settings = task.run, settings_of(task)
    template = settings["template"] or "; ".join(settings["templates"])
    row: Row = {"run": run.name, "seed": task.seed, "status": "missing" if result is None else "stored"}
    row |= {"scale": run.scale, "split": run.split, "weights_from": run.weights_from}
    row |= {key: settings[key] for key in SETTINGS} | {"template": template}
    if result is None:
        return row
    low, high = result.interval()
    row |= {key: getattr(result, key) for key in ("correct", "total", "top1", "trained_parameters", "best_epoch", "seconds")}
    row |= {"low95": low, "high95": high, "validation_top1": result.validation_top1 if result.history else None}
    return row | {f"provenance_{key}": result.provenance.get(key) for key in PROVENANCE}


def aggregate(table: Table) -> Table:
    """A row a run that has a stored seed: how many seeds are stored and missing, mean, sample standard deviation (n - 1; None for
    one seed) and range of top1 over seeds, seconds, and the settings."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    keys = ("run", "scale", "split", *SETTINGS, "weights_from")
    for row in table.rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    rows = []
    for values, some in groups.items():
        if here := [row for row in some if row["status"] == "stored"]:
            rows.append(dict(zip(keys, values, strict=True)) | _spread(here, len(some) - len(here)))
    return Table((*keys, *SPREAD, *MEANS), rows)


def _spread(rows: Sequence[Row], missing: int) -> Row:
    tops = [row["top1"] for row in rows]
    validation = [row["validation_top1"] for row in rows if row["validation_top1"] is not None]
    return {
        "seeds": len(rows),
        "seeds_missing": missing,
        "mean_top1": fmean(tops),
        "std_top1": stdev(tops) if len(tops) > 1 else None,
        "lowest_top1": min(tops),
        "highest_top1": max(tops),
        "mean_validation_top1": fmean(validation) if validation else None,
        "trained_parameters": rows[0]["trained_parameters"],
        "mean_seconds": fmean(row["seconds"] for row in rows),
        "total_seconds": sum(row["seconds"] for row in rows),
    }


def write(table: Table, path: Path) -> None:
    """Write a table to a .csv or .parquet file. Raises VpError where the file cannot be written, or pyarrow is missing."""
    with writing_out(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            _write_parquet(table, path)
        else:
            _write_csv(table, path)


@contextmanager
def writing_out(path: Path) -> Iterator[None]:
    """Turns an OSError in the context into a VpError with the reason and the cure."""
    try:
        yield
    except OSError as error:
        raise VpError(f"cannot write {path} ({error.strerror or error}): free space, or give another --out") from error


def _write_csv(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table.columns, restval="", extrasaction="raise")
        writer.writeheader()
        writer.writerows(table.rows)


def _write_parquet(table: Table, path: Path) -> None:
    pyarrow, parquet = _pyarrow()
    content = {column: [row.get(column) for row in table.rows] for column in table.columns}
    parquet.write_table(pyarrow.table(content), path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise VpError(f'parquet needs pyarrow ({error}): pip install "vp[cluster]", or give --format csv') from error
    return pyarrow, pyarrow.parquet


def check_formats(formats: Sequence[str]) -> None:
    """Raises VpError for parquet where pyarrow is missing: before anything is read."""
    if "parquet" in formats:
        _pyarrow()


def missing_of(table: Table) -> list[str]:
    """NAME-sSEED of each run that has no result in the store, or two that differ."""
    return [f"{row['run']}-s{row['seed']}" for row in table.rows if row["status"] != "stored"]


def best_by_validation(rows: Sequence[Mapping[str, Any]], cell: Sequence[str]) -> list[Mapping[str, Any]]:
    """Of aggregated rows that agree in the `cell` columns the one with the highest mean validation accuracy; test images choose
    nothing. What was not trained has no such accuracy, and the first stands."""
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = tuple(row[column] for column in cell)
        if key not in best or (row["mean_validation_top1"] or 0) > (best[key]["mean_validation_top1"] or 0):
            best[key] = row
    return list(best.values())
