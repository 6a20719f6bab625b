"""Report 3.4: graph layers commute with the numbering of nodes; a feed-forward network on [A | H] does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conformance.agree import agree, numbers
from tests.controls import graphs as controls
from tests.support.strategies import (
    Layer,
    directed_graphs,
    features,
    layers,
    matrix_of,
    permutations,
    seeds,
    simple_graphs,
    sparse,
    tangle,
)
from vp import graphs as ours
from vp.graphs import adjacency_matrix, graph_convolution

GraphLayer = Callable[[Tensor, Tensor], Tensor]


def _weights(H: Tensor, seed: int) -> Tensor:
    return features(seed, H.shape[1], H.shape[1])


def _convolution(form: Callable[..., Tensor], A: Tensor, H: Tensor) -> Tensor:
    return form(A, H, _weights(H, 1), _weights(H, 2), torch.relu)


def _two_layers(form: Callable[..., Tensor], A: Tensor, H: Tensor) -> Tensor:
    return _convolution(form, A, numbers(_convolution(form, A, H)))


def _free_messages(aggregate: str) -> Callable[..., Tensor]:
    def layer(passing: Callable[..., Tensor], A: Tensor, H: Tensor) -> Tensor:
        return passing(A, H, lambda v, u: (v - 2 * u).sin(), lambda H, received: torch.cat([H, received], -1), aggregate)

    return layer


def _attention(attend: Callable[..., Tensor], A: Tensor, H: Tensor) -> Tensor:
    return attend(H, *(_weights(H, seed) for seed in (3, 4, 5)), A.to_dense() != 0)


# What makes a layer f(A, H) of a public name.
GRAPH_LAYERS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "sum": ("sum_aggregate", lambda f, A, H: f(A, H)),
    "mean": ("mean_aggregate", lambda f, A, H: f(A, H)),
    "max": ("max_aggregate", lambda f, A, H: f(A, H)),
    "convolution by matrix": ("graph_convolution", _convolution),
    "convolution by node": ("graph_convolution_by_node", _convolution),
    "convolution by messages": ("graph_convolution_by_messages", _convolution),
    "messages, sum": ("message_passing", _free_messages("sum")),
    "messages, mean": ("message_passing", _free_messages("mean")),
    "messages, max": ("message_passing", _free_messages("max")),
    "attention on the graph": ("self_attention", _attention),
    "two layers": ("graph_convolution", _two_layers),
}
each_layer = pytest.mark.parametrize(("name", "kind"), [(name, kind) for kind, (name, _) in GRAPH_LAYERS.items()], ids=GRAPH_LAYERS)


def layer_of(implementation: Any, kind: str) -> GraphLayer:
    """f(A, H), in float64 whatever the implementation computes in."""
    name, layer = GRAPH_LAYERS[kind]
    return lambda A, H: numbers(layer(getattr(implementation, name), A, H))


def renumbered(A: Tensor, order: list[int]) -> Tensor:
    """P A P^T, in the layout of A."""
    moved = A.to_dense()[order][:, order]
    return sparse(moved) if A.layout == torch.sparse_csr else moved


def assert_equivariant(layer: GraphLayer, A: Tensor, H: Tensor, order: list[int]) -> None:
    """f(P A P^T, P H) = P f(A, H)."""
    told = f"nodes taken in the order {order}: f(P A P^T, P H), P f(A, H) expected, as [v, feature]"
    agree(layer(renumbered(A, order), H[order]), layer(A, H)[order], told)


# -- the report's three arguments against [A | H] ---------------------------------------------------------------------------


def flat(A: Tensor, H: Tensor) -> Tensor:
    """[A | H] as one vector: what the feed-forward network is given."""
    return torch.cat([A.to_dense(), H], dim=1).flatten()


def feed_forward(nodes: int, width: int, seed: int) -> nn.Sequential:
    """A network with one hidden layer on [A | H] of graphs of one size."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(nodes**2 + nodes * width, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.mark.claim("input-grows-quadratically")
@given(example=layers(min_nodes=1))
def test_the_input_of_a_feed_forward_network_grows_quadratically(example: Layer) -> None:
    """First argument: [A | H] has N^2 + N d entries, as many as the network has inputs: 10^12 for a million people."""
    N, d = example.H.shape
    assert feed_forward(N, d, seed=0)[0].in_features == len(flat(example.A, example.H)) == N**2 + N * d
    doubled = flat(torch.block_diag(*[example.A.to_dense()] * 2), example.H.repeat(2, 1))
    assert len(doubled) == 4 * N**2 + 2 * N * d, "twice the nodes, four times the matrix"


@pytest.mark.claim("flattening-loses-nothing")
@given(example=layers(min_nodes=1), seed=seeds)
def test_flattening_loses_nothing_but_fixes_the_number_of_nodes(example: Layer, seed: int) -> None:
    """Second argument: flattening loses nothing, A and H can be read back, but the network fits graphs of one size N only."""
    A, H = example.A.to_dense(), example.H
    N, d = H.shape
    vector = flat(A, H)
    back = vector.reshape(N, N + d)
    assert torch.equal(back[:, :N], A)
    assert torch.equal(back[:, N:], H)
    network = feed_forward(N, d, seed)
    assert network(vector).shape == (2,)
    with pytest.raises(RuntimeError, match=r"cannot be multiplied|size mismatch"):
        network(flat(torch.block_diag(A, torch.ones(1, 1)), torch.cat([H, H[:1]])))


