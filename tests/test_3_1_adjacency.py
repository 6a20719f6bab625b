"""Report 3.1: adjacency matrices, and what their powers count."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st
from torch import Tensor

from tests.conformance.agree import agree, numbers
from tests.support.strategies import (
    directed_graphs,
    graphs,
    matrix_of,
    multigraphs,
    permutations,
    seeds,
    simple_graphs,
    sparse,
    tensor,
)
from vp.graphs import DENSE_NODES, adjacency_matrix, count_walks, degree_matrix, degrees, mean_aggregate, walks
from vp.report.writeup.figures import to_svg
from vp.report.writeup.graph_figures import graphs_with_matrices, walk_counts

LEAVES = range(2, 8)
SPOKES = [(1, leaf) for leaf in LEAVES]
RIM = [(2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 2)]

STAR = [
    [0, 1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0],
]
WHEEL = [
    [0, 1, 1, 1, 1, 1, 1],
    [1, 0, 1, 0, 0, 0, 1],
    [1, 1, 0, 1, 0, 0, 0],
    [1, 0, 1, 0, 1, 0, 0],
    [1, 0, 0, 1, 0, 1, 0],
    [1, 0, 0, 0, 1, 0, 1],
    [1, 1, 0, 0, 0, 1, 0],
]
CYCLE = [
    [0, 1, 0, 0, 0, 1],
    [1, 0, 1, 0, 0, 0],
    [0, 1, 0, 1, 0, 0],
    [0, 0, 1, 0, 1, 0],
    [0, 0, 0, 1, 0, 1],
    [1, 0, 0, 0, 1, 0],
]
CYCLE_SQUARED = [
    [2, 0, 1, 0, 1, 0],
    [0, 2, 0, 1, 0, 1],
    [1, 0, 2, 0, 1, 0],
    [0, 1, 0, 2, 0, 1],
    [1, 0, 1, 0, 2, 0],
    [0, 1, 0, 1, 0, 2],
]


def cycle() -> nx.Graph:
    return nx.Graph([(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 1)])


# -- 3.1.a: the matrix of a graph ------------------------------------------------------------------------------------------


@pytest.mark.claim("star-matrix")
@pytest.mark.specifies("adjacency_matrix")
def test_the_first_graph_is_a_star(impl) -> None:
    """The first graph, a star with hub 1 and leaves 2 to 7, has ones in the hub's row and column and nowhere else."""
    agree(impl.adjacency_matrix(nx.Graph(SPOKES), list(range(1, 8))), STAR, "A of the star, nodes from 1 on", atol=0)


@pytest.mark.claim("wheel-matrix")
@pytest.mark.specifies("adjacency_matrix")
def test_the_second_graph_is_a_wheel(impl) -> None:
    """The second graph, a wheel with hub 1 and rim 2 to 7, has the matrix printed: the star's, and a cycle on the rim."""
    agree(impl.adjacency_matrix(nx.Graph(SPOKES + RIM), list(range(1, 8))), WHEEL, "A of the wheel, nodes from 1 on", atol=0)


@pytest.mark.claim("cycle-matrix")
@pytest.mark.specifies("adjacency_matrix")
def test_the_third_graph_is_a_cycle(impl) -> None:
    """The third graph, a cycle of six nodes, has the matrix printed."""
    agree(impl.adjacency_matrix(cycle(), list(range(1, 7))), CYCLE, "A of the cycle, nodes from 1 on", atol=0)


@pytest.mark.specifies("adjacency_matrix")
@given(graph=graphs(min_nodes=1), data=st.data())
def test_entries_count_the_edges_from_u_to_v(impl, graph: nx.Graph, data: st.DataObject) -> None:
    """A[u, v] is the number (or total weight) of edges from u to v, in the order of the node list; a self-loop counts once."""
    nodelist = data.draw(permutations(len(graph)))
    expected = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    for (i, u), (j, v) in product(enumerate(nodelist), repeat=2):
        for a, b, weight in graph.edges(data="weight", default=1):
            if (a, b) == (u, v) or (not graph.is_directed() and (b, a) == (u, v)):
                expected[i, j] += weight
    told = f"edges from u to v, as A[u, v], nodes in the order {nodelist}"
    agree(impl.adjacency_matrix(graph, nodelist), expected, told, atol=0, rtol=1e-6)


