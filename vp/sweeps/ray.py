"""Sweeps on Ray: on the cores or GPUs of this machine, or on all nodes of a cluster that runs already.

The driver, this process, deals Tasks to performers (vp.sweeps.performer), actors of Ray which it places itself: as many on a node
as that has cores, or shares of GPUs. A performer has one call under way, of about half a second's Tasks (vp.sweeps.dealing), so
that what a lost node had begun is little, and what scheduling costs is less.

Measured on two busy cores (tests/benchmarks/bench_sweeps.py): 2,000 trivial Runs cost 0.4 ms each beside their own work; forty
short Runs take 7 times as long as tasks of Ray with `max_calls=1`, a process each, for a process imports and loads for some 12 s.
So performers stay. Variables go to them as an argument: with Ray's runtime_env a performer cannot be one of the processes that Ray
starts ahead, and says hello after 5.5 s in place of 3.2.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vp.experiments.nodes import code_here
from vp.experiments.store import load_result, result_path, results_shelf, store_folder, store_result
from vp.machine.artifacts import CorruptArtifact
from vp.machine.devices import SHARING
from vp.machine.errors import NotAvailable, VpError
from vp.machine.home import home, writing_to
from vp.machine.shelves import FolderShelf
from vp.sweeps.cluster import connected, living_nodes
from vp.sweeps.dealing import TRIES, Deal, Piece, Taste
from vp.sweeps.performer import Ended, Hello, Performer, Terms
from vp.sweeps.tasks import Outcome, Task, TellOutcome

LOOK_S = 5.0  # between looks at which nodes there are
WAIT_S = 30.0  # for the first performer, before people are told what is waited for
NO_NODE_S = 60.0  # without any node, before what is left is given up
STARTS = 3  # of a performer that never says hello, before its node is left out
PARTS_OF_A_GPU = 10_000  # in which Ray counts: with a share that is no whole number of them, or does not divide them, it may hang


class RayEngine:
    """Performs Tasks on Ray.

    address: HOST:PORT of a cluster that this machine is a node of, or "auto" for the one that runs here; None starts one on this
    machine, which ends with the sweep. gpu_share: of a GPU, that a Run takes (default: a whole one). device: `auto` (GPUs if the
    cluster has any, else cores), `cpu` or `cuda`. logs: the folder of what failed Tasks wrote, by default one of its own in `logs`
    of VP_HOME. Raises VpError for a share that does not divide a GPU.
    """

    def __init__(
        self, address: str | None = None, gpu_share: float | None = None, device: str = "auto", logs: Path | None = None
    ) -> None:
        self.address, self.device = address, device
        self.logs = logs or home() / "logs" / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.gpu_share = 1.0 if gpu_share is None else gpu_share
        self.asks_for_gpus = gpu_share is not None or device == "cuda"
        self.performers_of_a_gpu = _performers_of_a_gpu(self.gpu_share)
        if device not in ("auto", "cpu", "cuda"):
            raise VpError(f"no device {device!r} on Ray: give auto, cpu or cuda")
        if gpu_share is not None and device == "cpu":
            raise VpError(f"a share of {gpu_share:g} of a GPU, and --device cpu: leave one of them out")

    def perform(self, tasks: Sequence[Task], tell: TellOutcome) -> None:
        """See vp.sweeps.tasks.Engine. Raises VpError where no cluster answers at the address, and where no node has the code and
        versions of this process; NotAvailable where GPUs are asked for and no node has one."""
        if not tasks:
            return
        with connected(self.address), ExitStack() as held:
            device = self._device_of(living_nodes())
            marker = held.enter_context(_marker()) if isinstance(results_shelf(), FolderShelf) else None
            sweep = _Sweep(tasks, tell, self, device, marker)
            held.callback(sweep.end)
            sweep.run()

    def _device_of(self, nodes: Sequence[dict[str, Any]]) -> str:
        gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
        if self.asks_for_gpus and not gpus:
            names = ", ".join(sorted({node["NodeManagerHostname"] for node in nodes}))
            raise NotAvailable(f"no node of the cluster has a GPU ({names}): leave --gpu-share out, or give --device cpu")
        return "cuda" if gpus and self.device != "cpu" else "cpu"


def _performers_of_a_gpu(share: float) -> int:
    """How many performers of this share a GPU has. Raises VpError where they do not divide it evenly."""
    parts = share * PARTS_OF_A_GPU
    if not 1 <= parts <= PARTS_OF_A_GPU or abs(parts - round(parts)) > 1e-6 or PARTS_OF_A_GPU % round(parts):
        raise VpError(
            f"a share of {share:g} does not divide a GPU: give 1, 0.5, 0.25, 0.2, 0.125 or 0.1, for Ray may hang on others"
        )
    return PARTS_OF_A_GPU // round(parts)


@contextmanager
def _marker() -> Iterator[str]:
    """The name of a file in this process's store while the context lasts: a node that sees it has the store in common."""
    path = store_folder() / f".sweep-{uuid4().hex}"
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        yield path.name
    finally:
        with suppress(OSError):
            path.unlink()


