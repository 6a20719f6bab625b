"""What `python -m vp check` is asked to check: solutions by name and label, and what tells one's content from another's."""

from __future__ import annotations

import ast
import glob
import hashlib
import platform
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.conformance.folders import NOBODYS, root_of
from tests.conformance.options import split_label

ROOT = Path(__file__).parents[2]
SPECIFICATION = ("conftest.py", "pyproject.toml", "expectations", "tests", "vp")  # whose change makes a verdict old
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "networkx", "hypothesis", "pytest", "torch_geometric")
KEPT = ".kept"  # in a folder of results: what need not be asked again
LARGE = 16 * 2**20  # bytes, beyond which a file's size and time stand for what is in it


class SubmissionError(ValueError):
    """What cannot be checked, in words."""


@dataclass(frozen=True)
class Submission:
    """A solution: the name that results bear, the label that --impl takes, and whether the user named it himself."""

    name: str
    label: str
    is_named: bool = field(default=True, compare=False)  # else it was found in a course's folder

    @property
    def place(self) -> Path | None:
        """The file or folder, of any kind of label; None for a module."""
        path, _ = split_label(_without_kind(self.label)[1])
        return Path(path) if path and Path(path).exists() else None

    @property
    def slug(self) -> str:
        """Its name as a folder's."""
        return _slug(self.name)


def submissions(given: Sequence[str], courses: Sequence[str]) -> tuple[list[Submission], list[str]]:
    """What to check, in order, each once, and what of a course's folder is none, in words. Raises SubmissionError.

    given: each one solution: FILE.py, NOTEBOOK.ipynb, FOLDER, MODULE, FILE.py:OBJECT, KIND:FOLDER; `*` stands for any name.
    courses: FOLDER or KIND:FOLDER, in which every folder, Python file and notebook is a solution.
    """
    labels, notes = [], []
    for word in given:
        labels += _expanded(word)
    named = {*labels}
    for word in courses:
        kind, place = _without_kind(word)
        folder = Path(place).expanduser().absolute()
        if not folder.is_dir():
            raise SubmissionError(f"--course {word}: there is no such folder")
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name not in NOBODYS]
        entries = [path for path in entries if not (path / KEPT).is_dir()]  # results of an earlier call
        found = [path for path in entries if path.is_dir() or (path.suffix in (".py", ".ipynb") and not kind)]
        if not found:
            raise SubmissionError(f"--course {word}: no folder, Python file or notebook is in it")
        labels += [f"{kind}{path}" for path in found]
        if others := [path.name for path in entries if path not in found]:
            notes.append(f"{word}: left out {', '.join(others)}, neither folder nor Python file nor notebook")
    labels = list(dict.fromkeys(labels))
    return [Submission(name, label, label in named) for name, label in zip(_names(labels), labels, strict=True)], notes


def _expanded(word: str) -> list[str]:
    """A word of the command line as labels with whole paths."""
    kind, place = _without_kind(word)
    if kind or not _is_module(place):
        place = str(Path(place).expanduser())
    if "*" in place or "?" in place:
        found = sorted(path for path in glob.glob(place) if Path(path).is_dir() or path.endswith((".py", ".ipynb")))
        if not found:
            raise SubmissionError(f"{word}: nothing is called so")
        return [f"{kind}{Path(path).absolute()}" for path in found]
    path, attribute = split_label(place)
    if path and Path(path).exists():
        return [f"{kind}{Path(path).absolute()}{f':{attribute}' if attribute else ''}"]
    return [word]


def _without_kind(word: str) -> tuple[str, str]:
    """`course:` and what stands behind it, where that is no object of a file or module; a drive's letter is no kind."""
    found = re.fullmatch(r"(\w{2,}:)(.+)", word)
    if found and (Path(found[2]).expanduser().exists() or {"/", "\\", "*"} & {*found[2]}):
        return found[1], found[2]
    return "", word


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "solution"


def _is_module(place: str) -> bool:
    return all(part.isidentifier() for part in place.partition(":")[0].split("."))