def test_a_graph_without_nodes_has_matrices_of_no_size() -> None:
    """A graph without a single node has an adjacency matrix, a degree matrix and powers, all of size (0, 0)."""
    for graph in (nx.Graph(), nx.DiGraph(), nx.MultiGraph(), [], torch.zeros(2, 0, dtype=torch.long)):
        for layout in (False, True):
            A = adjacency_matrix(graph, [], sparse=layout)
            assert A.shape == degree_matrix(A).shape == count_walks(A, 2).shape == (0, 0)
            assert degrees(A).shape == (0,)
    assert adjacency_matrix(torch.zeros(2, 0, dtype=torch.long)).shape == (0, 0)


def test_weights_keep_their_precision() -> None:
    """A weight is read in double precision: in a matrix of doubles it is what it was."""
    for graph in (nx.Graph([(0, 1, {"weight": 0.1})]), [(0, 1, 0.1)]):
        assert adjacency_matrix(graph, dtype=torch.float64)[0, 1].item() == 0.1


@given(graph=graphs(), data=st.data())
def test_the_matrix_is_the_one_of_networkx(graph: nx.Graph, data: st.DataObject) -> None:
    """Any graph, in any order of its nodes, has the matrix that networkx gives it."""
    nodelist = data.draw(permutations(len(graph)))
    expected = torch.from_numpy(nx.to_numpy_array(graph, nodelist))
    assert torch.equal(adjacency_matrix(graph, nodelist, dtype=torch.float64), expected)


@given(graph=graphs(), data=st.data())
def test_graph_edge_list_and_edge_index_give_the_same_matrix(graph: nx.Graph, data: st.DataObject) -> None:
    """A networkx graph, its edge list and its edge index have the same matrix, dense or in compressed sparse rows."""
    nodelist = data.draw(permutations(len(graph)))
    triples = list(graph.edges(data="weight", default=1))
    index = torch.tensor([[u, v] for u, v, _ in triples], dtype=torch.long).reshape(-1, 2).T
    weights = torch.tensor([weight for *_, weight in triples], dtype=torch.float64)
    both_ways = {"undirected": not graph.is_directed(), "dtype": torch.float64}
    dense = adjacency_matrix(graph, nodelist, dtype=torch.float64)
    for same in (
        adjacency_matrix(triples, nodelist, **both_ways),
        adjacency_matrix(index, nodelist, weights=weights, **both_ways),
        adjacency_matrix(index.numpy(), nodelist, weights=weights, **both_ways),
        adjacency_matrix(graph, nodelist, sparse=True, dtype=torch.float64).to_dense(),
        adjacency_matrix(triples, nodelist, sparse=True, **both_ways).to_dense(),
    ):
        torch.testing.assert_close(same, dense)


def test_without_a_node_list_rows_come_in_the_graphs_own_order() -> None:
    """Rows are in networkx's order, in the order in which an edge list first names nodes, or 0, 1, ... for an edge index."""
    edges = [("c", "a"), ("a", "b")]
    expected = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert adjacency_matrix(nx.DiGraph(edges)).tolist() == adjacency_matrix(edges).tolist() == expected
    index = torch.tensor([[2, 0], [0, 1]])
    assert adjacency_matrix(index).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    for nodelist in (torch.tensor([2, 0, 1]), np.array([2, 0, 1]), [np.uint8(2), np.int64(0), 1]):
        assert adjacency_matrix(index, nodelist).tolist() == expected


