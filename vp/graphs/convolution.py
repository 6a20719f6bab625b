"""The graph convolution of report 3.2 and 3.3 in three forms that give the same numbers; message passing, of which it is a case.

One layer, by node:

    h'_v = sigma( W sum_{u in N(v)} A[v, u] h_u / deg(v) + B h_v )

and in matrix form, rows of H being nodes:

    H' = sigma( D^-1 A H W^T + H B^T )

A (N, N) dense or CSR, H (N, d_in), W and B (d_out, d_in), H' (N, d_out). A node without neighbours keeps only B h_v.

This is GraphSAGE's layer with the mean (Hamilton et al. 2017, algorithm 1, before its scaling to length one): their one weight on
[h_v, mean] is [B, W]. Kipf and Welling (2017), who named graph convolutional networks, differ: one weight for a node and its
neighbours, A + I for A, and a symmetric normalisation, sigma( D~^-1/2 (A + I) D~^-1/2 H W^T ) with D~ = D + I.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vp.graphs.adjacency import check_dense, check_tensors, degrees, edges_of
from vp.graphs.aggregation import check_features, gather, mean_aggregate

Activation = Callable[[Tensor], Tensor]


def graph_convolution(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation = torch.relu) -> Tensor:
    """sigma(D^-1 A H W^T + H B^T) (N, d_out): the matrix form, the fast one (report 3.3.a). ValueError: shapes that do not fit."""
    _check_layer(A, H, W, B)
    return activation(mean_aggregate(A, H) @ W.T + H @ B.T)


def graph_convolution_by_node(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation = torch.relu) -> Tensor:
    """h'_v = sigma(W sum_{u in N(v)} A[v, u] h_u / deg(v) + B h_v), one node after the other: the report's formula (3.2.a).

    ValueError: shapes that do not fit, or a CSR A of more than DENSE_NODES nodes.
    """
    _check_layer(A, H, W, B)
    if A.layout == torch.sparse_csr:
        check_dense(len(A), A.dtype.itemsize, "give it to graph_convolution")
    degree = degrees(A).to(H.dtype)
    A = A.to_dense().to(H.dtype)
    embeddings = []
    for v in range(len(A)):
        neighbours = A[v].nonzero().flatten()
        received = torch.zeros_like(H[v])
        for u in neighbours:
            received = received + A[v, u] * H[u] / degree[v]
        embeddings.append(activation(W @ received + B @ H[v]))
    return torch.stack(embeddings) if embeddings else H.new_zeros(0, len(W))


def graph_convolution_by_messages(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation = torch.relu) -> Tensor:
    """The same layer as message passing: message W h_u, mean, update sigma(m_v + B h_v), both linear in h (report 3.2.b)."""
    _check_layer(A, H, W, B)

    def message(receiver: Tensor, sender: Tensor) -> Tensor:
        return sender @ W.T

    def update(H: Tensor, received: Tensor) -> Tensor:
        return activation(received + H @ B.T)

    return message_passing(A, H, message, update, "mean")


def message_passing(
    A: Tensor,
    H: Tensor,
    message: Callable[[Tensor, Tensor], Tensor],
    update: Callable[[Tensor, Tensor], Tensor],
    aggregate: str = "sum",
) -> Tensor:
    """One layer of any message passing network (Gilmer et al. 2017; report 3.2.b), by node:

        m_v = sum_{u in N(v)} A[v, u] message(h_v, h_u)        h'_v = update(h_v, m_v)

    with the sum, the "mean" (divided by deg(v)) or the "max" (whatever the weights) as aggregate; m_v = 0 for isolated nodes.

    message(receivers (E, d), senders (E, d)) -> (E, d_m): all edges at once.
    update(H (N, d), received (N, d_m)) -> (N, d_out): all nodes at once.

    ValueError: A not square, H without one row per node, messages without one row per edge, an unknown aggregate.
    """
    check_features(A, H)
    edges = edges_of(A)
    messages = message(H[edges.receiver], H[edges.sender])
    if messages.ndim != 2 or len(messages) != len(edges.receiver):
        raise ValueError(f"messages are {tuple(messages.shape)}: expected ({len(edges.receiver)}, d_m), a row per edge")
    return update(H, gather(messages, A, edges, aggregate))


def _check_layer(A: Tensor, H: Tensor, W: Tensor, B: Tensor) -> None:
    check_features(A, H)
    check_tensors(W=W, B=B)
    width = H.shape[1]
    if W.ndim != 2 or W.shape[1] != width or W.shape != B.shape:
        raise ValueError(f"W is {tuple(W.shape)} and B {tuple(B.shape)}: expected both (d_out, {width}) for H {tuple(H.shape)}")
    if not W.dtype == B.dtype == H.dtype:
        raise ValueError(f"W is of {W.dtype}, B of {B.dtype} and H of {H.dtype}: expected one dtype, for instance H.to(W.dtype)")
