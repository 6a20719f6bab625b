"""Folders as solutions: a package with relative imports, or files beside each other.

A folder that holds nothing but one other folder, as unpacked archives do, stands for that one. Its files are modules of one
package, so that relative imports work, and it is on the path, so that `import utils` does. Imported are its `__init__.py`, where it
has one, and the files and notebooks that define a public name, or nearly: scripts beside them are not run. A name is taken from
`__init__.py`, else from the first file that defines it, the uppermost folder and the alphabet first.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.conformance import notebooks
from tests.conformance.names import NAMES

NOBODYS = ("__pycache__", "__MACOSX", "site-packages", "node_modules")
NO_PART = ("conftest.py", "setup.py", "__init__.py", "__main__.py")
NEAR = 0.85  # as far as a name may be from a public one


class Folder(SimpleNamespace):
    """The public names of a folder, and in `_notes` what its author should know."""

    _notes: tuple[str, ...] = ()


def code_of(folder: Path) -> Iterator[Path]:
    """The Python files and notebooks below a folder, the uppermost first: no tests, nothing hidden, nothing installed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        is_code = path.suffix in (".py", ".ipynb") and not path.name.startswith(("test_", ".")) and path.name not in NO_PART
        if is_code and path.is_file():
            yield path
    for path in entries:
        if _is_part(path) and not (path / "pyvenv.cfg").exists():
            yield from code_of(path)


def _is_part(path: Path) -> bool:
    """Is it a folder of the solution's own? A link may lead anywhere, or in a circle."""
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name not in NOBODYS


def root_of(folder: Path) -> Path:
    """The folder itself, or the only one in it, where it has no files but those of no code."""
    while True:
        try:
            seen = [*folder.iterdir()]
        except OSError:
            return folder
        inner = [path for path in seen if _is_part(path)]
        if len(inner) != 1 or any(path.suffix in (".py", ".ipynb") for path in seen if path.is_file()):
            return folder
        folder = inner[0]


def has_code(folder: Path) -> bool:
    """Is there anything in a folder that could be asked?"""
    return (root_of(folder) / "__init__.py").is_file() or next(code_of(folder), None) is not None


def load(folder: Path) -> Folder:
    """The public names of a folder. Raises what its `__init__.py` raises, or its first file where none can be imported."""
    root = root_of(folder)
    package = _package(root)
    found = Folder()
    notes: list[str] = []
    origin: dict[str, Path] = {}
    failures: list[BaseException] = []
    if (root / "__init__.py").is_file():
        vars(found).update({name: value for name, value in vars(package).items() if not name.startswith("_")})
        origin = {name: root / "__init__.py" for name in vars(found) if name in NAMES}
    for path in code_of(root):
        public = _defined(path)
        if not any(map(_is_near, public)):
            continue
        place = path.relative_to(root)
        try:
            module = _module(path, place, package)
        except (Exception, SystemExit) as error:
            failures.append(error)
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            notes.append(f"{place} does not import ({why}): what it defines is not asked")
            continue
        for name in public:
            value = getattr(module, name, None)
            if value is None or getattr(found, name, None) is value:
                continue
            if name in origin:
                if name in NAMES and origin[name].name != "__init__.py":
                    notes.append(f"{name} is in {origin[name].relative_to(root)} and in {place}: the former is asked")
                continue
            origin[name] = path
            setattr(found, name, value)
    if failures and not origin:
        raise failures[0]
    found._notes = tuple(notes)
    return found


def _package(root: Path) -> ModuleType:
    """The package that a folder's files are modules of: under its own name where that is free."""
    init = root / "__init__.py"
    name = f"solution_{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
    if root.name.isidentifier() and root.name not in sys.modules and init.is_file():
        other = importlib.util.find_spec(root.name)
        name = root.name if other is None or other.origin == str(init) else name
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(root)])
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
    else:
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(root)]
    return package


def _module(path: Path, place: Path, package: ModuleType) -> Any:
    parts = place.with_suffix("").parts
    if path.suffix == ".py" and all(part.isidentifier() for part in parts):
        return importlib.import_module(".".join((package.__name__, *parts)))
    name = f"{package.__name__}.file_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    if path.suffix == ".ipynb":
        return notebooks.load(path, name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _defined(path: Path) -> list[str]:
    """The names that a file gives to something at its top, without running it."""
    try:
        if path.suffix == ".ipynb":
            body = [node for cell in notebooks.cells(path) for node in cell.kept.body]
        else:
            body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        text = path.read_text(encoding="utf-8", errors="replace")
        return [name for name in NAMES if f"def {name}(" in text or f"class {name}(" in text]  # it will say why it fails
    found: dict[str, None] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = None
        elif isinstance(node, ast.Assign):
            found |= {target.id: None for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname: None for alias in node.names if alias.asname}
    return list(found)


def _is_near(name: str) -> bool:
    def folded(one: str) -> str:
        return one.replace("_", "").lower()

    return bool(difflib.get_close_matches(folded(name), map(folded, NAMES), n=1, cutoff=NEAR))