@pytest.mark.parametrize("graph", [[(0, 1)], torch.tensor([[0], [1]])], ids=["edge-list", "edge-index"])
def test_a_node_list_may_add_isolated_nodes_to_edges(graph: Any) -> None:
    """Edges alone cannot name isolated nodes; a node list adds them as zero rows and columns."""
    assert adjacency_matrix(graph, range(3)).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("layout", [False, True], ids=["dense", "sparse"])
def test_weights_add_up_before_they_become_integers(layout: bool) -> None:
    """Two edges of weight 1/2 make the integer 1, not 0; a total that the dtype cannot hold is refused."""
    halves = [("a", "b", 0.5), ("a", "b", 0.5)]
    assert adjacency_matrix(halves, sparse=layout, dtype=torch.int64).to_dense().tolist() == [[0, 1], [0, 0]]
    for edges, dtype in ((halves[1:], torch.int64), ([("a", "b", 300)], torch.uint8), ([("a", "b")] * 2, torch.bool)):
        with pytest.raises(ValueError, match=rf"an entry of A is (0\.5|300|2), which {dtype} cannot hold: give another dtype"):
            adjacency_matrix(edges, sparse=layout, dtype=dtype)


@pytest.mark.specifies("adjacency_matrix")
@given(graph=simple_graphs(min_nodes=1))
def test_the_matrix_is_symmetric_exactly_if_the_graph_is_undirected(impl, graph: nx.Graph) -> None:
    """The matrix of an undirected graph is symmetric; that of a graph with one-way edges is not."""
    A = numbers(impl.adjacency_matrix(graph, list(graph)))
    assert torch.equal(A, A.T), f"A of an undirected graph is {A.tolist()}: expected a symmetric matrix"
    if graph.number_of_edges():
        directed = nx.DiGraph(graph.edges)
        A = numbers(impl.adjacency_matrix(directed, list(directed)))
        assert not torch.equal(A, A.T), f"A of a graph with one-way edges is {A.tolist()}: expected a matrix that is not symmetric"


@pytest.mark.specifies("degree_matrix")
def test_a_degree_may_be_three_hundred(impl) -> None:
    """The hub of a star of 300 leaves has degree 300; where each edge weighs 1,000.5 it has degree 300,150."""
    A = matrix_of(nx.star_graph(300))
    for weight in (1.0, 1000.5):
        found = numbers(impl.degree_matrix(weight * A))[0, 0]
        agree(found, 300 * weight, f"degree of a hub of 300 edges of weight {weight:g}", atol=0, rtol=1e-6)


@pytest.mark.specifies("degree_matrix")
@given(graph=graphs(min_nodes=1), layout=st.booleans())
def test_the_degree_matrix_holds_the_row_sums(impl, graph: nx.Graph, layout: bool) -> None:
    """D is diagonal; D[v, v] is the total weight of the edges that leave v, a self-loop counted once."""
    A, expected = matrix_of(graph), torch.zeros(len(graph), len(graph), dtype=torch.float64)
    for v in graph:
        expected[v, v] = sum(weight for *_, weight in graph.edges(v, data="weight", default=1))
    agree(impl.degree_matrix(sparse(A) if layout else A), expected, "D", atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "of_degrees"),
    [
        (torch.bool, torch.int64),
        (torch.uint8, torch.int64),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_degrees_are_wide(dtype: torch.dtype, of_degrees: torch.dtype) -> None:
    """Degrees of whole numbers are whole, those of narrow floating-point numbers float32."""
    A = torch.eye(2, dtype=dtype)
    assert degrees(A).dtype == degrees(sparse(A)).dtype == of_degrees


@given(graph=graphs(), layout=st.booleans())
def test_degrees_are_the_diagonal_of_the_degree_matrix(graph: nx.Graph, layout: bool) -> None:
    """`degrees` gives the diagonal as a vector, and D has the layout of A."""
    A = adjacency_matrix(graph, dtype=torch.float64, sparse=layout)
    D = degree_matrix(A)
    assert D.layout == A.layout
    torch.testing.assert_close(degrees(A), D.to_dense().diag())


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(torch.bool, [1, 1, 1]), (torch.uint8, [150, 150]), (torch.float16, [2048, 1]), (torch.bfloat16, [256, 1])],
)
@pytest.mark.parametrize("layout", [torch.Tensor.clone, sparse], ids=["dense", "sparse"])
def test_degrees_do_not_overflow_narrow_types(dtype: torch.dtype, weights: list[int], layout: Callable[[Tensor], Tensor]) -> None:
    """A degree may be larger than the type of A can hold: three booleans make 3, and 150 + 150 in eight bits 300."""
    A = torch.zeros(3, 3)
    A[0, : len(weights)] = torch.tensor(weights)
    A = layout(A.to(dtype))
    assert degrees(A).tolist() == [sum(weights), 0, 0]
    assert degree_matrix(A).to_dense()[0, 0] == sum(weights)


