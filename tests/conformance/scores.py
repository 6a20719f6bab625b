"""Points for statements: `--scores FILE.toml`, or 100 in equal shares for each section where no file says otherwise.

    [sections]
    "2.2" = 20        # in equal shares to the statements of section 2.2 that have no points of their own below

    [names]
    FixedPatch = 10   # in equal shares to the statements whose first listed name this is, without those below

    [statements]
    test_a_prompt_keeps_the_shape_of_its_images = 3  # in equal shares to its cases: FixedPatch, RandomPatch, Padding

Each statement gets its share from one entry alone, the most particular one that speaks of it: its test, else the first of its
names that is listed, else its section. Statements of which no entry speaks have no points. A statement that holds earns its share;
one that fails, and one that is not claimed, earns 0. A statement that was narrowed to what a solution supports counts as asked.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from tests.conformance import table
from tests.conformance.names import NAMES
from tests.conformance.options import SPECIFIES

TESTS = Path(__file__).parents[1]
ALL = 100  # points, where no file gives any
TABLES = ("sections", "names", "statements")
DIGITS = 4  # of a share of points, as it is written


class ScoresError(ValueError):
    """What is wrong with a file of scores, with its line, in words for its author."""


@dataclass(frozen=True)
class Scores:
    """Points by section, by name and by test function; all empty: ALL, in equal shares for each section."""

    sections: Mapping[str, Fraction] = field(default_factory=dict)
    names: Mapping[str, Fraction] = field(default_factory=dict)
    statements: Mapping[str, Fraction] = field(default_factory=dict)

    def entry(self, statement: Mapping[str, Any]) -> tuple[str, str] | None:
        """The entry that gives a statement its points."""
        if (function := statement["id"].partition("[")[0]) in self.statements:
            return "statements", function
        if name := next((name for name in statement["names"] if name in self.names), None):
            return "names", name
        return ("sections", statement["section"]) if statement["section"] in self.sections else None

    @property
    def points(self) -> dict[tuple[str, str], Fraction]:
        """Of every entry."""
        return {(kind, key): points for kind in TABLES for key, points in getattr(self, kind).items()}


def award(content: table.Content, scores: Scores) -> list[str]:
    """Write `points` and `of` to each solution of `content` and to each of its statements, and both of each section.

    Gives back, in words, what entries gave points to no statement: these count nowhere.
    """
    idle: dict[str, None] = {}
    for one in content:
        statements = one["statements"]
        given = scores
        if not scores.points:
            sections = sorted({statement["section"] for statement in statements})
            given = Scores(sections={section: Fraction(ALL, len(sections)) for section in sections})
        entries = [given.entry(statement) for statement in statements]
        shares = {entry: points / entries.count(entry) for entry, points in given.points.items() if entry in entries}
        idle |= dict.fromkeys(f"{kind}.{key}" for kind, key in given.points if (kind, key) not in shares)
        by_section: dict[str, list[Fraction]] = {}
        for statement, entry in zip(statements, entries, strict=True):
            share = shares[entry] if entry else Fraction(0)
            got = share if statement["verdict"] == table.PASS else Fraction(0)
            statement["points"], statement["of"] = _written(got), _written(share)
            sums = by_section.setdefault(statement["section"], [Fraction(0), Fraction(0)])
            sums[:] = sums[0] + got, sums[1] + share
        one["points"], one["of"] = (_written(sum((sums[nth] for sums in by_section.values()), Fraction(0))) for nth in range(2))
        one["points by section"] = {section: [*map(_written, by_section[section])] for section in sorted(by_section)}
    return [f"no statement that was asked is left for the points of {entry}: they count nowhere" for entry in idle]


def _written(points: Fraction) -> float:
    return round(float(points), DIGITS)


def read_scores(path: Path) -> Scores:
    """A file of scores. Raises ScoresError: it cannot be read, is no TOML, or has an entry that means nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScoresError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}): give a TOML file") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScoresError(f"{path}: no TOML: {error}") from None
    known: dict[str, Collection[str]] = {
        "sections": sorted({name.section for name in NAMES.values()}),
        "names": NAMES,
        "statements": known_statements(),
    }
    read: dict[str, dict[str, Fraction]] = {}
    for kind, entries in found.items():
        where = f"{path}, line {_line(text, kind)}"
        if kind not in TABLES:
            raise ScoresError(f"{where}: {kind!r} means nothing: give tables {_in_words(TABLES)}{_near(kind, TABLES)}")
        if not isinstance(entries, dict):
            raise ScoresError(f"{where}: {kind} = {entries!r}: expected a table [{kind}] of points")
        if not entries:
            raise ScoresError(f"{where}: [{kind}] is empty: give points, or leave it out")
        for key, points in entries.items():
            where = f"{path}, line {_line(text, kind, key)}"
            if kind == "sections" and isinstance(points, dict):
                dotted = f"{key}.{next(iter(points), '2')}"
                raise ScoresError(f'{where}: a section is written in quotation marks: "{dotted}" = ...')
            if key not in known[kind]:
                raise ScoresError(f"{where}: there is no {_one(kind)} {key!r}{_near(key, known[kind])}")
            if isinstance(points, bool) or not isinstance(points, int | float) or not math.isfinite(points):
                raise ScoresError(f"{where}: {key} = {points!r}: expected a number of points")
            if points < 0:
                raise ScoresError(f"{where}: {key} = {points}: points are 0 or more")
            read.setdefault(kind, {})[key] = Fraction(str(points))
    if not any(points for entries in read.values() for points in entries.values()):
        raise ScoresError(f"{path}: gives no points: expected tables {_in_words(TABLES)} (tests/conformance/README.md)")
    return Scores(**read)


@cache
def known_statements() -> tuple[str, ...]:
    """The test functions that are marked `specifies`, as their files have them."""
    found: dict[str, None] = {}
    for path in sorted([*TESTS.glob("test_*.py"), *TESTS.glob("*/test_*.py")]):
        is_marked = False
        for line in path.read_text(encoding="utf-8").splitlines():
            is_marked = is_marked or line.startswith(SPECIFIES)
            if function := re.match(r"def (\w+)\(", line):
                found |= {function[1]: None} if is_marked else {}
                is_marked = False
    return tuple(found)


def _line(text: str, kind: str, key: str | None = None) -> int:
    """The line, from 1, of a table, or of a key in it; that of the table where the key is written in some other way."""
    lines = text.splitlines()
    head = re.compile(rf"\s*\[\s*[\"']?{re.escape(kind)}[\"']?\s*[\].]|\s*[\"']?{re.escape(kind)}[\"']?\s*[.=]")
    start = next((nth for nth, line in enumerate(lines) if head.match(line)), 0)
    if key is not None:
        entry = re.compile(rf"[^#=]*?(?<![\w.])[\"']?{re.escape(key)}[\"']?\s*[.=]")
        return next((nth for nth, line in enumerate(lines) if nth >= start and entry.match(line)), start) + 1
    return start + 1


def _one(kind: str) -> str:
    return kind.removesuffix("s")


def _in_words(tables: Collection[str]) -> str:
    return ", ".join(f"[{one}]" for one in tables)


def _near(given: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.7)
    return f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}" if len(known) < 50 else ""
