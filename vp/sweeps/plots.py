"""Plots of a sweep in the writeup's style: accuracy over trained parameters, block and tokens; block by tokens as a heat map.

Each takes rows of `vp.sweeps.results.aggregate` and gives a figure, or None where there is nothing to compare. A mark is the mean
over seeds, its bar runs from the lowest to the highest seed. Of several recipes or templates the best on validation images stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from vp.report.writeup.cost_figures import GREY
from vp.report.writeup.figures import BAR, BAR_TOP, STYLE
from vp.sweeps.results import best_by_validation, writing_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
COLOURS = (BAR, BAR_TOP, "#00795a", "#a8487f", GREY)  # the page's own
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
PANEL = ("dataset", "backbone", "split", "limit", "noise")  # rows that differ in these are not compared
DEEP = ("n", "block", "position", "readout", "scrambled")
CELL = (*PANEL, "method", "size", *DEEP)  # among rows that agree in these, validation images choose


def over_parameters(rows: Sequence[Row]) -> Figure | None:
    """Top-1 over trained parameters, a mark a run, a colour a method; what trains nothing is a dashed line."""

    rows = best_by_validation(rows, CELL)
    marks = _marks_by_name(str(row["method"]) for row in rows)

    def draw(axes: Axes, some: list[Row]) -> None:
        for method, (colour, marker) in marks.items():
            own = [row for row in some if row["method"] == method]
            if trained := [row for row in own if row["trained_parameters"]]:
                _draw(axes, [row["trained_parameters"] for row in trained], trained, colour, marker, method, line=False)
            for row in own:
                if not row["trained_parameters"]:
                    axes.axhline(row["mean_top1"], color=colour, linewidth=1, linestyle="--", label=method)
        axes.set(xscale="log", xlabel="trained parameters")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())

    return _panels(rows, draw) if len({row["trained_parameters"] for row in rows} - {0}) > 1 else None


def over_block(rows: Sequence[Row]) -> Figure | None:
    """Top-1 of deep prompts over the block that the tokens enter before, a line for each number of tokens, position and readout."""
    return _over(rows, "block", "block", "n")


def over_tokens(rows: Sequence[Row]) -> Figure | None:
    """Top-1 of deep prompts over the number of tokens, a line for each block, position and readout."""
    return _over(rows, "n", "tokens", "block")


def block_by_tokens(rows: Sequence[Row]) -> Figure | None:
    """Top-1 of deep prompts by block (across) and number of tokens (up), a panel for each position and readout."""
    deep = _deep(rows)
    blocks, tokens = sorted({row["block"] for row in deep}), sorted({row["n"] for row in deep})
    if len(blocks) < 2 or len(tokens) < 2:
        return None
    low, high = min(row["mean_top1"] for row in deep), max(row["mean_top1"] for row in deep)

    def draw(axes: Axes, some: list[Row]) -> None:
        cells = [[float("nan")] * len(blocks) for _ in tokens]
        for row in some:
            cells[tokens.index(row["n"])][blocks.index(row["block"])] = row["mean_top1"]
        axes.imshow(cells, vmin=low, vmax=high, cmap="cividis", origin="lower", aspect="auto")
        for up, line in enumerate(cells):
            for across, value in enumerate(line):
                dark = value < (low + high) / 2
                if value == value:
                    axes.text(across, up, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=7)
        axes.set(xlabel="block", ylabel="tokens", xticks=range(len(blocks)), yticks=range(len(tokens)))
        axes.set_xticklabels([str(block) for block in blocks])
        axes.set_yticklabels([str(n) for n in tokens])

    return _panels(deep, draw, (*PANEL, *_varying(deep, ("position", "readout", "scrambled"))), ylabel="")


def _over(rows: Sequence[Row], column: str, xlabel: str, by: str) -> Figure | None:
    deep = _deep(rows)
    if len({row[column] for row in deep}) < 2:
        return None
    told = _varying(deep, (by, "position", "readout", "scrambled"))
    ticks = sorted({row[column] for row in deep})
    marks = _marks_by_name(_label(row, told) for row in deep)

    def draw(axes: Axes, some: list[Row]) -> None:
        for label, (colour, marker) in marks.items():
            if own := sorted((row for row in some if _label(row, told) == label), key=lambda row: row[column]):
                _draw(axes, [row[column] for row in own], own, colour, marker, label, line=True)
        axes.set(xlabel=xlabel, xticks=ticks)

    return _panels(deep, draw)


def _deep(rows: Sequence[Row]) -> list[Row]:
    return best_by_validation([row for row in rows if row["method"] == "deep"], CELL)


def _varying(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(column for column in columns if len({row[column] for row in rows}) > 1)


def _label(row: Row, columns: Sequence[str]) -> str:
    words = {"n": "{} token(s)", "block": "block {}", "position": "{}", "readout": "{} token read", "scrambled": "scrambled: {}"}
    return ", ".join(words[column].format(row[column]).replace("_", " ") for column in columns)


def _marks_by_name(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name, the same in all panels."""
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(dict.fromkeys(names))}


def _draw(axes: Axes, x: Sequence[float], rows: Sequence[Row], colour: str, marker: str, label: str, line: bool) -> None:
    values = [row["mean_top1"] for row in rows]
    bars = [[row["mean_top1"] - row["lowest_top1"] for row in rows], [row["highest_top1"] - row["mean_top1"] for row in rows]]
    style = "-" if line else "none"
    axes.errorbar(x, values, bars, color=colour, marker=marker, markersize=4, capsize=2, linestyle=style, linewidth=1, label=label)


def _panels(
    rows: Sequence[Row], draw: Callable[[Axes, list[Row]], None], by: Sequence[str] = PANEL, ylabel: str = "top-1 (%)"
) -> Figure:
    """A panel for each set of rows that agree in the columns `by`; its title says in which these differ."""
    told = _varying(rows, by) or ("dataset",)
    panels: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        panels.setdefault(tuple(row[column] for column in by), []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns, 2.6 * lines), layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for ax in axes:
            ax.set_axis_off()
        for ax, own in zip(axes, panels.values(), strict=False):
            ax.set_axis_on()
            draw(ax, own)
            if ylabel:
                ax.set_ylabel(ylabel)
            ax.set_title(", ".join(_in_words(column, own[0][column]) for column in told), fontsize=8)
            ax.spines[["top", "right"]].set_visible(False)
        named = {label: mark for ax in axes for mark, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if any(named):
            figure.legend(named.values(), named, loc="outside lower center", ncols=2 * columns, frameon=False, fontsize=7)
    return figure


def _in_words(column: str, value: Any) -> str:
    named = {"readout": f"{value} token read", "scrambled": "scrambled" if value else "not scrambled"}
    named |= {"limit": f"{value or 'all'} images", "noise": f"noise {value}", "dataset": Path(str(value)).name}
    return named.get(column, str(value).replace("_", " "))


FIGURES: Mapping[str, Callable[[Sequence[Row]], Figure | None]] = {
    "accuracy-over-parameters": over_parameters,
    "accuracy-over-block": over_block,
    "accuracy-over-tokens": over_tokens,
    "block-by-tokens": block_by_tokens,
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as its file's suffix says: .svg, .png or .pdf. Raises VpError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_out(path), mpl.rc_context({**STYLE, "savefig.transparent": False, "svg.hashsalt": path.stem}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, bbox_inches="tight", dpi=150, metadata=metadata)
