"""Does the miniature behave like full scale? Differences between two runs that are known at full scale, from fidelity.toml.

Accuracies themselves differ between the scales. What should carry over is how the methods compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vp.experiments import SCALES, runs
from vp.machine.errors import VpError
from vp.report.expectations import TYPES, place, read_toml

FILE = "fidelity.toml"
NEARLY_NOTHING = 0.5  # percentage points: a smaller difference at full scale has no sign to agree with,
ALLOWED = 3.0  # and the miniature's own must stay below this
FACTOR = 2.0  # between the sizes of two differences that agree
FIELDS = {"first": "text", "second": "text", "real": "a number", "source": "text"}
OPTIONAL = {"at_most": "true or false"}


@dataclass(frozen=True)
class Contrast:
    """The difference of two runs at full scale: top-1 of `first` minus top-1 of `second`, in percentage points."""

    first: str
    second: str
    real: float
    source: str
    at_most: bool = False  # the true difference is `real` or smaller in size

    @property
    def name(self) -> str:
        """Both runs: `padding-10 - fixed-patch-10`."""
        return f"{self.first} - {self.second}"

    @property
    def nearly_nothing(self) -> bool:
        """Is there next to no difference at full scale?"""
        return self.at_most or abs(self.real) < NEARLY_NOTHING


@dataclass(frozen=True)
class Judged:
    """A contrast, the difference that was measured here (None: a run is missing), and what the two have in common."""

    contrast: Contrast
    own: float | None
    sign: bool
    size: bool


@dataclass(frozen=True)
class Committed:
    """The contrasts, by name, whose sign and whose size the expectations of the miniature share."""

    mini_signs: tuple[str, ...]
    mini_sizes: tuple[str, ...]


def load_fidelity(root: Path) -> list[Contrast]:
    """All [[contrast]] tables of fidelity.toml, none without the file. Raises VpError that names file, line and field."""
    path = root / FILE
    entries = read_toml(path).get("contrast") if path.is_file() else []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise VpError(f"{path}: expected [[contrast]] tables with {', '.join(FIELDS)}")
    known = set.intersection(*({*runs(scale)} for scale in SCALES))
    found: dict[frozenset[str], Contrast] = {}
    for nth, entry in enumerate(entries):
        contrast = _parse(path, nth, entry, known)
        if found.setdefault(pair := frozenset((contrast.first, contrast.second)), contrast) is not contrast:
            raise VpError(
                f"{place(path, 'contrast', nth=nth)}: the runs {' and '.join(sorted(pair))} have a second contrast: keep one"
            )
    return [*found.values()]


def _parse(path: Path, nth: int, entry: Mapping[str, Any], known: set[str]) -> Contrast:
    def error(field: str, complaint: str) -> VpError:
        return VpError(f"{place(path, 'contrast', field, nth)}: [[contrast]] {field} {complaint}")

    for field, words in (FIELDS | {name: words for name, words in OPTIONAL.items() if name in entry}).items():
        if type(given := entry.get(field)) not in TYPES[words]:
            raise error(field, f"is {'missing' if given is None else repr(given)}, expected {words}")
    for field in entry:
        if field not in FIELDS | OPTIONAL:
            raise error(field, f"is unknown, expected {', '.join(FIELDS | OPTIONAL)}")
    for field in ("first", "second"):
        if entry[field] not in known:
            raise error(field, f"is {entry[field]!r}, which is no run of both scales: `python -m vp list` prints their names")
    if entry["first"] == entry["second"]:
        raise error("second", f"is {entry['second']!r}, as first is: expected another run")
    if not -100 <= entry["real"] <= 100:
        raise error("real", f"is {entry['real']}, expected -100 to 100")
    return Contrast(**{**entry, "real": float(entry["real"])})


def load_committed(root: Path) -> Committed:
    """Which contrasts the miniature shares, from [committed] of fidelity.toml. Raises VpError that names file, line and field."""
    path = root / FILE
    contrasts = {contrast.name for contrast in load_fidelity(root)}
    table = read_toml(path).get("committed") if path.is_file() else None
    if not isinstance(table, dict):
        raise VpError(f"{path}: expected a table [committed] with mini_signs and mini_sizes")
    for field in ("mini_signs", "mini_sizes"):
        names = table.get(field)
        odd = [name for name in names if name not in contrasts] if isinstance(names, list) else [names]
        if odd or not isinstance(names, list) or len({*names}) < len(names):
            wrong = f"has {odd[0]!r}, which is no contrast" if odd else "names a contrast twice"
            raise VpError(f"{place(path, 'committed', field)}: [committed] {field} {wrong}: expected a list of 'FIRST - SECOND'")
    return Committed(tuple(table["mini_signs"]), tuple(table["mini_sizes"]))


def judge(contrasts: Sequence[Contrast], values: Mapping[str, float]) -> list[Judged]:
    """Each contrast beside the same difference of `values`, top-1 in percent by run.

    The sign agrees when both differences are above 0 or both below. The size agrees when the sign does and neither difference is
    more than twice the other. Where full scale has next to no difference, both agree when the own one is below 3 points in size.
    A contrast with a missing run agrees in nothing.
    """
    judged = []
    for contrast in contrasts:
        if contrast.first not in values or contrast.second not in values:
            judged.append(Judged(contrast, None, False, False))
            continue
        own = values[contrast.first] - values[contrast.second]
        if contrast.nearly_nothing:
            sign = size = abs(own) < ALLOWED
        else:
            sign = own * contrast.real > 0
            size = sign and 1 / FACTOR <= own / contrast.real <= FACTOR
        judged.append(Judged(contrast, own, sign, size))
    return judged


def in_words(judged: Sequence[Judged]) -> str:
    """One line that counts: how many differences have full scale's sign, how many its size, how many were not measured."""
    signs, sizes = sum(one.sign for one in judged), sum(one.size for one in judged)
    missing = sum(one.own is None for one in judged)
    line = f"{signs} of {len(judged)} differences have full scale's sign, {sizes} within a factor of two"
    return f"{line}; {missing} not measured" if missing else line


HEAD = ("First run", "Second run", "Full scale", "Here", "Sign", "Within a factor of two", "Source")


def rows_of(judged: Sequence[Judged]) -> list[list[str]]:
    """The table under HEAD, as texts."""
    return [
        [
            one.contrast.first,
            one.contrast.second,
            f"{'at most ' if one.contrast.at_most else ''}{one.contrast.real:+.2f}",
            "not measured" if one.own is None else f"{one.own:+.2f}",
            *("–" if one.own is None else "yes" if agrees else "no" for agrees in (one.sign, one.size)),
            one.contrast.source,
        ]
        for one in judged
    ]


def table_of_fidelity(judged: Sequence[Judged]) -> dict[str, Any]:
    """The writeup's table, and the line that counts its rows; without contrasts both are empty."""
    caption = (
        "Differences of top-1 between two runs (first minus second), in percentage points. Where full scale has next to no "
        f"difference, the own one must stay below {ALLOWED:g} points."
    )
    line = in_words(judged) if judged else ""
    return {"id": "fidelity", "line": line, "caption": caption, "head": [*HEAD], "rows": rows_of(judged)}
