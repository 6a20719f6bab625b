"""What is here already: the Results of Tasks in the store, and the images and weights that Tasks need. Nothing is performed."""

from __future__ import annotations

from collections.abc import Iterable

from vp.data import load_images
from vp.experiments import Result
from vp.experiments.methods import network_of
from vp.experiments.store import stored_result
from vp.machine.errors import NotAvailable
from vp.models.weights import RANDOM, find_clip_weights, is_network
from vp.sweeps.tasks import Task


def stored(task: Task, device: str = "auto") -> Result | None:
    """The Result of a Task from the store; None where it is not there or is damaged.

    Raises NotAvailable where images or weights are missing, without which its key is not known.
    """
    return stored_result(task.run, task.seed, device=device)


def check_here(tasks: Iterable[Task]) -> None:
    """Raises NotAvailable where images or weights are not on this machine, VpError for a folder that is no dataset."""
    tasks = list(tasks)
    for dataset in dict.fromkeys(task.run.dataset for task in tasks):
        load_images(dataset, "test")
    for backbone in dict.fromkeys(task.run.backbone for task in tasks):
        if is_network(backbone):
            network_of(backbone)
        elif backbone.partition("/")[0] != "mini-clip":
            architecture, _, tag = backbone.partition("/")
            if tag != RANDOM and find_clip_weights(architecture, tag) is None:
                raise NotAvailable(f"the weights of {backbone} are not on this machine: run `python -m vp fetch {backbone}`")
