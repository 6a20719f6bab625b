"""What a solution does beside answering: seen through Python's audit events, while its code runs and by nobody else's.

An event counts when the solution's own code causes it, directly or through a thin layer of the standard library (`open` behind
`Path.read_text`). What torch, logging or dataclasses do on their own account is theirs: they read their files and look at the
stack, too. A write into this project, or a connection to another machine, counts whoever makes it.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import re
import signal
import sys
import sysconfig
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
CODE = ("vp", "tests", "expectations", "conftest.py")  # of the project: what answers could be read from
EXAMPLES = PROJECT / "tests" / "conformance" / "examples"  # which are there to be used
MODULES = ("vp", "tests", "conftest")

BY_ITSELF, ALIKE, IN_ITS_FOLDER, NOTHING_LEFT = "by itself", "alike", "in its folder", "nothing left"
NO_NETWORK, RANDOM_NUMBERS, GRADIENTS, PRECISION = "no network", "random numbers", "gradients", "precision"
RULES = {
    BY_ITSELF: "A solution answers by itself: it reads neither the specification nor vp, and keeps to what it is given.",
    ALIKE: "A solution answers alike whoever asks: it looks neither at the stack of its callers nor at the name of the test.",
    IN_ITS_FOLDER: "A solution writes nothing outside its own folder and the temporary one.",
    NOTHING_LEFT: "A solution starts no programs, and leaves no process or thread behind.",
    NO_NETWORK: "A solution needs no network.",
    RANDOM_NUMBERS: "A solution leaves the caller's random numbers alone: it may draw, and reseeds only where it is given a seed.",
    GRADIENTS: "What is given to a solution has no gradient afterwards that it did not have before.",
    PRECISION: "Numbers come back in at least the precision in which they were given.",
}
MAX_WORDS = 300


def is_installed(file: Path) -> bool:
    """Does it belong to Python or to an installed package, as in a `.venv`?"""
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts) or file.is_relative_to(sysconfig.get_path("stdlib"))


class Conduct:
    """The conduct of one solution: `seen` has, for each rule that it broke, what it did first, in words."""

    def __init__(self, folder: Path | None, trusted: bool, writable: tuple[Path, ...] = (), private: tuple[Path, ...] = ()) -> None:
        self.folder = folder
        self.forgiven: set[str] = set()  # rules that what it was given to start from, a course's template, breaks itself
        self.places = (folder,) if folder else ()  # where it may have modules
        self.trusted = trusted  # a solution of this project's own
        self.writable = writable or _writable(folder)
        self.private = private  # folders of the session's own, though they are temporary
        self.seen: dict[str, str] = {}
        self.is_import = False
        self.threads: list[threading.Thread] = []  # that its own code has started
        self._is_own = cache(self._lies_in_folder)
        self._hidden: dict[str, ModuleType] = {}

    def saw(self, rule: str, words: str) -> None:
        if not self.trusted and rule not in self.forgiven:
            self.seen.setdefault(rule, words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}…")

    def take(self) -> tuple[tuple[str, str], ...]:
        """What was seen since the last time."""
        taken = tuple(self.seen.items())
        self.seen.clear()
        return taken

    def owns(self, code: CodeType) -> bool:
        """Is this the solution's own code?"""
        return self._is_own(code.co_filename)

    def _lies_in_folder(self, name: str) -> bool:
        if self.folder is None or name.startswith("<"):
            return False
        file = Path(name).resolve()
        return file.is_relative_to(self.folder) and not is_installed(file) and not _is_of_project(file)

    def hides(self, name: str) -> bool:
        """Is this a module of the project that the solution does not have itself?"""
        root = name.partition(".")[0]
        if root not in MODULES:
            return False
        own = any((place / one).exists() for place in self.places for one in (f"{root}.py", root))
        return not own or self.folder == PROJECT

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The solution's code runs: its audit events are seen, the project's modules and the name of the test are not there."""
        global _watching
        if self.trusted:
            yield
            return
        _install()
        self._hidden = {name: sys.modules.pop(name) for name in _of_project(len(sys.modules)) if name in sys.modules}
        named = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("PYTEST_")}
        arguments, sys.argv = sys.argv, [sys.argv[0]]
        sys.meta_path.insert(0, _ABSENT)  # type: ignore[arg-type]
        start = getattr(threading, _START)
        setattr(threading, _START, partial(_begins_thread, start))
        outer, _watching = _watching, self
        try:
            yield
        finally:
            _watching = outer
            setattr(threading, _START, start)
            sys.meta_path[:] = [one for one in sys.meta_path if one is not _ABSENT]
            sys.argv = arguments
            os.environ.update(named)
            sys.modules.update(self._hidden)

    def reveal(self) -> None:
        """Other code needs the project's modules, such as a function of ours that the solution was given."""
        for name, module in self._hidden.items():
            sys.modules.setdefault(name, module)


