"""Report 3.3: the graph convolution in matrix form, and which aggregations have one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, find, given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from tests.conformance.agree import agree, numbers
from tests.support.strategies import Layer, adjacencies, features, layers, matrix_of, seeds, sparse, tangle
from tests.test_3_2_graph_convolution import FORMS, means_of_neighbours, tangled_layer
from vp.graphs import (
    degree_matrix,
    graph_convolution,
    graph_convolution_by_node,
    max_aggregate,
    mean_aggregate,
    mean_matrix,
    sum_aggregate,
)

Aggregate = Callable[[Tensor, Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


# -- 3.3.a: the matrix form -------------------------------------------------------------------------------------------------


def matrix_form(A: Tensor, H: Tensor, W: Tensor, B: Tensor) -> Tensor:
    """D^-1 A H W^T + H B^T, with zeros in D^-1 for isolated nodes."""
    A = A.to_dense()
    inverse_degrees = torch.tensor([1 / degree if degree else 0.0 for degree in A.sum(1).tolist()], dtype=torch.float64)
    return torch.linalg.multi_dot([inverse_degrees.diag(), A, H, W.T]) + H @ B.T


@pytest.mark.claim("matrix-form")
@pytest.mark.specifies("graph_convolution")
@given(example=layers(min_nodes=1))
def test_the_matrix_form_multiplies_weights_from_the_right(impl, example: Layer) -> None:
    """With a node in each row of H, the layer is H' = sigma(D^-1 A H W^T + H B^T)."""
    agree(impl.graph_convolution(*example, identity), matrix_form(*example), "D^-1 A H W^T + H B^T")


@pytest.mark.claim("printed-product")
@given(example=layers(min_nodes=1))
def test_the_printed_product_does_not_fit(example: Layer) -> None:
    """The printed product W D^-1 A H has no meaning unless the number of nodes is the width of H."""
    _, H, W, _ = example
    assume(len(H) != H.shape[1])
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        W @ mean_aggregate(example.A, H)


@pytest.mark.claim("three-forms-of-a-layer")
@pytest.mark.specifies(*FORMS)
@given(example=layers(min_nodes=1))
def test_by_node_by_matrix_and_by_messages_are_one_layer(impl, example: Layer) -> None:
    """Node by node, in matrix form and by messages, the layer gives the same numbers."""
    by_matrix, by_node, by_messages = (getattr(impl, form)(*example, torch.tanh) for form in FORMS)
    agree(by_node, by_matrix, "the layer by node, and in matrix form expected")
    agree(by_messages, by_matrix, "the layer by messages, and in matrix form expected")


@pytest.mark.specifies("{form}")
@pytest.mark.parametrize("form", FORMS)
@given(example=layers(min_nodes=1, isolated=False))
def test_the_three_forms_have_the_same_gradients(impl, form: str, example: Layer) -> None:
    """The gradients of H, W and B are the same in the three forms, so that they also learn the same."""
    inputs = [matrix.clone().requires_grad_() for matrix in example[1:]]
    output, expected = getattr(impl, form)(example.A, *inputs, torch.tanh), matrix_form(example.A, *inputs).tanh()
    if not torch.allclose(numbers(output), expected, rtol=1e-4, atol=1e-5):
        return  # a layer with other values has other gradients: the values are spoken of elsewhere
    assert output.requires_grad, "the output has no gradient: it was not computed in torch, from H, W and B"
    found = torch.autograd.grad(numbers(output).square().sum(), inputs, allow_unused=True)
    right = torch.autograd.grad(expected.square().sum(), inputs)
    for matrix, one, other in zip("HWB", found, right, strict=True):
        one = torch.zeros_like(other) if one is None else one  # what is not in the graph of computation has no gradient
        agree(one, other, f"the gradient of {matrix}, although the values of the layer are right")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("layout", [torch.Tensor.clone, sparse], ids=["dense", "sparse"])