# -- 3.1.b, 3.1.c: powers count walks ---------------------------------------------------------------------------------------


@pytest.mark.claim("square-of-the-cycle")
@pytest.mark.specifies("count_walks")
def test_the_square_of_the_cycle(impl) -> None:
    """The square of the cycle's matrix has 2 on the diagonal (there and back, both ways) and 1 between nodes two steps apart."""
    agree(impl.count_walks(torch.tensor(CYCLE, dtype=torch.float64), 2), CYCLE_SQUARED, "A^2 of the cycle", atol=0, rtol=0)


@pytest.mark.claim("powers-count-walks")
@pytest.mark.specifies("count_walks")
@given(graph=st.one_of(simple_graphs(1, 4), directed_graphs(1, 4), multigraphs(1, 4)), n=st.integers(0, 4))
def test_powers_count_walks(impl, graph: nx.Graph, n: int) -> None:
    """(A^n)_uv is the number of walks of n edges from u to v: nodes may repeat."""
    size = len(graph)
    expected = torch.zeros(size, size, dtype=torch.float64)
    for sequence in product(range(size), repeat=n + 1):
        ways = 1
        for u, v in pairwise(sequence):
            ways *= graph.number_of_edges(u, v)  # parallel edges are different ways to go
        expected[sequence[0], sequence[-1]] += ways
    agree(impl.count_walks(matrix_of(graph), n), expected, f"walks of {n} edges from u to v, as [u, v]", atol=0, rtol=0)


@given(graph=st.one_of(simple_graphs(max_nodes=4), directed_graphs(max_nodes=4), multigraphs(max_nodes=4)), n=st.integers(0, 4))
def test_walks_are_enumerated_one_by_one(graph: nx.Graph, n: int) -> None:
    """`walks` lists as many walks as are counted, each of them n edges of the graph from u to v."""
    counts = count_walks(matrix_of(graph), n)
    for u, v in product(graph, repeat=2):
        listed = list(walks(graph, u, v, n))
        assert len(listed) == counts[u, v]
        for walk in listed:
            assert (walk[0], walk[-1], len(walk)) == (u, v, n + 1)
            assert all(graph.has_edge(a, b) for a, b in pairwise(walk))


@pytest.mark.claim("square-counts-walks")
@pytest.mark.specifies("count_walks")
@given(graph=simple_graphs(min_nodes=2).filter(lambda graph: graph.number_of_edges() > 0))
def test_walks_are_not_paths(impl, graph: nx.Graph) -> None:
    """At the end of any edge (A^2)_uu > 0, yet no path of length 2 leads from u to u: the walk goes there and back."""
    u = next(iter(graph.edges))[0]
    found = impl.count_walks(matrix_of(graph), 2)[u, u]
    assert found == graph.degree(u), f"{found} walks of 2 edges from node {u} back to it: expected {graph.degree(u)}, one an edge"
    assert [path for path in nx.all_simple_paths(graph, u, u, cutoff=2) if len(path) == 3] == []


