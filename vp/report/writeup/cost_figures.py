"""Figures of section 1.1: accuracy and size against time; time and memory without and with gradients. Hollow: the report's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox
from scipy import stats

from vp.report.writeup.figures import BAR, BAR_TOP, INK, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.text import Annotation

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
        figure = Figure(figsize=(2.6 * len(panels), 2.6), layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            lows, medians, highs = zip(*panel.ms, strict=True)
            ax.plot(medians, values, "o", color=BAR, markerfacecolor="none" if panel.hollow else BAR, markersize=5)
            ax.hlines(values, lows, highs, color=BAR)
            if not log:
                ax.plot([min(medians), max(medians)], _trend(medians, values), color=BAR_TOP, linewidth=1, linestyle="--")
            ax.set(title=panel.title, xlabel="ms per batch of 8", yscale="log" if log else "linear", xlim=(0, 1.12 * max(highs)))
            ax.margins(y=0.12)
            _plain_numbers(ax.yaxis)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(ylabel)
        figure.draw_without_rendering()
        for ax, panel in zip(axes, panels, strict=True):
            medians = tuple(median for _, median, _ in panel.ms)
            ends = [(min(medians), max(medians), *_trend(medians, values))]
            lines = [(low, high, value, value) for (low, _, high), value in zip(panel.ms, values, strict=True)]
            _label_points(ax, list(zip(medians, values, strict=True)), labels, lines if log else lines + ends)
    return figure


def _trend(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Where the least-squares line begins and ends."""
    line = stats.linregress(x, y)
    return line.intercept + line.slope * min(x), line.intercept + line.slope * max(x)


def _plain_numbers(axis: Axis) -> None:
    """100 rather than a power of ten, which would need typesetting."""
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label_points(
    ax: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], lines: Sequence[tuple[float, float, float, float]]
) -> None:
    """A label beside each point, where it covers no point, line (x from, x to, y from, y to) or other label, if there is room."""
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in ax.transData.transform(points)]
    for left, right, low, high in lines:
        dots = zip(np.linspace(left, right, 60), np.linspace(low, high, 60), strict=True)
        taken += [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in ax.transData.transform(list(dots))]
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of FigureCanvasAgg
    for point, label in zip(points, labels, strict=True):
        tried: list[tuple[int, int, Annotation, Bbox]] = []
        for offset, across, up in (
            ((6, 0), "left", "center"),
            ((-6, 0), "right", "center"),
            ((0, -6), "center", "top"),
            ((0, 6), "center", "bottom"),
            ((6, 4), "left", "bottom"),
            ((6, -4), "left", "top"),
            ((-6, 4), "right", "bottom"),
            ((-6, -4), "right", "top"),
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
    elsewhere: Mapping[str, Sequence[float]],
    labels: Sequence[str],
) -> Figure:
    """Time of a batch without and with gradients, and their ratio over interleaved pairs, each with its quartiles: figure 3.

    elsewhere: times without gradients on other devices, the report's first, hollow.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 2.7), layout="constrained")
        times, ratio = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [1.5, 1]})
        places = range(len(labels))
        for measured, up, colour, marker, name in (
            (without, -0.16, BAR, "o", "without gradients"),
            (with_gradients, 0.16, BAR_TOP, "s", "with gradients"),
        ):
            _whiskers(times, measured, [place + up for place in places], colour, marker, name)
        for (name, ms), marker in zip(elsewhere.items(), cycle("oD^v"), strict=False):
            times.plot(ms, places, linestyle="none", marker=marker, markersize=5, markerfacecolor="none", color=INK, label=name)
        times.set(xscale="log", xlabel="ms per batch of 8", yticks=list(places), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
        _plain_numbers(times.xaxis)
        _whiskers(ratio, ratios, list(places), BAR, "o", "")
        ratio.axvline(1, color=INK, linewidth=0.8, linestyle="--")
        ratio.set(xlabel="time without / with gradients")
        for ax in (times, ratio):
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color=GREY, alpha=0.25)
        handles = times.get_legend_handles_labels()[0]  # matplotlib lists bars after plain marks
        handles = [*handles[len(elsewhere) :], *handles[: len(elsewhere)]]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return figure


def _whiskers(ax: Axes, spreads: Sequence[Spread], places: Sequence[float], colour: str, marker: str, name: str) -> None:
    medians = [median for _, median, _ in spreads]
    bars = [[median - low for low, median, _ in spreads], [high - median for _, median, high in spreads]]
    ax.errorbar(medians, places, xerr=bars, fmt=marker, color=colour, markersize=4, capsize=2, label=name)


def gradient_memory(
    parts: Mapping[str, Sequence[float]], marks: Mapping[str, tuple[Sequence[float], str]], labels: Sequence[str]
) -> Figure:
    """MiB at a batch of 64: stacked bars of the least that is needed, and marks of measured peaks (values, marker): figure 4."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 2.8), layout="constrained")
        ax = figure.subplots()
        left = [0.0] * len(labels)
        for (name, mib), colour in zip(parts.items(), (GREY, BAR), strict=True):
            ax.barh(labels, mib, left=left, height=0.55, color=colour, alpha=0.6, label=name)
            left = [a + b for a, b in zip(left, mib, strict=True)]
        for name, (mib, marker) in marks.items():
            ax.plot(mib, labels, linestyle="none", marker=marker, markersize=6, markerfacecolor="none", color=INK, label=name)
        ax.set(xlabel="MiB at a batch of 64", ylim=(len(labels) - 0.5, -0.5))
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure
