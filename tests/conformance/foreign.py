"""Someone else's solution: imported with a time limit, called under watch.

Whatever foreign code does becomes a sentence: it does not import, lacks a name, takes other arguments, raises, runs too long,
changes what it was given, or gives back another kind of thing. What ends its process, or hangs where Python cannot interrupt it,
ends a test worker only; `Marks` on the disk tell the next worker, so that nothing is tried in vain a second time.
"""

from __future__ import annotations

import copy
import difflib
import faulthandler
import hashlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import networkx as nx
import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from tests.conformance import folders, notebooks
from tests.conformance.conduct import GRADIENTS, MODULES, PRECISION, PROJECT, RANDOM_NUMBERS, Conduct, is_installed
from tests.conformance.course.files import course_folder
from tests.conformance.judge import Guard
from tests.conformance.lent import Gradients, Streams, lost_precision
from tests.conformance.names import NAMES, Check, described
from tests.conformance.options import split_label
from tests.conformance.plain import plain

GRACE_S = 5.0  # from the first, polite end of a call to that of its process
TAMPERED_MARK = "tampered"  # of a solution that changed the judge
IMPORT_LIMITS = 6  # how many limits of a call an import may take


class Complaint(AssertionError):
    """What is wrong with a solution, in words for its author."""


class GivenUp(BaseException):
    """Trying again would lead to the same end: the solution, or one of its names, hung or ended the process."""


class NotClaimed(BaseException):
    """The solution does not have a name that the test needs, or says of an argument that it is not implemented."""

    def __init__(self, words: str = "", *, is_declined: bool = False) -> None:
        super().__init__(words)
        self.is_declined = is_declined


class _TooLong(BaseException):
    pass


class Ground:
    """Where the code of one solution runs: with its own modules and global settings, without warnings, and with a time limit.

    Two solutions may each have a module `utils`, and one may switch gradients off: neither reaches the other, or the tests.
    """

    def __init__(self, folder: Path | None, conduct: Conduct) -> None:
        self.path = [] if folder is None else [str(folder)]
        self.conduct = conduct
        self.modules: dict[str, ModuleType] = {}
        self.settings = _Settings()
        self.notes: dict[str, None] = {}  # what whoever asks should know of the solution
        if folder is not None and folder.is_dir() and not conduct.trusted:
            self.settings.folder = str(folder)

    @contextmanager
    def enter(self, seconds: float) -> Iterator[None]:
        """Ends what takes longer: by an exception in the main thread, or, where that does not help, with its process."""

        def interrupt(_: int, __: FrameType | None) -> None:
            raise _TooLong

        politely = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
        ours, path = _Settings(), [*sys.path]
        handler = signal.signal(signal.SIGALRM, interrupt) if politely else None
        faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=_nowhere())
        try:
            with warnings.catch_warnings(), self.conduct.watched(), self._own_modules():
                warnings.simplefilter("ignore")  # a warning is an error in these tests, but the solution's own business
                sys.path[:0] = self.path
                self.settings.restore()
                try:
                    if politely:
                        signal.setitimer(signal.ITIMER_REAL, seconds)
                    yield
                finally:
                    if politely:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    self.settings = _Settings()
        finally:
            if politely:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, handler)
            faulthandler.cancel_dump_traceback_later()
            ours.restore()
            sys.path[:] = path

    @contextmanager
    def _own_modules(self) -> Iterator[None]:
        """Modules in the solution's folder are there for its own code alone."""
        before = set(sys.modules) if self.path else set()
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            if self.path:
                come = sys.modules.keys() - before
                new = [one for one in come if one in self.modules or self._is_own(one, sys.modules[one])]
                self.modules.update({name: sys.modules.pop(name) for name in new})

    def _is_own(self, name: str, module: ModuleType) -> bool:
        """Does it lie in the solution's folder? What is installed there, as in `.venv`, and this project are everybody's."""
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if place is None or is_installed(Path(place)) or any(Path(place).is_relative_to(PROJECT / one) for one in MODULES):
            return False
        return any(Path(place).is_relative_to(folder) for folder in self.path)


class _Settings:
    """What is global to a process, as it is now: gradients, precision, folder."""

    def __init__(self) -> None:
        self.gradients, self.dtype, self.folder = torch.is_grad_enabled(), torch.get_default_dtype(), os.getcwd()

    def restore(self) -> None:
        torch.set_grad_enabled(self.gradients)
        torch.set_default_dtype(self.dtype)
        os.chdir(self.folder)


@cache
def _nowhere() -> int:
    """Where the process's last words go; open for as long as it lives."""
    return os.open(os.devnull, os.O_WRONLY)