@lru_cache(maxsize=1)
def _of_project(_: int) -> list[str]:
    """The project's modules that are imported; looked for again when their number has changed."""
    return [name for name in sys.modules if name.partition(".")[0] in MODULES]


class _Environment(dict):  # type: ignore[type-arg]
    """os.environ's own dictionary, in which a look for the name of the test is seen."""

    def __getitem__(self, key: Any) -> Any:
        if key[:7] in (b"PYTEST_", "PYTEST_"):
            with _unwatched() as conduct:
                if conduct is not None and (where := _caller(conduct)):
                    conduct.saw(ALIKE, f"asks for {os.fsdecode(key)} {where}")
        return super().__getitem__(key)


class _Absent:
    """A finder of modules: the project's are not there for a solution, and still there for code of ours that it was given."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        with _unwatched() as conduct:
            if conduct is None or not conduct.hides(name):
                return None
            if where := _caller(conduct):
                conduct.saw(BY_ITSELF, f"imports {name} {where}")
                raise ImportError(f"{name} is not there for a solution, which answers by itself")
            conduct.reveal()
            return ModuleSpec(name, _Present(sys.modules[name])) if name in sys.modules else None


class _Present:
    """A loader of what is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, _: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


_ABSENT = _Absent()


# -- what is left behind -----------------------------------------------------------------------------------------------------

_START = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
_TASKS = Path("/proc/self/task")
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # which stay for as long as the process


class Leftovers:
    """The processes and threads that were there before a solution came."""

    def __init__(self) -> None:
        self._before = {*_children()}

    def look(self, conduct: Conduct) -> None:
        """Tells of those that are new; such processes are ended."""
        for pid in {*_children()} - self._before:
            if told := _told_of(pid):
                conduct.saw(NOTHING_LEFT, f"left a process running: {told}")
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        for thread in conduct.threads:
            thread.join(0.05)
            if thread.is_alive():
                conduct.saw(NOTHING_LEFT, f"left a thread running: {thread.name}")
        conduct.threads.clear()


def adopt_orphans() -> None:
    """Processes whose parent has ended become this one's children, where the system can do that: none hides behind another."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _children() -> Iterator[int]:
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        with suppress(OSError):
            yield from map(int, (task / "children").read_text().split())


def _told_of(pid: int) -> str:
    """What a process runs; "" for one that has ended, or that Python keeps for itself."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    return "" if state == "Z" or any(one in command for one in _HELPERS) else command or f"process {pid}"


# -- audit events ------------------------------------------------------------------------------------------------------------

_watching: Conduct | None = None


@contextmanager
def _unwatched() -> Iterator[Conduct | None]:
    """What is done here is no event. Gives who is watched."""
    global _watching
    conduct, _watching = _watching, None
    try:
        yield conduct
    finally:
        _watching = conduct