def test_gradients_are_those_of_finite_differences(form: Callable[..., Tensor], layout: Callable[[Tensor], Tensor]) -> None:
    """The gradients of H, W and B are right by finite differences in float64, and so are those of the weights of a dense A."""
    A, *inputs = tangled_layer()
    inputs = [matrix.requires_grad_() for matrix in inputs]
    assert gradcheck(lambda H, W, B: form(layout(A), H, W, B, torch.tanh), inputs)
    edges = A.nonzero(as_tuple=True)

    def of_weights(weights: Tensor) -> Tensor:
        return form(torch.zeros_like(A).index_put(edges, weights), *inputs, torch.tanh)

    assert gradcheck(of_weights, A[edges].requires_grad_())


@pytest.mark.parametrize("aggregate", [sum_aggregate, mean_aggregate])
def test_the_sparse_product_can_be_differentiated_twice(aggregate: Aggregate) -> None:
    """Second derivatives through the sparse product are right by finite differences, too."""
    A, H, _, _ = tangled_layer()
    assert gradgradcheck(lambda H: aggregate(sparse(A), H).sin(), H.requires_grad_())


@given(A=adjacencies(min_nodes=1), seed=seeds)
def test_the_gradient_follows_a_matrix_changed_in_place(A: Tensor, seed: int) -> None:
    """What the backward pass keeps of a sparse matrix is not used after the matrix has changed."""
    H, G = features(seed, len(A), 2).requires_grad_(), features(seed + 1, len(A), 2)
    A, other = sparse(A.to_dense()), sparse(3 * A.to_dense().T)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(sum_aggregate(A, H), H, G)
        torch.testing.assert_close(gradient, A.to_dense().T @ G)
        A.copy_(other)


def test_a_matrix_changed_between_forward_and_backward_is_an_error() -> None:
    """A sparse matrix changed in place before the backward pass gives torch's error, not a wrong gradient."""
    A, H = sparse(matrix_of(tangle())), features(0, 5, 2).requires_grad_()
    total = sum_aggregate(A, H).sum()
    A.values().mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@given(example=layers())
def test_the_features_decide_the_precision(dtype: torch.dtype, example: Layer) -> None:
    """A may hold integers, booleans or numbers of another precision: the output has the precision of H."""
    whole = example.A.to_dense().ceil().to(dtype)
    has_neighbours = (whole != 0).any(1)
    expected = graph_convolution(whole.double(), *example[1:])
    for layout in (torch.Tensor.clone, sparse):
        for form in (graph_convolution, graph_convolution_by_node):
            torch.testing.assert_close(form(layout(whole), *example[1:]), expected)
        torch.testing.assert_close(mean_matrix(layout(whole)).to_dense().sum(1).double(), has_neighbours.double())


@pytest.mark.parametrize("aggregate", [sum_aggregate, mean_aggregate, max_aggregate])
@given(example=layers(min_nodes=1))
def test_aggregates_have_the_precision_of_the_features(aggregate: Aggregate, example: Layer) -> None:
    """Features in float32 stay so whatever the precision of A."""
    for A in (example.A.double(), sparse(example.A.double())):
        assert aggregate(A, example.H.float()).dtype == torch.float32


# -- 3.3.b: the mean --------------------------------------------------------------------------------------------------------


@pytest.mark.claim("mean-aggregation", "normalised-sum")
@pytest.mark.specifies("mean_aggregate")
@given(example=layers(min_nodes=1))
def test_the_aggregate_is_the_mean_over_the_neighbours(impl, example: Layer) -> None:
    """D^-1 A H is the mean: the sum of the embeddings of all neighbours, divided by their number (or weight)."""
    A, H, _, _ = example
    agree(impl.mean_aggregate(A, H), torch.stack(means_of_neighbours(A, H)), "the mean over the neighbours of v, as [v, feature]")