@given(graph=simple_graphs(), n=st.integers(0, 8))
def test_networkx_counts_the_same_walks(graph: nx.Graph, n: int) -> None:
    """The counts are those of networkx, as long as they fit its 64 bits."""
    if len(graph):
        expected = nx.number_of_walks(graph, n)
        assert count_walks(adjacency_matrix(graph), n).tolist() == [[expected[u][v] for v in graph] for u in graph]


def assert_exact_on_complete_graphs(count: Callable[..., Any], size: int, n: int) -> None:
    """On the complete graph the count has a closed form, in exact integers."""
    A = torch.ones(size, size, dtype=torch.float64) - torch.eye(size, dtype=torch.float64)
    closed = ((size - 1) ** n + (size - 1) * (-1) ** n) // size
    back = ((size - 1) ** n - (-1) ** n) // size
    for u, row in enumerate(count(A, n).tolist()):
        for v, found in enumerate(row):
            expected = closed if u == v else back
            if found != expected:  # a comparison of the matrices would have pytest spend minutes on the difference of long numbers
                asked = f"walks of {n} edges from node {u} to node {v} of {size} nodes, all joined"
                raise AssertionError(f"{asked}: got {found}, expected exactly {expected}")


@pytest.mark.specifies("count_walks")
@given(size=st.integers(1, 7), n=st.integers(0, 200))
def test_counts_are_exact_however_large(impl, size: int, n: int) -> None:
    """Counts are exact integers of any size: on N nodes, all joined, ((N - 1)^n + (N - 1)(-1)^n) / N lead from a node to itself."""
    assert_exact_on_complete_graphs(impl.count_walks, size, n)


def test_sixty_nodes_and_fifty_steps() -> None:
    """The complete graph of 60 nodes has walks of 50 steps in numbers of 289 bits, and they are counted exactly."""
    assert_exact_on_complete_graphs(count_walks, 60, 50)


@given(graph=simple_graphs())
def test_the_traces_count_edges_and_triangles(graph: nx.Graph) -> None:
    """In a simple graph trace(A^2) is twice the number of edges and trace(A^3) six times the number of triangles."""
    A = adjacency_matrix(graph)
    assert count_walks(A, 2).trace() == 2 * graph.number_of_edges()
    assert count_walks(A, 3).trace() == 2 * sum(nx.triangles(graph).values())  # networkx counts a triangle at each corner


@given(graph=st.one_of(simple_graphs(), directed_graphs()))
def test_the_first_walk_is_the_shortest_path(graph: nx.Graph) -> None:
    """The smallest n with (A^n)_uv > 0 is the distance from u to v; if there is none up to N, v cannot be reached."""
    A = adjacency_matrix(graph)
    powers = [count_walks(A, n) for n in range(len(graph) + 1)]
    for u in graph:
        distances = nx.single_source_shortest_path_length(graph, u)
        for v in graph:
            assert next((n for n, power in enumerate(powers) if power[u, v]), None) == distances.get(v)


@given(graph=simple_graphs(), n=st.integers(0, 6))
def test_powers_of_an_undirected_graph_are_symmetric(graph: nx.Graph, n: int) -> None:
    """In an undirected graph as many walks lead from u to v as back: every A^n is symmetric."""
    power = count_walks(adjacency_matrix(graph), n)
    assert (power == power.T).all()


