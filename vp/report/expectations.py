"""The numbers a Run is held to, from expectations/SCALE/TABLE.toml, those read off the report's figures, and verdicts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Any

import tomli_w

from vp.evaluation import ContrastTest, PairedTest, prediction_half_width
from vp.machine.errors import VpError

SIGNIFICANCE = 0.05
ACCEPTED_CONFIDENCE = 0.999  # of a cell; there are some 80, so that 99% would fail one of them on most machines


class Verdict(StrEnum):
    """How a claim ends. A skipped or deselected test never counts as verified: it is NOT RUN, with the reason."""

    REPRODUCED = "reproduced"
    WITHIN_NOISE = "within noise"
    CONTRADICTED = "contradicted"
    CORRECTED = "corrected"
    NOT_RUN = "NOT RUN"
    REHEARSAL = "rehearsal"


@dataclass(frozen=True)
class Expectation:
    """Top-1 in percent that a Run should give, the tolerance in percentage points, where both come from and why."""

    value: float
    tolerance: float
    source: str
    reason: str


MEASURED = "measured.toml"  # in full/: what GPUs showed (vp.report.measured), which nothing is held to


def load_expectations(root: Path, scale: str) -> dict[str, Expectation]:
    """All expectations of a scale by run name. Raises VpError that names file, line, run and field when one is malformed."""
    found: dict[str, Expectation] = {}
    for path in sorted({*(root / scale).glob("*.toml")} - {root / scale / MEASURED}):
        for name, entry in read_toml(path).items():
            if name in found:
                raise VpError(f"{place(path, name)}: run {name!r} has a second expectation: keep one")
            found[name] = _parse(path, name, entry)
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises VpError that names file and line when it is not TOML, or has a key twice."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VpError(f"{path} is not valid TOML: {error}") from error


def place(path: Path, table: str, field: str = "", nth: int = 0) -> str:
    """FILE:LINE of a field of a table, or of the table's head where the field is missing; FILE where the table has no head.

    nth: which of several [[tables]] of that name, from 0.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [i for i, line in enumerate(lines) if line.lstrip().startswith("[")]
    named = [head for head in heads if re.match(rf"\s*\[+\s*(?:{_key(table)})\s*[\].]", lines[head])]
    if not named:
        return str(path)
    head = named[min(nth, len(named) - 1)]
    end = next((other for other in heads if other > head), len(lines))
    inside = (i for i in range(head, end) if re.match(rf"\s*(?:{_key(field)})\s*=", lines[i]))
    return f"{path}:{next(inside, head) + 1}" if field else f"{path}:{head + 1}"


def _key(name: str) -> str:
    """A pattern for a TOML key, bare or in quotes."""
    return "|".join(re.escape(f"{mark}{name}{mark}") for mark in ("", '"', "'"))


def load_unjudged(root: Path, scale: str) -> dict[str, str]:
    """Runs that have no expectation at a scale, as patterns with the reason, from unjudged.toml: [scale] "pattern" = "reason".

    Raises VpError that names the entry when one is malformed.
    """
    path = root / "unjudged.toml"
    patterns = (read_toml(path) if path.exists() else {}).get(scale, {})
    if not isinstance(patterns, dict):
        raise VpError(f"{path}: {scale!r} is {patterns!r}, expected a table [{scale}] of patterns with reasons")
    for pattern, reason in patterns.items():
        if not isinstance(reason, str) or not reason.strip():
            raise VpError(f"{place(path, scale, pattern)}: [{scale}] {pattern} is {reason!r}, expected the reason as text")
    return patterns


@dataclass(frozen=True)
class Published:
    """A figure published elsewhere for the same backbone: to compare with, not to pass or fail by."""

    value: float
    what: str


