"""Report 3.2: the graph convolution node by node, and as a case of message passing."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

from tests.conformance.agree import agree, numbers
from tests.support.strategies import (
    Layer,
    adjacencies,
    directed_graphs,
    features,
    layers,
    matrix_of,
    seeds,
    simple_graphs,
    sparse,
    tangle,
)
from vp.graphs import (
    adjacency_matrix,
    graph_convolution,
    graph_convolution_by_messages,
    graph_convolution_by_node,
    max_aggregate,
    message_passing,
)

FORMS = {form.__name__: form for form in (graph_convolution, graph_convolution_by_node, graph_convolution_by_messages)}


@pytest.fixture(scope="module")
def pyg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """PyTorch Geometric, whose import uses a deprecated part of torch, and which leaves the code that it makes in a temporary
    folder: pytest's, while the fixture lasts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".torch\.jit\.script. is (deprecated|not supported)")
        import torch_geometric.nn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("pyg")))
        yield torch_geometric.nn


def for_pyg(A: Tensor) -> Tensor:
    """The edge index along which PyTorch Geometric sends what row v of A reads, an edge for each unit of A's whole numbers."""
    counts = A.to_dense().long()
    v, u = counts.nonzero(as_tuple=True)
    return torch.stack([u, v]).repeat_interleave(counts[v, u], dim=1)


def tangled_layer() -> Layer:
    """Features and square weights on the graph with everything."""
    return Layer(matrix_of(tangle()), features(1, 5, 3), features(2, 3, 3), features(3, 3, 3))


# -- 3.2.a: where the structure appears -------------------------------------------------------------------------------------


def means_of_neighbours(A: Tensor, H: Tensor) -> list[Tensor]:
    """m_v = sum_u A[v, u] h_u / deg(v) of each node, in loops; zeros without neighbours."""
    means = []
    for row in A.to_dense().tolist():
        mean = torch.zeros(H.shape[1], dtype=H.dtype)
        for weight, h in zip(row, H, strict=True):
            if weight:
                mean = mean + weight / sum(row) * h
        means.append(mean)
    return means


@pytest.mark.claim("weighted-by-the-receiver")
@pytest.mark.specifies("{form}")
@pytest.mark.parametrize("form", FORMS)
@given(example=layers(min_nodes=1))
def test_a_layer_divides_by_the_degree_of_the_receiving_node(impl, form: str, example: Layer) -> None:
    """The structure appears in the sum over N(v), and that sum is divided by the degree |N(v)| of the RECEIVING node v."""
    A, H, W, B = (matrix.to_dense().tolist() for matrix in example)
    expected = []
    for v in range(len(A)):
        degree = sum(A[v])
        mean = [sum(A[v][u] * H[u][i] for u in range(len(A))) / degree if degree else 0.0 for i in range(len(W[0]))]
        inside = [
            sum(w * m + b * h for w, m, b, h in zip(W_o, mean, B_o, H[v], strict=True)) for W_o, B_o in zip(W, B, strict=True)
        ]
        expected.append([max(0.0, value) for value in inside])
    agree(getattr(impl, form)(*example, torch.relu), expected, "relu(W m_v + B h_v), as [v, feature]")


@pytest.mark.claim("structure-in-the-sum")
@pytest.mark.specifies("{form}")
@pytest.mark.parametrize("form", FORMS)
@given(example=layers(min_nodes=1))
def test_without_edges_a_layer_is_a_linear_layer_at_each_node(impl, form: str, example: Layer) -> None:
    """Without the sum there is no structure: on a graph without edges the layer is sigma(B h_v), node by node."""
    _, H, W, B = example
    alone = torch.nn.functional.linear(H, B).relu()
    found = getattr(impl, form)(torch.zeros(len(H), len(H), dtype=H.dtype), H, W, B, torch.relu)
    agree(found, alone, "without a single edge, relu(B h_v) as [v, feature]")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_smallest_layers(form: Callable[..., Tensor]) -> None:
    """sigma is relu where none is given, A may be of float32 beside features in float64, and a graph may have no node at all."""
    _, H, W, B = tangled_layer()
    torch.testing.assert_close(form(torch.zeros(5, 5), H, W, B), torch.nn.functional.linear(H, B).relu())
    for layout in (torch.Tensor.clone, sparse):
        assert form(layout(torch.zeros(0, 0, dtype=H.dtype)), H[:0], W, B, torch.tanh).shape == (0, 3)


