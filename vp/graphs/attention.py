"""Self-attention as message passing (report 3.5; Vaswani et al. 2017).

Tokens are nodes; the attention matrix is a weighted adjacency matrix: A[v, u] is how much v attends to u, and a row, which sums to
one, is a mean already (D = I). Without a mask the graph is complete, with self-loops; a mask takes edges away.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from vp.graphs.adjacency import check_square, check_tensors, degrees, edges_of
from vp.graphs.aggregation import sum_aggregate


def attention_matrix(Q: Tensor, K: Tensor, mask: Tensor | None = None) -> Tensor:
    """A = softmax(Q K^T / sqrt(d)) over each row; by node: A[v, u] = e_vu / sum_{x in N(v)} e_vx, e_vu = exp(q_v.k_u / sqrt(d)).

    Q and K (N, d). mask (N, N) of booleans: True where v may attend to u, the adjacency matrix of who sees whom. Rows of A (N, N)
    sum to one; a node that may attend to none has a zero row. TypeError: no tensors. ValueError: shapes that do not fit, a
    mask that is not boolean.
    """
    check_tensors(Q=Q, K=K)
    if Q.ndim != 2 or Q.shape != K.shape:
        raise ValueError(f"Q is {tuple(Q.shape)} and K {tuple(K.shape)}: expected both (N, d)")
    scores: Tensor = Q @ K.T / Q.shape[1] ** 0.5
    if mask is None:
        return scores.softmax(1)
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        raise ValueError(f"mask is {tuple(mask.shape)} of {mask.dtype}: expected {tuple(scores.shape)} of booleans")
    # The lowest number instead of -inf: a row without any True stays free of NaN, in its gradient, too.
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(1).masked_fill(~mask, 0)


def self_attention(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One attention head (N, d_v): A H W_v^T, with A the attention matrix of H W_q^T and H W_k^T; by node, sum_u A[v, u] W_v h_u.

    H (N, d), W_q and W_k (d_k, d), W_v (d_v, d); mask as in `attention_matrix`. ValueError: shapes that do not fit.
    """
    check_tensors(H=H, W_q=W_q, W_k=W_k, W_v=W_v)
    for name, weight in (("W_q", W_q), ("W_k", W_k), ("W_v", W_v)):
        if H.ndim != 2 or weight.ndim != 2 or weight.shape[1] != H.shape[1]:
            raise ValueError(f"{name} is {tuple(weight.shape)} and H {tuple(H.shape)}: expected (d_out, d) and (N, d)")
    return sum_aggregate(attention_matrix(H @ W_q.T, H @ W_k.T, mask), H @ W_v.T)


def attention_graph(A: Tensor, nodelist: Sequence[Hashable] | None = None) -> nx.DiGraph[Any]:
    """The attention matrix A (N, N) as a directed graph for drawing: an edge v -> u of weight A[v, u] where v attends to u.

    nodelist names the rows (default 0, 1, ...), each once. ValueError: A not square, rows that do not sum to one or zero, weights
    that are no weights, a nodelist of another length or with repetitions.
    """
    check_square(A)
    A = A.detach()
    sums = degrees(A)
    if not (torch.isclose(sums, torch.ones_like(sums), atol=1e-4) | (sums == 0)).all():
        raise ValueError(
            f"rows of A sum to {sums.min():.4g} to {sums.max():.4g}: rows of an attention matrix sum to one, or are zero"
        )
    names = list(range(len(A)) if nodelist is None else nodelist)
    if len(names) != len(A) or len(set(names)) != len(names):
        raise ValueError(
            f"nodelist has {len(names)} entries, {len(set(names))} of them different: expected {len(A)} different names"
        )
    graph: nx.DiGraph[Any] = nx.DiGraph()
    graph.add_nodes_from(names)
    edges = zip(*(column.tolist() for column in edges_of(A)), strict=True)
    graph.add_weighted_edges_from((names[v], names[u], weight) for v, u, weight in edges)
    return graph
