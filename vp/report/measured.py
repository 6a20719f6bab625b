"""What runs of `.ci/gpu` measured on GPUs: expectations/full/measured.toml, one [[gpu]] a device.

Nothing is held to these numbers: README and the writeup show them, with device, date and commit.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """What one device showed. `images_per_s`, `share_of_matrix_rate` and `seconds` are those of `python -m vp bench`."""

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
    def hours(self) -> float:
        """All tables, one process, one seed."""
        return sum(self.seconds.values()) / 3600


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
