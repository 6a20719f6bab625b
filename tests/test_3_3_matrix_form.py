"""Report 3.3: the graph convolution in matrix form, and which aggregations have one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, find, given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from tests.controls import graphs as controls
from tests.strategies import Layer, adjacencies, features, layers, matrix_of, seeds, sparse, tangle
from tests.test_3_2_graph_convolution import FORMS, tangled_layer
from vp.graphs import degree_matrix, graph_convolution, max_aggregate, mean_aggregate, mean_matrix, sum_aggregate

Aggregate = Callable[[Tensor, Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


# -- 3.3.a: the matrix form -------------------------------------------------------------------------------------------------


@pytest.mark.claim("matrix-form")
@given(example=layers())
def test_the_matrix_form_multiplies_weights_from_the_right(example: Layer) -> None:
    """With a node in each row of H, the layer is H' = sigma(D^-1 A H W^T + H B^T)."""
    A, H, W, B = example
    A = A.to_dense()
    inverse_degrees = torch.tensor([1 / degree if degree else 0.0 for degree in A.sum(1).tolist()], dtype=torch.float64)
    expected = torch.linalg.multi_dot([inverse_degrees.diag(), A, H, W.T]) + H @ B.T
    torch.testing.assert_close(graph_convolution(example.A, H, W, B, identity), expected)


@pytest.mark.claim("printed-product")
@given(example=layers(min_nodes=1))
def test_the_printed_product_does_not_fit(example: Layer) -> None:
    """The printed product W D^-1 A H has no meaning unless the number of nodes is the width of H."""
    _, H, W, _ = example
    assume(len(H) != H.shape[1])
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        W @ mean_aggregate(example.A, H)


@pytest.mark.claim("three-forms-of-a-layer")
@given(example=layers())
def test_by_node_by_matrix_and_by_messages_are_one_layer(example: Layer) -> None:
    """Node by node, in matrix form and by messages, the layer gives the same numbers."""
    by_matrix, by_node, by_messages = (form(*example, torch.tanh) for form in FORMS)
    torch.testing.assert_close(by_matrix, by_node)
    torch.testing.assert_close(by_matrix, by_messages)


def assert_same_gradients(form: Callable[..., Tensor], other: Callable[..., Tensor], example: Layer) -> None:
    """The gradients of H, W and B of two forms of a layer agree."""
    inputs = [matrix.clone().requires_grad_() for matrix in example[1:]]
    found = [torch.autograd.grad(layer(example.A, *inputs, torch.tanh).square().sum(), inputs) for layer in (form, other)]
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@given(example=layers(min_nodes=1))
def test_the_three_forms_have_the_same_gradients(example: Layer) -> None:
    """The gradients of H, W and B are the same in the three forms, so that they also learn the same."""
    assert_same_gradients(FORMS[0], FORMS[1], example)
    assert_same_gradients(FORMS[0], FORMS[2], example)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
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
        torch.testing.assert_close(graph_convolution(layout(whole), *example[1:]), expected)
        torch.testing.assert_close(mean_matrix(layout(whole)).to_dense().sum(1).double(), has_neighbours.double())


# -- 3.3.b: the mean --------------------------------------------------------------------------------------------------------


def assert_is_the_mean(aggregate: Aggregate, A: Tensor, H: Tensor) -> None:
    """Row v is the mean of h_u over the neighbours u of v, each as often as A[v, u] says; zeros without neighbours."""
    expected = torch.zeros_like(H)
    for v, row in enumerate(A.to_dense().tolist()):
        total = sum(row)
        for u, weight in enumerate(row):
            if weight:
                expected[v] += weight / total * H[u]
    torch.testing.assert_close(aggregate(A, H), expected)


@pytest.mark.claim("mean-aggregation", "normalised-sum")
@given(example=layers())
def test_the_aggregate_is_the_mean_over_the_neighbours(example: Layer) -> None:
    """D^-1 A H is the mean: the sum of the embeddings of all neighbours, divided by their number (or weight)."""
    assert_is_the_mean(mean_aggregate, example.A, example.H)


@given(A=adjacencies())
def test_rows_of_the_mean_matrix_sum_to_one(A: Tensor) -> None:
    """Each row of D^-1 A sums to one, or is zero, by convention, for an isolated node: never NaN."""
    has_neighbours = A.to_dense().sum(1) > 0
    M = mean_matrix(A)
    assert M.layout == A.layout
    torch.testing.assert_close(M.to_dense().sum(1), has_neighbours.double())
    torch.testing.assert_close(degree_matrix(A).to_dense() @ M.to_dense(), A.to_dense())


@given(example=layers(min_nodes=1))
def test_a_mean_lies_between_its_extremes(example: Layer) -> None:
    """A mean lies, feature by feature, between the smallest and the largest value among the neighbours."""
    A, H = example.A, example.H
    mean, largest, smallest = mean_aggregate(A, H), max_aggregate(A, H), -max_aggregate(A, -H)
    assert (mean <= largest + 1e-12).all()
    assert (mean >= smallest - 1e-12).all()


# -- 3.3.c: which aggregations are matrices ---------------------------------------------------------------------------------


