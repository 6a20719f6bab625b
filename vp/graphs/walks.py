"""Counting walks (report 3.1.c).

A walk of length n is a sequence of n edges, each beginning where the last one ended; unlike a path it may repeat nodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from operator import index
from typing import Any, SupportsIndex

import networkx as nx
import numpy as np
from torch import Tensor

from vp.graphs.adjacency import check_dense, check_square


def count_walks(A: Tensor | np.ndarray[Any, Any], n: SupportsIndex) -> np.ndarray[Any, Any]:
    """A^n (N, N): entry [u, v] is the number of walks of length n from u to v. Exact for any n: Python integers, no overflow.

    In matrix form A^n = A A ... A, by node w_n(u, v) = sum_x A[u, x] w_{n-1}(x, v) with w_0(u, v) = 1 if u = v, else 0.
    A: a dense or CSR tensor or a numpy array of whole numbers of edges (of any dtype). Parallel edges give separate walks, and so
    do whole weights: an edge of weight 3 is three ways to go.

    ValueError: A not square, of more than DENSE_NODES nodes, entries that are not whole numbers of at least 0, or a negative n.
    """
    check_square(A, (Tensor, np.ndarray))
    check_dense(len(A), 8, "count the walks of a part of the graph")
    length = _length(n)
    values = (A.to_dense() if isinstance(A, Tensor) else A).flatten().tolist()
    for value in values:
        if not (value >= 0 and value // 1 == value):
            raise ValueError(f"A has an entry {value}: walks are counted along whole numbers of edges of at least 0")
    exact = np.array([int(value) for value in values], dtype=object).reshape(A.shape)
    return np.linalg.matrix_power(exact, length)


def walks(graph: nx.Graph[Any], u: Hashable, v: Hashable, n: SupportsIndex) -> Iterator[tuple[Hashable, ...]]:
    """Every walk (u, ..., v) of n edges, one by one: the definition that `count_walks` counts, and exponentially slow.

    Parallel edges give separate walks. Weights are not looked at, so an edge of weight 3, three ways to `count_walks`, is one.
    ValueError: u or v not in the graph, or a negative n.
    """
    if missing := [node for node in (u, v) if node not in graph]:
        raise ValueError(f"{missing[0]!r} is not one of the {len(graph)} nodes of the graph")
    return _walks(graph, u, v, _length(n))


def _walks(graph: nx.Graph[Any], u: Hashable, v: Hashable, n: int) -> Iterator[tuple[Hashable, ...]]:
    begun: list[tuple[Hashable, ...]] = [(u,)]
    while begun:
        walk = begun.pop()
        if len(walk) <= n:
            begun += [(*walk, following) for _, following in graph.edges(walk[-1])]
        elif walk[-1] == v:
            yield walk


def _length(n: SupportsIndex) -> int:
    if not isinstance(n, SupportsIndex) or index(n) < 0:
        raise ValueError(f"n = {n!r}: the length of a walk is a whole number of at least 0")
    return index(n)