@pytest.mark.claim("weights-of-a-layer")
@pytest.mark.specifies("{form}")
@pytest.mark.parametrize("form", FORMS)
@given(example=layers(min_nodes=1, isolated=False))
def test_w_multiplies_the_neighbours_and_b_the_node_itself(impl, form: str, example: Layer) -> None:
    """W multiplies the sum over the neighbours, B h_v is added, and sigma applied last: sigma(W m_v + B h_v)."""
    A, H, W, B = example
    layer = getattr(impl, form)
    from_neighbours = torch.stack([W @ m for m in means_of_neighbours(A, H)])
    from_itself = torch.stack([B @ h for h in H])
    agree(layer(A, H, W, 0 * B, lambda x: x), from_neighbours, "with B = 0 and no activation, W m_v as [v, feature]")
    agree(layer(A, H, 0 * W, B, lambda x: x), from_itself, "with W = 0 and no activation, B h_v as [v, feature]")
    agree(layer(A, H, W, B, torch.tanh), (from_neighbours + from_itself).tanh(), "tanh(W m_v + B h_v), as [v, feature]")


@pytest.mark.claim("structure-through-the-mean")
@pytest.mark.specifies("graph_convolution")
@given(A=adjacencies(min_nodes=1, isolated=False), B=adjacencies(min_nodes=1, isolated=False), seed=seeds)
def test_the_structure_is_seen_through_the_mean_only(impl, A: Tensor, B: Tensor, seed: int) -> None:
    """The graph is seen through the mean only: where all features are equal, so are the outputs of all nodes with neighbours."""
    h, W_self, W_mean = features(seed, 1, 3), features(seed + 1, 3, 3), features(seed + 2, 3, 3)
    outputs = [impl.graph_convolution(matrix, h.expand(len(matrix), -1), W_mean, W_self, torch.relu) for matrix in (A, B)]
    everywhere = torch.cat([numbers(output) for output in outputs])
    told = "all nodes of two graphs have neighbours and the same features, but not the same output"
    agree(everywhere, everywhere[:1].expand_as(everywhere), told)


@pytest.mark.specifies("{form}")
@pytest.mark.parametrize("form", FORMS)
def test_an_isolated_node_keeps_only_its_own_term(impl, form: str) -> None:
    """A node without neighbours gets sigma(B h_v), finite, and so are all gradients."""
    A, H, W, B = tangled_layer()
    H.requires_grad_()
    for layout in (A, sparse(A)):
        output = getattr(impl, form)(layout, H, W, B, torch.tanh)
        agree(numbers(output)[4], torch.tanh(B @ H[4]), "tanh(B h_v) of a node v without neighbours")
        assert output.requires_grad, "the output has no gradient: it was not computed in torch, from H"
        (gradient,) = torch.autograd.grad(output.sum(), H)
        assert gradient.isfinite().all(), "the gradient of H is NaN or infinite, with a node without neighbours in the graph"


def test_a_self_loop_makes_a_node_its_own_neighbour() -> None:
    """Node 3, with a loop of weight 1 and an edge of weight 3 to node 0, averages (h_3 + 3 h_0) / 4."""
    A, H, W, B = tangled_layer()
    for form in FORMS.values():
        torch.testing.assert_close(form(A, H, W, B, lambda x: x)[3], W @ (H[3] + 3 * H[0]) / 4 + B @ H[3])


