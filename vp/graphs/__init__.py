"""Graphs as matrices, graph convolutions and attention (report 3). Uses no other room of vp.

adjacency      A, D and the degrees of networkx graphs, edge lists and edge indices; the convention of direction (read it first)
walks          A^n counts walks
aggregation    what a node gathers from its neighbours: A H, D^-1 A H, max
convolution    the graph convolution by node, by matrix, by messages; message passing
attention      self-attention as weighted message passing
"""

from vp.graphs.adjacency import DENSE_NODES, adjacency_matrix, degree_matrix, degrees
from vp.graphs.aggregation import max_aggregate, mean_aggregate, mean_matrix, sum_aggregate
from vp.graphs.attention import attention_graph, attention_matrix, self_attention
from vp.graphs.convolution import graph_convolution, graph_convolution_by_messages, graph_convolution_by_node, message_passing
from vp.graphs.walks import count_walks, walks

__all__ = [
    "DENSE_NODES",
    "adjacency_matrix",
    "attention_graph",
    "attention_matrix",
    "count_walks",
    "degree_matrix",
    "degrees",
    "graph_convolution",
    "graph_convolution_by_messages",
    "graph_convolution_by_node",
    "max_aggregate",
    "mean_aggregate",
    "mean_matrix",
    "message_passing",
    "self_attention",
    "sum_aggregate",
    "walks",
]
