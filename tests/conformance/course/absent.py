"""What is not there while a solution is asked, and what stands in: packages, CIFAR, CUDA, downloads, worker processes."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

# Packages that solutions log, plot and count with: none has a say in what is asked.
STUBBED = {
    *("comet_ml", "fvcore", "GPUtil", "ipdb", "lightning", "neptune", "pandas", "plotly", "prettytable", "ptflops", "pynvml"),
    *("pytorch_lightning", "rich", "seaborn", "sklearn", "skimage", "tensorboard", "tensorboardX", "tensorboard_logger"),
    *("tensorflow", "termcolor", "thop", "torchinfo", "torchmetrics", "torchsummary", "tqdm", "wandb", "yaml"),
}
ON_TENSORBOARD = "torch.utils.tensorboard"  # torch's own module, which does not import without the package


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the packages above where they are not installed: whatever is asked of one can be called, and does nothing."""

    def __init__(self) -> None:
        self.made: dict[str, ModuleType] = {}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        top = "tensorboard" if fullname.startswith(ON_TENSORBOARD) else fullname.partition(".")[0]
        if top not in STUBBED or importlib.machinery.PathFinder.find_spec(top) is not None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _Stub(spec.name)
        self.made[spec.name] = module
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = []

    @property
    def names(self) -> list[str]:
        """The packages that were stubbed."""
        return sorted({name if name.startswith(ON_TENSORBOARD) else name.partition(".")[0] for name in self.made})


class _Stub(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("tqdm", "trange"):
            return lambda some=(), *_, **__: range(some) if isinstance(some, int) else some
        return MagicMock(name=f"{self.__name__}.{name}")


class TinyCIFAR:
    """In place of torchvision's CIFAR sets: a few pictures of each class, drawn from a seed."""

    classes_of: Callable[[], Sequence[str]]
    PER_CLASS = 2

    def __init__(
        self,
        root: Any = None,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        self.root, self.train, self.transform, self.target_transform = root, train, transform, target_transform
        self.classes = list(type(self).classes_of())
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.targets = [label for label in range(len(self.classes)) for _ in range(self.PER_CLASS)]
        self.data = np.random.RandomState(int(train)).randint(256, size=(len(self.targets), 32, 32, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        picture: Any = Image.fromarray(self.data[index])
        target = self.targets[index]
        if self.transform is not None:
            picture = self.transform(picture)
        return picture, target if self.target_transform is None else self.target_transform(target)


def cifar(name: str, classes: Callable[[], Sequence[str]]) -> type[TinyCIFAR]:
    return type(name, (TinyCIFAR,), {"classes_of": staticmethod(classes)})


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError("nothing is downloaded while a solution is asked")


def _as_it_is(self: Any, *_: Any, **__: Any) -> Any:
    """`.cuda()` where there is none: solutions are written for the course's cluster."""
    return self


def _loaded(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def as_the_course_did(*args: Any, **kwargs: Any) -> Any:
        """Whole models, too, as torch did by default in the course's years: the file is the solution's own."""
        return load(*args, **{"weights_only": False, **kwargs})

    return as_the_course_did


def _in_this_process(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def as_one(self: Any, *args: Any, **kwargs: Any) -> None:
        """Batches are made by the process that asks, whatever `num_workers` says."""
        args = args[:5]  # dataset, batch_size, shuffle, sampler, batch_sampler; then num_workers
        for name in ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout"):
            kwargs.pop(name, None)
        init(self, *args, **kwargs)

    return as_one


INHERITED = object()


class Replacements:
    """Attributes of torch and torchvision that are others while a solution's code runs."""

    def __init__(self, network: Callable[..., nn.Module], cifar10: type[TinyCIFAR], cifar100: type[TinyCIFAR]) -> None:
        sets, models = torchvision.datasets, torchvision.models
        new: list[tuple[Any, str, Any]] = [
            (sets, "CIFAR10", cifar10),
            (sets, "CIFAR100", cifar100),
            (models, "resnet18", network),
            (models, "get_model", network),
            (torch.hub, "load", network),
            (torch.hub, "load_state_dict_from_url", refuse),
            (torch.hub, "download_url_to_file", refuse),
            (torch.hub, "urlopen", refuse),
            (urllib.request, "urlopen", refuse),
            (urllib.request, "urlretrieve", refuse),
            (torch, "load", _loaded(torch.load)),
            (DataLoader, "__init__", _in_this_process(DataLoader.__init__)),
        ]
        if not torch.cuda.is_available():
            new += [(torch.Tensor, "cuda", _as_it_is), (nn.Module, "cuda", _as_it_is)]
        self._new = [(owner, name, value, vars(owner).get(name, INHERITED)) for owner, name, value in new]

    @contextmanager
    def made(self) -> Iterator[None]:
        for owner, name, value, _ in self._new:
            setattr(owner, name, value)
        try:
            yield
        finally:
            for owner, name, _, before in self._new:
                if before is INHERITED:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)


@contextmanager
def found_first(finder: importlib.abc.MetaPathFinder) -> Iterator[None]:
    """This finder is asked before all others: it has torch's own tensorboard module, too."""
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