def test_parallel_edges_and_weights_add_up() -> None:
    """Node 0, with two edges to node 1 and one of weight 0.5 to node 2, averages (2 h_1 + 0.5 h_2) / 2.5."""
    A, H, W, B = tangled_layer()
    for form in FORMS.values():
        torch.testing.assert_close(form(A, H, W, B, lambda x: x)[0], W @ (2 * H[1] + 0.5 * H[2]) / 2.5 + B @ H[0])


def test_a_directed_node_reads_what_it_points_at() -> None:
    """With a single edge 0 -> 1, node 0 receives h_1 and node 1 nothing."""
    A = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    H, identity = features(0, 2, 2), torch.eye(2, dtype=torch.float64)
    for form in FORMS.values():
        expected = torch.stack([H[1], torch.zeros(2, dtype=torch.float64)])
        torch.testing.assert_close(form(A, H, identity, 0 * identity, lambda x: x), expected)


def test_an_edge_of_weight_0_is_no_edge() -> None:
    """A weight 0, though a sparse matrix stores it, makes no neighbour: neither for the mean nor for the maximum or messages."""
    stored = adjacency_matrix([(0, 1, 0.0), (0, 2, 1.0), (1, 0, 2.0), (1, 0, -2.0)], sparse=True, dtype=torch.float64)
    assert (stored.values() == 0).sum() == 2
    _, H, W, B = tangled_layer()
    without = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    H = H[:3] - 5  # a stranger with zeros would be the maximum
    for form in FORMS.values():
        torch.testing.assert_close(form(stored, H, W, B), form(without, H, W, B))
    for aggregate in ("sum", "mean", "max"):
        passed = message_passing(stored, H, lambda v, u: u, lambda H, received: received, aggregate)
        torch.testing.assert_close(passed, without @ H)
    torch.testing.assert_close(max_aggregate(stored, H), without @ H)


# -- 3.2.b: message passing -------------------------------------------------------------------------------------------------


@pytest.mark.claim("convolution-is-message-passing")
@pytest.mark.specifies("graph_convolution", "message_passing")
@given(example=layers(min_nodes=1))
def test_a_graph_convolution_is_message_passing(impl, example: Layer) -> None:
    """A graph convolution is message passing with linear functions: message W h_u, mean, update sigma(m_v + B h_v)."""
    A, H, W, B = example
    linear = impl.message_passing(A, H, lambda v, u: u @ W.T, lambda H, received: torch.tanh(received + H @ B.T), "mean")
    agree(linear, impl.graph_convolution(A, H, W, B, torch.tanh), "linear messages, and a graph convolution expected")


@given(example=layers(min_nodes=1))
def test_a_graph_convolution_is_the_sageconv_of_pytorch_geometric(pyg: ModuleType, example: Layer) -> None:
    """The layer is PyTorch Geometric's SAGEConv with the mean, on the flipped edge index."""
    A, H, W, B = example
    A = A.to_dense().ceil()
    theirs = pyg.SAGEConv(W.shape[1], W.shape[0], aggr="mean", bias=False).double()
    with torch.no_grad():
        theirs.lin_l.weight.copy_(W)
        theirs.lin_r.weight.copy_(B)
        expected = theirs(H, for_pyg(A)).relu()
    for form in FORMS.values():
        torch.testing.assert_close(form(A, H, W, B), expected)


def message(receiver: Tensor, sender: Tensor) -> Tensor:
    """Not linear, and different for each receiver."""
    return torch.tanh(receiver - 2 * sender) * sender


def update(H: Tensor, received: Tensor) -> Tensor:
    """Not linear, and different from the message."""
    return torch.cat([H.sin(), received * H], dim=-1)