def load_published(root: Path) -> dict[str, list[Published]]:
    """Figures published elsewhere by run name, from published.toml: [[run]] value, what.

    Raises VpError that names file, line, run and field when one is malformed.
    """
    path = root / "published.toml"
    found: dict[str, list[Published]] = {}
    for name, entries in (read_toml(path) if path.exists() else {}).items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise VpError(f"{path}: {name!r} is {entries!r}, expected tables [[{name}]] with value and what")
        for nth, entry in enumerate(entries):
            _check_fields(path, name, entry, {"value": "a number", "what": "text"}, nth)
            found.setdefault(name, []).append(Published(float(entry["value"]), entry["what"]))
    return found


def load_known_failures(root: Path, scale: str) -> dict[str, str]:
    """Claims that do not hold at a scale, with the reason, from known_failures.toml: [claim.scale] reason = "...".

    Raises VpError that names the entry when one is malformed.
    """
    path = root / "known_failures.toml"
    listed = read_toml(path) if path.exists() else {}
    reasons = {}
    for claim, by_scale in listed.items():
        if not isinstance(by_scale, dict):
            raise VpError(f"{path}: {claim!r} is {by_scale!r}, expected a table [{claim}.SCALE] with a reason")
        for name, entry in by_scale.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("reason"), str):
                raise VpError(f"{place(path, claim)}: [{claim}.{name}] needs a text `reason`, given {entry!r}")
            if name == scale:
                reasons[claim] = entry["reason"]
    return reasons


@dataclass(frozen=True)
class ReadOff:
    """One network in the report's figures: ms for a batch of 8, peak MiB at a batch of 64 without and with gradients."""

    ms_per_batch: float
    peak_mib_without: float
    peak_mib_with: float


@dataclass(frozen=True)
class ReportFigures:
    """Numbers read off the report's figures 1 to 4, by network, and the device on which the report measured them."""

    device: str
    source: str
    networks: dict[str, ReadOff]


def load_report_figures(root: Path) -> ReportFigures:
    """report_figures.toml: device, source, and [networks.NAME]. Raises VpError that names file, network and field if malformed."""
    path = root / "report_figures.toml"
    if not path.exists():
        raise VpError(f"{path} is missing: it holds what the report's figures 1 to 4 show")
    content = read_toml(path)
    for field in ("device", "source"):
        if not isinstance(content.get(field), str):
            raise VpError(f"{path}: {field} is {content.get(field)!r}, expected text")
    entries = content.get("networks")
    if not isinstance(entries, dict) or not entries:
        raise VpError(f"{path}: networks is {entries!r}, expected tables [networks.NAME]")
    wanted = [field.name for field in fields(ReadOff)]
    for name, entry in entries.items():
        if not isinstance(entry, dict) or {*entry} != {*wanted}:
            raise VpError(f"{path}: [networks.{name}] is {entry!r}, expected a table of {', '.join(wanted)}")
        for field, value in entry.items():
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise VpError(f"{path}: [networks.{name}] {field} is {value!r}, expected a number above 0")
    return ReportFigures(content["device"], content["source"], {name: ReadOff(**entry) for name, entry in entries.items()})


def _parse(path: Path, name: str, entry: Any) -> Expectation:
    if not isinstance(entry, dict):
        raise VpError(f"{path}: {name!r} is {entry!r}, expected a table [{name}] with value, tolerance, source and reason")
    _check_fields(path, name, entry, {"value": "a number", "tolerance": "a number", "source": "text", "reason": "text"})
    for field in ("value", "tolerance"):
        if not 0 <= entry[field] <= 100:
            raise VpError(f"{place(path, name, field)}: [{name}] {field} is {entry[field]}, expected 0 to 100")
    return Expectation(float(entry["value"]), float(entry["tolerance"]), entry["source"], entry["reason"])


TYPES: dict[str, tuple[type, ...]] = {
    "a number": (int, float),
    "text": (str,),
    "true or false": (bool,),
    "a list of texts": (list,),
}


def _check_fields(path: Path, name: str, entry: Mapping[str, Any], fields: Mapping[str, str], nth: int = 0) -> None:
    """Raises VpError for a field that is missing or of another type than the one named in TYPES."""
    for field, words in fields.items():
        if type(given := entry.get(field)) not in TYPES[words]:
            what = "missing" if given is None else repr(given)
            raise VpError(f"{place(path, name, field, nth)}: [{name}] {field} is {what}, expected {words}")