@cache
def _install() -> None:
    """Once in a process: an audit hook cannot be taken away again."""
    os.environ._data = _Environment(os.environ._data)  # type: ignore[attr-defined]
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None or (handler := _HANDLERS.get(event)) is None:
        return
    with _unwatched() as conduct:
        assert conduct is not None
        handler(conduct, event, arguments)


_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
_LOOKING = {inspect.__file__, traceback.__file__}  # through which a solution looks at the stack
_THIN = {  # through which it opens files, starts threads and so on: these have no business of their own
    *_LOOKING,
    os.__file__,
    threading.__file__,
    *(
        str(_STDLIB / f"{one}.py")
        for one in (
            *("pathlib", "pathlib/__init__", "pathlib/_local", "io", "_pyio", "codecs", "tokenize", "linecache", "shutil", "glob"),
            *("importlib/__init__", "importlib/util", "runpy", "pkgutil", "zipfile", "gzip", "contextlib", "_collections_abc"),
            *("subprocess", "socket", "concurrent/futures/thread", "urllib/request", "http/client", "genericpath", "posixpath"),
        )
    ),
}


def _frames() -> Iterator[FrameType]:
    """From the one that caused the event outwards."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    while frame is not None:
        yield frame
        frame = frame.f_back


def _caller(conduct: Conduct, thin: set[str] = _THIN) -> str:
    """Where in the solution an event was caused; "" where by others."""
    for frame in _frames():
        if conduct.owns(frame.f_code):
            return f"({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"
        if frame.f_code.co_filename not in thin and not frame.f_code.co_filename.startswith("<"):
            return ""
    return ""


def _is_of_project(path: Path) -> bool:
    return any(path.is_relative_to(PROJECT / one) for one in CODE) and not path.is_relative_to(EXAMPLES)


def _writable(folder: Path | None) -> tuple[Path, ...]:
    temporary = {Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/dev")}
    return (*temporary, *((folder,) if folder and folder != PROJECT else ()))


def _path(value: Any) -> Path | None:
    if isinstance(value, int) or value is None:
        return None
    try:
        return Path(os.path.realpath(os.fsdecode(value)))
    except (TypeError, ValueError):
        return None


def _open(conduct: Conduct, event: str, arguments: tuple[Any, ...]) -> None:
    name, mode, flags = arguments
    if (path := _path(name)) is None:
        return
    if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _written(conduct, path, "writes")
    elif _is_of_project(path) and (where := _caller(conduct)):
        conduct.saw(BY_ITSELF, f"reads {_told(path)} {where}")
        raise PermissionError(f"{path} is not there for a solution, which answers by itself")


def _written(conduct: Conduct, path: Path, does: str) -> None:
    """Into the project by nobody; elsewhere outside its folder not by the solution itself."""
    if any(path.is_relative_to(one) for one in conduct.private) and (where := _caller(conduct)):
        conduct.saw(IN_ITS_FOLDER, f"{does} {path}, of the session that asks it {where}")
        raise PermissionError(f"{path} is not a solution's to write")
    if any(path.is_relative_to(one) for one in conduct.writable) and not _is_of_project(path):
        return
    inside = path.is_relative_to(PROJECT) and "__pycache__" not in path.parts
    if (where := _caller(conduct)) or inside:
        conduct.saw(IN_ITS_FOLDER, f"{does} {_told(path)}{f' {where}' if where else ''}")
        raise PermissionError(f"{path} is not a solution's to write")


def _told(path: Path) -> str:
    return f"{path.relative_to(PROJECT)} of the project" if path.is_relative_to(PROJECT) else str(path)


def _changes_files(conduct: Conduct, event: str, arguments: tuple[Any, ...]) -> None:
    does = event.removeprefix("os.")
    paths = arguments[:2] if does in ("rename", "link", "symlink") else arguments[:1]
    for value in paths:
        path = _path(value)
        if path is not None and not (does == "mkdir" and path.is_dir()):
            _written(conduct, path, does)


def _starts(conduct: Conduct, event: str, arguments: tuple[Any, ...]) -> None:
    if not (where := _caller(conduct)):
        return
    told = " ".join(map(str, _flat(arguments[:2])))
    if event in ("os.fork", "os.forkpty", "os.exec"):
        conduct.saw(NOTHING_LEFT, f"calls {event} {where}")
        raise PermissionError(f"{event} is not a solution's to call")
    if conduct.is_import and not re.search(rf"{re.escape(str(PROJECT))}|\b(vp|pytest|conftest)\b", told):
        return  # nvidia-smi, say; what it leaves behind is seen later
    conduct.saw(NOTHING_LEFT, f"starts a program: {told} {where}")


def _flat(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        elif isinstance(one, str | bytes | os.PathLike):
            yield os.fsdecode(one)


def _connects(conduct: Conduct, event: str, arguments: tuple[Any, ...]) -> None:
    address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(address, str | bytes) and event != "socket.getaddrinfo":
        return  # of this machine's own processes
    where = _caller(conduct)
    if where or str(host) not in ("localhost", "127.0.0.1", "::1", "None", ""):
        conduct.saw(NO_NETWORK, f"asks for a connection: {event}({host}){f' {where}' if where else ''}")


def _begins_thread(start: Callable[..., Any], function: Any, *arguments: Any, **more: Any) -> Any:
    """In place of what `threading` starts a thread with: remembers those of the solution."""
    with _unwatched() as conduct:
        thread = getattr(function, "__self__", None)
        if conduct is not None and isinstance(thread, threading.Thread) and _caller(conduct):
            conduct.threads.append(thread)
    return start(function, *arguments, **more)


def _looks_at_stack(conduct: Conduct, event: str, arguments: tuple[Any, ...]) -> None:
    """At the judge's part of it: a frame of its own, or what called that in its own code, is the solution's business."""
    if not (where := _caller(conduct, _LOOKING)):
        return
    passed = []
    for frame in _frames():
        if conduct.owns(frame.f_code):
            break
        passed.append(frame.f_code.co_name)
    seen = arguments[0] if arguments else None
    whole = {"stack", "trace", "extract_stack", "walk_stack", "format_stack"} & {*passed} and "print_stack" not in passed
    inward = isinstance(seen, FrameType) and (conduct.owns(seen.f_code) or seen.f_code.co_filename in _LOOKING)
    climbs = {"f_back", "getouterframes", "walk_stack"} & {*frame.f_code.co_names}
    outermost = frame.f_back is None or not conduct.owns(frame.f_back.f_code)
    if whole or not inward or (climbs and outermost):
        conduct.saw(ALIKE, f"looks at the stack of its callers {where}")


def _searches(conduct: Conduct, event: str, arguments: tuple[Any, ...]) -> None:
    if where := _caller(conduct, set()):
        conduct.saw(BY_ITSELF, f"calls {event} {where}")


_HANDLERS: dict[str, Callable[[Conduct, str, tuple[Any, ...]], None]] = {
    "open": _open,
    "sys._getframe": _looks_at_stack,
    **dict.fromkeys(["gc.get_objects", "gc.get_referrers", "gc.get_referents"], _searches),
    **dict.fromkeys(["sys._current_frames", "sys._current_exceptions", "sys.addaudithook"], _searches),
    **dict.fromkeys([f"os.{one}" for one in ("remove", "rename", "mkdir", "rmdir", "link", "symlink", "truncate")], _changes_files),
    **dict.fromkeys(["os.chmod", "os.chown"], _changes_files),
    **dict.fromkeys(["subprocess.Popen", *(f"os.{one}" for one in ("system", "posix_spawn", "spawn", "startfile"))], _starts),
    **dict.fromkeys(["os.fork", "os.forkpty", "os.exec", "pty.spawn"], _starts),
    **dict.fromkeys(["socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"], _connects),
}