@pytest.mark.claim("message-passing-is-flexible")
@pytest.mark.specifies("message_passing")
@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
@given(example=layers(min_nodes=1))
def test_message_and_update_functions_are_free(impl, example: Layer, aggregate: str) -> None:
    """In message passing the message and update functions are free: any functions of (h_v, h_u) and of (h_v, m_v)."""
    A, H = example.A.to_dense(), example.H
    received = torch.zeros_like(H)
    for v in range(len(A)):
        weights = [A[v, u] for u in range(len(A)) if A[v, u]]
        messages = [message(H[v], H[u]) for u in range(len(A)) if A[v, u]]
        for weight, arrived in zip(weights, messages, strict=True):
            received[v] += weight * arrived / (sum(weights) if aggregate == "mean" else 1)
        if messages and aggregate == "max":
            received[v] = torch.stack(messages).amax(0)
    told = f"[sin h_v, m_v h_v], m_v the {aggregate} of the messages tanh(h_v - 2 h_u) h_u, as [v, feature]"
    agree(impl.message_passing(example.A, H, message, update, aggregate), update(H, received), told)


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
def test_messages_without_nodes(aggregate: str) -> None:
    """Where there is no node there is no message, and no output."""
    for layout in (torch.Tensor.clone, sparse):
        assert message_passing(layout(torch.zeros(0, 0)), torch.zeros(0, 2), message, update, aggregate).shape == (0, 4)


@pytest.fixture(scope="module")
def their_messages(pyg: ModuleType) -> type[torch.nn.Module]:
    """A MessagePassing module of PyTorch Geometric with these functions."""

    class TheirMessages(pyg.MessagePassing):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.propagate(edge_index, x=x)

        def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
            return message(x_i, x_j)

        def update(self, received: Tensor, x: Tensor) -> Tensor:
            return update(x, received)

    return TheirMessages


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
@given(example=layers(min_nodes=1))
def test_message_passing_is_that_of_pytorch_geometric(their_messages: type, example: Layer, aggregate: str) -> None:
    """A MessagePassing module of PyTorch Geometric with the same functions gives the same output on the flipped edge index."""
    A = example.A.to_dense().ceil()
    expected = their_messages(aggr=aggregate)(example.H, for_pyg(A))
    torch.testing.assert_close(message_passing(A, example.H, message, update, aggregate), expected)


def reached(form: Callable[..., Tensor], A: Tensor, depth: int) -> Tensor:
    """(N, N): whether the output at v after `depth` layers depends on the input at u. Positive weights let nothing cancel."""
    W, B = features(depth, 2, 2).abs() + 0.1, features(depth + 1, 2, 2).abs() + 0.1

    def network(H: Tensor) -> Tensor:
        for _ in range(depth):
            H = numbers(form(A, H, W, B, torch.sigmoid))
        return H

    H = features(depth + 2, len(A), 2).requires_grad_()
    assert network(H).requires_grad, "the output has no gradient: it was not computed in torch, from H"
    dependence = jacobian(network, H)
    return dependence.abs().sum((1, 3)) > 0


def assert_sees_the_ball(form: Callable[..., Tensor], graph: nx.Graph, depth: int) -> None:
    """The output at v depends on the input at u exactly if u is within `depth` steps of v."""
    A = matrix_of(graph)
    for layout in (A, sparse(A)):
        dependence = reached(form, layout, depth)
        for v in graph:
            found = [u for u in graph if dependence[v, u]]
            expected = sorted(nx.single_source_shortest_path_length(graph, v, cutoff=depth))
            assert found == expected, (
                f"the output of {depth} layer(s) at node {v} depends on the input at the nodes {found}: "
                f"expected {expected}, those within {depth} step(s)"
            )


@pytest.mark.claim("receptive-field")
@pytest.mark.specifies("graph_convolution")
@example(graph=nx.path_graph(4), depth=1)
@given(graph=st.one_of(simple_graphs(min_nodes=1), directed_graphs(min_nodes=1)), depth=st.integers(1, 3))
def test_k_layers_see_exactly_the_k_hop_ball(impl, graph: nx.Graph, depth: int) -> None:
    """A layer of either reaches immediate neighbours only; k layers see the nodes within k hops, every one and no others."""
    assert_sees_the_ball(impl.graph_convolution, graph, depth)


