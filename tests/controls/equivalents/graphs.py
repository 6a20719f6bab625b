"""Correct graph mathematics, written otherwise than vp: the specification of section 3 must accept all of it.

Loops, numpy, einsum, networkx, precision and memory layout of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


# -- matrices of graphs: a type of numbers each ----------------------------------------------------------------------------


def adjacency_matrix(graph: nx.Graph, nodelist: Sequence[Any]) -> Tensor:
    """A loop over edges, whole numbers as int64, stored by columns."""
    rows = {node: row for row, node in enumerate(nodelist)}
    A = np.zeros((len(rows), len(rows)))
    for u, v, data in graph.edges(data=True):
        A[rows[u], rows[v]] += data.get("weight", 1)
        if not graph.is_directed() and u != v:
            A[rows[v], rows[u]] += data.get("weight", 1)
    whole = (A == A.round()).all()
    return torch.from_numpy(np.asfortranarray(A.astype(np.int64) if whole else A))


def degree_matrix(A: Tensor) -> np.ndarray:
    """An array of float32."""
    return np.diag(np.einsum("ij->i", A.numpy())).astype(np.float32)


def count_walks(A: Tensor, n: int) -> np.ndarray:
    """One step after the other, in Python's integers."""
    rows = [[int(entry) for entry in row] for row in A.tolist()]
    nodes = range(len(rows))
    counts = [[int(u == v) for v in nodes] for u in nodes]
    for _ in range(n):
        counts = [[sum(counts[u][x] * rows[x][v] for x in nodes) for v in nodes] for u in nodes]
    return np.array(counts, dtype=object).reshape(len(rows), len(rows))


# -- what a node gathers ---------------------------------------------------------------------------------------------------


def sum_aggregate(A: Tensor, H: Tensor) -> Tensor:
    """In float32, transposed twice."""
    return (H.float().T @ A.float().T).T


def mean_aggregate(A: Tensor, H: Tensor) -> np.ndarray:
    """numpy's weighted average of the rows of H."""
    A, H = A.numpy(), H.numpy()
    return np.stack([np.average(H, axis=0, weights=row) if row.any() else np.zeros(H.shape[1]) for row in A])


def max_aggregate(A: Tensor, H: Tensor) -> Tensor:
    """A loop over neighbours as networkx has them."""
    graph = nx.from_numpy_array(A.numpy(), create_using=nx.DiGraph)
    largest = torch.zeros_like(H)
    for v in graph:
        if neighbours := list(graph[v]):
            largest[v] = H[neighbours].max(dim=0).values
    return largest


# -- the layer -------------------------------------------------------------------------------------------------------------


def graph_convolution(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """One matrix [W, B] on [mean, h_v], in float32."""
    A, H, W, B = (matrix.float() for matrix in (A, H, W, B))
    mean = torch.einsum("vu,ui->vi", torch.nn.functional.normalize(A, p=1, dim=1), H)
    return activation(torch.cat([mean, H], 1) @ torch.cat([W, B], 1).T)


def graph_convolution_by_node(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Node by node into columns, which are turned round at the end."""
    columns = []
    for v in range(len(A)):
        column = B @ H[v]
        if (total := A[v].sum()) > 0:
            column = column + W @ torch.stack([A[v, u] * H[u] for u in range(len(A))]).sum(0) / total
        columns.append(activation(column))
    return torch.stack(columns, dim=1).T


def graph_convolution_by_messages(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Messages in a loop over edges."""
    received: list[Any] = [0.0] * len(A)
    for v, u in A.nonzero().tolist():
        received[v] = received[v] + (A[v, u] / A[v].sum()) * (W @ H[u])
    return torch.stack([activation(received[v] + B @ H[v]) for v in range(len(A))])


def message_passing(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Calls the functions edge by edge and node by node, with vectors."""
    rows = []
    nothing = torch.zeros_like(message(H[0], H[0]))
    for v in range(len(A)):
        neighbours = A[v].nonzero().flatten().tolist()
        messages = [message(H[v], H[u]) for u in neighbours]
        if not messages:
            arrived = nothing
        elif aggregate == "max":
            arrived = torch.stack(messages).max(0).values
        else:
            arrived = sum(A[v, u] * m for u, m in zip(neighbours, messages, strict=True))
            arrived = arrived / A[v].sum() if aggregate == "mean" else arrived
        rows.append(update(H[v], arrived))
    return torch.stack(rows)


# -- attention -------------------------------------------------------------------------------------------------------------


def attention_matrix(Q: Tensor, K: Tensor, mask: Tensor | None) -> np.ndarray:
    """exp and a division, in numpy."""
    scores = np.einsum("vi,ui->vu", Q.numpy(), K.numpy()) / np.sqrt(Q.shape[1])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    if mask is not None:
        weights = weights * mask.numpy()
    totals = weights.sum(1, keepdims=True)
    return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)


def self_attention(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """torch's own attention on a batch of one, in float32; the scores with -inf where the mask hides."""
    Q, K, V = ((H @ weight.T).float()[None] for weight in (W_q, W_k, W_v))
    bias = None if mask is None else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    output = torch.nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=bias)[0]
    return output if mask is None else output.nan_to_num(0) * mask.any(1, keepdim=True)
