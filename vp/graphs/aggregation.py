"""Aggregation over a node's neighbours (report 3.2.a, 3.3.b, 3.3.c): the sum, the mean or the maximum of their embeddings.

H (N, d): row v is the embedding h_v of node v. N(v) is row v of A (see vp.graphs.adjacency). Isolated nodes gather zeros.
A is dense or CSR. Sum and mean are matrices that multiply H; the maximum is not linear in H, so no matrix gives it.

The product of a CSR A is for loss.backward() and torch.autograd.grad (also twice), not for the transforms of torch.func (jacrev,
vmap, ...): give those A.to_dense(). Its first backward pass turns A round once and keeps that for as long as A lives: 24 bytes an
edge, 48 MB for 2,000,000.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch.utils.weak import WeakTensorKeyDictionary

from vp.graphs.adjacency import Edges, check_square, check_tensors, csr_matrix, degrees, edges_of, offsets, rows_of

AGGREGATES = ("sum", "mean", "max")


def sum_aggregate(A: Tensor, H: Tensor) -> Tensor:
    """A H (N, d); by node: sum_{u in N(v)} A[v, u] h_u.

    Gradients flow to H and to a dense A. ValueError: A not square, H without one row per node, or a CSR A that requires a gradient.
    """
    check_features(A, H)
    if A.layout != torch.sparse_csr:
        return A.to(H.dtype) @ H
    if A.requires_grad:
        raise ValueError("a CSR A gets no gradient: give A.to_dense(), or A.detach()")
    product: Tensor = _SparseSum.apply(H, A)
    return product


def mean_aggregate(A: Tensor, H: Tensor) -> Tensor:
    """D^-1 A H (N, d); by node: sum_{u in N(v)} A[v, u] h_u / deg(v), and zeros if v is isolated (report 3.3.b).

    The divisor is the degree of the RECEIVING node v. ValueError: as `sum_aggregate` and `degrees`.
    """
    return sum_aggregate(A, H) / _divisors(A, H.dtype)[:, None]


def max_aggregate(A: Tensor, H: Tensor) -> Tensor:
    """max_{u in N(v)} h_u (N, d), feature by feature, and zeros if v is isolated (report 3.3.c; Hamilton et al. 2017).

    Weights say only who is a neighbour. ValueError: A not square, H without one row per node, or NaN in H.
    """
    check_features(A, H)
    if H.isnan().any():
        raise ValueError("H has NaN: there is no maximum")  # torch's kernel would pass over it
    edges = edges_of(A)
    return embedding_bag(edges.sender, H, offsets(edges.receiver, len(A)), mode="max", include_last_offset=True)


def mean_matrix(A: Tensor) -> Tensor:
    """D^-1 A (N, N), in the layout of A: rows sum to one, or are zero for isolated nodes. In float32, or float64 as A.

    ValueError: as `degrees`.
    """
    divisors = _divisors(A, torch.promote_types(A.dtype, torch.float32))
    if A.layout != torch.sparse_csr:
        return A / divisors[:, None]
    return csr_matrix(A.crow_indices(), A.col_indices(), A.values() / divisors[rows_of(A)], len(A))


def gather(messages: Tensor, A: Tensor, edges: Edges, how: str) -> Tensor:
    """The sum, mean or max, (N, d), of the messages (E, d) that arrive at each node along the edges of A; zeros where none does.

    By node, with m_e the message along edge e = (v, u): sum A[v, u] m_e; that sum / deg(v); or max m_e, feature by feature.
    """
    if how not in AGGREGATES:
        raise ValueError(f"aggregate is {how!r}: expected one of {', '.join(AGGREGATES)}")
    nothing = messages.new_zeros(len(A), messages.shape[1])
    if how == "max":
        cells = edges.receiver[:, None].expand_as(messages)
        return nothing.scatter_reduce(0, cells, messages, "amax", include_self=False)
    total = nothing.index_add(0, edges.receiver, edges.weight.to(messages.dtype)[:, None] * messages)
    return total / _divisors(A, messages.dtype)[:, None] if how == "mean" else total


def check_features(A: Tensor, H: Tensor) -> None:
    check_square(A)
    check_tensors(H=H)
    if H.ndim != 2 or len(H) != len(A) or not H.shape[1] or not H.is_floating_point():
        raise ValueError(
            f"H is {tuple(H.shape)} of {H.dtype}: expected floating-point numbers of shape ({len(A)}, d), a row per node"
        )


def _divisors(A: Tensor, dtype: torch.dtype) -> Tensor:
    """The degrees, with 1 for isolated nodes, whose sum is zero."""
    degree = degrees(A).to(dtype)
    return degree.masked_fill(degree == 0, 1)


# -- the sparse product ----------------------------------------------------------------------------------------------------


class _SparseSum(torch.autograd.Function):
    """A H for a CSR matrix A; the gradient of H is A^T G, again such a product.

    A bag of embeddings is a row of A H: torch's kernel for it runs several times faster on a CPU than its sparse matrix product.
    """

    @staticmethod
    def forward(ctx: Any, H: Tensor, A: Tensor) -> Tensor:
        ctx.save_for_backward(A)
        return _bags(A.crow_indices(), A.col_indices(), A.values(), H)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (A,) = ctx.saved_tensors
        crow, col, order = _transpose(A)
        return _bags(crow, col, A.values()[order], G), None


def _bags(crow: Tensor, col: Tensor, weight: Tensor, H: Tensor) -> Tensor:
    return embedding_bag(col, H, crow, mode="sum", include_last_offset=True, per_sample_weights=weight.to(H.dtype))


_TRANSPOSES: MutableMapping[Tensor, tuple[Any, ...]] = WeakTensorKeyDictionary()


def _transpose(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row offsets and columns of A^T, and where each of its values stands in A. Kept for as long as A lives unchanged."""
    version, *known = _TRANSPOSES.get(A, (None,))
    if version != A._version:
        order = A.col_indices().argsort(stable=True)
        known = [offsets(A.col_indices(), len(A)), rows_of(A)[order], order]
        _TRANSPOSES[A] = (A._version, *known)
    crow, col, order = known
    return crow, col, order
