"""Figures of section 1.1: accuracy and size against time, time and memory without and with gradients. Hollow marks are the report's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from scipy import stats

from vp.writeup.figures import BAR, BAR_TOP, INK, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#8c8c8c"  # between black and white: readable on either
Spread = tuple[float, float, float]  # lower quartile, median, upper quartile


@dataclass(frozen=True)
class Panel:
    """One panel of a scatter plot: ms per batch of each network, measured here with its spread or read off the report."""

    title: str
    ms: Sequence[Spread]
    hollow: bool = False


def against_time(panels: Sequence[Panel], values: Sequence[float], labels: Sequence[str], ylabel: str, log: bool = False) -> Figure:
    """Each network's value against its time, a panel a device, bars from quartile to quartile: figures 1 and 2.

    On a linear scale the least-squares line is drawn as well, on a logarithmic one there is none.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * len(panels), 3.1), layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            medians = [median for _, median, _ in panel.ms]
            bars = [[median - low for low, median, _ in panel.ms], [high - median for _, median, high in panel.ms]]
            face = "none" if panel.hollow else BAR
            ax.errorbar(medians, values, xerr=bars, fmt="o", color=BAR, markerfacecolor=face, markersize=5, capsize=2)
            if not log:
                line = stats.linregress(medians, values)
                ends = [min(medians), max(medians)]
                ax.plot(ends, [line.intercept + line.slope * end for end in ends], color=BAR_TOP, linewidth=1, linestyle="--")
            ax.set(title=panel.title, xlabel="ms per batch of 8", yscale="log" if log else "linear", xlim=(0, 1.12 * max(medians)))
            ax.margins(y=0.12)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(ylabel)
        figure.draw_without_rendering()
        for ax, panel in zip(axes, panels, strict=True):
            _label_points(ax, [(median, value) for (_, median, _), value in zip(panel.ms, values, strict=True)], labels)
    return figure


def _label_points(ax: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """A label beside each point, where it covers neither a point nor another label, if there is such a place."""
    marks = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in ax.transData.transform(points)]
    taken: list[Bbox] = list(marks)
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of FigureCanvasAgg
    for point, label in zip(points, labels, strict=True):
        tried = []
        for offset, across, up in (
            ((6, 0), "left", "center"),
            ((-6, 0), "right", "center"),
            ((0, 6), "center", "bottom"),
            ((0, -6), "center", "top"),
            ((6, 9), "left", "bottom"),
            ((6, -9), "left", "top"),
        ):
            text = ax.annotate(label, point, offset, textcoords="offset points", ha=across, va=up, fontsize=7)
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            outside = box.x1 > ax.bbox.x1 or box.x0 < ax.bbox.x0
            tried.append((outside + sum(box.overlaps(other) for other in taken), len(tried), text, box))
        *others, (_, _, _, best) = sorted(tried, key=lambda one: one[:2], reverse=True)
        for _, _, text, _ in others:
            text.remove()
        taken.append(best)


def gradient_times(
    without: Sequence[Spread],
    with_gradients: Sequence[Spread],
    ratios: Sequence[Spread],
    report: Sequence[float],
    labels: Sequence[str],
    report_label: str,
) -> Figure:
    """Time of a batch without and with gradients, and their ratio over interleaved pairs, each with its quartiles: figure 3."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.2), layout="constrained")
        times, ratio = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [1.5, 1]})
        places = range(len(labels))
        for measured, up, colour, marker, name in (
            (without, -0.16, BAR, "o", "without gradients"),
            (with_gradients, 0.16, BAR_TOP, "s", "with gradients"),
        ):
            _whiskers(times, measured, [place + up for place in places], colour, marker, name)
        times.plot(report, places, linestyle="none", marker="o", markersize=5, markerfacecolor="none", color=INK, label=report_label)
        times.set(xscale="log", xlabel="ms per batch of 8", yticks=list(places), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
        _whiskers(ratio, ratios, list(places), BAR, "o", "")
        ratio.axvline(1, color=INK, linewidth=0.8, linestyle="--")
        ratio.set(xlabel="time without / with gradients")
        for ax in (times, ratio):
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color=GREY, alpha=0.25)
        figure.legend(*times.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    return figure


def _whiskers(ax: Axes, spreads: Sequence[Spread], places: Sequence[float], colour: str, marker: str, name: str) -> None:
    medians = [median for _, median, _ in spreads]
    bars = [[median - low for low, median, _ in spreads], [high - median for _, median, high in spreads]]
    ax.errorbar(medians, places, xerr=bars, fmt=marker, color=colour, markersize=4, capsize=2, label=name)


def gradient_memory(
    parts: Mapping[str, Sequence[float]], marks: Mapping[str, tuple[Sequence[float], str, str]], labels: Sequence[str]
) -> Figure:
    """MiB at a batch of 64: stacked bars of what must be there, and marks of measured peaks (values, marker, colour): figure 4."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        ax = figure.subplots()
        left = [0.0] * len(labels)
        for (name, mib), colour in zip(parts.items(), (GREY, BAR), strict=True):
            ax.barh(labels, mib, left=left, height=0.55, color=colour, alpha=0.8, label=name)
            left = [a + b for a, b in zip(left, mib, strict=True)]
        for name, (mib, marker, colour) in marks.items():
            ax.plot(mib, labels, linestyle="none", marker=marker, markersize=6, markerfacecolor="none", color=colour, label=name)
        ax.set(xlabel="MiB at a batch of 64", ylim=(len(labels) - 0.5, -0.5))
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure
