"""Wrong graph mathematics. Each breaks one sentence of section 3 and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


# -- 3.1: adjacency; all rejected by test_entries_count_the_edges_from_u_to_v ------------------------------------------------


def transposed_adjacency(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Counts edges from v to u: test_entries_count_the_edges_from_u_to_v."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist)).T


def edges_one_way_only(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Half of every undirected edge: test_entries_count_the_edges_from_u_to_v."""
    directed = nx.MultiDiGraph()
    directed.add_nodes_from(graph)
    directed.add_edges_from(graph.edges(data=True))
    return torch.from_numpy(nx.to_numpy_array(directed, nodelist))


def parallel_edges_once(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Two edges count as one: test_entries_count_the_edges_from_u_to_v."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist, multigraph_weight=max))


def self_loops_twice(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """A loop has two ends, but is one step: test_entries_count_the_edges_from_u_to_v."""
    A = torch.from_numpy(nx.to_numpy_array(graph, nodelist))
    return A + A.diag().diag()


def weights_ignored(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Edges without their weights: test_entries_count_the_edges_from_u_to_v."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist, weight=""))


def node_list_ignored(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Rows in the graph's own order: test_entries_count_the_edges_from_u_to_v."""
    return torch.from_numpy(nx.to_numpy_array(graph))


# -- 3.1.c: walks ----------------------------------------------------------------------------------------------------------


def elementwise_power(A: Tensor, n: int) -> Tensor:
    """A ** n of each entry: test_powers_count_walks."""
    return A.long() ** n


def one_step_too_many(A: Tensor, n: int) -> Tensor:
    """Counts nodes, not edges, as length: test_powers_count_walks."""
    return torch.linalg.matrix_power(A.long(), n + 1)


def walks_that_may_rest(A: Tensor, n: int) -> Tensor:
    """(A + I)^n also counts shorter walks: test_powers_count_walks."""
    return torch.linalg.matrix_power(A.long() + torch.eye(len(A), dtype=torch.long), n)


def walks_backwards(A: Tensor, n: int) -> Tensor:
    """From v to u: test_powers_count_walks."""
    return torch.linalg.matrix_power(A.long(), n).T


def paths_for_walks(A: Tensor, n: int) -> Tensor:
    """What the report says, without repeated nodes: test_powers_count_walks."""
    graph = nx.from_numpy_array(A.numpy(), create_using=nx.DiGraph)
    paths = torch.zeros(len(A), len(A), dtype=torch.long)
    for u in graph:
        for v in graph:
            paths[u, v] = sum(len(path) == n + 1 for path in nx.all_simple_paths(graph, u, v))
    return paths


def walks_in_64_bits(A: Tensor, n: int) -> Any:
    """Overflows without a word: test_counts_are_exact_however_large."""
    return np.linalg.matrix_power(A.numpy().astype(np.int64), n)


def walks_in_floating_point(A: Tensor, n: int) -> Any:
    """Rounds beyond 2^53: test_counts_are_exact_however_large."""
    return np.linalg.matrix_power(A.numpy().astype(np.float64), n)


# -- 3.2.a: the layer; all rejected by test_a_layer_divides_by_the_degree_of_the_receiving_node ------------------------------


def _mean(A: Tensor) -> Tensor:
    return A / A.sum(1, keepdim=True).clamp(min=1e-300)


def weights_exchanged(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """B for the neighbours and W for the node: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(_mean(A) @ H @ B.T + H @ W.T)


def weights_transposed(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Fits where W and B are square: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(_mean(A) @ H @ W + H @ B)


def own_term_forgotten(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """No B h_v: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(_mean(A) @ H @ W.T)


def own_term_outside(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """B h_v added after the activation: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(_mean(A) @ H @ W.T) + H @ B.T


def activation_forgotten(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Linear: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return _mean(A) @ H @ W.T + H @ B.T


def degree_of_the_neighbour(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """What the report says, A D^-1 for D^-1 A: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(mean_by_the_neighbours_degree(A, H) @ W.T + H @ B.T)


def symmetric_normalisation(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """D^-1/2 A D^-1/2, as Kipf and Welling have it of A + I: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    root = A.sum(1).clamp(min=1e-300).rsqrt()
    return activation(root[:, None] * A * root @ H @ W.T + H @ B.T)


def sum_in_place_of_mean(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """A for D^-1 A: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(A @ H @ W.T + H @ B.T)


def against_the_edges(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """A^T for A: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(_mean(A.T) @ H @ W.T + H @ B.T)


def isolated_nodes_become_nan(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """0 / 0: test_a_layer_divides_by_the_degree_of_the_receiving_node."""
    return activation(A / A.sum(1, keepdim=True) @ H @ W.T + H @ B.T)


# -- 3.2.b: messages, and how far they reach -------------------------------------------------------------------------------


def messages_to_the_sender(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Takes the ends of an edge for each other: test_message_and_update_functions_are_free."""
    v, u = A.nonzero(as_tuple=True)
    return update(H, torch.zeros_like(H).index_add(0, u, A[v, u, None] * message(H[u], H[v])))


def messages_unweighted(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Each neighbour once, whatever the weights: test_message_and_update_functions_are_free."""
    v, u = A.nonzero(as_tuple=True)
    return update(H, torch.zeros_like(H).index_add(0, v, message(H[v], H[u])))


def update_forgets_the_node(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """The update sees the messages only: test_message_and_update_functions_are_free."""
    v, u = A.nonzero(as_tuple=True)
    received = torch.zeros_like(H).index_add(0, v, A[v, u, None] * message(H[v], H[u]))
    return update(received, received)


def two_hops_at_once(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Neighbours of neighbours in one layer: test_k_layers_see_exactly_the_k_hop_ball."""
    A = A.to_dense()
    return activation((A + A @ A) @ H @ W.T + H @ B.T)


def everyone_sees_everyone(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """The mean over all nodes: test_k_layers_see_exactly_the_k_hop_ball."""
    return activation(mean_over_all_nodes(A, H) @ W.T + H @ B.T)


def sees_only_itself(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """No structure at all: test_k_layers_see_exactly_the_k_hop_ball."""
    return activation(H @ B.T)


# -- 3.3.b, 3.3.c: aggregation ----------------------------------------------------------------------------------------------


def mean_by_the_neighbours_degree(A: Tensor, H: Tensor) -> Tensor:
    """A D^-1 for D^-1 A: test_the_aggregate_is_the_mean_over_the_neighbours."""
    degree = A.sum(1)
    return A / degree.where(degree > 0, 1) @ H


def mean_with_the_node_itself(A: Tensor, H: Tensor) -> Tensor:
    """A + I for A: test_the_aggregate_is_the_mean_over_the_neighbours."""
    return _mean(A + torch.eye(len(A), dtype=A.dtype)) @ H


def mean_with_one_more_in_the_degree(A: Tensor, H: Tensor) -> Tensor:
    """Divides by the degree plus one: test_the_aggregate_is_the_mean_over_the_neighbours."""
    return A / (A.sum(1, keepdim=True) + 1) @ H


def mean_that_ignores_weights(A: Tensor, H: Tensor) -> Tensor:
    """Each neighbour once: test_the_aggregate_is_the_mean_over_the_neighbours."""
    return _mean((A != 0).to(A.dtype)) @ H


def mean_over_those_who_point_here(A: Tensor, H: Tensor) -> Tensor:
    """A^T for A: test_the_aggregate_is_the_mean_over_the_neighbours."""
    return _mean(A.T) @ H


def mean_over_all_nodes(A: Tensor, H: Tensor) -> Tensor:
    """Ignores the graph: test_the_aggregate_is_the_mean_over_the_neighbours."""
    return H.mean(0).expand_as(H)


def maximum_with_zeros(A: Tensor, H: Tensor) -> Tensor:
    """Takes strangers for neighbours with zero features: test_the_maximum_is_taken_over_the_neighbours_only."""
    return ((A != 0)[:, :, None] * H).amax(1)


def maximum_of_weighted_features(A: Tensor, H: Tensor) -> Tensor:
    """Weights scale the features: test_the_maximum_is_taken_over_the_neighbours_only."""
    weighted = (A[:, :, None] * H).masked_fill((A == 0)[:, :, None], -torch.inf).amax(1)
    return weighted.where(weighted.isfinite(), 0)


def mean_without_gradient(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Right numbers, cut from the features: test_the_three_forms_have_the_same_gradients."""
    return activation(_mean(A) @ H.detach() @ W.T + H @ B.T)


# -- 3.4: layers that read the numbering of nodes; all rejected by test_graph_layers_are_permutation_equivariant -------------


def feed_forward_on_flat_input(A: Tensor, H: Tensor) -> Tensor:
    """A dense layer on [A | H]: test_graph_layers_are_permutation_equivariant."""
    flat = torch.cat([A, H], dim=1).flatten()
    weights = torch.linspace(-1, 1, H.numel() * flat.numel(), dtype=H.dtype).reshape(H.numel(), -1)
    return (weights @ flat).tanh().reshape(H.shape)


def adds_the_node_number(A: Tensor, H: Tensor) -> Tensor:
    """A position in disguise: test_graph_layers_are_permutation_equivariant."""
    return A @ (H + torch.arange(len(H))[:, None])


def reads_the_first_neighbour_only(A: Tensor, H: Tensor) -> Tensor:
    """Whoever comes first in the row: test_graph_layers_are_permutation_equivariant."""
    return H[(A != 0).to(torch.int8).argmax(1)]


# -- 3.5: attention --------------------------------------------------------------------------------------------------------


def _attend(H: Tensor, W_q: Tensor, W_k: Tensor, mask: Tensor) -> Tensor:
    """The right attention matrix of a mask without empty rows."""
    scores = H @ W_q.T @ (H @ W_k.T).T / len(W_q) ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(1)


def softmax_over_the_wrong_axis(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """Columns sum to one: test_masked_attention_is_message_passing_on_the_masks_graph."""
    scores = H @ W_q.T @ (H @ W_k.T).T / len(W_q) ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(0) @ H @ W_v.T


def scores_not_scaled(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """No 1 / sqrt(d_k): test_masked_attention_is_message_passing_on_the_masks_graph."""
    return _attend(H, W_q * len(W_q) ** 0.5, W_k, mask) @ H @ W_v.T


def mask_after_the_softmax(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """Rows sum to less than one: test_masked_attention_is_message_passing_on_the_masks_graph."""
    return _attend(H, W_q, W_k, torch.ones_like(mask)) * mask @ H @ W_v.T


def mask_upside_down(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """Transposed, so that words see what comes after them: test_masked_attention_is_message_passing_on_the_masks_graph."""
    return _attend(H, W_q, W_k, mask.T) @ H @ W_v.T


def queries_and_keys_exchanged(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """Who asks answers: test_masked_attention_is_message_passing_on_the_masks_graph."""
    return _attend(H, W_k, W_q, mask) @ H @ W_v.T


def messages_along_the_attention(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """A^T V for A V: test_masked_attention_is_message_passing_on_the_masks_graph."""
    return _attend(H, W_q, W_k, mask).T @ H @ W_v.T


def values_not_projected(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor) -> Tensor:
    """A H without W_v: test_masked_attention_is_message_passing_on_the_masks_graph."""
    return _attend(H, W_q, W_k, mask) @ H


def attention_with_positions(H: Tensor) -> Tensor:
    """Adds where a word stands: test_self_attention_is_equivariant."""
    moved = H + torch.arange(len(H))[:, None]
    return (moved @ moved.T).softmax(1) @ moved
