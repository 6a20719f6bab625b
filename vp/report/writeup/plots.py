"""Plots that fit any width: SVG whose places are percentages, in the page's own colours, every mark a link to its number.

A filled mark is this run's number, with its 95% interval; a hollow one the report's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

Number = Mapping[str, Any]

SHAPES = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.5-3.5h7v7h-7z", "M0-5L5 0 0 5-5 0z")  # circle, square, diamond
READOUTS = {"back": "class token read", "front": "first token read", "scrambled": "scrambled control"}


def overview(numbers: Sequence[Number], titles: Mapping[str, str]) -> str:
    """All accuracies of the report, a row each, by table; the readouts of a deep prompt share a row."""
    if not any(map(_is_known, numbers)):
        return ""
    low, high = _limits(numbers, 20)
    groups = []
    for table, title in titles.items():
        rows: dict[str, list[tuple[Number, int]]] = {}
        for number in numbers:
            if number["table"] == table:
                label = number["label"] if table == "table_6" else f"{number['dataset']} {number['label']}"
                rows.setdefault(label, []).append((number, _series(number)))
        if rows:
            axis = "".join(
                f"<text x='{_percent(value, low, high)}' y='11' text-anchor='{anchor}'>{value:g}</text>"
                for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end"))
            )
            lines = "".join(_row(label, marks, low, high) for label, marks in rows.items())
            head = f"<p><b>{escape(title)}</b><svg class='track' height='14' aria-hidden='true'>{axis}</svg></p>"
            groups.append(f"<div class='group'>{head}{lines}</div>")
    return f"<div class='overview'>{''.join(groups)}</div>"


def _row(label: str, marks: Sequence[tuple[Number, int]], low: float, high: float) -> str:
    grid = "".join(f"<line class='grid' x1='{place}%' x2='{place}%' y1='0' y2='16'/>" for place in (0, 50, 100))
    drawn = "".join(_across(number, series, low, high) for number, series in marks)
    named = f"role='img' aria-label='{escape(label)}'"
    return f"<p><span>{escape(label)}</span><svg class='track' height='16' {named}>{grid}{drawn}</svg></p>"


def _across(number: Number, series: int, low: float, high: float) -> str:
    """The marks of a number on a horizontal axis, from `low` to `high` percent."""
    parts = []
    if number["report"] is not None:
        parts.append(_mark(_percent(number["report"], low, high), "8", series, hollow=True))
    if number["value"] is not None:
        first, last = (_percent(bound, low, high) for bound in number["interval"])
        parts.append(f"<line class='s{series}' x1='{first}' x2='{last}' y1='8' y2='8'/>")
        parts.append(_mark(_percent(number["value"], low, high), "8", series))
    return _linked(number, parts)


def by_tokens(numbers: Sequence[Number]) -> str:
    """Table 3: accuracy over the number of tokens, a panel a set and block, a line a readout; the report's hollow beside it."""
    some = [number for number in numbers if number["n"] is not None and _is_known(number)]
    panels: dict[tuple[str, int], list[Number]] = {}
    for number in some:
        panels.setdefault((number["dataset"], number["block"]), []).append(number)
    tokens = sorted({number["n"] for number in some})
    drawn = []
    for (dataset, block), own in panels.items():
        low, high = _limits([number for number in some if number["dataset"] == dataset], 20)
        title = f"{escape(dataset)}, block {block}"
        panel = _panel(own, tokens, low, high)
        drawn.append(f"<div><b>{title}</b><svg height='160' role='img' aria-label='{title}'>{panel}</svg></div>")
    return f"<div class='panels'>{''.join(drawn)}</div>" if drawn else ""


def _panel(numbers: Sequence[Number], tokens: Sequence[int], low: float, high: float) -> str:
    """Inner places: 12 to 98% across for the tokens, 4 to 86% down for the accuracies."""

    def across(n: int, shift: float = 0) -> float:
        return 20 + 66 * tokens.index(n) / max(1, len(tokens) - 1) + shift

    def down(value: float) -> float:
        return 4 + 82 * (high - value) / (high - low)

    parts = [
        f"<line class='grid' x1='13%' x2='100%' y1='{down(value):.2f}%' y2='{down(value):.2f}%'/>"
        f"<text x='11%' y='{down(value):.2f}%' dy='4' text-anchor='end'>{value:g}</text>"
        for value in (low, (low + high) / 2, high)
    ]
    parts += [f"<text x='{across(n):.2f}%' y='97%' text-anchor='middle'>n = {n}</text>" for n in tokens]
    for series in range(len(READOUTS)):
        line = sorted((one for one in numbers if _series(one) == series and one["value"] is not None), key=lambda one: one["n"])
        parts += [
            f"<line class='s{series}' x1='{across(a['n']):.2f}%' y1='{down(a['value']):.2f}%' "
            f"x2='{across(b['n']):.2f}%' y2='{down(b['value']):.2f}%'/>"
            for a, b in pairwise(line)
        ]
    for number in numbers:
        series, x = _series(number), f"{across(number['n']):.2f}%"
        marks = []
        if number["report"] is not None:
            marks.append(_mark(f"{across(number['n'], 6):.2f}%", f"{down(number['report']):.2f}%", series, hollow=True))
        if number["value"] is not None:
            first, last = (f"{down(bound):.2f}%" for bound in number["interval"])
            marks.append(f"<line class='s{series}' x1='{x}' x2='{x}' y1='{first}' y2='{last}'/>")
            marks.append(_mark(x, f"{down(number['value']):.2f}%", series))
        parts.append(_linked(number, marks))
    return "".join(parts)


