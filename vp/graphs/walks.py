"""Counting walks (report 3.1.c).

A walk of length n is a sequence of n edges, each beginning where the last one ended; unlike a path it may repeat nodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import networkx as nx
import numpy as np
from torch import Tensor

from vp.graphs.adjacency import check_square


def count_walks(A: Tensor | np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """A^n (N, N): entry [u, v] is the number of walks of length n from u to v. Exact for any n: Python integers, no overflow.

    In matrix form A^n = A A ... A, by node w_n(u, v) = sum_x A[u, x] w_{n-1}(x, v) with w_0(u, v) = 1 if u = v, else 0.
    A: a dense or CSR tensor or a numpy array of whole numbers of edges (of any dtype); parallel edges give separate walks.

    ValueError: A not square, entries that are not whole numbers of at least 0, or a negative n.
    """
    check_square(A)
    _check_length(n)
    values = (A.to_dense() if isinstance(A, Tensor) else A).flatten().tolist()
    for value in values:
        if not (value >= 0 and value // 1 == value):
            raise ValueError(f"A has an entry {value}: walks are counted along whole numbers of edges of at least 0")
    exact = np.array([int(value) for value in values], dtype=object).reshape(A.shape)
    return np.linalg.matrix_power(exact, n)


def walks(graph: nx.Graph[Any], u: Hashable, v: Hashable, n: int) -> Iterator[tuple[Hashable, ...]]:
    """Every walk (u, ..., v) of n edges, one by one: the definition that `count_walks` counts, and exponentially slow.

    Parallel edges give separate walks; weights are not looked at. ValueError: u or v not in the graph, or a negative n.
    """
    if missing := [node for node in (u, v) if node not in graph]:
        raise ValueError(f"{missing[0]!r} is not one of the {len(graph)} nodes of the graph")
    _check_length(n)
    return _walks(graph, u, v, n)


def _walks(graph: nx.Graph[Any], u: Hashable, v: Hashable, n: int) -> Iterator[tuple[Hashable, ...]]:
    if n == 0:
        yield from [(u,)] if u == v else []
        return
    for _, following in graph.edges(u):
        for rest in _walks(graph, following, v, n - 1):
            yield (u, *rest)


def _check_length(n: int) -> None:
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n = {n}: the length of a walk is a whole number of at least 0")