@given(example=layers(min_nodes=1), more=layers(min_nodes=1))
def test_the_same_weights_serve_graphs_of_any_size(example: Layer, more: Layer) -> None:
    """A graph convolution takes its weights to a graph with any number of nodes."""
    H = features(0, len(more.A), example.H.shape[1])
    assert graph_convolution(more.A, H, example.W, example.B).shape == (len(more.A), len(example.W))


@pytest.mark.claim("numbering-changes-the-output")
def test_a_feed_forward_network_depends_on_the_numbering() -> None:
    """Third argument: a feed-forward network on [A | H] gives another output when the nodes are renumbered, as a search shows."""

    def changes(example: Layer) -> bool:
        network = feed_forward(*example.H.shape, seed=0)
        order = list(reversed(range(len(example.A))))
        moved = network(flat(renumbered(example.A, order), example.H[order]))
        return not torch.allclose(network(flat(example.A, example.H)), moved)

    assert len(find(layers(min_nodes=1), changes).A) >= 2, "a single node has one numbering only"


# -- what graph layers do instead -------------------------------------------------------------------------------------------


@pytest.mark.specifies("{name}")
@each_layer
@given(example=layers(min_nodes=1, isolated=False), data=st.data())
def test_graph_layers_are_permutation_equivariant(impl, name: str, kind: str, example: Layer, data: st.DataObject) -> None:
    """Every graph layer commutes with renumbering: f(P A P^T, P H) = P f(A, H)."""
    assert_equivariant(layer_of(impl, kind), example.A, example.H, data.draw(permutations(len(example.A))))


@pytest.mark.claim("pooled-layers-are-invariant")
@pytest.mark.specifies("{name}")
@each_layer
@given(example=layers(min_nodes=1, isolated=False), data=st.data())
def test_pooled_outputs_are_permutation_invariant(impl, name: str, kind: str, example: Layer, data: st.DataObject) -> None:
    """Pooled over all nodes, by sum, mean or maximum, the output of a graph layer does not depend on the numbering at all."""
    order, layer = data.draw(permutations(len(example.A))), layer_of(impl, kind)
    output, moved = layer(example.A, example.H), layer(renumbered(example.A, order), example.H[order])
    told = f"of all nodes, in the order {order} and in order 0, 1, ... expected"
    agree(moved.sum(0), output.sum(0), f"the sum {told}")
    agree(moved.mean(0), output.mean(0), f"the mean {told}")
    agree(moved.amax(0), output.amax(0), f"the maximum {told}")


@pytest.mark.claim("many-matrices-of-one-graph")
@given(graph=st.one_of(simple_graphs(max_nodes=4), directed_graphs(max_nodes=4)))
def test_a_graph_has_many_adjacency_matrices(graph: nx.Graph) -> None:
    """The same graph has a matrix for each numbering: N! of them, divided by the number of its symmetries."""
    orders = list(itertools.permutations(graph))
    matrices = {tuple(adjacency_matrix(graph, order).flatten().tolist()) for order in orders}
    # vf2pp_all_isomorphisms miscounts digraphs with loops (networkx 3.6): VF2 does not.
    matcher = nx.isomorphism.DiGraphMatcher if graph.is_directed() else nx.isomorphism.GraphMatcher
    symmetries = sum(1 for _ in matcher(graph, graph).isomorphisms_iter()) if len(graph) else 1
    assert len(matrices) * symmetries == len(orders)


@pytest.mark.claim("same-graph-same-prediction")
@pytest.mark.specifies("sum_aggregate")
@given(example=layers(min_nodes=1), data=st.data())
def test_isomorphic_graphs_get_the_same_output(impl, example: Layer, data: st.DataObject) -> None:
    """Two numberings of the same graph, which networkx calls isomorphic, should yield, and do, the SAME pooled output."""
    A = (example.A.to_dense() + example.A.to_dense().T > 0).double().fill_diagonal_(0)
    moved = renumbered(A, data.draw(permutations(len(A))))
    assert nx.is_isomorphic(nx.from_numpy_array(A.numpy()), nx.from_numpy_array(moved.numpy()))
    constant = features(0, 1, 2).expand(len(A), -1)
    one, other = (numbers(impl.sum_aggregate(m, numbers(impl.sum_aggregate(m, constant)))).sum(0) for m in (A, moved))
    agree(other, one, "sum of all nodes after two sums over neighbours, of two numberings of a graph")


@pytest.mark.specifies("{name}")
@each_layer
@given(first=layers(min_nodes=1, isolated=False), second=layers(min_nodes=1, isolated=False))
def test_a_disconnected_union_computes_as_its_parts(impl, name: str, kind: str, first: Layer, second: Layer) -> None:
    """The two halves of a graph without an edge between them compute as if each were alone."""
    layer, K = layer_of(impl, kind), features(0, len(second.A), first.H.shape[1])
    union = torch.block_diag(first.A.to_dense(), second.A.to_dense())
    together = layer(union, torch.cat([first.H, K]))
    told = "two graphs as one, without an edge between them; each by itself expected, as [v, feature]"
    agree(together, torch.cat([layer(first.A, first.H), layer(second.A, K)]), told)


# -- controls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [controls.feed_forward_on_flat_input, controls.adds_the_node_number, controls.reads_the_first_neighbour_only],
    ids=lambda control: control.__name__,
)
def test_layers_that_read_the_numbering_are_rejected(wrong: GraphLayer) -> None:
    """Each layer that depends on the numbering of nodes fails equivariance, on an example that the right ones pass."""
    example = matrix_of(tangle()), features(0, 5, 3), [3, 0, 4, 1, 2]
    for kind in GRAPH_LAYERS:
        assert_equivariant(layer_of(ours, kind), *example)
    with pytest.raises(AssertionError):
        assert_equivariant(wrong, *example)
