"""Sweeps on Ray, on two nodes of one core each: `pytest -m cluster` (two or three minutes; pip install -e ".[cluster]").

What is swept are the miniature's own images and models, a few images and one epoch a run.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.machinery.test_store import same
from vp.experiments import ZERO_SHOT, DeepTokens, LinearProbing, Method, Result, Run, VisualPrompt
from vp.experiments.run import own_runs
from vp.experiments.store import load_result, obtain, result_path, run_key, store_folder
from vp.machine.errors import NotAvailable, VpError
from vp.sweeps import Outcome, Task
from vp.training import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("_ray_if_asked")]

ADAM = Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=1, batch_size=8)
LONG_S = 300  # longer than anything here takes; only a test that hangs meets it
SMALL = 100 * 2**20  # an object store


def run_of(name: str, method: Method = ZERO_SHOT, recipe: Recipe | None = ADAM, dataset: str = "mini10", limit: int = 20) -> Run:
    return Run(name, "sweep", "mini", dataset, "test", "mini-clip", method, recipe if method.learns else None, limit=limit)


def forty_tasks() -> list[Task]:
    """Every kind of method, on both sets of images, at two depths of the network."""
    tasks = []
    for dataset in ("mini10", "mini100"):
        tasks += [Task(run_of(f"zero-shot-{dataset}-{limit}", dataset=dataset, limit=limit), 0) for limit in (10, 20)]
        tasks += [Task(run_of(f"probe-{dataset}", LinearProbing(), dataset=dataset), seed) for seed in range(3)]
        learnt = {f"deep-{block}": DeepTokens(2, block, "back", "class") for block in (6, 11)}
        for kind, method in {"patch": VisualPrompt("fixed-patch", 1), **learnt}.items():
            tasks += [Task(run_of(f"{kind}-{dataset}", method, dataset=dataset), seed) for seed in range(5)]
    return tasks


NAN = Task(run_of("nan", VisualPrompt("padding", 2), replace(ADAM, learning_rate=1e30)), 0)


def stored(task: Task) -> Result:
    """What the store of this process has of a task; FileNotFoundError where that is nothing."""
    key = run_key(task.run, task.seed, "cpu")
    return load_result(result_path(task.run, key), key)


def files() -> dict[str, int]:
    """The results in the store of this process, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in store_folder().glob("*.safetensors")}


def but_for_time(result: Result) -> Result:
    """How long it took, and the commit of a checkout under change, are the only parts that need not come out alike."""
    return replace(result, seconds=0.0, provenance=result.provenance | {"commit": ""})


@dataclass
class Nodes:
    """A cluster on this machine, and its nodes by name."""

    cluster: Any
    of_name: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, gpus: int = 0, **variables: str) -> None:
        """A node of one core, whose processes have these environment variables; it may pretend to have GPUs."""
        self.of_name[name] = self.cluster.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=SMALL, env_vars=variables)

    def remove(self, name: str) -> None:
        self.cluster.remove_node(self.of_name.pop(name), allow_graceful=False)

    def id(self, name: str) -> str:
        return str(self.of_name[name].node_id)

    def engine(self) -> Any:
        from vp.sweeps.ray import RayEngine

        return RayEngine(self.cluster.address, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As a performer has, which is part of what comes out bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nodes(_ray_if_asked: None) -> Iterator[Nodes]:
    """A cluster with the nodes `first` and `second`, of one core each."""
    try:
        from ray.cluster_utils import Cluster
    except ModuleNotFoundError:
        pytest.skip('NOT RUN: needs Ray: pip install -e ".[cluster]"')
    from vp.sweeps.cluster import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": SMALL, "include_dashboard": False}
    )
    nodes = Nodes(cluster, {"first": cluster.head_node})
    nodes.add("second")
    yield nodes
    cluster.shutdown()