@pytest.mark.claim("receptive-field")
@pytest.mark.specifies("message_passing")
@given(graph=st.one_of(simple_graphs(min_nodes=1), directed_graphs(min_nodes=1)), depth=st.integers(1, 3))
def test_k_layers_of_message_passing_see_no_further(impl, graph: nx.Graph, depth: int) -> None:
    """Free message and update functions do not reach further than k hops in k layers."""

    def layer(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        def update(H: Tensor, received: Tensor) -> Tensor:
            return H @ B.T + received

        return impl.message_passing(A, H, lambda v, u: activation(v + u) @ W.T, update, "sum")

    assert_sees_the_ball(layer, graph, depth)


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        (((3, 2), (3, 4), (5, 4), (5, 4)), r"A is \(3, 2\): expected \(N, N\)"),
        (((3, 3), (2, 4), (5, 4), (5, 4)), r"H is \(2, 4\) of torch.float32: expected .*\(3, d\)"),
        (((3, 3), (3,), (5, 4), (5, 4)), r"H is \(3,\) of"),
        (((3, 3), (3, 4), (4, 5), (4, 5)), r"W is \(4, 5\) and B \(4, 5\): expected both \(d_out, 4\) for H \(3, 4\)"),
        (((3, 3), (3, 4), (5, 4), (6, 4)), r"W is \(5, 4\) and B \(6, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(form: Callable[..., Tensor], shapes: Any, complaint: str) -> None:
    """A layer names the shapes given and expected."""
    with pytest.raises(ValueError, match=complaint):
        form(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_arrays_in_place_of_tensors_are_refused(form: Callable[..., Tensor]) -> None:
    """An array of numpy in place of H, W or B is named, with what to give."""
    A, H, W, B = adjacency_matrix(nx.path_graph(3)).float(), torch.ones(3, 2), torch.ones(2, 2), torch.ones(2, 2)
    for name, layer in (("H", (A, H.numpy(), W, B)), ("W", (A, H, W.numpy(), B)), ("B", (A, H, W, B.numpy()))):
        with pytest.raises(TypeError, match=rf"^{name} is a ndarray: expected a tensor, for instance torch.as_tensor\({name}\)$"):
            form(*layer)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_weights_of_another_precision_are_refused(form: Callable[..., Tensor]) -> None:
    """W and B of another dtype than H are refused with the three named."""
    A, H, W, B = tangled_layer()
    with pytest.raises(
        ValueError, match=r"W is of torch\.float32, B of torch\.float64 and H of torch\.float64: expected one dtype"
    ):
        form(A, H, W.float(), B)


def test_the_form_by_node_refuses_large_sparse_graphs() -> None:
    """The form by node, which needs a dense A, refuses 100,000 nodes and names the form that does not."""
    A = adjacency_matrix(torch.tensor([[0], [100_000 - 1]]), sparse=True)
    example = A, torch.ones(100_000, 1), torch.ones(1, 1), torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"100,000 nodes takes 37\.3 GiB .*: give it to graph_convolution"):
        graph_convolution_by_node(*example)
    assert graph_convolution(*example)[0] == 2


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("weight", [float("nan"), -1.0])
def test_a_mean_needs_weights(form: Callable[..., Tensor], weight: float) -> None:
    """NaN or negative weights are refused: there is no degree to divide by."""
    A, H, W, B = tangled_layer()
    A[0, 1] = weight
    with pytest.raises(ValueError, match="NaN, infinite or negative weights"):
        form(A, H, W, B)


def test_messages_that_do_not_fit_are_refused() -> None:
    """A message function returns a row per edge, and the aggregate is one of three."""
    A, H, _, _ = tangled_layer()
    with pytest.raises(ValueError, match=r"messages are \(5, 3\): expected \(6, d_m\), a row per edge"):
        message_passing(A, H, lambda v, u: u[:5], update)
    with pytest.raises(ValueError, match="aggregate is 'median': expected one of sum, mean, max"):
        message_passing(A, H, message, update, "median")
    with pytest.raises(ValueError, match=r"of torch\.int64: expected floating-point"):
        message_passing(A, H.long(), message, update)
