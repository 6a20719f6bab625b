"""Adjacency and degree matrices (report 3.1).

The convention, everywhere in this package: A[u, v] is the number (or the total weight) of edges from u to v, as in networkx, and
the neighbours N(v) of a node are the nodes that it has an edge to, row v of A. So (A^n)_uv counts walks FROM u TO v, and D^-1 A H
averages over N(v), with the same A: a node reads what it points at. For an undirected graph A is symmetric and direction does not
matter. PyTorch Geometric sends messages along edges instead: to change over, flip the edge index, `index.flip(0)`, and build A of
that. (Transposing a CSR tensor is no way: torch gives columns, CSC, or an error.)

A self-loop makes a node its own neighbour and counts once; parallel edges and weights add up; weight 0 is no edge.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence
from operator import index as whole
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import networkx as nx
import numpy as np
import torch
from torch import Tensor

Graph: TypeAlias = "nx.Graph[Any] | Tensor | np.ndarray[Any, Any] | Iterable[tuple[Any, ...]]"

DENSE_NODES = 10_000  # 400 MB in float32; a layer's gradients need the same again, or more


class Edges(NamedTuple):
    """Edges (v, u) with A[v, u] != 0 as three vectors (E,): v receives from u with a weight."""

    receiver: Tensor
    sender: Tensor
    weight: Tensor


def adjacency_matrix(
    graph: Graph,
    nodelist: Sequence[Hashable] | Tensor | None = None,
    *,
    weights: Tensor | None = None,
    undirected: bool = False,
    sparse: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A (N, N) of a graph, A[u, v] = number of edges u -> v, or the sum of their weights (report 3.1.a).

    graph: a networkx graph of any kind (edge attribute "weight", 1 where absent); or an edge list of pairs (u, v) or triples
        (u, v, weight); or an edge index, an integer tensor (2, E) of edges [0, e] -> [1, e], as in PyTorch Geometric.
        NOT what they look like:
        - list(G.edges) of an undirected G names each edge one way, so A is one-way, too, and of a multigraph it gives triples
          (u, v, key), so keys become weights: give G itself (or undirected=True, and keys=False).
        - [[0, 1, 2], [1, 2, 0]] is a LIST, of two triples with the weights 2 and 0: give torch.tensor([[0, 1, 2], [1, 2, 0]]).
        - a tensor or numpy array is an edge INDEX, be it 2 x 2: turn pairs in rows into a list, pairs.tolist(), or give pairs.T.
    nodelist: the order of the rows, each node once. Without it: networkx's own order; the order in which an edge list first
        names its nodes; 0, 1, ... for an edge index. For edge lists and indices it may add isolated nodes: `range(N)`.
    weights: (E,), of an edge index only.
    undirected: counts every edge in both directions (a self-loop once), as the edges of an undirected networkx graph always are.
    sparse: compressed sparse rows (CSR) instead of a dense matrix, which is refused above DENSE_NODES nodes.
    dtype: of A; weights are added up in float64 before.

    ValueError: a nodelist that repeats, misses or invents nodes; an edge index or weights of another shape; a weight that is no
    number, or a total that an integer or boolean dtype cannot hold; a dense A too large.
    """
    if isinstance(nodelist, Tensor | np.ndarray):
        nodelist = nodelist.tolist()
    if weights is not None and not isinstance(graph, Tensor | np.ndarray):
        raise ValueError(
            "weights belong to an edge index (2, E): give networkx edges a `weight`, an edge list triples (u, v, weight)"
        )
    if isinstance(graph, nx.Graph):
        size, u, v, weight = _of_networkx(graph, nodelist)
        undirected = undirected or not graph.is_directed()
    elif isinstance(graph, Tensor | np.ndarray):
        size, u, v, weight = _of_edge_index(torch.as_tensor(graph), nodelist, weights)
    else:
        size, u, v, weight = _of_edge_list([tuple(edge) for edge in graph], nodelist)
    if undirected:
        back = u != v
        u, v, weight = torch.cat([u, v[back]]), torch.cat([v, u[back]]), torch.cat([weight, weight[back]])
    if not sparse:
        check_dense(size, dtype.itemsize, "give sparse=True")
    cells, place = torch.unique(u * size + v, return_inverse=True)
    totals = torch.zeros(len(cells), dtype=torch.float64, device=u.device).index_add(0, place, weight.double())
    values = totals.to(dtype)
    if not dtype.is_floating_point and (inexact := values != totals).any():
        raise ValueError(f"an entry of A is {totals[inexact][0].item():.4g}, which {dtype} cannot hold: give another dtype")
    if not sparse:
        return torch.zeros(size * size, dtype=dtype, device=u.device).index_put((cells,), values).reshape(size, size)
    return csr_matrix(offsets(cells // max(size, 1), size), cells % max(size, 1), values, size)


def degrees(A: Tensor) -> Tensor:
    """deg(v) = sum_u A[v, u], (N,): the number of edges that leave v, or their total weight; a self-loop counts once.

    A (N, N) dense or CSR. Integers and booleans add up to int64, narrow floating-point numbers to float32: the dtype of the result.
    ValueError: A not square, or NaN, infinite or negative weights, of which there is no degree.
    """
    check_square(A)
    wide = torch.promote_types(A.dtype, torch.float32) if A.is_floating_point() else torch.int64
    if A.layout == torch.sparse_csr:
        values = A.values()
        degree = torch.zeros(len(A), dtype=wide, device=A.device).index_add(0, rows_of(A), values.to(wide))
    else:
        values, degree = A, A.sum(1, dtype=wide)
    if not ((values >= 0).all() and degree.isfinite().all()):
        raise ValueError("A has NaN, infinite or negative weights: a degree is a sum of finite weights of at least 0")
    return degree


def degree_matrix(A: Tensor) -> Tensor:
    """D (N, N) = diag(deg), D[v, v] = sum_u A[v, u], in the layout of A. Its dtype and ValueError: as `degrees`."""
    degree = degrees(A)
    if A.layout != torch.sparse_csr:
        return degree.diag()
    nodes = torch.arange(len(degree) + 1, device=A.device)
    return csr_matrix(nodes, nodes[:-1], degree, len(degree))


def edges_of(A: Tensor) -> Edges:
    """The edges of A (N, N), dense or CSR, row by row; gradients reach a dense A through the weights."""
    check_square(A)
    if A.layout != torch.sparse_csr:
        receiver, sender = A.nonzero(as_tuple=True)
        return Edges(receiver, sender, A[receiver, sender])
    kept = A.values() != 0
    return Edges(rows_of(A)[kept], A.col_indices()[kept], A.values()[kept])


def check_square(A: Tensor | np.ndarray[Any, Any], kinds: type | tuple[type, ...] = Tensor) -> None:
    """TypeError: A none of the kinds of matrix. ValueError: A not (N, N), or a sparse tensor other than CSR."""
    if not isinstance(A, kinds):
        raise TypeError(f"A is a {type(A).__name__}: expected a tensor (N, N), which adjacency_matrix makes of graphs and edges")
    if isinstance(A, Tensor) and A.layout not in (torch.strided, torch.sparse_csr):
        raise ValueError(
            f"A has layout {A.layout}: expected a dense or CSR tensor: give A.to_sparse_csr(), "
            "or, for the edges turned round, adjacency_matrix(index.flip(0), sparse=True)"
        )
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A is {tuple(A.shape)}: expected (N, N)")


def check_tensors(**given: object) -> None:
    """TypeError that names the first argument that is no tensor."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}: expected a tensor, for instance torch.as_tensor({name})")


def check_dense(size: int, itemsize: int, advice: str) -> None:
    if size > DENSE_NODES:
        needed = size**2 * itemsize / 2**30
        raise ValueError(f"a dense A of {size:,} nodes takes {needed:,.1f} GiB (limit {DENSE_NODES:,} nodes): {advice}")


def csr_matrix(crow: Tensor, col: Tensor, values: Tensor, size: int) -> Tensor:
    """The (size, size) matrix whose row v holds values[crow[v] : crow[v + 1]] in the columns col[crow[v] : crow[v + 1]]."""
    with warnings.catch_warnings():
        # Torch calls the layout beta; here it is a container only, and the tests compare every result with a dense one.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(crow, col, values, (size, size), check_invariants=False)


def offsets(rows: Tensor, size: int) -> Tensor:
    """(size + 1,): where each row begins and ends among sorted row numbers."""
    return torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=size).cumsum(0)])


def rows_of(A: Tensor) -> Tensor:
    """The row number of every value of a CSR matrix."""
    return torch.repeat_interleave(torch.arange(len(A), device=A.device), A.crow_indices().diff())


# -- what is read of each kind of graph: number of nodes, u (E,), v (E,), weight (E,) --------------------------------------

_Read: TypeAlias = tuple[int, Tensor, Tensor, Tensor]


def _of_networkx(graph: nx.Graph[Any], nodelist: Sequence[Hashable] | None) -> _Read:
    place = _places(list(graph) if nodelist is None else nodelist, graph.nodes)
    if unknown := [node for node in place if node not in graph]:
        raise ValueError(f"nodelist has {len(unknown)} node(s) that the graph has not: {_some(unknown)}")
    return _read(place, list(graph.edges(data="weight", default=1)))


def _of_edge_list(edges: list[tuple[Any, ...]], nodelist: Sequence[Hashable] | None) -> _Read:
    if wrong := [edge for edge in edges if len(edge) not in (2, 3)]:
        raise ValueError(f"an edge has {len(wrong[0])} entries: expected (u, v) or (u, v, weight)")
    named = dict.fromkeys(node for u, v, *_ in edges for node in (u, v))
    return _read(_places(list(named) if nodelist is None else nodelist, named), [(*edge, 1)[:3] for edge in edges])


def _of_edge_index(index: Tensor, nodelist: Sequence[Hashable] | None, weights: Tensor | None) -> _Read:
    if index.ndim != 2 or len(index) != 2 or index.is_floating_point():
        raise ValueError(f"the edge index is {tuple(index.shape)} of {index.dtype}: expected integers of shape (2, E)")
    if index.numel() and index.min() < 0:
        raise ValueError(f"the edge index names node {int(index.min())}: expected numbers from 0")
    index = index.long()
    weight = torch.ones(index.shape[1], dtype=torch.float64, device=index.device) if weights is None else torch.as_tensor(weights)
    if weight.shape != index.shape[1:]:
        raise ValueError(f"weights are {tuple(weight.shape)}: expected one per edge, {tuple(index.shape[1:])}")
    size = int(index.max()) + 1 if index.numel() else 0
    if nodelist is None:
        return size, *index, weight
    place = _places(nodelist, index.unique().tolist())
    if wrong := [node for node in place if not isinstance(node, SupportsIndex) or whole(node) < 0]:
        raise ValueError(f"nodelist names {_some(wrong)}: the nodes of an edge index are whole numbers from 0")
    nodes = [whole(node) for node in place]
    row_of = index.new_zeros(max([size, *(node + 1 for node in nodes)]))
    row_of[torch.tensor(nodes, dtype=torch.long)] = torch.arange(len(place), device=index.device)
    return len(place), *row_of[index], weight


def _read(place: dict[Any, int], edges: list[tuple[Any, ...]]) -> _Read:
    ends = torch.tensor([(place[u], place[v]) for u, v, _ in edges], dtype=torch.long).reshape(-1, 2)
    return len(place), *ends.T, torch.tensor([_number(edge) for edge in edges], dtype=torch.float64)


def _number(edge: tuple[Any, ...]) -> float:
    """The weight of an edge (u, v, weight)."""
    try:
        return float(edge[2])
    except (TypeError, ValueError):
        advice = "give G itself, or G.edges(data='weight', default=1)"
        raise ValueError(
            f"the edge {edge} has {edge[2]!r} for a weight: expected a number; of a networkx graph G {advice}"
        ) from None


def _places(nodelist: Sequence[Hashable], nodes: Iterable[Hashable]) -> dict[Any, int]:
    """The row of each node of a nodelist that names each of `nodes` once."""
    place = {node: row for row, node in enumerate(nodelist)}
    if len(place) != len(nodelist):
        raise ValueError(f"nodelist has {len(nodelist)} entries but {len(place)} nodes: name each node once")
    if missing := [node for node in nodes if node not in place]:
        raise ValueError(f"nodelist misses {len(missing)} node(s) of the graph: {_some(missing)}")
    return place


def _some(nodes: Iterable[Hashable]) -> str:
    """The first few, for a message."""
    shown = [repr(node) for node in nodes]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