def accept(
    path: Path, names: Iterable[str], measured: Mapping[str, Sequence[float]], kinds: Mapping[str, str | None], source: str
) -> None:
    """Rewrite the expectations of the runs in `names` from `measured` (top-1 in percent, one value a seed); others stay.

    Runs of one kind, those of other files included, pool their spread between seeds; one with the values of another is the same
    training under another name and counts once. A run of kind None trains nothing.
    """
    entries = read_toml(path) if path.exists() else {}
    for name in names:
        values = measured[name]
        tolerance, reason = 0.5, "nothing is trained: only rounding differs from machine to machine"
        if kind := kinds[name]:
            distinct = dict.fromkeys([tuple(values), *(tuple(measured[other]) for other in measured if kinds[other] == kind)])
            tolerance = min(prediction_half_width(values, list(distinct)[1:], ACCEPTED_CONFIDENCE), 100.0)
            reason = (
                f"{ACCEPTED_CONFIDENCE:.1%} prediction interval of one more seed, from {len(values)} seeds; spread pooled over "
                f"{len(distinct)} runs of its kind, at least 0.2 points"
            )
        entries[name] = {
            "value": round(fmean(values), 2),
            "tolerance": round(tolerance, 2),
            "seeds": [round(value, 2) for value in values],
            "source": source,
            "reason": reason,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(tomli_w.dumps(entries), encoding="utf-8")
    temporary.replace(path)


def cell_verdict(value: float, expectation: Expectation) -> Verdict:
    """Reproduced within the tolerance, contradicted outside it: the images are the same, so their noise is no excuse."""
    within = abs(value - expectation.value) <= expectation.tolerance
    return Verdict.REPRODUCED if within else Verdict.CONTRADICTED


def ordering_verdict(test: PairedTest | ContrastTest, or_equal: bool = False) -> Verdict:
    """Is the first better than (or at least as good as) the second, by the paired test at the 5% level?

    Over several seeds more images can speak for one and the mean accuracy for the other: that is not significant for either.
    """
    agree = isinstance(test, ContrastTest) or (test.first_better - test.second_better) * test.mean_difference > 0
    significant = agree and test.p_value < SIGNIFICANCE
    if significant and test.mean_difference < 0:
        return Verdict.CONTRADICTED
    if (or_equal and test.mean_difference >= 0) or (significant and test.mean_difference > 0):
        return Verdict.REPRODUCED
    return Verdict.WITHIN_NOISE


def positive_verdict(interval: tuple[float, float]) -> Verdict:
    """Is a quantity above 0, as claimed? By its confidence interval."""
    low, high = interval
    return Verdict.REPRODUCED if low > 0 else Verdict.CONTRADICTED if high < 0 else Verdict.WITHIN_NOISE


def absent_verdict(interval: tuple[float, float]) -> Verdict:
    """Is a quantity 0, as claimed? An interval can exclude that but never show it."""
    low, high = interval
    return Verdict.CONTRADICTED if low > 0 or high < 0 else Verdict.WITHIN_NOISE


def faster_verdict(median_ratio: float, p_value: float) -> Verdict:
    """Does the first take less time than the second, by the paired test of their ratios at the 5% level?"""
    if p_value >= SIGNIFICANCE:
        return Verdict.WITHIN_NOISE
    return Verdict.REPRODUCED if median_ratio < 1 else Verdict.CONTRADICTED


def repeated_verdict(times: int, repeats: int) -> Verdict:
    """A statement that holds in (nearly) all repeats of a measurement is reproduced, in (nearly) none contradicted."""
    share = times / repeats
    if share >= 1 - SIGNIFICANCE:
        return Verdict.REPRODUCED
    return Verdict.CONTRADICTED if share <= SIGNIFICANCE else Verdict.WITHIN_NOISE