@pytest.mark.parametrize("aggregate", [sum_aggregate, mean_aggregate, max_aggregate])
@pytest.mark.parametrize("layout", [torch.Tensor.clone, sparse], ids=["dense", "sparse"])
def test_without_nodes_nothing_is_gathered(aggregate: Aggregate, layout: Callable[[Tensor], Tensor]) -> None:
    """On a graph without nodes every aggregate is of size (0, d)."""
    assert aggregate(layout(torch.zeros(0, 0)), torch.zeros(0, 2)).shape == (0, 2)


@given(A=adjacencies())
def test_rows_of_the_mean_matrix_sum_to_one(A: Tensor) -> None:
    """Each row of D^-1 A sums to one, or is zero, by convention, for an isolated node: never NaN."""
    has_neighbours = A.to_dense().sum(1) > 0
    M = mean_matrix(A)
    assert M.layout == A.layout
    torch.testing.assert_close(M.to_dense().sum(1), has_neighbours.double())
    torch.testing.assert_close(degree_matrix(A).to_dense() @ M.to_dense(), A.to_dense())
    H = features(0, len(A), 2)
    torch.testing.assert_close(mean_aggregate(A, H), M.to_dense() @ H)


@given(example=layers(min_nodes=1))
def test_a_mean_lies_between_its_extremes(example: Layer) -> None:
    """A mean lies, feature by feature, between the smallest and the largest value among the neighbours."""
    A, H = example.A, example.H
    mean, largest, smallest = mean_aggregate(A, H), max_aggregate(A, H), -max_aggregate(A, -H)
    assert (mean <= largest + 1e-12).all()
    assert (mean >= smallest - 1e-12).all()


# -- 3.3.c: which aggregations are matrices ---------------------------------------------------------------------------------


@pytest.mark.specifies("sum_aggregate")
@given(example=layers(min_nodes=1))
def test_the_sum_is_taken_over_the_neighbours(impl, example: Layer) -> None:
    """Row v of the sum is the total of the h_u over the neighbours u of v, each as often as A[v, u] says."""
    A, H, _, _ = example
    expected = torch.zeros_like(H)
    for v, row in enumerate(A.to_dense().tolist()):
        for u, weight in enumerate(row):
            expected[v] += weight * H[u]
    agree(impl.sum_aggregate(A, H), expected, "the sum over the neighbours of v, as [v, feature]", atol=1e-6, rtol=1e-5)


@pytest.mark.claim("mean-and-sum-have-a-matrix-form")
@pytest.mark.specifies("{aggregate}")
@pytest.mark.parametrize("aggregate", ["sum_aggregate", "mean_aggregate"])
@given(example=layers(min_nodes=1))
def test_mean_and_sum_are_matrices(impl, aggregate: str, example: Layer) -> None:
    """The mean and the sum have a matrix form: they multiply H by D^-1 A and by A, whatever H is."""
    A, H, _, _ = example
    one_at_a_time = torch.eye(len(A), dtype=torch.float64)
    matrix = A.to_dense() if aggregate == "sum_aggregate" else torch.stack(means_of_neighbours(A, one_at_a_time))
    name = "A" if aggregate == "sum_aggregate" else "D^-1 A"
    agree(getattr(impl, aggregate)(A, one_at_a_time), matrix, f"{aggregate}(A, identity matrix), {name} expected")
    agree(getattr(impl, aggregate)(A, H), matrix @ H, f"{aggregate}(A, H), {name} H expected")


@pytest.mark.specifies("{aggregate}")
@pytest.mark.parametrize("aggregate", ["sum_aggregate", "mean_aggregate"])
@given(example=layers(min_nodes=1), seed=seeds)
def test_mean_and_sum_are_additive(impl, aggregate: str, example: Layer, seed: int) -> None:
    """The mean and the sum of H + K are those of H and of K added up, although numbers of neighbours differ for them, too."""
    A, H, gather = example.A, example.H, getattr(impl, aggregate)
    K = features(seed, *H.shape)
    agree(gather(A, H + K), numbers(gather(A, H)) + numbers(gather(A, K)), f"{aggregate} of H + K, its sum for H and K expected")