@pytest.fixture
def on(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """on(*names): sweeps of this test see these nodes only; on(thread name=node name): those of that thread."""
    import vp.sweeps.ray as engine

    every = engine.living_nodes

    def see(*names: str, **of_threads: str) -> None:
        def living_nodes() -> list[dict[str, Any]]:
            asked = [of_threads[threading.current_thread().name]] if of_threads else names
            ids = {nodes.id(name) for name in asked}
            return [node for node in every() if node["NodeID"] in ids]

        monkeypatch.setattr(engine, "living_nodes", living_nodes)

    return see


@dataclass
class Swept:
    """A sweep of forty tasks and one that diverges, whose second node was lost on the way."""

    home: Path
    outcomes: list[Outcome] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)  # results that were finished when the node was lost
    lost: str = ""  # the node


@pytest.fixture(scope="module")
def swept(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    swept = Swept(tmp_path_factory.mktemp("swept"))
    second = nodes.id("second")[:8]

    def tell(outcome: Outcome) -> None:
        swept.outcomes.append(outcome)
        if not swept.lost and len(swept.outcomes) >= 8 and second in outcome.where:
            swept.before, swept.lost = files(), second
            nodes.remove("second")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VP_HOME", str(swept.home))
        nodes.engine().perform([*forty_tasks(), NAN], tell)
    nodes.add("second")
    return swept


@pytest.fixture
def in_its_home(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> Swept:
    monkeypatch.setenv("VP_HOME", str(swept.home))
    return swept


# -- the same numbers, each once -------------------------------------------------------------------------------------------


def test_a_sweep_completes_when_a_node_dies_half_way(in_its_home: Swept) -> None:
    """A node killed half way: every task is told of once, all results are there, and none that was finished is written again."""
    assert in_its_home.lost
    assert 0 < len(in_its_home.before) < 40
    assert sorted(o.task.name for o in in_its_home.outcomes) == sorted(task.name for task in [*forty_tasks(), NAN])
    assert {o.kind for o in in_its_home.outcomes if o.task != NAN} <= {"done", "reused"}
    now = files()
    assert {name: now[name] for name in in_its_home.before} == in_its_home.before
    assert [o.top1 for o in in_its_home.outcomes if o.task != NAN] == [
        stored(o.task).top1 for o in in_its_home.outcomes if o.task != NAN
    ]


def test_a_sweep_on_ray_gives_the_same_results_bit_for_bit(
    in_its_home: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty runs on two nodes, one of which died, give what this process gives: correctness, weights and history, bit for bit."""
    theirs = {task.name: stored(task) for task in forty_tasks()}
    monkeypatch.setenv("VP_HOME", str(tmp_path))
    for task in forty_tasks():
        ours = obtain(task.run, task.seed, device="cpu", progress=False)
        assert same(but_for_time(ours), but_for_time(theirs[task.name])), task.name


def test_a_run_that_diverges_is_reported_with_its_log_and_stops_nothing(in_its_home: Swept) -> None:
    """The planted NaN is told of as failed, in a line; its log has the traceback and names run, node and reason."""
    (failed,) = [o for o in in_its_home.outcomes if o.kind == "failed"]
    assert failed.task == NAN
    assert failed.words.startswith("loss nan in epoch 1 of nan: ")
    assert failed.top1 is None
    log = Path(failed.log).read_text()
    assert Path(failed.log).is_relative_to(in_its_home.home)
    assert log.startswith(f"nan-s0 on {failed.where}, after ")
    assert "Traceback" in log
    assert "TrainingDiverged: " in log
    assert failed.words in log


def test_a_second_sweep_trains_nothing_new(in_its_home: Swept, nodes: Nodes, on: Callable[..., None]) -> None:
    """Started again, everything is read from the store, and no file changes."""
    before, outcomes = files(), list[Outcome]()
    on("first")
    nodes.engine().perform(forty_tasks(), outcomes.append)
    assert [o.kind for o in outcomes] == ["reused"] * 40
    assert {o.task.name: o.top1 for o in outcomes} == {task.name: stored(task).top1 for task in forty_tasks()}
    assert files() == before


def test_two_sweeps_that_overlap_train_the_overlap_once(nodes: Nodes, on: Callable[..., None]) -> None:
    """Two at the same time, one on each node: each tells of all its tasks, and what both want is trained by one of them."""
    import ray

    tasks = forty_tasks()[:20]
    outcomes: dict[str, list[Outcome]] = {"first_sweep": [], "second_sweep": []}
    on(first_sweep="first", second_sweep="second")
    ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="ERROR")  # both use this connection
    try:
        sweeps = [
            threading.Thread(target=nodes.engine().perform, args=(part, outcomes[name].append), name=name)
            for name, part in zip(outcomes, (tasks[:15], tasks[5:]), strict=True)
        ]
        for sweep in sweeps:
            sweep.start()
        for sweep in sweeps:
            sweep.join(LONG_S)
    finally:
        ray.shutdown()
    assert [len(some) for some in outcomes.values()] == [15, 15]
    together = [o for some in outcomes.values() for o in some]
    assert sorted(o.task.name for o in together if o.kind == "done") == sorted(task.name for task in tasks)
    assert sorted(o.task.name for o in together if o.kind == "reused") == sorted(task.name for task in tasks[5:15])
    assert len(files()) == 20


# -- what nodes lack or are ------------------------------------------------------------------------------------------------

OWN = """
import os
from dataclasses import dataclass

from vp.experiments import Method, Run, VisualPrompt
from vp.training import Recipe

@dataclass(frozen=True)
class Ring(VisualPrompt):
    pass

@dataclass(frozen=True)
class Poison(VisualPrompt):
    def __reduce__(self):
        return os._exit, (1,)  # whoever reads it ends

ADAM = Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=1, batch_size=8)
RUNS = [
    Run(kind.__name__, "own", "mini", "mini10", "test", "mini-clip", kind("padding", 1), ADAM, limit=20) for kind in (Ring, Poison)
]
"""


def test_a_node_with_a_store_of_its_own_sends_its_results(
    nodes: Nodes, on: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that share no folder: results come back and are stored here, those that are here are not trained there, methods of
    one's own go there with their file, and a run that ends its worker each time is told of as failed while the others finish."""
    (tmp_path / "ring_of_a_test.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    ring, poison = (Task(run, 1) for run in own_runs(tmp_path / "ring_of_a_test.py").values())
    known, new = (Task(run_of("probe", LinearProbing()), seed) for seed in (0, 1))
    obtain(known.run, known.seed, device="cpu", progress=False)
    before, outcomes = files(), list[Outcome]()
    result_path(new.run, run_key(new.run, new.seed, "cpu")).write_bytes(b"torn")  # is performed after all, and stored whole
    nodes.add("far", VP_NODE_HOME=str(tmp_path / "far"))
    on("far")
    nodes.engine().perform([poison, known, new, ring], outcomes.append)
    nodes.remove("far")
    assert {o.task.name: o.kind for o in outcomes} == {
        "Poison-s1": "failed",
        "Ring-s1": "done",
        "probe-s0": "reused",
        "probe-s1": "done",
    }
    assert {o.task.name: o.top1 for o in outcomes if o.task != poison} == {
        task.name: stored(task).top1 for task in (known, new, ring)
    }
    assert files().items() >= before.items()
    assert len(files()) == 3
    far = {path.name for path in (tmp_path / "far" / "results").glob("*.safetensors")}
    assert far == set(files()) - set(before)
    (failed,) = [o for o in outcomes if o.kind == "failed"]
    assert "lost 3 times" in failed.words
    assert failed.words in Path(failed.log).read_text()


OTHER_VERSION = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda package: "0.0.1" if package == "torchvision" else version(package)
"""


def test_a_node_with_other_versions_is_refused(
    nodes: Nodes, on: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node whose packages have other versions performs nothing, and what differs is said; without another node nothing starts."""
    (tmp_path / "sitecustomize.py").write_text(OTHER_VERSION)
    nodes.add("other", PYTHONPATH=str(tmp_path))
    on("other")
    outcomes = list[Outcome]()
    try:
        with pytest.raises(VpError, match=r"no node can perform this sweep: .* has torchvision 0\.0\.1 in place of \d"):
            nodes.engine().perform(forty_tasks()[:1], outcomes.append)
    finally:
        nodes.remove("other")
    assert outcomes == []
    assert "is left out: it has torchvision 0.0.1" in capsys.readouterr().err
    assert files() == {}


def test_a_node_with_other_code_is_refused(nodes: Nodes, on: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The statements that numbers depend on must be those of this process."""
    import vp.sweeps.ray as engine

    here = engine.code_here()
    monkeypatch.setattr(engine, "code_here", lambda: here | {"vp.prompts.deep": "0123456789ab"})
    on("first")
    with pytest.raises(VpError, match=r"has other code in vp\.prompts\.deep"):
        nodes.engine().perform(forty_tasks()[:1], pytest.fail)


# -- what is refused before anything starts --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 1 / 3, 0.15, 0.75, 0.0, -0.5, 2.0, float("nan")])
def test_a_share_that_does_not_divide_a_gpu_is_refused(share: float, nodes: Nodes) -> None:
    """Ray has hung on such shares: a clear error says which there are."""
    from vp.sweeps.ray import RayEngine

    with pytest.raises(VpError, match=r"does not divide a GPU: give 1, 0\.5, 0\.25, 0\.2"):
        RayEngine(gpu_share=share)


@pytest.mark.parametrize(("share", "performers"), [(1.0, 1), (0.5, 2), (0.25, 4), (0.2, 5), (0.125, 8), (0.1, 10), (None, 1)])
def test_a_gpu_has_as_many_performers_as_shares(share: float | None, performers: int, nodes: Nodes) -> None:
    """1, 1/2, 1/4, 1/5, 1/8 and 1/10 of a GPU are shares; without a word it is a whole one."""
    from vp.sweeps.ray import RayEngine

    assert RayEngine(gpu_share=share).performers_of_a_gpu == performers


def test_runs_take_shares_of_gpus_and_no_cores(nodes: Nodes, on: Callable[..., None]) -> None:
    """A node of one core with two GPUs has four performers of half a GPU each, which compute there: these GPUs only pretend to be,
    so that each run fails for lack of CUDA; and none hangs."""
    from vp.sweeps.ray import RayEngine

    nodes.add("gpus", gpus=2)
    on("gpus")
    outcomes = list[Outcome]()
    try:
        RayEngine(nodes.cluster.address, gpu_share=0.5).perform(forty_tasks()[:4], outcomes.append)
    finally:
        nodes.remove("gpus")
    assert [o.kind for o in outcomes] == ["failed"] * 4
    assert all(o.words.startswith("device 'cuda' asked for, but this machine has none") for o in outcomes)


@pytest.mark.parametrize(
    ("cores", "gpus", "share", "performers", "threads"),
    [(64, 8, None, 8, 8), (64, 8, 0.25, 32, 2), (8, 8, 0.5, 16, 1), (64, 0, 0.5, 0, 1), (16, 1, 0.2, 5, 3)],
)
def test_performers_of_a_node_divide_its_gpus_and_threads(
    cores: int, gpus: int, share: float | None, performers: int, threads: int, nodes: Nodes
) -> None:
    """As many as its GPUs have shares, each with an equal part of the threads, and at least one; none on a node without a GPU."""
    from vp.sweeps.ray import RayEngine, _Sweep

    sweep = _Sweep(forty_tasks(), pytest.fail, RayEngine(gpu_share=share), "cuda", None)
    node = {"NodeID": "0123456789", "NodeManagerHostname": "host", "Resources": {"CPU": cores, "GPU": gpus}}
    slots = sweep._slots_of(node)
    assert [slot.threads for slot in slots] == [threads] * performers
    assert sweep._terms.environment["VP_WORKERS_ON_DEVICE"] == str(RayEngine(gpu_share=share).performers_of_a_gpu)


def test_a_cluster_without_a_gpu_is_refused_where_one_is_asked_for(nodes: Nodes, on: Callable[..., None]) -> None:
    """A share of a GPU, or --device cuda, on nodes without GPUs: nothing waits for ever."""
    from vp.sweeps.ray import RayEngine

    on("first")
    for engine in (RayEngine(nodes.cluster.address, gpu_share=0.5), RayEngine(nodes.cluster.address, device="cuda")):
        with pytest.raises(NotAvailable, match="no node of the cluster has a GPU"):
            engine.perform(forty_tasks(), pytest.fail)


@pytest.mark.parametrize("answer", ["refused", "silent", "other"])
def test_an_address_without_a_cluster_is_refused_soon(answer: str, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens, nothing is said, or something else answers, is an error within ten seconds."""
    from vp.sweeps import cluster
    from vp.sweeps.ray import RayEngine

    assert cluster.ANSWER_S <= 5
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer == "refused":
            server.close()

        def mail() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"220 a server of mail\r\n")

        other = threading.Thread(target=mail)
        if answer == "other":
            other.start()
        with pytest.raises(VpError, match="no Ray cluster"):
            RayEngine(address).perform(forty_tasks(), pytest.fail)
        if answer == "other":
            other.join()


@pytest.mark.parametrize("address", ["nowhere", "ray://10.0.0.1:10001", "10.0.0.1:port", ":6379"])
def test_an_address_that_is_none_is_refused(address: str, nodes: Nodes) -> None:
    """HOST:PORT or auto, and nothing else, is an address."""
    from vp.sweeps.ray import RayEngine

    with pytest.raises(VpError, match="no address of a Ray cluster: give HOST:PORT"):
        RayEngine(address).perform(forty_tasks(), pytest.fail)


def test_a_store_that_cannot_be_written_is_refused(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything starts: nothing that is trained could be kept."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VP_HOME", str(tmp_path / "file"))
    with pytest.raises(VpError, match=r"cannot write to .*set VP_HOME"):
        nodes.engine().perform(forty_tasks(), pytest.fail)


def test_no_tasks_start_nothing() -> None:
    """A sweep without tasks ends at once, wherever it would be."""
    pytest.importorskip("ray", reason="NOT RUN: needs Ray")
    from vp.sweeps.ray import RayEngine

    RayEngine("127.0.0.1:1").perform([], pytest.fail)


# -- interrupted -----------------------------------------------------------------------------------------------------------

DRIVER = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off in what it starts in the background
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, one performer
from tests.machinery.test_ray import forty_tasks
from vp.sweeps.ray import RayEngine

def main():
    RayEngine().perform(forty_tasks(), lambda outcome: print(outcome.task.name, flush=True))

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted")
"""


def processes_with(words: str) -> list[str]:
    """Command lines that have these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line:
            found.append(line)
    return found


def test_an_interrupted_sweep_leaves_results_and_no_process(tmp_path: Path, nodes: Nodes) -> None:
    """Ctrl-C ends the Ray that the sweep started, with all its processes and files, and keeps the results that were told of."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    before = set(Path("/tmp").glob("vp-ray-*"))
    root = str(Path(__file__).resolve().parents[2])
    driver = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": root},
        start_new_session=True,
    )
    assert driver.stdout is not None
    told = [driver.stdout.readline().strip() for _ in range(2)]
    (scratch,) = set(Path("/tmp").glob("vp-ray-*")) - before
    assert processes_with(str(scratch))
    os.killpg(driver.pid, signal.SIGINT)
    rest, _ = driver.communicate(timeout=60)
    assert rest.split()[-1] == "interrupted"
    ends = time.monotonic() + 15
    while processes_with(str(scratch)) and time.monotonic() < ends:
        time.sleep(0.2)
    assert processes_with(str(scratch)) == []
    assert not scratch.exists()
    for task in forty_tasks():
        if task.name in told:
            stored(task)
    assert len(files()) < 40