def test_a_power_of_a_directed_graph_may_be_symmetric() -> None:
    """A one-way triangle has a matrix that is not symmetric, though its third power, the identity, is."""
    A = adjacency_matrix([(0, 1), (1, 2), (2, 0)])
    assert not torch.equal(A, A.T)
    assert count_walks(A, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@given(graph=graphs(), n=st.integers(0, 4), data=st.data())
def test_relabelling_conjugates_the_matrix(graph: nx.Graph, n: int, data: st.DataObject) -> None:
    """Renumbering the nodes turns A into P A P^T and every A^n into P A^n P^T: the walks stay the same."""
    order = data.draw(permutations(len(graph)))
    P = torch.eye(len(graph), dtype=torch.float64)[order]
    A, renumbered = (adjacency_matrix(graph, nodes, dtype=torch.float64) for nodes in (None, order))
    torch.testing.assert_close(renumbered, P @ A @ P.T)
    edges = (A != 0).int()
    assert count_walks((renumbered != 0).int(), n).tolist() == count_walks(edges, n)[np.ix_(order, order)].tolist()


def test_long_walks_are_enumerated_too() -> None:
    """A single walk of 3,000 edges leads round a one-way triangle, and lengths may be numpy's numbers."""
    triangle = nx.DiGraph([(0, 1), (1, 2), (2, 0)])
    (walk,) = walks(triangle, 0, 0, np.int64(3000))
    assert walk == (0, 1, 2) * 1000 + (0,)
    assert count_walks(matrix_of(triangle), np.int64(3000))[0, 0] == 1


def test_an_edge_of_weight_3_is_three_ways_to_go() -> None:
    """A weight of 3 counts as three parallel edges; the enumeration, which looks at no weights, goes along it once."""
    edge = nx.DiGraph()
    edge.add_edge(0, 1, weight=3)
    assert count_walks(adjacency_matrix(edge), 1)[0, 1] == 3
    assert list(walks(edge, 0, 1, 1)) == [(0, 1)]


@given(seed=seeds, dtype=st.sampled_from([torch.int64, torch.float32, torch.bool]), layout=st.booleans())
def test_whole_numbers_of_any_type_are_counted(seed: int, dtype: torch.dtype, layout: bool) -> None:
    """Entries may be integers, booleans or whole floating-point numbers, dense or sparse, of torch or of numpy."""
    A = (tensor(seed, 4, 4) > 0).to(dtype)
    expected = count_walks(A.int(), 3).tolist()
    index = A.nonzero().T
    same = adjacency_matrix(index, range(4), sparse=layout, dtype=dtype)
    assert count_walks(same, 3).tolist() == count_walks(A.numpy(), 3).tolist() == expected
    assert all(type(entry) is int for row in expected for entry in row)


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "arguments", "complaint"),
    [
        (nx.path_graph(3), {"nodelist": [0, 1]}, r"misses 1 node\(s\) of the graph: 2"),
        (nx.path_graph(3), {"nodelist": [0, 1, 1]}, "3 entries but 2 nodes"),
        (nx.path_graph(3), {"nodelist": [0, 1, 2, 3]}, r"1 node\(s\) that the graph has not: 3"),
        ([(0, 1)], {"nodelist": [0]}, r"misses 1 node\(s\) of the graph: 1"),
        (
            [(0, 1)],
            {"weights": torch.ones(1)},
            r"^weights belong to an edge index \(2, E\): give networkx edges a `weight`, .*triples \(u, v, weight\)$",
        ),
        ([(0, 1, 2, 3)], {}, r"has 4 entries: expected \(u, v\)"),
        (torch.zeros(3, 2, dtype=torch.long), {}, r"is \(3, 2\) of torch.int64: expected integers of shape \(2, E\)"),
        (torch.zeros(2, 3), {}, r"is \(2, 3\) of torch.float32: expected integers"),
        (torch.tensor([[0], [-1]]), {}, "names node -1"),
        (torch.tensor([[0], [1]]), {"weights": torch.ones(2)}, r"weights are \(2,\): expected one per edge, \(1,\)"),
        (torch.tensor([[0], [1]]), {"nodelist": [0]}, r"misses 1 node\(s\) of the graph: 1"),
        (torch.tensor([[0], [1]]), {"nodelist": [0, 1, "a"]}, "nodelist names 'a'"),
        (nx.path_graph(2).edges(data=True), {}, r"the edge \(0, 1, {}\) has {} for a weight: expected a number; .* give G itself"),
    ],
)
def test_a_graph_that_cannot_be_read_is_refused(graph: Any, arguments: dict[str, Any], complaint: str) -> None:
    """A node list or an edge index that does not fit is refused with what was given and what was expected."""
    with pytest.raises(ValueError, match=complaint):
        adjacency_matrix(graph, **arguments)


