"""Figures as SVG text: free-form predictions with probability bars, learnt prompts. Lines and letters take the page's colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # stands for the page's text colour until the SVG is written
BAR = "#0072b2"  # blue and orange of Okabe and Ito's palette: told apart by colour-blind readers and in grey print
BAR_TOP = "#d55e00"
STYLE: Any = {
    "font.size": 8,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a $ in a label is a $
    "savefig.transparent": True,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element whose ids start from `name`, so that several fit one page."""
    text = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    used = {*re.findall(r'(?:href="#|url\(#)([^")]+)', svg)}
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)


def _show(axes: Axes, image: Tensor) -> None:
    """A picture (3, H, W), uint8 or in [0, 1]."""
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    axes.set_axis_off()


def prediction_bars(pictures: Sequence[Tensor], probabilities: Tensor, labels: Sequence[str], titles: Sequence[str]) -> Figure:
    """Each picture (3, H, W) above its label probabilities (N, K), the most probable label in orange: figures 5 and 6."""
    with mpl.rc_context(STYLE):
        columns = min(4, len(pictures))
        rows = -(-len(pictures) // columns)
        bars = 0.2 * len(labels) + 0.2
        width = max(1.9, 1.2 + 0.065 * max(map(len, labels)))
        figure = Figure(figsize=(width * columns, rows * (1.2 + bars)), layout="constrained")
        axes = figure.subplots(2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [1.0, bars] * rows})
        for ax in axes.flat:
            ax.set_axis_off()
        for i, (picture, row, title) in enumerate(zip(pictures, probabilities.tolist(), titles, strict=True)):
            top, bottom = axes[2 * (i // columns), i % columns], axes[2 * (i // columns) + 1, i % columns]
            _show(top, picture)
            top.set_title(title, fontsize=8)
            bottom.set_axis_on()
            colours = [BAR_TOP if value == max(row) else BAR for value in row]
            bottom.barh(list(labels), row, color=colours)
            for y, value in enumerate(row):
                left = value < 0.6
                bottom.text(
                    value + (0.02 if left else -0.02), y, f"{value:.0%}", va="center", ha="left" if left else "right", fontsize=7
                )
            bottom.set(xlim=(0, 1), xticks=[], ylim=(len(labels) - 0.5, -0.5))
            bottom.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def noise_curve(stds: Sequence[float], lines: Mapping[str, Sequence[tuple[float, tuple[float, float]]]]) -> Figure:
    """Top-1 (%) with its 95% interval against the std of the noise, a line for each model."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.3), layout="constrained")
        axes = figure.subplots()
        for (label, points), colour, marker in zip(lines.items(), (BAR, BAR_TOP), ("o", "s"), strict=False):
            values = [value for value, _ in points]
            below = [value - low for value, (low, _) in points]
            above = [high - value for value, (_, high) in points]
            axes.errorbar(
                list(stds), values, yerr=[below, above], color=colour, marker=marker, markersize=4, capsize=2, label=label
            )
        axes.set(xlabel="std of the noise, after normalisation", ylabel="top-1 (%)", ylim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def learnt_prompt(canvas: Tensor, pictures: Sequence[Tensor], prompted: Sequence[Tensor], title: str) -> Figure:
    """A prompt's canvas, then pictures without (above) and with it (below), all (3, I, I) in [0, 1]: figures 7 and 8."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 * (len(pictures) + 1), 3.0), layout="constrained")
        axes = figure.subplots(2, len(pictures) + 1)
        _show(axes[0, 0], canvas)
        axes[0, 0].set_title(title, fontsize=8)
        axes[1, 0].set_axis_off()
        for i, (plain, changed) in enumerate(zip(pictures, prompted, strict=True), start=1):
            _show(axes[0, i], plain)
            _show(axes[1, i], changed)
        axes[0, 1].set_title("image", fontsize=8, loc="left")
        axes[1, 1].set_title("image + prompt", fontsize=8, loc="left")
    return figure