class Marks:
    """What must not be tried again, told from one test worker to the others by files in a folder of the session."""

    def __init__(self, folder: Path, label: str) -> None:
        self.folder = folder / hashlib.sha256(label.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def leave(self, name: str, words: str) -> None:
        (self.folder / name).write_text(words, encoding="utf-8")

    def left(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def is_first(self, name: str) -> bool:
        """True for the first caller of all workers, False for those that come after it."""
        try:
            with (self.folder / name).open("x", encoding="utf-8") as file:
                file.write("yes")
        except FileExistsError:
            return False
        return True

    def clear(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class Foreign:
    """A solution by its label: a Python file, a notebook, a folder, a module's name, or file or module, a colon, and what holds the
    names."""

    def __init__(self, label: str, marks: Marks, limit_s: float) -> None:
        self.label, self.marks, self.limit_s = label, marks, limit_s
        place, holder = split_label(label)
        course = course_folder(label)
        path = course.resolve() if course else _path(place)
        self._place = f"{path}:{holder}" if path and holder else str(path or label)
        trusted = any(path.is_relative_to(PROJECT / one) for one in MODULES) if path else place.partition(".")[0] in MODULES
        folder = course.resolve() if course else _folder(path)
        self.conduct = Conduct(folder or _folder_of(place), trusted, private=(marks.folder.parent.resolve(),))
        self.ground = _course_ground(course.resolve(), self.conduct) if course else Ground(folder, self.conduct)
        self.guard: Guard | None = None  # of the judge, where it shares the process
        self._tokenizers: dict[int, tuple[Any, Any]] = {}
        self._targets: dict[str, Any] | None = None
        self._misnamed: tuple[str, ...] = ()
        self.calls = Calls()
        self.reseeds: set[str] = set()  # whose random numbers it was seen to seed
        self.impure: dict[str, str] = {}  # of each name that changed what it was given: the first such call, in words

    @property
    def names(self) -> tuple[str, ...]:
        """The public names that it has. Raises GivenUp when it does not import."""
        return tuple(self._imported())

    @property
    def misnamed(self) -> tuple[str, ...]:
        """What it has that is nearly called like a name which it lacks, each with that name. Raises GivenUp as `names` does."""
        self._imported()
        return (*self._misnamed, *self.ground.notes)

    @property
    def is_imported(self) -> bool:
        """Has it been imported in this process?"""
        return self._targets is not None

    @property
    def printed(self) -> bool:
        """Did it print while it was imported?"""
        return bool(self.marks.left("printed"))

    def __getattr__(self, name: str) -> Watched:
        if name not in NAMES:
            raise AttributeError(name)
        if name not in (targets := self._imported()):
            raise NotClaimed(name)
        return Watched(self, name, targets[name])

    def __repr__(self) -> str:
        return self.label

    def _holder(self, limit_s: float) -> Any:
        """What holds its names."""
        if course_folder(self.label) is None:
            return load(self._place)
        return self.ground.load(lambda error: _why(error, limit_s))  # type: ignore[attr-defined]

    @property
    def tampered(self) -> str:
        """How it was found to change the judge, in this process or another; "" if it was not."""
        return self.marks.left(TAMPERED_MARK)

    def lent(self, value: Any) -> Any:
        """What it is given in place of `value`: a copy of what it must not change; of a tokenizer, which is slow to copy, always
        the same one. Modules are its own, for the tests hold others."""
        if type(value).__module__ != "open_clip.tokenizer" or self.conduct.trusted:
            return _copied(value)
        if id(value) not in self._tokenizers:
            self._tokenizers[id(value)] = value, copy.deepcopy(value)
        return self._tokenizers[id(value)][1]

    def judged_honestly(self) -> None:
        """Raises GivenUp when the judge is not what it was."""
        if self.guard is not None and not self.guard.holds():
            self.accuse(self.guard.inspect())

    def accuse(self, words: str) -> None:
        """Raises GivenUp, here and in all other processes, if there are words of how the judge was changed."""
        if words:
            self.marks.leave(TAMPERED_MARK, words)
            raise GivenUp(words)

    def _imported(self) -> dict[str, Any]:
        if words := self.marks.left("import") or ("" if self.is_imported else self.tampered):
            raise GivenUp(words)
        if self._targets is None:
            with FileLock(self.marks.folder / "import.lock"):
                if words := self.marks.left("importing"):  # by a worker that did not live to say more
                    self.marks.leave("import", words)
                    raise GivenUp(words)
                self.marks.leave("importing", "does not import: it ended the process, or ran too long")
                out, err = io.StringIO(), io.StringIO()
                limit_s, streams, self.conduct.is_import = IMPORT_LIMITS * self.limit_s, Streams(), True
                try:
                    with self.ground.enter(limit_s), redirect_stdout(out), redirect_stderr(err):
                        holder = self._holder(limit_s)
                        self._targets = {name: found for name in NAMES if (found := _get(holder, name)) is not None}
                        notes = holder._notes if isinstance(holder, folders.Folder) else ()
                        self._misnamed = (*_misnamed(holder, self._targets), *notes)
                except BaseException as error:
                    said = err.getvalue().strip().rpartition("\n")[2]
                    words = f"does not import: {_why(error, limit_s)}{f'; it said: {said}' if said else ''}"
                    self.marks.leave("import", words)
                    raise GivenUp(words) from None
                finally:
                    self.conduct.is_import = False
                    streams.restore()  # a script may seed, at its beginning
                    self.marks.clear("importing")
                if self.guard is not None:
                    self.accuse(self.guard.inspect(of_examples=True))
                if out.getvalue() or err.getvalue():
                    self.marks.leave("printed", "yes")
        return self._targets


def _course_ground(folder: Path, conduct: Conduct) -> Ground:
    from tests.conformance.course.template import CourseGround  # which needs this module

    return CourseGround(folder, conduct)


def _path(place: str) -> Path | None:
    """The file or folder of a solution; None for a module of the environment."""
    return Path(place).resolve() if place.endswith((".py", ".ipynb")) or (place and Path(place).is_dir()) else None


def _folder(path: Path | None) -> Path | None:
    """Where a solution's own modules are; None for a module of the environment."""
    return None if path is None else folders.root_of(path) if path.is_dir() else path.parent


def load(label: str) -> Any:
    """What holds the names of a solution. Raises whatever its import raises, Complaint when there is no such thing."""
    place, attribute = split_label(label)
    path = Path(place).resolve()
    name = f"solution_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if place.endswith((".py", ".ipynb")) and not path.is_file():
        raise Complaint(f"there is no file {place}")
    if place and path.is_dir():
        return folders.load(path)
    if place.endswith(".ipynb"):
        module = notebooks.load(path, name)
    elif place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    if not attribute:
        return module
    if (holder := _get(module, attribute)) is None:
        raise Complaint(f"{place} has no {attribute!r}")
    return holder


def _folder_of(module: str) -> Path | None:
    """Where a module's package lies, or the module itself."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(module.partition(".")[0])
        if spec and spec.origin and Path(spec.origin).is_file():
            return Path(spec.origin).resolve().parent
    return None


def _misnamed(holder: Any, had: Collection[str]) -> Iterator[str]:
    def folded(name: str) -> str:
        return name.replace("_", "").lower()

    missing = {folded(name): name for name in NAMES if name not in had}
    for name in holder if isinstance(holder, Mapping) else vars(holder) if hasattr(holder, "__dict__") else ():
        if name not in NAMES and not name.startswith("_") and callable(_get(holder, name)):
            for near in difflib.get_close_matches(folded(name), missing, n=1, cutoff=0.85):
                yield f"{name}: did you mean {missing[near]}?"


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


class Calls:
    """Which options the examples of a statement had: of those that a solution answered, and of those that it declined."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A statement is asked from here on."""
        self.answered: list[dict[str, Any]] = []
        self.declined: list[tuple[dict[str, Any], str]] = []
        self.example: list[dict[str, Any]] = []
        self.judged = 0  # examples that were not declined

    def add(self, settings: dict[str, Any]) -> None:
        """A call of this example has these options."""
        self.example.append(settings)

    def end(self) -> None:
        """The example was judged, whatever the verdict."""
        self.judged += 1
        self.answered += self.example

    def declines(self, words: str) -> None:
        """The example ends in a call that is declined: the last one."""
        self.declined.append((self.example[-1] if self.example else {}, words))

    def narrowed(self) -> str:
        """Of which settings a statement was asked, such as `position back, readout class only`; "" where of all."""
        if not self.declined:
            return ""
        declined = [settings for settings, _ in self.declined]
        options = dict.fromkeys(option for settings in declined for option in settings)
        answered = {option: {known[option] for known in self.answered if option in known} for option in options}
        refused = {option: {known[option] for known in declined if option in known} - answered[option] for option in options}
        texts = [option for option in options if all(isinstance(value, str) for value in answered[option] | refused[option])]
        alone = [
            option for option in options if answered[option] and all(known.get(option) in refused[option] for known in declined)
        ]
        if alone:  # one option tells all that was declined from all that was answered
            chosen = [min(alone, key=lambda option: (option not in texts, len(refused[option])))]
        else:
            chosen = [option for option in texts if answered[option] and refused[option]]
            if not all(any(known.get(option) in refused[option] for option in chosen) for known in declined):
                return f"asked of what is supported only: {self.declined[0][1]}"
        words = []
        for option in chosen:
            if len(answered[option]) == 1 or option in texts:
                words.append(f"{option} {' or '.join(sorted(map(str, answered[option])))}")
            else:
                words.append(f"{option} other than {', '.join(sorted(map(str, refused[option])))}")
        return f"asked of {', '.join(words)} only"


# A ValueError that declines an option says so in one of these words.
_DECLINES = re.compile(
    r"(not|n't|un)[- ]?(be |yet )?(support|implement)|only\b.*(support|implement)|(support|implement)\w* only", re.IGNORECASE
)
_OF_TORCH = re.compile(r"aten::|not implemented for '")  # what torch says of tensors that it cannot take: a mistake


def _declines(error: BaseException, settings: Mapping[str, Any]) -> bool:
    """Does it say that it does not do what was asked?

    NotImplementedError does that the solution's own code raises, and a ValueError that says so, or names a kind it was given.
    """
    if isinstance(error, NotImplementedError):
        frames = traceback.extract_tb(error.__traceback__)
        return not _OF_TORCH.search(str(error)) and not is_installed(Path(frames[-1].filename))
    kinds = [word for name, value in settings.items() if isinstance(value, str) for word in (name, value)]
    named = any(re.search(rf"\b{re.escape(kind)}\b", str(error)) for kind in kinds)
    return isinstance(error, ValueError) and bool(named or _DECLINES.search(str(error)))


class Watched:
    """One name of a solution: calls it, and complains in words."""

    def __init__(self, solution: Foreign, name: str, target: Any) -> None:
        self.solution, self.name, self.target = solution, name, target
        self.mark = f"name-{name}"
        self._reseeds = solution.reseeds

    def __call__(self, *given: Any) -> Any:
        if not callable(self.target):
            what = f"{self.name}{NAMES[self.name].call}"
            raise Complaint(f"{self.name} is {described(self.target)}: expected something to call as {what}")
        if (takes := _signature(self.target)) is not None:
            try:
                takes.bind(*given)
            except TypeError as error:
                raise Complaint(f"{self.name} takes {takes} ({error}): {self._called_as()}") from None
        found = self.watch(self.target, self.name, NAMES[self.name].check, given)
        return WatchedModule(self, found) if isinstance(found, nn.Module) else found

    def _settings(self, given: tuple[Any, ...]) -> dict[str, Any]:
        """The options of a call, by the names that NAMES gives them: words, numbers and None."""
        names = NAMES[self.name].call.strip("()").split(", ")
        plain = {name: one for name, one in zip(names, given, strict=False) if one is None or isinstance(one, str | int | float)}
        return {name: one for name, one in plain.items() if name != "seed"}

    def _called_as(self) -> str:
        return f"it is called as {self.name}{NAMES[self.name].call}; an adapter of a few lines can do that"

    def watch(self, target: Callable[..., Any], name: str, check: Check | None, given: tuple[Any, ...]) -> Any:
        """Call `target` and hold it to what any call must keep to. Raises Complaint; GivenUp where it runs too long."""
        if words := self.solution.marks.left(self.mark):
            raise GivenUp(words)
        given = tuple(_dense(one) for one in given)
        if target is self.target:
            self.solution.calls.add(self._settings(given))
        lent = [self.solution.lent(one) for one in given]
        before, streams, gradients = [_snapshot(one) for one in lent], Streams(), Gradients(given, lent)
        told = f"{name}({', '.join(described(one) for one in given)})"
        error: BaseException | None = None
        try:
            with self.solution.ground.enter(self.solution.limit_s):
                found = target(*(one._module if isinstance(one, WatchedModule) else one for one in lent))
        except BaseException as caught:
            error = caught
        self.solution.judged_honestly()
        self._settle(told, target is self.target, streams, gradients)
        if isinstance(error, _TooLong):
            words = f"{told} did not come to an end in {self.solution.limit_s:g} s (--time-limit)"
            self.solution.marks.leave(self.mark, f"{words}; not tried again")
            raise GivenUp(words)
        if error is not None:
            if _declines(error, self._settings(given) if target is self.target else {}):
                how = "not implemented" if isinstance(error, NotImplementedError) else "declined"
                raise NotClaimed(f"{told} is {how}{f': {error}' if str(error) else ''}", is_declined=True)
            unfit = isinstance(error, TypeError) and not _frames(error)  # of an __init__ that inspect did not see
            hint = f": {self._called_as()}" if unfit and target is self.target else ""
            raise Complaint(f"{told} {_why(error, self.solution.limit_s)}{hint}")
        for one, own, kept in zip(given, lent, before, strict=True):
            if _changed(own, kept):
                words = f"{told} changed {described(one)} that it was given: expected it to stay as it was"
                self.solution.impure.setdefault(self.name, words)
        found, wrong = plain(found)
        if wrong or (check and (wrong := check(found, *given))):
            raise Complaint(f"{told} {wrong}")
        if kind := lost_precision(found, given):
            self.solution.conduct.saw(PRECISION, f"{told} gave {kind}")
        return found

    def _settle(self, told: str, is_name: bool, streams: Streams, gradients: Gradients) -> None:
        """What a call did to random numbers and gradients is undone, and told once: other statements do not fail for it."""
        conduct = self.solution.conduct
        if reseeded := streams.reseeded(self._reseeds):
            self._reseeds |= reseeded
            streams.restore(reseeded)
            if not (is_name and "seed" in NAMES[self.name].call):
                conduct.saw(RANDOM_NUMBERS, f"{told} reseeded the random numbers of {', '.join(sorted(reseeded))}")
        if spoilt := gradients.spoilt():
            conduct.saw(GRADIENTS, f"{told} {spoilt} that it was given")


class WatchedModule:
    """A module of a solution: itself in everything, but for its calls being watched."""

    def __init__(self, watched: Watched, module: nn.Module) -> None:
        self._watched, self._module = watched, module

    def __call__(self, *given: Any) -> Any:
        return self._watched.watch(self._module, f"{self._watched.name} module", NAMES[self._watched.name].forward, given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _signature(target: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _dense(value: Any) -> Any:
    return value.to_dense() if isinstance(value, Tensor) and value.layout == torch.sparse_csr else value


def _copied(value: Any) -> Any:
    """What a solution is lent in place of `value`, so that a change in place is one mistake; modules and callables as they are."""
    if isinstance(value, Tensor):
        return value.clone()  # through which gradients flow
    if isinstance(value, np.ndarray | nx.Graph):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(_copied(one) for one in value)
    return dict(value) if type(value) is dict else value


def _snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, nx.Graph):
        return _nodes_and_edges(value)
    if isinstance(value, dict):
        return dict(value)
    return [_snapshot(one) for one in value] if isinstance(value, list | tuple) else value


def _nodes_and_edges(graph: nx.Graph) -> tuple[list[Any], list[Any]]:
    """With copies of what each carries, in their order."""
    nodes = [(node, dict(carried)) for node, carried in graph.nodes(data=True)]
    return nodes, [(u, v, dict(carried)) for u, v, carried in graph.edges(data=True)]


def _changed(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return value.shape != before.shape or not torch.equal(_dense(value.detach()), _dense(before))
    if isinstance(value, np.ndarray):
        return not np.array_equal(value, before)
    if isinstance(value, nx.Graph):
        return _nodes_and_edges(value) != before
    if isinstance(value, list | tuple):
        return len(value) != len(before) or any(_changed(one, kept) for one, kept in zip(value, before, strict=True))
    return value is not before and bool(value != before)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where in the solution's own code an error came by, the outermost first."""
    own = Path(__file__).resolve().parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve().parent != own]
    return [
        f for f in frames if "site-packages" not in f.filename and "importlib" not in f.filename and "/lib/python" not in f.filename
    ]


def _why(error: BaseException, limit_s: float) -> str:
    """What foreign code raised, and where in it, in a line."""
    if isinstance(error, _TooLong):
        return f"it ran for more than {limit_s:g} s (--time-limit)"
    if isinstance(error, Complaint):
        return str(error)
    message = (error.msg if isinstance(error, SyntaxError) else str(error)).strip().split("\n", 1)[0]
    if "reading from stdin" in message:
        return "asks for input: nobody is there to answer"
    outside = _frames(error)
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({Path(error.filename).name}, line {error.lineno})"
    else:
        where = f" ({Path(outside[-1].filename).name}, line {outside[-1].lineno})" if outside else ""
    cuda = (
        "; it needs CUDA: give back what works where its input is"
        if "cuda" in message.lower() or "nvidia" in message.lower()
        else ""
    )
    return f"raised {type(error).__name__}{f': {message}' if message else ''}{where}{cuda}"