def _sources(tasks: Sequence[Task]) -> dict[str, str]:
    """The source of each module that defines a method of one's own, which nodes need not have."""
    found = {}
    for kind in {type(task.run.method) for task in tasks}:
        module = kind.__module__
        if "." not in module and module != "__main__" and (file := inspect.getsourcefile(kind)):
            found[module] = Path(file).read_text(encoding="utf-8")
    return found


@dataclass(eq=False)
class _Slot:
    """A core of a node, or a share of one of its GPUs; its performer, and what that has to do."""

    node: str
    name: str  # for people
    threads: int
    actor: Any = None
    call: Any = None  # the reference of the call under way
    shares_store: bool | None = None  # None: it has not said hello yet
    pieces: list[Piece] = field(default_factory=list)
    since: float = 0.0
    taste: Taste = field(default_factory=Taste)
    starts: int = 0  # since it last said hello


class _Sweep:
    """One `perform` of a RayEngine, while connected."""

    def __init__(self, tasks: Sequence[Task], tell: TellOutcome, engine: RayEngine, device: str, marker: str | None) -> None:
        self._deal, self._tell_caller, self._engine, self._device = Deal(tasks), tell, engine, device
        self._slots: list[_Slot] = []
        self._spare: list[_Slot] = []  # of nodes with more of them than there are Tasks
        self._nodes: set[str] = set()
        self._refused: dict[str, str] = {}  # why, by the name of the node
        self._greeted = self._told_to_wait = False
        self._began = self._had_a_node = time.monotonic()
        self._looked = -LOOK_S
        self._logged = 0  # failures
        self._in_store: set[str] | None = None  # file names in the driver's store, for nodes that do not share it
        self._in_store_there: Any = None
        environment = {name: value for name, value in os.environ.items() if name.startswith("VP_")}
        if "VP_HOME" in environment:
            environment["VP_HOME"] = str(home().absolute())
        if device == "cuda":
            environment[SHARING] = str(engine.performers_of_a_gpu)
        self._terms = Terms(code_here(), environment, os.getcwd(), marker, device, 1, _sources(tasks))

    def run(self) -> None:
        """Until every Task has been told of."""
        while self._left():
            self._look_at_nodes()
            for slot in self._slots:
                if slot.call is None:
                    self._send(slot)
            if not self._slots:
                self._wait_for_a_node()
            elif ready := ray.wait([slot.call for slot in self._slots if slot.call is not None], timeout=1.0)[0]:
                self._receive(next(slot for slot in self._slots if slot.call == ready[0]))
            elif not self._greeted and not self._told_to_wait and time.monotonic() - self._began > WAIT_S:
                self._told_to_wait = True
                _say("waiting: no core or GPU of the cluster is free, or its nodes are slow to start")

    def end(self) -> None:
        """No performer outlives the sweep."""
        for slot in self._slots:
            _kill(slot)

    def _left(self) -> int:
        """Tasks that have not been told of."""
        return len(self._deal) + sum(len(slot.pieces) for slot in self._slots)

    # -- nodes and performers

    def _look_at_nodes(self) -> None:
        """Now and then: performers for nodes that came, at most one for each Task that is left."""
        if self._slots and time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        new = [self._slots_of(node) for node in living_nodes() if node["NodeID"] not in self._nodes]
        self._spare += [slot for slot in chain.from_iterable(zip_longest(*new)) if slot is not None]
        self._nodes |= {slot.node for slot in self._spare}
        while self._spare and len(self._slots) < self._left():
            self._slots.append(self._spare.pop(0))
            self._start(self._slots[-1])

    def _slots_of(self, node: dict[str, Any]) -> list[_Slot]:
        cores, gpus = int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))
        count = gpus * self._engine.performers_of_a_gpu if self._device == "cuda" else cores
        threads = max(1, cores // count) if count else 1
        name = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        return [_Slot(node["NodeID"], name, threads) for _ in range(count)]

    def _start(self, slot: _Slot) -> None:
        """A performer takes a core, or its share of a GPU; no core beside that, for others may have them, and the GPU computes."""
        takes: dict[str, float] = {"num_cpus": 1}
        if self._device == "cuda":
            takes = {"num_cpus": 0, "num_gpus": self._engine.gpu_share}
        place = NodeAffinitySchedulingStrategy(slot.node, soft=False)
        slot.starts += 1
        slot.shares_store, slot.taste = None, Taste()
        slot.actor = (
            ray.remote(Performer).options(scheduling_strategy=place, **takes).remote(replace(self._terms, threads=slot.threads))
        )
        slot.call = slot.actor.hello.remote()

    def _wait_for_a_node(self) -> None:
        """There is none. Raises VpError where there never was one that could perform."""
        waited = time.monotonic() - self._had_a_node
        if not self._greeted and self._refused:
            raise VpError(f"no node can perform this sweep: {'; '.join(f'{name} {why}' for name, why in self._refused.items())}")
        if waited < NO_NODE_S:
            time.sleep(1.0)
            return
        if not self._greeted:
            raise VpError(f"the cluster has no {'GPU' if self._device == 'cuda' else 'core'}, and in {NO_NODE_S:g} s none came")
        taste = Taste()
        while pieces := self._deal.take(taste):
            for piece in pieces:
                self._tell_failed(piece, "nowhere", f"the cluster lost its last node, and in {NO_NODE_S:g} s no other came")

    def _leave(self, slot: _Slot) -> None:
        """This performer is no longer used."""
        _kill(slot)
        self._slots.remove(slot)
        self._deal.give_back(slot.pieces)
        slot.pieces = []
        self._had_a_node = time.monotonic()

    def _refuse(self, slot: _Slot, why: str) -> None:
        """All performers of this node are no longer used."""
        self._refused[slot.name] = why
        _say(f"{slot.name} is left out: it {why}")
        self._spare = [spare for spare in self._spare if spare.node != slot.node]
        for other in [other for other in self._slots if other.node == slot.node]:
            self._leave(other)

    # -- Tasks

    def _send(self, slot: _Slot) -> None:
        if pieces := self._deal.take(slot.taste):
            slot.pieces, slot.since = pieces, time.monotonic()
            has = () if slot.shares_store else (self._what_is_stored(),)
            slot.call = slot.actor.perform.remote([piece.task for piece in pieces], *has)

    def _what_is_stored(self) -> Any:
        """The names of the files in the driver's store, where Ray hands them out once a node."""
        if self._in_store is None:
            self._in_store = {path.name for path in store_folder().glob("*.safetensors")}
        if self._in_store_there is None:
            self._in_store_there = ray.put(frozenset(self._in_store))
        return self._in_store_there

    def _receive(self, slot: _Slot) -> None:
        call, slot.call = slot.call, None
        try:
            answer = ray.get(call)
        except RayError as error:
            self._lost(slot, error)
            return
        slot.starts = 0
        if isinstance(answer, Hello):
            slot.shares_store = answer.shares_store
            if answer.differs:
                self._refuse(slot, f"has {answer.differs}; install there what is installed here")
            else:
                self._greeted = True
            return
        slot.taste.learn(time.monotonic() - slot.since)
        pieces, slot.pieces = slot.pieces, []
        for piece, ended in zip(pieces, answer, strict=True):
            self._tell(piece, ended, slot.name)

    def _lost(self, slot: _Slot, error: RayError) -> None:
        """A call has no answer, for its performer or node died, or what it was given cannot be read there."""
        words = " ".join(str(error).split())
        pieces, slot.pieces = slot.pieces, []
        for piece in pieces:
            piece.lost += 1
            if piece.lost == TRIES:
                self._tell_failed(piece, slot.name, f"its worker was lost {TRIES} times: {words}")
        self._deal.give_back([piece for piece in pieces if piece.lost < TRIES])
        if isinstance(error, RayTaskError) and slot.shares_store is not None:
            return  # the performer lives
        if slot.node not in {node["NodeID"] for node in living_nodes()}:
            self._leave(slot)
        elif slot.starts >= STARTS:
            self._refuse(slot, f"cannot start a worker: {words}")
        else:
            _kill(slot)
            self._start(slot)

    def _tell(self, piece: Piece, ended: Ended, where: str) -> None:
        task, top1 = piece.task, ended.top1
        if ended.key:
            path = result_path(task.run, ended.key)
            try:
                if ended.result is None:
                    top1 = load_result(path, ended.key).top1
                else:
                    store_result(task.run, ended.result, ended.key)
            except (OSError, CorruptArtifact):  # gone or damaged: it is performed after all, and stored here
                assert self._in_store is not None
                self._in_store.discard(path.name)
                self._in_store_there = None
                self._deal.give_back([piece])
                return
            except VpError as error:
                self._tell_failed(piece, where, str(error))
                return
        if ended.kind == "failed":
            self._tell_failed(piece, where, ended.words, ended.log, ended.seconds)
        else:
            self._tell_caller(Outcome(task, ended.kind, ended.seconds, where, top1=top1))

    def _tell_failed(self, piece: Piece, where: str, words: str, log: str = "", seconds: float = 0.0) -> None:
        kept = self._keep_log(piece.task, f"{piece.task.name} on {where}, after {seconds:g} s: {words}\n\n{log}")
        self._tell_caller(Outcome(piece.task, "failed", seconds, where, words, kept))

    def _keep_log(self, task: Task, text: str) -> str:
        """Write the log of a failure; its path, or nothing where that cannot be written."""
        self._logged += 1
        path = self._engine.logs / f"{self._logged:05d}-{task.name}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            _say(f"cannot write {path} ({error.strerror or error}); the log of {task.name}:\n{text}")
            return ""
        return str(path)


def _kill(slot: _Slot) -> None:
    if slot.actor is not None:
        ray.kill(slot.actor)
        slot.actor = None


def _say(words: str) -> None:
    print(f"note: {words}", file=sys.stderr, flush=True)
