"""Wrong graph mathematics: each breaks one sentence of section 3."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from tests.controls import control

Activation = Callable[[Tensor], Tensor]


# -- 3.1.a: matrices of graphs ------------------------------------------------


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def transposed_adjacency(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Counts edges from v to u."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist)).T


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def edges_one_way_only(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Half of every undirected edge."""
    directed = nx.MultiDiGraph()
    directed.add_nodes_from(graph)
    directed.add_edges_from(graph.edges(data=True))
    return torch.from_numpy(nx.to_numpy_array(directed, nodelist))


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def parallel_edges_once(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Counts parallel edges as one."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist, multigraph_weight=max))


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def self_loops_twice(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Counts a loop twice, by its two ends."""
    A = torch.from_numpy(nx.to_numpy_array(graph, nodelist))
    return A + A.diag().diag()


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def weights_ignored(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Counts edges and ignores their weights."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist, weight=""))


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def node_list_ignored(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Rows in the graph's own order, whatever the node list."""
    return torch.from_numpy(nx.to_numpy_array(graph))


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def ones_for_edges(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """1 wherever there is an edge, however many and of whatever weight."""
    return torch.from_numpy((nx.to_numpy_array(graph, nodelist) != 0).astype(np.float64))


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def every_node_joined_to_itself(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """A + I for A."""
    return torch.from_numpy(nx.to_numpy_array(graph, nodelist) + np.eye(len(graph)))


@control("adjacency_matrix", "test_entries_count_the_edges_from_u_to_v")
def laplacian(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """D - A for A."""
    A = torch.from_numpy(nx.to_numpy_array(graph, nodelist))
    return A.sum(1).diag() - A


@control("adjacency_matrix", "test_the_matrix_is_symmetric_exactly_if_the_graph_is_undirected")
def always_symmetric(graph: nx.Graph, nodelist: Sequence[Hashable]) -> Tensor:
    """Takes directed edges for undirected ones."""
    return torch.from_numpy(nx.to_numpy_array(graph.to_undirected(), nodelist))


@control("degree_matrix", "test_the_degree_matrix_holds_the_row_sums")
def degrees_by_columns(A: Tensor) -> Tensor:
    """Counts the edges that arrive at a node, not those that leave it."""
    return A.sum(0).diag()


@control("degree_matrix", "test_the_degree_matrix_holds_the_row_sums")
def degrees_of_neighbours(A: Tensor) -> Tensor:
    """Counts neighbours and ignores weights and parallel edges."""
    return (A != 0).sum(1).diag()


@control("degree_matrix", "test_the_degree_matrix_holds_the_row_sums")
def degrees_with_loops_twice(A: Tensor) -> Tensor:
    """Counts a loop twice, as networkx's degree does."""
    return (A.sum(1) + A.diag()).diag()


@control("degree_matrix", "test_the_degree_matrix_holds_the_row_sums")
def degrees_with_the_node_itself(A: Tensor) -> Tensor:
    """D + I for D."""
    return A.sum(1).diag() + torch.eye(len(A))


@control("degree_matrix", "test_the_degree_matrix_holds_the_row_sums")
def degrees_inverted(A: Tensor) -> Tensor:
    """D^-1 for D."""
    degree = A.sum(1)
    return torch.where(degree > 0, 1 / degree, 0).diag()


@control("degree_matrix", "test_the_degree_matrix_holds_the_row_sums")
def degrees_in_full_rows(A: Tensor) -> Tensor:
    """The degree of a node in all of its row, not on the diagonal alone."""
    return A.sum(1, keepdim=True).expand_as(A)


# -- 3.1.c: walks ----------------------------------------------------------------------------------------------------------


@control("count_walks", "test_powers_count_walks")
def elementwise_power(A: Tensor, n: int) -> Tensor:
    """A ** n of each entry."""
    return A.long() ** n


@control("count_walks", "test_powers_count_walks")
def one_step_too_many(A: Tensor, n: int) -> Tensor:
    """Counts nodes, not edges, as length."""
    return torch.linalg.matrix_power(A.long(), n + 1)


@control("count_walks", "test_powers_count_walks")
def walks_that_may_rest(A: Tensor, n: int) -> Tensor:
    """(A + I)^n also counts shorter walks."""
    return torch.linalg.matrix_power(A.long() + torch.eye(len(A), dtype=torch.long), n)


@control("count_walks", "test_powers_count_walks")
def walks_backwards(A: Tensor, n: int) -> Tensor:
    """Counts walks from v to u."""
    return torch.linalg.matrix_power(A.long(), n).T


@control("count_walks", "test_powers_count_walks")
def paths_for_walks(A: Tensor, n: int) -> Tensor:
    """What the report says, without repeated nodes."""
    graph = nx.from_numpy_array(A.numpy(), create_using=nx.DiGraph)
    paths = torch.zeros(len(A), len(A), dtype=torch.long)
    for u in graph:
        for v in graph:
            paths[u, v] = sum(len(path) == n + 1 for path in nx.all_simple_paths(graph, u, v, cutoff=n))
    return paths


@control("count_walks", "test_counts_are_exact_however_large")
def walks_in_64_bits(A: Tensor, n: int) -> Any:
    """Overflows without a word."""
    return np.linalg.matrix_power(A.numpy().astype(np.int64), n)


@control("count_walks", "test_counts_are_exact_however_large")
def walks_in_floating_point(A: Tensor, n: int) -> Any:
    """Rounds beyond 2^53."""
    return np.linalg.matrix_power(A.numpy().astype(np.float64), n)


@control("count_walks", "test_powers_count_walks")
def multiple_for_power(A: Tensor, n: int) -> Tensor:
    """n A for A^n."""
    return n * A.long()


@control("count_walks", "test_powers_count_walks")
def walks_of_up_to_n_edges(A: Tensor, n: int) -> Tensor:
    """I + A + ... + A^n for A^n."""
    return torch.stack([torch.linalg.matrix_power(A.long(), k) for k in range(n + 1)]).sum(0)


@control("count_walks", "test_powers_count_walks")
def walks_against_the_edges_too(A: Tensor, n: int) -> Tensor:
    """Goes along directed edges both ways."""
    return torch.linalg.matrix_power(torch.maximum(A, A.T).long(), n)


@control("count_walks", "test_powers_count_walks")
def whether_there_is_a_walk(A: Tensor, n: int) -> Tensor:
    """1 where there is a walk, however many there are."""
    return (torch.linalg.matrix_power(A, n) > 0).long()


# -- 3.2.a: the layer -----------------------------------------


def _mean(A: Tensor) -> Tensor:
    return A / A.sum(1, keepdim=True).clamp(min=1e-300)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def weights_exchanged(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """B for the neighbours and W for the node."""
    return activation(_mean(A) @ H @ B.T + H @ W.T)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def weights_transposed(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Multiplies by W and B instead of their transposes; fits where they are square."""
    return activation(_mean(A) @ H @ W + H @ B)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def own_term_forgotten(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """No B h_v."""
    return activation(_mean(A) @ H @ W.T)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def own_term_outside(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """B h_v added after the activation."""
    return activation(_mean(A) @ H @ W.T) + H @ B.T


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def activation_forgotten(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """No activation: a linear layer."""
    return _mean(A) @ H @ W.T + H @ B.T


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def degree_of_the_neighbour(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """What the report says, A D^-1 for D^-1 A."""
    return activation(mean_by_the_neighbours_degree(A, H) @ W.T + H @ B.T)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def symmetric_normalisation(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """D^-1/2 A D^-1/2, as Kipf and Welling have it of A + I."""
    degree = A.sum(1)
    root = degree.where(degree > 0, 1).rsqrt()
    return activation(root[:, None] * A * root @ H @ W.T + H @ B.T)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def sum_in_place_of_mean(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """A for D^-1 A."""
    return activation(A @ H @ W.T + H @ B.T)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def against_the_edges(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """A^T for A."""
    return activation(_mean(A.T) @ H @ W.T + H @ B.T)


@control("graph_convolution", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def isolated_nodes_become_nan(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Divides by zero where a node has no neighbours."""
    return activation(A / A.sum(1, keepdim=True) @ H @ W.T + H @ B.T)


@control("graph_convolution_by_node", "test_a_layer_divides_by_the_degree_of_the_receiving_node")
def node_by_node_unweighted(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """The plain mean of the rows of H with an edge, whatever its weight."""
    means = [H[row != 0].mean(0) if row.any() else torch.zeros_like(H[0]) for row in A]
    return torch.stack([activation(W @ mean + B @ h) for mean, h in zip(means, H, strict=True)])


@control("graph_convolution_by_node", "test_an_isolated_node_keeps_only_its_own_term")
def node_by_node_skips_the_isolated(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Zeros, without its own term, for a node without neighbours."""
    output = activation(_mean(A) @ H @ W.T + H @ B.T)
    return torch.where(A.any(1, keepdim=True), output, 0)


@control("graph_convolution_by_messages", "test_w_multiplies_the_neighbours_and_b_the_node_itself")
def messages_activated(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Applies sigma to the messages, not to the sum with the node's own term."""
    return _mean(A) @ activation(H @ W.T) + H @ B.T


@control("graph_convolution_by_messages", "test_the_three_forms_have_the_same_gradients")
def messages_without_gradient(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Right numbers, in which W is not seen by its gradient."""
    return activation(_mean(A) @ H @ W.detach().T + H @ B.T)


# -- 3.2.b: messages, and how far they reach -------------------------------------------------------------------------------


@control("message_passing", "test_message_and_update_functions_are_free")
def messages_to_the_sender(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Takes the ends of an edge for each other."""
    v, u = A.nonzero(as_tuple=True)
    return update(H, torch.zeros_like(H).index_add(0, u, A[v, u, None] * message(H[u], H[v])))


@control("message_passing", "test_message_and_update_functions_are_free")
def messages_unweighted(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Each neighbour once, whatever the weights."""
    v, u = A.nonzero(as_tuple=True)
    return update(H, torch.zeros_like(H).index_add(0, v, message(H[v], H[u])))


@control("message_passing", "test_message_and_update_functions_are_free")
def update_forgets_the_node(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """The update sees the messages only."""
    v, u = A.nonzero(as_tuple=True)
    received = torch.zeros_like(H).index_add(0, v, A[v, u, None] * message(H[v], H[u]))
    return update(received, received)


@control("message_passing", "test_message_and_update_functions_are_free")
def message_arguments_exchanged(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Calls message(h_u, h_v) with the sender first."""
    return _passing(A, H, lambda receiver, sender: message(sender, receiver), update, aggregate)


@control("message_passing", "test_message_and_update_functions_are_free")
def messages_always_summed(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """The sum, whatever the aggregate asked for."""
    return _passing(A, H, message, update, "sum")


@control("message_passing", "test_message_and_update_functions_are_free")
def messages_divided_by_their_number(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """The mean divides the weighted sum by the number of neighbours, not by the sum of their weights."""
    divisor = (A != 0).sum(1, keepdim=True).clamp(min=1) if aggregate == "mean" else 1
    return _passing(A / divisor, H, message, update, "sum" if aggregate == "mean" else aggregate)


@control("message_passing", "test_message_and_update_functions_are_free")
def largest_message_or_zero(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """A maximum of negative messages becomes zero."""
    return _passing(A, H, message, lambda H, m: update(H, m.relu() if aggregate == "max" else m), aggregate)


@control("message_passing", "test_k_layers_of_message_passing_see_no_further")
def messages_from_two_hops(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """Messages come from neighbours of neighbours, too."""
    return _passing(A + A @ A, H, message, update, aggregate)


def _passing(A: Tensor, H: Tensor, message: Any, update: Any, aggregate: str) -> Tensor:
    """The right message passing."""
    v, u = A.nonzero(as_tuple=True)
    messages = message(H[v], H[u])
    nothing = messages.new_zeros(len(A), messages.shape[1])
    if aggregate == "max":
        return update(H, nothing.scatter_reduce(0, v[:, None].expand_as(messages), messages, "amax", include_self=False))
    total = nothing.index_add(0, v, A[v, u, None] * messages)
    return update(H, total / A.sum(1, keepdim=True).clamp(min=1e-300) if aggregate == "mean" else total)


@control("graph_convolution", "test_k_layers_see_exactly_the_k_hop_ball")
def two_hops_at_once(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Neighbours of neighbours in one layer."""
    A = A.to_dense()
    return activation((A + A @ A) @ H @ W.T + H @ B.T)


@control("graph_convolution", "test_k_layers_see_exactly_the_k_hop_ball")
def sees_all_that_can_be_reached(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """The mean over all nodes that a path leads to, however long."""
    reached = (torch.linalg.matrix_power((A != 0).double() + torch.eye(len(A)).double(), len(A)) > 0).to(H) * (A != 0).any(1)[
        :, None
    ]
    return activation(_mean(reached) @ H @ W.T + H @ B.T)


@control("graph_convolution", "test_k_layers_see_exactly_the_k_hop_ball")
def sees_only_itself(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """No structure at all."""
    return activation(H @ B.T)


# -- 3.3.b, 3.3.c: aggregation ----------------------------------------------------------------------------------------------


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_by_the_neighbours_degree(A: Tensor, H: Tensor) -> Tensor:
    """A D^-1 for D^-1 A."""
    degree = A.sum(1)
    return A / degree.where(degree > 0, 1) @ H


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_with_the_node_itself(A: Tensor, H: Tensor) -> Tensor:
    """A + I for A."""
    return _mean(A + torch.eye(len(A), dtype=A.dtype)) @ H


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_with_one_more_in_the_degree(A: Tensor, H: Tensor) -> Tensor:
    """Divides by the degree plus one."""
    return A / (A.sum(1, keepdim=True) + 1) @ H


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_that_ignores_weights(A: Tensor, H: Tensor) -> Tensor:
    """Each neighbour once."""
    return _mean((A != 0).to(A.dtype)) @ H


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_over_those_who_point_here(A: Tensor, H: Tensor) -> Tensor:
    """A^T for A."""
    return _mean(A.T) @ H


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_over_all_nodes(A: Tensor, H: Tensor) -> Tensor:
    """Ignores the graph."""
    return H.mean(0).expand_as(H)


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def maximum_with_zeros(A: Tensor, H: Tensor) -> Tensor:
    """Takes strangers for neighbours with zero features."""
    return ((A != 0)[:, :, None] * H).amax(1)


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def maximum_of_weighted_features(A: Tensor, H: Tensor) -> Tensor:
    """Weights scale the features."""
    weighted = (A[:, :, None] * H).masked_fill((A == 0)[:, :, None], -torch.inf).amax(1)
    return weighted.where(weighted.isfinite(), 0)


@control("mean_aggregate", "test_the_aggregate_is_the_mean_over_the_neighbours")
def mean_of_nobody_is_nan(A: Tensor, H: Tensor) -> Tensor:
    """Divides by zero where a node has no neighbours."""
    return A / A.sum(1, keepdim=True) @ H


@control("sum_aggregate", "test_the_sum_is_taken_over_the_neighbours")
def sum_that_ignores_weights(A: Tensor, H: Tensor) -> Tensor:
    """Each neighbour once."""
    return (A != 0).to(A.dtype) @ H


@control("sum_aggregate", "test_the_sum_is_taken_over_the_neighbours")
def sum_with_the_node_itself(A: Tensor, H: Tensor) -> Tensor:
    """A + I for A."""
    return A @ H + H


@control("sum_aggregate", "test_the_sum_is_taken_over_the_neighbours")
def sum_over_those_who_point_here(A: Tensor, H: Tensor) -> Tensor:
    """A^T for A."""
    return A.T @ H


@control("sum_aggregate", "test_the_sum_is_taken_over_the_neighbours")
def mean_for_the_sum(A: Tensor, H: Tensor) -> Tensor:
    """D^-1 A for A."""
    return _mean(A) @ H


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def minimum_for_the_maximum(A: Tensor, H: Tensor) -> Tensor:
    """The smallest value among the neighbours."""
    return -_maximum(A, -H)


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def maximum_over_all_nodes(A: Tensor, H: Tensor) -> Tensor:
    """Ignores the graph."""
    return H.amax(0).expand_as(H)


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def maximum_with_the_node_itself(A: Tensor, H: Tensor) -> Tensor:
    """Takes a node for its own neighbour."""
    return _maximum(A + torch.eye(len(A)), H)


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def maximum_over_those_who_point_here(A: Tensor, H: Tensor) -> Tensor:
    """A^T for A."""
    return _maximum(A.T, H)


@control("max_aggregate", "test_the_maximum_is_taken_over_the_neighbours_only")
def maximum_of_nobody_is_infinite(A: Tensor, H: Tensor) -> Tensor:
    """Minus infinity where a node has no neighbours."""
    return H.expand(len(A), *H.shape).masked_fill((A == 0)[:, :, None], -torch.inf).amax(1)


def _maximum(A: Tensor, H: Tensor) -> Tensor:
    """The right maximum."""
    largest = maximum_of_nobody_is_infinite(A, H)
    return largest.where(largest.isfinite(), 0)


@control("graph_convolution", "test_the_three_forms_have_the_same_gradients")
def mean_without_gradient(A: Tensor, H: Tensor, W: Tensor, B: Tensor, activation: Activation) -> Tensor:
    """Right numbers, cut from the features."""
    return activation(_mean(A) @ H.detach() @ W.T + H @ B.T)


GRADIENT = "test_what_is_gathered_hands_its_gradient_back"


@control("sum_aggregate", GRADIENT)
def sum_without_gradient(A: Tensor, H: Tensor) -> Tensor:
    """Right numbers, cut from the features."""
    return A @ H.detach()


@control("mean_aggregate", GRADIENT)
def mean_whose_gradient_is_nan(A: Tensor, H: Tensor) -> Tensor:
    """Divides by zero and mends the result, but not its gradient."""
    return (A @ H / A.sum(1, keepdim=True)).nan_to_num(0)


@control("max_aggregate", GRADIENT)
def maximum_without_gradient(A: Tensor, H: Tensor) -> Tensor:
    """Right numbers, cut from the features."""
    return _maximum(A, H).detach()


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


def _attend(H: Tensor, W_q: Tensor, W_k: Tensor, mask: Tensor | None) -> Tensor:
    """The right attention matrix."""
    return _attention(H @ W_q.T, H @ W_k.T, mask)


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def softmax_over_the_wrong_axis(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Columns sum to one."""
    return attention_over_columns(H @ W_q.T, H @ W_k.T, mask) @ H @ W_v.T


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def scores_not_scaled(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """No 1 / sqrt(d_k)."""
    return _attend(H, W_q * len(W_q) ** 0.5, W_k, mask) @ H @ W_v.T


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def mask_after_the_softmax(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Rows sum to less than one."""
    return attention_masked_afterwards(H @ W_q.T, H @ W_k.T, mask) @ H @ W_v.T


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def mask_upside_down(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Transposed, so that words see what comes after them."""
    return _attend(H, W_q, W_k, None if mask is None else mask.T) @ H @ W_v.T


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def queries_and_keys_exchanged(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Takes queries for keys and keys for queries."""
    return _attend(H, W_k, W_q, mask) @ H @ W_v.T


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def messages_along_the_attention(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """A^T V for A V."""
    return _attend(H, W_q, W_k, mask).T @ H @ W_v.T


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def values_not_projected(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """A H without W_v."""
    return _attend(H, W_q, W_k, mask) @ H


@control("self_attention", "test_masked_attention_is_message_passing_on_the_masks_graph")
def mask_not_used(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Every word attends to every word, whatever the mask."""
    return _attend(H, W_q, W_k, None) @ H @ W_v.T


@control("self_attention", "test_self_attention_gathers_from_all_words")
def always_causal(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Words do not attend to later words, even without a mask."""
    return _attend(H, W_q, W_k, _everyone(H).tril() if mask is None else mask) @ H @ W_v.T


@control("self_attention", "test_self_attention_gathers_from_all_words")
def scaled_by_the_width_of_the_words(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """1 / sqrt(d) of the embeddings for 1 / sqrt(d_k) of the queries."""
    scale = (len(W_q) / H.shape[1]) ** 0.5
    return _attend(H, W_q * scale, W_k, mask) @ H @ W_v.T


@control("self_attention", "test_self_attention_is_equivariant")
def positions_inside(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Without a mask, adds to each word where it stands."""
    moved = H + torch.arange(len(H))[:, None] if mask is None else H
    return _attend(moved, W_q, W_k, mask) @ moved @ W_v.T


@control("self_attention", "test_a_word_that_may_attend_to_nobody_has_zeros")
def nobody_is_everybody(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """A word that may attend to nobody attends to all alike."""
    mask = _everyone(H) if mask is None else mask
    scores = H @ W_q.T @ (H @ W_k.T).T / len(W_q) ** 0.5
    return scores.masked_fill(~mask, torch.finfo(H.dtype).min).softmax(1) @ H @ W_v.T


@control("attention_matrix", "test_a_word_that_may_attend_to_nobody_has_zeros")
def attention_of_nobody_is_nan(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """The softmax of no numbers."""
    scores = Q @ K.T / Q.shape[1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(1)


@control("attention_matrix", "test_the_attention_matrix_is_the_softmax_of_scaled_products")
def attention_over_columns(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """Columns sum to one."""
    return _attention(K, Q, None if mask is None else mask.T).T


@control("attention_matrix", "test_the_attention_matrix_is_the_softmax_of_scaled_products")
def attention_unscaled(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """No 1 / sqrt(d)."""
    return _attention(Q * Q.shape[1] ** 0.5, K, mask)


@control("attention_matrix", "test_the_attention_matrix_is_the_softmax_of_scaled_products")
def attention_divided_by_the_width(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """1 / d for 1 / sqrt(d)."""
    return _attention(Q / Q.shape[1] ** 0.5, K, mask)


@control("attention_matrix", "test_the_attention_matrix_is_the_softmax_of_scaled_products")
def attention_unmasked(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """Every word attends to every word, whatever the mask."""
    return _attention(Q, K, None)


@control("attention_matrix", "test_rows_of_the_attention_matrix_sum_to_one")
def attention_masked_afterwards(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """Masks after the softmax, so that rows sum to less than one."""
    return _attention(Q, K, None) * (1 if mask is None else mask)


@control("attention_matrix", "test_the_attention_matrix_is_the_softmax_of_scaled_products")
def attention_inverted(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """Hides what the mask shows, as torch.nn.MultiheadAttention reads it."""
    return _attention(Q, K, None if mask is None else ~mask)


@control("attention_matrix", "test_the_attention_matrix_is_the_softmax_of_scaled_products")
def attention_of_the_keys(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """Takes queries for keys and keys for queries."""
    return _attention(K, Q, mask)


@control("attention_matrix", "test_rows_of_the_attention_matrix_sum_to_one")
def scores_for_attention(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """The scores themselves: no softmax."""
    return (Q @ K.T / Q.shape[1] ** 0.5) * (1 if mask is None else mask)


@control("attention_matrix", "test_large_scores_are_no_numbers_too_large")
def softmax_that_overflows(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """The exponentials of the scores themselves, over their sum."""
    weights = (Q @ K.T / Q.shape[1] ** 0.5).exp() * (1 if mask is None else mask)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-300)


@control("attention_matrix", "test_attention_hands_its_gradients_back")
def attention_without_gradient(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """Right numbers, cut from queries and keys."""
    return _attention(Q, K, mask).detach()


@control("self_attention", "test_attention_hands_its_gradients_back")
def attention_whose_weights_are_constant(H: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, mask: Tensor | None) -> Tensor:
    """Right numbers, whose gradient does not pass through the attention."""
    return _attention(H @ W_q.T, H @ W_k.T, mask).detach() @ H @ W_v.T


def _attention(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """The right attention matrix."""
    return attention_of_nobody_is_nan(Q, K, mask).nan_to_num(0)


def _everyone(H: Tensor) -> Tensor:
    """The mask that lets every word attend to every word."""
    return torch.ones(len(H), len(H), dtype=torch.bool)


def attention_with_positions(H: Tensor) -> Tensor:
    """Adds where a word stands: test_self_attention_is_equivariant."""
    moved = H + torch.arange(len(H))[:, None]
    return (moved @ moved.T).softmax(1) @ moved