def _names(labels: Sequence[str]) -> list[str]:
    """Short names, of all different folders: file or folder without its ending, with as much of what is above as it takes."""
    ways = []
    for label in labels:
        path, attribute = split_label(_without_kind(label)[1])
        if Path(path).exists():
            parts = Path(path).parts
            stem = Path(path).stem if Path(path).is_file() else Path(path).name
            ways.append([stem, Path(path).name, f"{'-'.join(parts[-2:-1])}-{stem}", "-".join(parts[1:])])
        else:
            ways.append([label] * 4)
        ways[-1] = [f"{way}-{attribute}" if attribute and Path(path).exists() else way for way in ways[-1]]
    names = [way[0] for way in ways]
    for nth in range(1, 4):
        taken = Counter(_slug(name).lower() for name in names)
        names = [way[nth] if taken[_slug(name).lower()] > 1 else name for name, way in zip(names, ways, strict=True)]
    taken = Counter(_slug(name).lower() for name in names)
    return [f"{name}-{nth}" if taken[_slug(name).lower()] > 1 else name for nth, name in enumerate(names, start=1)]


# -- what has been asked before ---------------------------------------------------------------------------------------------


def key(submission: Submission, time_limit: float, specification: str) -> str:
    """A hash of all that the verdicts on a solution depend on; "" where that is not known, as of a module.

    That is its file and what the file imports from its own folder, or all of a folder; not what it reads while it runs elsewhere.
    """
    if (place := submission.place) is None:
        return ""
    digest = hashlib.sha256(f"{specification}\n{submission.label}\n{time_limit:g}\n".encode())
    for path in sorted(_files(place) if place.is_dir() else _imported(place)):
        digest.update(f"{path}\n".encode() + _content(path))
    return digest.hexdigest()[:24]


def specification() -> str:
    """A hash of the specification's own code and of what it runs on."""
    digest = hashlib.sha256(platform.python_version().encode())
    for package in PACKAGES:
        try:
            digest.update(f"{package} {version(package)}\n".encode())
        except PackageNotFoundError:
            digest.update(f"no {package}\n".encode())
    for name in SPECIFICATION:
        path = ROOT / name
        for file in sorted(_files(path)) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(ROOT)}\n".encode() + _content(file))
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, caches and environments."""
    try:
        entries = [*folder.iterdir()]
    except OSError:
        return
    for path in entries:
        if path.name.startswith(".") or path.name in NOBODYS or path.suffix == ".pyc":
            continue
        if path.is_dir() and not path.is_symlink() and not (path / "pyvenv.cfg").exists():
            yield from _files(path)
        elif path.is_file():
            yield path


def _content(path: Path) -> bytes:
    """A digest of a file's content."""
    try:
        known = path.stat()
        if stat.S_ISREG(known.st_mode) and known.st_size > LARGE:
            return f"{known.st_size} {known.st_mtime_ns}".encode()
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return f"unreadable: {error.strerror}".encode()


def _imported(file: Path) -> set[Path]:
    """A file, and the modules of its folder that it imports, and those that these import."""
    found: set[Path] = set()
    queue = [file]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".ipynb":  # escaped in JSON: any word behind `import` or `from` will do
            names = {*re.findall(r"(?:import|from)\s+([\w.]+)", text)}
        else:
            names = _names_imported(text)
        for top in {name.partition(".")[0] for name in names}:
            beside = file.parent / top
            if beside.with_suffix(".py").is_file():
                queue.append(beside.with_suffix(".py"))
            elif beside.is_dir():
                queue += [path for path in _files(beside) if path.suffix == ".py"]
    return found


def _names_imported(text: str) -> set[str]:
    try:
        nodes = [*ast.walk(ast.parse(text))]
    except (SyntaxError, ValueError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def folders_of(submission: Submission) -> list[str]:
    """The folders that a solution's messages may name, which are nobody else's business."""
    if (place := submission.place) is None:
        return [str(ROOT)]
    inner = [str(root_of(place)), str(place)] if place.is_dir() else []
    return [*inner, str(place.parent), str(place.resolve().parent), str(ROOT), str(Path.home())]
