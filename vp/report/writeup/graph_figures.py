"""Figures of section 3: graphs beside their matrices, counts of walks, attention as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import networkx as nx
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vp.report.writeup.figures import BAR, BAR_TOP, INK, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Matrix = Sequence[Sequence[float]]


def graphs_with_matrices(graphs: Mapping[str, nx.Graph[Any]]) -> Figure:
    """Each graph above its adjacency matrix; the hub, if one node alone is joined to all others, is drawn in the middle."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(graphs), 2.9), layout="constrained")
        axes = figure.subplots(2, len(graphs), squeeze=False)
        for top, bottom, (title, graph) in zip(*axes, graphs.items(), strict=True):
            top.set_title(title)
            _draw_graph(top, graph, [1.0] * graph.number_of_edges())
            _draw_matrix(bottom, nx.to_numpy_array(graph).tolist(), [str(node) for node in graph])
    return figure


def walk_counts(powers: Mapping[int, Matrix]) -> Figure:
    """A^n for several n, side by side."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.9 * len(powers), 2.1), layout=ConstrainedLayoutEngine(wspace=0.12))
        for ax, (n, matrix) in zip(figure.subplots(1, len(powers), squeeze=False)[0], powers.items(), strict=True):
            ax.set_title(f"n = {n}")
            _draw_matrix(ax, matrix, [str(node + 1) for node in range(len(matrix))])
    return figure


def attention_graphs(graphs: Mapping[str, nx.DiGraph[Any]]) -> Figure:
    """Attention graphs, each above the matrix of its weights; arrows are as wide as the attention."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.5 * len(graphs), 3.4), layout="constrained")
        axes = figure.subplots(2, len(graphs), squeeze=False)
        for top, bottom, (title, graph) in zip(*axes, graphs.items(), strict=True):
            top.set_title(title)
            _draw_graph(top, graph, [4 * weight for *_, weight in graph.edges(data="weight")])
            _draw_matrix(bottom, nx.to_numpy_array(graph).tolist(), [str(node) for node in graph], decimals=2)
    return figure


def _draw_graph(ax: Axes, graph: nx.Graph[Any], line_widths: Sequence[float]) -> None:
    hubs = [node for node in graph if not graph.is_directed() and len({*graph[node]} - {node}) == len(graph) - 1]
    hub = hubs if len(hubs) == 1 else []
    places = nx.circular_layout(graph.subgraph(set(graph) - {*hub})) | dict.fromkeys(hub, (0.0, 0.0))
    drawing: dict[str, Any] = {"ax": ax, "width": line_widths, "node_size": 420 if graph.is_directed() else 260}
    if graph.is_directed():
        drawing |= {"edge_color": BAR, "alpha": 0.75, "connectionstyle": "arc3,rad=0.12", "arrowsize": 9}
    else:
        drawing |= {"edge_color": INK}
    nx.draw_networkx_edges(graph, places, **drawing)
    for node, (x, y) in places.items():
        ring = {"boxstyle": "round,pad=0.35", "facecolor": to_rgba(BAR_TOP, 0.9), "edgecolor": "none"}
        ax.text(x, y, str(node), ha="center", va="center", color="white", bbox=ring, zorder=3)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")  # nodes lie on the unit circle; without edges nothing else says so
    ax.set_axis_off()


def _draw_matrix(ax: Axes, matrix: Matrix, names: Sequence[str], decimals: int = 0) -> None:
    """Numbers on squares, the darker the larger; rows and columns are named on the left and above."""
    largest = max(max(row) for row in matrix) or 1
    for v, row in enumerate(matrix):
        for u, value in enumerate(row):
            ax.add_patch(mpl.patches.Rectangle((u, v), 1, 1, facecolor=to_rgba(BAR, 0.55 * value / largest), edgecolor="none"))
            ax.text(u + 0.5, v + 0.5, f"{value:.{decimals}f}", ha="center", va="center")
    size = len(matrix)
    middles = [place + 0.5 for place in range(size)]
    ax.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=middles, yticks=middles, xticklabels=names, yticklabels=names)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