@pytest.mark.parametrize(("count", "told"), [(5, r"0, 1, 2, 3, 4"), (6, r"0, 1, 2, 3, 4, \.\.\.")])
def test_a_complaint_names_the_first_five_nodes(count: int, told: str) -> None:
    """Of many nodes that are wrong, a complaint names five."""
    with pytest.raises(ValueError, match=rf"nodelist has {count} node\(s\) that the graph has not: {told}$"):
        adjacency_matrix(nx.Graph(), list(range(count)))


def test_a_dense_matrix_too_large_is_refused_with_advice() -> None:
    """Above 10,000 nodes a dense matrix is refused, and the sparse one recommended, which works."""
    assert DENSE_NODES == 10_000
    edge = torch.tensor([[0], [100_000 - 1]])
    with pytest.raises(ValueError, match=r"100,000 nodes takes 37\.3 GiB \(limit 10,000 nodes\): give sparse=True"):
        adjacency_matrix(edge)
    A = adjacency_matrix(edge, sparse=True)
    assert A.shape == (100_000, 100_000)
    with pytest.raises(ValueError, match=r"74\.5 GiB .*: count the walks of a part of the graph"):
        count_walks(A, 2)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("layout", [False, True], ids=["dense", "sparse"])
def test_a_degree_needs_weights(weight: float, layout: bool) -> None:
    """NaN, infinite and negative weights have no degree."""
    A = adjacency_matrix([(0, 1, weight)], sparse=layout)
    with pytest.raises(ValueError, match="NaN, infinite or negative weights"):
        degree_matrix(A)


@pytest.mark.parametrize("shape", [(2, 3), (2,), (2, 2, 2)])
def test_a_matrix_that_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    """Degrees and walks need a square matrix."""
    for refuses in (degrees, degree_matrix, lambda A: count_walks(A, 1)):
        with pytest.raises(ValueError, match=r"A is \(2.*\): expected \(N, N\)"):
            refuses(torch.ones(shape))


def test_other_layouts_are_refused_with_advice() -> None:
    """A transposed CSR tensor, which torch stores by columns, and a COO tensor are refused: flip the edges instead."""
    index = torch.tensor([[0, 0], [1, 2]])
    A = adjacency_matrix(index, sparse=True)
    for other in (A.transpose(0, 1), A.to_dense().to_sparse_coo()):
        for refuses in (degrees, lambda A: mean_aggregate(A, torch.ones(3, 1)), lambda A: count_walks(A, 1)):
            with pytest.raises(ValueError, match=r"layout torch\.sparse_c.*adjacency_matrix\(index\.flip\(0\), sparse=True\)"):
                refuses(other)
    assert torch.equal(adjacency_matrix(index.flip(0), sparse=True).to_dense(), A.to_dense().T)


@pytest.mark.parametrize("graph", [[[0, 1], [1, 0]], np.eye(2), nx.path_graph(2)], ids=lambda graph: type(graph).__name__)
def test_what_is_no_tensor_is_refused(graph: Any) -> None:
    """A list, a numpy array or a graph in place of A is refused; walks are counted on numpy arrays, too."""
    with pytest.raises(TypeError, match=f"A is a {type(graph).__name__}: expected a tensor .* adjacency_matrix"):
        degrees(graph)
    if not isinstance(graph, np.ndarray):
        with pytest.raises(TypeError, match="expected a tensor"):
            count_walks(graph, 1)


@pytest.mark.parametrize("entry", [0.5, -1.0, float("nan"), float("inf")])
def test_walks_are_counted_along_whole_edges(entry: float) -> None:
    """An entry that is not a whole number of edges is refused."""
    with pytest.raises(ValueError, match=f"A has an entry {entry}"):
        count_walks(torch.tensor([[0.0, entry], [1.0, 0.0]]), 2)