@pytest.mark.specifies("{aggregate}")
@pytest.mark.parametrize("aggregate", ["sum_aggregate", "mean_aggregate", "max_aggregate"])
def test_a_hub_may_have_three_hundred_neighbours(impl, aggregate: str) -> None:
    """A node with more neighbours than a byte can count gathers all of them; its neighbours gather the hub alone."""
    A = torch.zeros(301, 301, dtype=torch.float64)
    A[0, 1:] = A[1:, 0] = 1
    H = features(0, 301, 2)
    hub = {"sum_aggregate": H[1:].sum(0), "mean_aggregate": H[1:].sum(0) / 300, "max_aggregate": H[1:].amax(0)}[aggregate]
    agree(getattr(impl, aggregate)(A, H), torch.cat([hub[None], H[:1].expand(300, 2)]), f"{aggregate} of a star of 300 leaves")


def gathered(aggregate: str, A: Tensor, H: Tensor) -> Tensor:
    """The sum, mean or maximum over the neighbours, node by node; zeros where there are none."""
    rows = []
    for row in A.to_dense():
        neighbours = H[row != 0]
        total = (row[:, None] * H).sum(0)
        one = {"sum_aggregate": total, "mean_aggregate": total / row.sum()}.get(aggregate)
        rows.append((neighbours.amax(0) if one is None else one) if len(neighbours) else torch.zeros_like(H[0]))
    return torch.stack(rows)


@pytest.mark.specifies("{aggregate}")
@pytest.mark.parametrize("aggregate", ["sum_aggregate", "mean_aggregate", "max_aggregate"])
@given(example=layers(min_nodes=1), seed=seeds)
def test_what_is_gathered_hands_its_gradient_back(impl, aggregate: str, example: Layer, seed: int) -> None:
    """The gradient of a sum, mean or maximum reaches the embeddings that were gathered; it is finite beside isolated nodes."""
    if not isinstance(getattr(impl, aggregate)(example.A, example.H), Tensor):
        return  # an array of numpy, whose numbers are all that it claims
    H = example.H.clone().requires_grad_()
    found, expected = getattr(impl, aggregate)(example.A, H), gathered(aggregate, example.A, H)
    if not example.A.to_dense().any() or not torch.allclose(numbers(found), expected, rtol=1e-4, atol=1e-5):
        return  # nothing is gathered; or other values, which have other gradients, and are spoken of elsewhere
    assert getattr(found, "requires_grad", False), "the output has no gradient: it was not computed in torch, from H"
    weights = features(seed, *H.shape)
    right, one = (torch.autograd.grad((weights * numbers(some)).sum(), H)[0] for some in (expected, found))
    agree(one, right, "the gradient of H, although the values are right")


