"""Which of the specification's names a folder of the template has, and the ground that its code runs on."""

from __future__ import annotations

import functools
import importlib
import io
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.conformance.conduct import RANDOM_NUMBERS, Conduct
from tests.conformance.course import files, part1
from tests.conformance.course.absent import Replacements, Stubs, cifar, found_first
from tests.conformance.course.bench import Bench
from tests.conformance.course.clip import modules_of
from tests.conformance.course.part1 import Names
from tests.conformance.course.part2 import Part2
from tests.conformance.foreign import Complaint, Ground

# Where a name comes from, to be said when that file does not import.
HOMES = {
    "new_head": "train",
    "FixedPatch": "vp",
    "Padding": "vp",
    "text_features": "clipzs",
    "PromptedCLIP": "vpt_model",
    "DeepPromptedCLIP": "dpt_model",
    "gaussian_noise": "dataset",
    "fit": "learner",
    "union": "cross_dataset",
}


class CourseGround(Ground):
    """A solution's folders on the path; `clip` stands in; what is absent is replaced; it runs in a folder of its own.

    The template has a module `vp`: while its code runs, this package does not go by that name.
    """

    def __init__(self, folder: Path, conduct: Conduct) -> None:
        super().__init__(None, conduct)
        self.parts = files.parts_of(folder)
        conduct.places += tuple(self.parts.values())
        conduct.forgiven.add(RANDOM_NUMBERS)  # the template's Learner seeds
        self.path = [str(folder) for folder in dict.fromkeys(self.parts.values())]
        scratch = Path(tempfile.mkdtemp(prefix="vp-course-")).resolve()
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self.bench, self.stubs = Bench(scratch), Stubs()
        self.notes = self.bench.notes
        self.modules = {**modules_of(self.bench)}
        sets = [cifar(f"CIFAR{count}", functools.partial(self.bench.classes, count)) for count in (10, 100)]
        self.replacements = Replacements(self.bench.torchvision_network, *sets)

    @contextmanager
    def enter(self, seconds: float) -> Iterator[None]:
        self.settings.folder = str(self.bench.scratch)
        hidden = {name: sys.modules.pop(name) for name in ("vp", *self.modules) if name in sys.modules}
        try:
            with found_first(self.stubs), self.replacements.made(), super().enter(seconds):
                yield
        finally:
            sys.modules.update(hidden)

    def _is_own(self, name: str, module: ModuleType) -> bool:
        if name in self.modules or name in self.stubs.made:
            return True
        place = getattr(module, "__file__", None) or ""
        return super()._is_own(name, module) or (name == "vp" and any(Path(place).is_relative_to(one) for one in self.path))

    def load(self, why: Callable[[BaseException], str]) -> Names:
        """The specification's names that the folder has, each a function that calls the solution's own code.

        Called on this ground. A name whose file does not import says so when it is called; raises Complaint where none imports.
        """
        modules: dict[str, ModuleType] = {}
        broken: dict[str, str] = {}
        aside: dict[str, ModuleType] = {}
        for part, place in self.parts.items():
            for file in files.PART1 if part == "part1" else files.PART2:
                name = file.removesuffix(".py")
                if (place / file).is_file():
                    try:
                        modules[name] = _imported(name, place)
                    except (Exception, SystemExit) as error:
                        broken[name] = f"{file} {why(error)}"
            # Each part may have a module `utils`.
            here = [
                name
                for name, module in sys.modules.items()
                if (getattr(module, "__file__", "") or "").startswith(f"{place}{os.sep}")
            ]
            aside.update({name: sys.modules.pop(name) for name in here})
        sys.modules.update(aside)
        if broken and not modules.keys() & {file.removesuffix(".py") for file in files.TELLING}:
            raise Complaint("; ".join(broken.values()))
        found = _both(part1.names(modules, self.bench), Part2(modules, self.bench).names(), modules)
        found |= {name: _broken(broken[home]) for name, home in HOMES.items() if home in broken and name not in found}
        if self.stubs.names:
            self.bench.tell(f"not installed, and stubbed: {', '.join(self.stubs.names)}")
        return {name: _quietly(call) for name, call in found.items()}


def _both(first: Names, second: Names, modules: dict[str, ModuleType]) -> Names:
    """What both parts have: part 1 evaluates and gives back the best epoch, part 2 the last; both noises are asked."""
    found = {**second, **first}
    kinds = [kind for name in ("dataset", "cifar100_utils") if (kind := getattr(modules.get(name), "AddGaussianNoise", None))]
    if kinds:
        found["gaussian_noise"] = part1.noise_of(kinds)
    if "train_and_evaluate" in first and "train_and_evaluate" in second:

        def train_and_evaluate(
            model, train, validation, test, tested, learning_rate, momentum, warmup_steps, epochs, batch_size
        ) -> float:
            part = first if tested == "best" else second
            recipe = (learning_rate, momentum, warmup_steps, epochs, batch_size)
            return part["train_and_evaluate"](model, train, validation, test, tested, *recipe)

        found["train_and_evaluate"] = train_and_evaluate
    return found


def _imported(name: str, place: Path) -> ModuleType:
    """A module of the template, with its own folder first on the path."""
    sys.path.insert(0, str(place))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(place))


def _broken(words: str) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise Complaint(f"does not import: {words}")

    return call


def _quietly(call: Callable[..., Any]) -> Callable[..., Any]:
    """What the template itself prints is no mistake of a solution."""

    @functools.wraps(call)
    def quiet(*given: Any) -> Any:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return call(*given)

    return quiet
