"""How fast the graph mathematics is, against PyTorch Geometric: `pytest -s tests/benchmarks/bench_graphs.py` prints a table.

Times are medians of interleaved pairs, so that a busy machine slows both sides alike; memory is the peak of a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import networkx as nx
import torch
from torch import Tensor

from vp.graphs import adjacency_matrix, count_walks, max_aggregate, mean_aggregate

NODES, EDGES, WIDTH = 100_000, 2_000_000, 64
PAIRS = 9

Step = Callable[[], None]


def random_graph() -> Tensor:
    """A in compressed sparse rows, without parallel edges, which PyTorch Geometric's sparse mean does not weight."""
    index = torch.randint(NODES, (2, EDGES), generator=torch.Generator().manual_seed(0))
    return adjacency_matrix(index.unique(dim=1), range(NODES), sparse=True)


def steps(A: Tensor) -> dict[str, Step]:
    """Forward and backward through one aggregation: this package's, and SAGEConv's on each input that PyG computes sparsely."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".torch\.jit\.script. is (deprecated|not supported)")
        from torch_geometric import EdgeIndex
        from torch_geometric.nn import SAGEConv

    H = torch.randn(NODES, WIDTH, requires_grad=True)
    G = torch.randn(NODES, WIDTH)
    rows = torch.repeat_interleave(torch.arange(NODES), A.crow_indices().diff())
    index = EdgeIndex(torch.stack([A.col_indices(), rows]), sparse_size=(NODES, NODES), sort_order="col").fill_cache_()

    def step(aggregate: Callable[[Tensor], Tensor]) -> Step:
        def forward_and_backward() -> None:
            H.grad = None
            aggregate(H).backward(G)

        return forward_and_backward

    def theirs(edges: Tensor, how: str) -> Step:
        layer = SAGEConv(WIDTH, WIDTH, aggr=how)
        return step(lambda H: layer.propagate(edges, x=(H, H), size=None))

    torch.testing.assert_close(mean_aggregate(A, H), SAGEConv(WIDTH, WIDTH).propagate(A, x=(H, H), size=None))
    return {
        "mean": step(lambda H: mean_aggregate(A, H)),
        "PyG mean, CSR": theirs(A, "mean"),
        "PyG mean, EdgeIndex": theirs(index, "mean"),
        "max": step(lambda H: max_aggregate(A, H)),
        "PyG max, CSR": theirs(A, "max"),
    }


def ms(step: Step) -> float:
    start = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - start)


def compare(name: str, ours: Step, theirs: Step, bar: str = "none", pairs: int = PAIRS) -> None:
    """Prints the medians of both and the median and range of the ratio over interleaved pairs, with the bar it is to keep."""
    first = ms(ours)
    ms(theirs)
    timed = [(ms(ours), ms(theirs)) for _ in range(pairs)]
    ratios = sorted(one / other for one, other in timed)
    mine, others = (median(column) for column in zip(*timed, strict=True))
    print(
        f"\n{name}: {mine:.1f} ms against {others:.1f} ms, ratio {median(ratios):.2f} "
        f"(bar: {bar}; {ratios[0]:.2f} to {ratios[-1]:.2f} over {pairs} pairs); first call {first:.0f} ms",
        end="",
    )


def test_aggregation_against_pytorch_geometric() -> None:
    """Prints the time of a forward and backward pass on 100,000 nodes and 2,000,000 edges, d = 64, as a ratio to PyG's."""
    every = steps(random_graph())
    print(f"\n{torch.get_num_threads()} threads", end="")
    compare("mean against PyG with a CSR matrix", every["mean"], every["PyG mean, CSR"], "at most 1")
    compare("mean against PyG with an EdgeIndex and its cache", every["mean"], every["PyG mean, EdgeIndex"], "at most 1")
    compare("max against PyG with a CSR matrix", every["max"], every["PyG max, CSR"])


def test_memory_against_pytorch_geometric() -> None:
    """Prints the peak memory of three such passes, each side in a process with the same libraries and the same graph (Linux)."""
    peaks = {}
    for name in ("mean", "PyG mean, CSR", "PyG mean, EdgeIndex"):
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench_graphs", name]
        peaks[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"\n{name}: {peaks[name]['above']:.0f} MiB above {peaks[name]['before']:.0f} MiB before", end="")
    for name in ("PyG mean, CSR", "PyG mean, EdgeIndex"):
        above, whole = (peaks["mean"][key] / peaks[name][key] for key in ("above", "peak"))
        print(f"\nratio to {name}: {above:.2f} of what is above, {whole:.2f} of the whole process (bar: at most 1.2)", end="")


def _memory(name: str) -> None:
    """What a process of its own does: three passes, and the peak they add to what was there."""
    step = steps(random_graph())[name]
    ctypes.CDLL(None).malloc_trim(0)  # gives back what building the graph has freed, and then forgets the peak of it
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = _resident("VmRSS")
    for _ in range(3):
        step()
    peak = _resident("VmHWM")
    print(json.dumps({"before": before, "peak": peak, "above": peak - before}))


def _resident(field: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def test_counting_walks() -> None:
    """Prints the time to count the walks of 50 steps on 60 nodes exactly."""
    for name, graph in (("complete", nx.complete_graph(60)), ("random", nx.gnp_random_graph(60, 0.2, seed=0))):
        A = adjacency_matrix(graph)
        taken = median(ms(lambda A=A: count_walks(A, 50)) for _ in range(5))
        bits = max(count_walks(A, 50).flat).bit_length()
        print(f"\nwalks of 50 steps on a {name} graph of 60 nodes, {bits} bits: {taken:.0f} ms (bar: under 1000 ms)", end="")


if __name__ == "__main__":
    _memory(sys.argv[1])