def breaks_additivity(A: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether the maximum of a sum is another than the sum of the maxima; of any M(A) H they are the same."""
    return not torch.allclose(max_aggregate(A, first + second), max_aggregate(A, first) + max_aggregate(A, second))


@pytest.mark.claim("not-all-have-a-matrix-form")
def test_no_matrix_gives_the_maximum() -> None:
    """No matrix M(A) gives the maximum for all H: it is not additive, as a search finds max(H + K) other than max H + max K."""
    pairs = st.tuples(adjacencies(), seeds).map(lambda drawn: (drawn[0], *features(drawn[1], 2, len(drawn[0]), 1)))
    A, *_ = find(pairs, lambda found: breaks_additivity(*found))
    assert (A.to_dense() != 0).sum(1).max() >= 2, "with a single neighbour the maximum is that neighbour, and additive"


@pytest.mark.claim("counts-are-not-the-reason")
@given(seed=seeds)
def test_the_maximum_is_no_matrix_even_where_all_degrees_are_equal(seed: int) -> None:
    """Numbers of neighbours are not the reason: on a cycle every node has two, and the maximum is no matrix there either."""
    A = torch.eye(6, dtype=torch.float64).roll(1, 0) + torch.eye(6, dtype=torch.float64).roll(-1, 0)
    assert breaks_additivity(A, *features(seed, 2, 6, 4))


def assert_is_the_maximum(aggregate: Aggregate, A: Tensor, H: Tensor) -> None:
    """Row v is the largest h_u over the neighbours u of v, feature by feature; zeros without neighbours."""
    expected = torch.zeros_like(H)
    for v, row in enumerate(A.to_dense().tolist()):
        neighbours = [H[u].tolist() for u, weight in enumerate(row) if weight]
        for i in range(H.shape[1] if neighbours else 0):
            expected[v, i] = max(embedding[i] for embedding in neighbours)
    agree(aggregate(A, H), expected, "the largest value among the neighbours of v, as [v, feature]", atol=1e-6, rtol=1e-6)


@pytest.mark.claim("uniformity-is-not-the-reason")
@given(example=layers(), seed=seeds)
def test_linear_aggregations_have_a_matrix_uniform_or_not(example: Layer, seed: int) -> None:
    """What it takes is linearity, not uniformity: a sum with other weights at each node has a matrix, the maximum has none."""
    A, H = example.A.to_dense(), example.H
    own = features(seed, *A.shape) * (A != 0)
    nothing = H.new_zeros(H.shape[1])
    by_node = [sum((own[v, u] * H[u] for u in range(len(A)) if A[v, u]), start=nothing) for v in range(len(A))]
    torch.testing.assert_close(sum_aggregate(own, H), torch.stack(by_node) if by_node else H)
    assert_is_the_maximum(max_aggregate, A, H)  # one rule for all nodes, yet
    assert breaks_additivity(torch.ones(2, 2), torch.eye(2), torch.eye(2).flip(0))


@pytest.mark.specifies("max_aggregate")
@given(example=layers(min_nodes=1))
def test_the_maximum_is_taken_over_the_neighbours_only(impl, example: Layer) -> None:
    """The maximum ranges over neighbours only, be they all negative, and an isolated node has zeros."""
    assert_is_the_maximum(impl.max_aggregate, example.A, example.H)


def test_nan_has_no_maximum() -> None:
    """NaN among the features is refused, not passed over."""
    with pytest.raises(ValueError, match=r"^H has NaN: there is no maximum$"):
        max_aggregate(torch.ones(2, 2), torch.tensor([[1.0], [float("nan")]]))


@pytest.mark.parametrize("layout", [torch.Tensor.clone, sparse], ids=["dense", "sparse"])
def test_the_maximum_has_the_right_gradient(layout: Callable[[Tensor], Tensor]) -> None:
    """The gradient of the maximum goes to the neighbour that attains it."""
    A, H, _, _ = tangled_layer()
    assert gradcheck(lambda H: max_aggregate(layout(A), H), H.requires_grad_())


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", [sum_aggregate, mean_aggregate, max_aggregate])
def test_features_that_do_not_fit_are_refused(aggregate: Aggregate) -> None:
    """Features without a row per node, without a column, or of integers are refused with the shape expected."""
    A = matrix_of(tangle())
    for H in (torch.ones(4, 2), torch.ones(5), torch.ones(5, 0), torch.ones(5, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"H is \(.*: expected floating-point numbers of shape \(5, d\), a row per node"):
            aggregate(A, H)
    with pytest.raises(ValueError, match=r"A is \(4, 5\): expected \(N, N\)"):
        aggregate(A[:4], torch.ones(4, 2))


def test_a_sparse_matrix_that_needs_a_gradient_is_refused() -> None:
    """The weights of a sparse matrix get no gradient, and asking for one is an error instead of a silent zero."""
    A = sparse(matrix_of(tangle())).requires_grad_()
    with pytest.raises(ValueError, match=r"^a CSR A gets no gradient: give A\.to_dense\(\), or A\.detach\(\)$"):
        sum_aggregate(A, features(0, 5, 2))