@pytest.mark.parametrize("n", [-1, 2.0])
def test_a_walk_has_a_whole_number_of_steps(n: Any) -> None:
    """A negative or fractional length is refused."""
    with pytest.raises(ValueError, match=f"n = {n}"):
        count_walks(torch.eye(2), n)


def test_walks_between_nodes_that_are_not_there_are_refused() -> None:
    """Enumerating walks from or to an unknown node, or of negative length, is refused at once."""
    with pytest.raises(ValueError, match="7 is not one of the 6 nodes"):
        walks(nx.cycle_graph(6), 0, 7, 2)
    with pytest.raises(ValueError, match="n = -1"):
        walks(nx.cycle_graph(6), 0, 0, -1)


# -- figures ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("empty", lambda graph: len(graph) == 0),
        ("a single node", lambda graph: len(graph) == 1),
        (
            "disconnected",
            lambda graph: len(graph) > 2 and not nx.is_connected(graph.to_undirected()) and graph.number_of_edges() > 1,
        ),
        ("dense", lambda graph: len(graph) > 3 and nx.density(graph) >= 0.8),
        ("directed", lambda graph: graph.is_directed() and graph.number_of_edges() > 1),
        ("weighted", lambda graph: any(weight not in (None, 1) for *_, weight in graph.edges(data="weight"))),
        ("parallel edges", lambda graph: graph.is_multigraph() and graph.number_of_edges() > len(set(graph.edges()))),
        ("self-loops", lambda graph: nx.number_of_selfloops(graph) > 0),
    ],
)
def test_graphs_of_every_kind_are_drawn(name: str, is_one: Callable[[nx.Graph], bool]) -> None:
    """The properties of section 3 range over graphs of each kind that the definitions treat apart."""
    assert is_one(find(graphs(), is_one)), name


def test_the_three_graphs_are_drawn(record: Callable[..., None]) -> None:
    """The writeup shows the three graphs above their matrices."""
    drawn = {"star": nx.Graph(SPOKES), "wheel": nx.Graph(SPOKES + RIM), "cycle": cycle()}
    svg = to_svg(graphs_with_matrices(drawn), "the-three-graphs")
    assert svg.count(">1</text>") == sum(row.count(1) for row in STAR + WHEEL + CYCLE) + 3 * 3  # nodes, row and column called 1
    caption = (
        "A star with hub 1, the wheel with the same hub, and a cycle of six nodes; below each its adjacency matrix. A node that is "
        "joined to all others is a full row and column, a cycle a band beside the diagonal."
    )
    record("figure", id="the-three-graphs", caption=caption, svg=svg)


def test_any_graph_can_be_drawn() -> None:
    """A complete graph has no single hub, so that its nodes stand apart; a graph without edges is drawn, too."""
    figure = graphs_with_matrices({"complete": nx.complete_graph(3), "no edges": nx.empty_graph(2), "one node": nx.empty_graph(1)})
    for ax, size in zip(figure.axes, (3, 2, 1), strict=False):
        assert len({text.get_position() for text in ax.texts}) == size
    to_svg(figure, "any-graph")


def test_the_walks_on_the_cycle_are_drawn(record: Callable[..., None]) -> None:
    """The writeup shows how the walks on the cycle grow."""
    powers = {n: count_walks(adjacency_matrix(cycle()), n).tolist() for n in range(1, 6)}
    assert (powers[1], powers[2]) == (CYCLE, CYCLE_SQUARED)
    caption = (
        "Powers of the cycle's matrix: row u, column v holds the number of walks of n edges from u to v. Walks of odd length never "
        "lead back to their start. Every row sums to 2^n, the walks from a node, whereas at most two paths join two nodes."
    )
    record("figure", id="walks-on-the-cycle", caption=caption, svg=to_svg(walk_counts(powers), "walks-on-the-cycle"))