@pytest.mark.claim("mean-and-sum-have-a-matrix-form")
@given(example=layers())
def test_mean_and_sum_are_matrices(example: Layer) -> None:
    """The mean and the sum have a matrix form: they multiply H by D^-1 A and by A, whatever H is."""
    A, H = example.A, example.H
    torch.testing.assert_close(sum_aggregate(A, H), A.to_dense() @ H)
    torch.testing.assert_close(mean_aggregate(A, H), mean_matrix(A).to_dense() @ H)
    one_at_a_time = torch.eye(len(A), dtype=torch.float64)
    if len(A):
        torch.testing.assert_close(sum_aggregate(A, one_at_a_time), A.to_dense())
        torch.testing.assert_close(mean_aggregate(A, one_at_a_time), mean_matrix(A).to_dense())


def assert_additive(aggregate: Aggregate, A: Tensor, first: Tensor, second: Tensor) -> None:
    """As any M(A) H must be: the aggregate of a sum is the sum of the aggregates."""
    torch.testing.assert_close(aggregate(A, first + second), aggregate(A, first) + aggregate(A, second))


@given(example=layers(), seed=seeds)
def test_mean_and_sum_are_additive(example: Layer, seed: int) -> None:
    """The mean and the sum of H + K are those of H and of K added up, although numbers of neighbours differ for them, too."""
    A, H = example.A, example.H
    for aggregate in (sum_aggregate, mean_aggregate):
        assert_additive(aggregate, A, H, features(seed, *H.shape))


def breaks_additivity(A: Tensor, first: Tensor, second: Tensor) -> bool:
    try:
        assert_additive(max_aggregate, A, first, second)
    except AssertionError:
        return True
    return False


@pytest.mark.claim("not-all-have-a-matrix-form")
def test_no_matrix_gives_the_maximum() -> None:
    """No matrix M(A) gives the maximum for all H: it is not additive, as a search finds max(H + K) other than max H + max K."""
    pairs = st.tuples(adjacencies(), seeds).map(lambda drawn: (drawn[0], *features(drawn[1], 2, len(drawn[0]), 1)))
    A, first, second = find(pairs, lambda found: breaks_additivity(*found))
    assert (A.to_dense() != 0).sum(1).max() >= 2, "with a single neighbour the maximum is that neighbour, and additive"
    assert not torch.allclose(max_aggregate(A, first + second), max_aggregate(A, first) + max_aggregate(A, second))


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
    torch.testing.assert_close(aggregate(A, H), expected)


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


@given(example=layers())
def test_the_maximum_is_taken_over_the_neighbours_only(example: Layer) -> None:
    """The maximum ranges over neighbours only, be they all negative, and an isolated node has zeros."""
    assert_is_the_maximum(max_aggregate, example.A, example.H)


def test_nan_has_no_maximum() -> None:
    """NaN among the features is refused, not passed over."""
    with pytest.raises(ValueError, match="H has NaN: there is no maximum"):
        max_aggregate(torch.ones(2, 2), torch.tensor([[1.0], [float("nan")]]))


@pytest.mark.parametrize("layout", [torch.Tensor.clone, sparse], ids=["dense", "sparse"])
def test_the_maximum_has_the_right_gradient(layout: Callable[[Tensor], Tensor]) -> None:
    """The gradient of the maximum goes to the neighbour that attains it."""
    A, H, _, _ = tangled_layer()
    assert gradcheck(lambda H: max_aggregate(layout(A), H), H.requires_grad_())


# -- what is refused, and controls ------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"a CSR A gets no gradient: give A\.to_dense\(\)"):
        sum_aggregate(A, features(0, 5, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        controls.mean_by_the_neighbours_degree,
        controls.mean_with_the_node_itself,
        controls.mean_with_one_more_in_the_degree,
        controls.mean_that_ignores_weights,
        controls.mean_over_those_who_point_here,
        controls.mean_over_all_nodes,
    ],
    ids=lambda control: control.__name__,
)
def test_wrong_means_are_rejected(wrong: Aggregate) -> None:
    """Each wrong mean fails the loop over neighbours, on an example that the right one passes."""
    example = matrix_of(tangle()), features(0, 5, 3)
    assert_is_the_mean(mean_aggregate, *example)
    with pytest.raises(AssertionError):
        assert_is_the_mean(wrong, *example)


@pytest.mark.parametrize(
    "wrong", [controls.maximum_with_zeros, controls.maximum_of_weighted_features], ids=lambda control: control.__name__
)
def test_wrong_maxima_are_rejected(wrong: Aggregate) -> None:
    """Each wrong maximum fails the loop over neighbours, on negative features with which the right one passes."""
    example = matrix_of(tangle()), -features(0, 5, 3).abs()
    assert_is_the_maximum(max_aggregate, *example)
    with pytest.raises(AssertionError):
        assert_is_the_maximum(wrong, *example)


def test_a_layer_cut_from_its_features_is_rejected() -> None:
    """A layer whose mean has no gradient gives the right numbers and fails the comparison of gradients."""
    with pytest.raises(AssertionError):
        assert_same_gradients(controls.mean_without_gradient, graph_convolution, tangled_layer())