def full_against_here(points: Sequence[Mapping[str, Any]]) -> str:
    """What carries over: each difference of two runs at full scale (across) and here (up); on the dashed line both are equal."""
    if not points:
        return ""
    reach = 5 * math.ceil(max(abs(float(one[key])) for one in points for key in ("full", "here")) / 5)

    def place(value: float) -> float:
        return 50 + 48 * value / reach

    parts = [
        "<line class='grid' x1='50%' x2='50%' y1='0' y2='100%'/><line class='grid' x1='0' x2='100%' y1='50%' y2='50%'/>",
        "<line class='equal' x1='2%' x2='98%' y1='98%' y2='2%'/>",
        f"<text x='99%' y='50%' dy='-4' text-anchor='end'>full scale: +{reach:g}</text>",
        f"<text x='50%' dx='5' y='12'>here: +{reach:g}</text>",
    ]
    for one in points:
        told = f"<title>{escape(one['name'])}: {one['full']:+.1f} at full scale, {one['here']:+.1f} here</title>"
        x, y = f"{place(one['full']):.2f}%", f"{100 - place(one['here']):.2f}%"
        parts.append(f"<g>{told}{_mark(x, y, 0 if one['agrees'] else 1, hollow=not one['agrees'])}</g>")
    return f"<svg class='square' role='img' aria-label='Differences at full scale and here'>{''.join(parts)}</svg>"


def legend(readouts: bool = True) -> str:
    """What the marks mean."""
    key = [(_key(0), "this run, with its 95% interval"), (_key(0, hollow=True), "report")]
    if readouts:
        key += [(_key(series), words) for series, words in enumerate(READOUTS.values())]
    return "<p class='legend'>" + "".join(f"<span>{mark} {escape(words)}</span>" for mark, words in key) + "</p>"


def _key(series: int, hollow: bool = False) -> str:
    return f"<svg width='14' height='12' aria-hidden='true'>{_mark('7', '6', series, hollow)}</svg>"


def _mark(x: str, y: str, series: int, hollow: bool = False) -> str:
    """A mark at a place; the nested element lets a shape of fixed size stand at a percentage."""
    name = f"s{series}{' hollow' if hollow else ''}"
    return f"<svg x='{x}' y='{y}' overflow='visible'><path class='{name}' d='{SHAPES[series]}'/></svg>"


def _linked(number: Number, parts: Iterable[str]) -> str:
    """The marks of a number, a link to where it stands, with its values for whoever points at them."""
    report = "" if number["report"] is None else f"; report {number['report']:g}"
    low, high = number["interval"] or (0, 0)
    told = "not run" if number["value"] is None else f"{number['value']:.2f} ({low:.1f} to {high:.1f})"
    drawn = "".join(parts)
    if not drawn:
        return ""
    return f"<a href='#{escape(number['run'])}'><title>{escape(number['run'])}: {told}{report}</title>{drawn}</a>"


def _is_known(number: Number) -> bool:
    """Whether there is anything to draw."""
    return number["value"] is not None or number["report"] is not None


def _series(number: Number) -> int:
    """The readout of a deep prompt, as a place in READOUTS; 0 for every other run."""
    end = number["run"].rpartition("-")[2]
    return [*READOUTS].index(end) if number["n"] is not None and end in READOUTS else 0


def _limits(numbers: Iterable[Number], step: float) -> tuple[float, float]:
    """Round numbers around all values and intervals, in percent."""
    values = [one[key] for one in numbers for key in ("value", "report") if one[key] is not None]
    values += [bound for one in numbers for bound in (one["interval"] or ())]
    low, high = step * math.floor(min(values) / step), step * math.ceil(max(values) / step)
    return low, max(high, low + step)


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * (value - low) / (high - low):.2f}%"
