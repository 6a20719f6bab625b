"""Measurements of GPUs by `.ci/gpu`: expectations/full/measured.toml, one [[gpu]] a device.

Nothing is held to these numbers: README and the writeup show them, with device, date and commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from vp.machine.errors import VpError
from vp.report.expectations import MEASURED, place, read_toml


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network of section 1.1: ms of a batch of 8, and MiB at the peak of a batch of 64, without and with gradients."""

    ms_without: float
    ms_with: float
    peak_mib_without: float
    peak_mib_with: float


@dataclass(frozen=True)
class MeasuredGpu:
    """The measurements of one device. `images_per_s`, `share_of_matrix_rate` and `seconds` are those of `python -m vp bench`."""

    device: str
    date: str
    commit: str
    versions: Mapping[str, str]
    matrix_tflop_per_s: float
    images_per_s: Mapping[str, float]
    share_of_matrix_rate: Mapping[str, float]
    seconds: Mapping[str, float]  # of each table, one process, one seed
    networks: Mapping[str, MeasuredNetwork]
    laws: Mapping[str, str]  # outcome of each test marked `gpu` that is a law
    steps: Mapping[str, str]  # of the proof: what came out, in words

    @property
    def total_seconds(self) -> float:
        """The report's tables, one process, one seed."""
        return sum(seconds for table, seconds in self.seconds.items() if table.startswith("table"))


def load_measured(root: Path) -> list[MeasuredGpu]:
    """All devices of full/measured.toml, none without the file. Raises VpError that names file, line and field if malformed."""
    path = root / "full" / MEASURED
    if not path.is_file():
        return []
    entries = read_toml(path).get("gpu")
    if not isinstance(entries, list):
        raise VpError(f"{path}: expected [[gpu]] tables, one a device")
    return [_parse(path, number, entry) for number, entry in enumerate(entries)]


def _parse(path: Path, number: int, entry: Mapping[str, Any]) -> MeasuredGpu:
    where = place(path, "gpu", nth=number)
    wanted = {field.name: field.type for field in fields(MeasuredGpu)}
    if {*entry} != {*wanted}:
        odd = sorted({*entry} ^ {*wanted})
        raise VpError(f"{where}: [[gpu]] has or lacks {', '.join(odd)}: give exactly {', '.join(wanted)}")
    for name, kind in wanted.items():
        values = [*entry[name].values()] if isinstance(entry[name], dict) else [entry[name]]
        expected: Any = str if kind in ("str", "Mapping[str, str]") else dict if "Network" in kind else (int, float)
        if not values or not all(isinstance(value, expected) for value in values):
            raise VpError(f"{where}: {name} is {entry[name]!r}, expected {kind}")
        if expected == (int, float) and not all(0 < value < float("inf") for value in values):
            raise VpError(f"{where}: {name} is {entry[name]!r}, expected numbers above 0")
    try:
        networks = {name: MeasuredNetwork(**values) for name, values in entry["networks"].items()}
    except TypeError as error:
        raise VpError(f"{where}: networks: {error}") from error
    return MeasuredGpu(**{**entry, "networks": networks})


def table_of_gpus(gpus: Sequence[MeasuredGpu]) -> dict[str, Any]:
    """The writeup's table, a column a device: what the proof found, images/s of each kind of work, and the projected times."""
    rows: dict[str, dict[str, str]] = {}
    for gpu in gpus:
        versions = ", ".join(f"{name} {version}" for name, version in gpu.versions.items())
        cells = {"measured": f"{gpu.date}, commit {gpu.commit}; {versions}"}
        cells |= {f"proof: {step}": words for step, words in gpu.steps.items()}
        passed = sum(outcome == "passed" for outcome in gpu.laws.values())
        cells["laws that hold"] = f"{passed} of {len(gpu.laws)}" + "".join(
            f"; {name.partition('::')[2]}: {outcome}" for name, outcome in gpu.laws.items() if outcome != "passed"
        )
        cells["product of large matrices"] = f"{gpu.matrix_tflop_per_s:,.0f} TFLOP/s"
        for work, rate in gpu.images_per_s.items():
            cells[work] = f"{rate:,.0f} images/s ({gpu.share_of_matrix_rate[work]:.0%} of that rate)"
        cells |= {f"{table.replace('_', ' ')}, projected": f"{seconds / 60:.1f} min" for table, seconds in gpu.seconds.items()}
        cells["the report's tables, one process, one seed"] = f"{gpu.total_seconds / 60:.0f} min"
        for what, words in cells.items():
            rows.setdefault(what, {})[gpu.device] = words
    nothing = "Full scale on a GPU: NOT RUN. `.ci/gpu` measures one, and `.ci/gpu --keep` commits what it found."
    return {
        "id": "gpus",
        "caption": "Full scale on GPUs: random weights and images, for speed does not depend on them." if gpus else nothing,
        "head": ["", *(gpu.device for gpu in gpus)],
        "rows": [[what, *(words.get(gpu.device, "") for gpu in gpus)] for what, words in rows.items()],
    }


def keep_measured(root: Path, entry: Mapping[str, Any]) -> Path:
    """Write a device's entry in place of its former one, the others as they are; gives the file. Raises VpError if malformed."""
    path = root / "full" / MEASURED
    others = [one for one in read_toml(path)["gpu"] if one["device"] != entry["device"]] if path.is_file() else []
    temporary = path.with_suffix(".part")
    temporary.write_text(tomli_w.dumps({"gpu": [*others, entry]}), encoding="utf-8")
    try:
        for number in range(len(others) + 1):
            _parse(temporary, number, read_toml(temporary)["gpu"][number])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
