"""What the properties range over. Structure is drawn (sizes, kinds); tensor contents come from a drawn seed, so that failures
shrink and replay."""

from __future__ import annotations

import warnings
from itertools import combinations, product
from typing import NamedTuple

import networkx as nx
import torch
from hypothesis import strategies as st
from hypothesis.vendor import pretty
from torch import Tensor

seeds = st.integers(0, 2**32 - 1)


def tensor(seed: int, *shape: int) -> Tensor:
    """N(0, 1) values of a shape, from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int, *shape: int) -> Tensor:
    """Uniform uint8 values of a shape, from a seed."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


image_sizes = st.integers(5, 24)
batches = st.integers(1, 5)


class Sizes(NamedTuple):
    """A prompt's size and its image's, in pixels."""

    size: int
    image_size: int


@st.composite
def prompt_sizes(draw: st.DrawFn, kind: str = "Padding") -> Sizes:
    """What fits: a padding leaves at least one pixel inside, a patch may cover the image."""
    image_size = draw(image_sizes)
    return Sizes(draw(st.integers(1, (image_size - 1) // 2 if kind == "Padding" else image_size)), image_size)


# -- graphs (section 3): nodes are 0 to N - 1, contents are float64 --------------------------------------------------------

MOST_NODES = 6


@st.composite
def simple_graphs(draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = MOST_NODES) -> nx.Graph:
    """Undirected, without self-loops: from no node at all to the complete graph, connected or not."""
    size = draw(st.integers(min_nodes, max_nodes))
    return _with_some(draw, nx.empty_graph(size), list(combinations(range(size), 2)))


@st.composite
def directed_graphs(draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = MOST_NODES) -> nx.DiGraph:
    """Directed, self-loops allowed."""
    size = draw(st.integers(min_nodes, max_nodes))
    return _with_some(draw, nx.empty_graph(size, nx.DiGraph), list(product(range(size), repeat=2)))


@st.composite
def multigraphs(draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = MOST_NODES) -> nx.MultiGraph:
    """Directed or not, with parallel edges and self-loops."""
    size = draw(st.integers(min_nodes, max_nodes))
    kind = draw(st.sampled_from([nx.MultiGraph, nx.MultiDiGraph]))
    nodes = st.integers(0, max(size, 1) - 1)
    edges = st.lists(st.tuples(nodes, nodes), max_size=3 * size)
    graph = nx.empty_graph(size, kind)
    graph.add_edges_from(draw(edges) if size else [])
    return graph


@st.composite
def weighted_graphs(draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = MOST_NODES) -> nx.Graph:
    """Directed or not, with positive weights that are no whole numbers."""
    graph = draw(st.one_of(simple_graphs(min_nodes, max_nodes), directed_graphs(min_nodes, max_nodes)))
    weights = 0.1 + torch.rand(graph.number_of_edges(), generator=torch.Generator().manual_seed(draw(seeds)))
    for (_, _, data), weight in zip(graph.edges(data=True), weights.tolist(), strict=True):
        data["weight"] = weight
    return graph


def graphs(min_nodes: int = 0, max_nodes: int = MOST_NODES) -> st.SearchStrategy[nx.Graph]:
    """Any of the four kinds."""
    kinds = (simple_graphs, directed_graphs, multigraphs, weighted_graphs)
    return st.one_of(*(kind(min_nodes, max_nodes) for kind in kinds))


def _in_words(graph: nx.Graph, printer: pretty.RepresentationPrinter, cycle: bool) -> None:
    """How a failure shows a graph: its nodes and edges."""
    kind = "directed" if graph.is_directed() else "undirected"
    nodes = ", ".join(repr(node) for node in graph)
    ends = "->" if graph.is_directed() else "-"
    told = [
        f"{u!r}{ends}{v!r}" + (f" (weight {data['weight']:.3g})" if "weight" in data else "")
        for u, v, data in graph.edges(data=True)
    ]
    printer.text(f"{kind} graph of nodes {nodes or 'none'} and edges {', '.join(told) or 'none'}")


pretty.for_type_by_name("networkx.classes.graph", "Graph", _in_words)


def _with_some(draw: st.DrawFn, graph: nx.Graph, pairs: list[tuple[int, int]]) -> nx.Graph:
    """Some of the pairs become edges: one number holds them all, so that a graph is one draw, and 0 is no edge."""
    chosen = draw(st.integers(0, 2 ** len(pairs) - 1))
    graph.add_edges_from(pair for bit, pair in enumerate(pairs) if chosen >> bit & 1)
    return graph


def matrix_of(graph: nx.Graph) -> Tensor:
    """A (N, N) by networkx, so that inputs do not come from the code under test."""
    return torch.from_numpy(nx.to_numpy_array(graph))


def sparse(A: Tensor) -> Tensor:
    """A in compressed sparse rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return A.to_sparse_csr()


@st.composite
def adjacencies(draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = MOST_NODES, isolated: bool = True) -> Tensor:
    """A (N, N) of any graph, dense or CSR; unless nodes may be isolated, those that would be have a loop."""
    A = matrix_of(draw(graphs(min_nodes, max_nodes)))
    if not isolated:
        A += (A == 0).all(1).diag()
    return sparse(A) if draw(st.booleans()) else A


widths = st.integers(1, 3)


class Layer(NamedTuple):
    """What a graph convolution takes: A (N, N), H (N, d), W and B (d_out, d)."""

    A: Tensor
    H: Tensor
    W: Tensor
    B: Tensor

    def __repr__(self) -> str:
        """The graph in full, and of the values only how many."""
        rows = ", ".join(f"[{', '.join(f'{entry:.3g}' for entry in row)}]" for row in self.A.to_dense().tolist())
        nodes = "1 node" if len(self.A) == 1 else f"{len(self.A)} nodes"
        return f"{nodes}, A = [{rows}], width {self.W.shape[1]} to {self.W.shape[0]}"


@st.composite
def layers(draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = MOST_NODES, isolated: bool = True) -> Layer:
    """A graph of any kind with features and weights."""
    A = draw(adjacencies(min_nodes, max_nodes, isolated))
    d, d_out, seed = draw(widths), draw(widths), draw(seeds)
    return Layer(A, features(seed, len(A), d), features(seed + 1, d_out, d), features(seed + 2, d_out, d))


def features(seed: int, *shape: int) -> Tensor:
    """N(0, 1) values in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def permutations(size: int) -> st.SearchStrategy[list[int]]:
    """Orders of `size` nodes; the first node drawn is the old number of the new node 0."""
    return st.permutations(range(size))


def tangle() -> nx.MultiDiGraph:
    """One graph with all that tells wrong formulas apart: direction, parallel edges, weights, a self-loop, node 4 isolated."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(5))
    graph.add_weighted_edges_from([(0, 1, 1), (0, 1, 1), (0, 2, 0.5), (1, 2, 2), (2, 0, 1), (3, 3, 1), (3, 0, 3)])
    return graph
