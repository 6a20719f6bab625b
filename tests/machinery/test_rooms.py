"""The order of the rooms: a module imports only from its own room and rooms below it, in no circle. And the order of tests."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

import pytest

import conftest
import vp

HERE = Path(str(vp.__file__)).parent
ROOMS = re.findall(r"^    (\w+)  ", str(vp.__doc__), re.MULTILINE)
MODULES = sorted(HERE.rglob("*.py"))


def room_of(module: str) -> str:
    """The second part of a full name; empty for vp itself."""
    return [*module.split("."), ""][1]


def name_of(path: Path) -> str:
    parts = path.relative_to(HERE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, package: str) -> list[str]:
    """What `source`, a module of `package`, imports from vp, at its top or inside of functions: full names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "vp"]


def forbidden(source: str, module: str, package: str) -> list[str]:
    """What `source` imports from rooms above its own, or from vp as a whole."""
    room = room_of(module)
    allowed = ROOMS[ROOMS.index(room) :] if room in ROOMS else ROOMS  # __main__ comes before all
    return [name for name in imported(source, package) if room_of(name) not in {*allowed, "__version__"}]


def test_the_map_lists_the_rooms_that_exist() -> None:
    """The map in vp/__init__.py lists exactly the eleven rooms on disk, each once; beside them stand two files."""
    on_disk = {path.name for path in HERE.iterdir() if path.name != "__pycache__"}
    assert len(ROOMS) == len(set(ROOMS)) == 11
    assert on_disk - {"README.md"} == {*ROOMS, "__init__.py", "__main__.py"}


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    """A module of vp imports vp modules only from its own room and from rooms below it, inside of functions, too."""
    module = name_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert forbidden(path.read_text(encoding="utf-8"), module, package) == []


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty where there is none."""
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def imports_of_modules() -> dict[str, set[str]]:
    """What each module of vp imports, at its top or inside of functions; a name that is no module counts as its package."""
    known = {name_of(path): path for path in MODULES}
    found = {}
    for module, path in known.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        names = imported(path.read_text(encoding="utf-8"), package)
        found[module] = {name if name in known else name.rpartition(".")[0] for name in names} - {"vp"}
    return found


def test_no_module_imports_itself_in_a_circle() -> None:
    """No chain of imports within vp comes back to where it began. A room's own modules never ask the room as a whole."""
    assert circle(imports_of_modules()) == []


def test_a_planted_circle_is_found() -> None:
    """Three modules that import each other are named."""
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_graphs_stand_alone() -> None:
    """The graph mathematics imports no other room."""
    for path in (HERE / "graphs").glob("*.py"):
        assert {room_of(name) for name in imported(path.read_text(encoding="utf-8"), "vp.graphs")} <= {"graphs"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vp.data.world", "from vp.models import load_clip"),
        ("vp.data.world", "import vp.experiments.store"),
        ("vp.data.world", "from vp import training"),
        ("vp.data.world", "from vp import *"),
        ("vp.data.world", "import vp"),
        ("vp.data.world", "def late():\n    from vp.report.writeup.page import render"),
        ("vp.data.world", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vp.experiments as e"),
        ("vp.data.world", "from ..models.clip import FrozenCLIP"),
        ("vp.data.world", "from .. import models"),
        ("vp.machine.home", "from vp.data import ImageSet"),
        ("vp.report.claims", "from vp.commands import bench"),
        ("vp.machine.home", "import vp.__main__"),
    ],
)
def test_a_planted_wrong_import_is_found(module: str, source: str) -> None:
    """An import of a room above is found in whatever form it is written; allowed ones beside it are not reported."""
    fine = "import os\nimport vpn\nfrom torch import Tensor\nfrom vp.machine.home import home\n"
    package = module.rpartition(".")[0]
    assert forbidden(fine, module, package) == []
    assert len(forbidden(fine + source, module, package)) == 1


@pytest.mark.parametrize(
    "source", ["from vp.data import images", "from .images import ImageSet", "from vp.machine.home import home"]
)
def test_rooms_below_and_the_own_room_are_allowed(source: str) -> None:
    """Modules of one room import each other, and rooms below them."""
    assert forbidden(source, "vp.data.world", "vp.data") == []


# -- the order in which tests run ------------------------------------------------------------------------------------------


class Item:
    """As much of a collected test as the hook looks at."""

    path = Path("test_2_2_visual_prompts.py")
    nodeid = "tests/test_2_2_visual_prompts.py::test_a"

    def __init__(self, name: str, *markers: pytest.MarkDecorator) -> None:
        self.name, self.markers = name, [marker.mark for marker in markers]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next((mark for mark in self.markers if mark.name == name), None)

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self.markers if mark.name == name]

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.markers.append(marker.mark)


@pytest.mark.parametrize(
    ("scale", "marked"),
    [("full", ["first block", "last block", "zero-shot", "comparison", "measurement"]), ("mini", [])],
)
def test_what_trains_runs_first_the_slowest_ahead(scale: str, marked: list[str]) -> None:
    """Runs come first, the slowest ahead, then comparisons, then all else, measurements last; at full scale they need a GPU."""
    reproduces = pytest.mark.reproduces
    items = [
        Item("a"),
        Item("measurement", reproduces, pytest.mark.alone),
        Item("b", pytest.mark.claim("padding-place")),
        Item("comparison", reproduces),
        Item("last block", reproduces("deep-10-block11-n1-back")),
        Item("zero-shot", reproduces("zero-shot-10-test")),
        Item("first block", reproduces("deep-10-block0-n1-back")),
        Item("c"),
    ]
    config = SimpleNamespace(getoption=lambda _: scale, args_source=None, args=[], stash={})
    conftest.pytest_collection_modifyitems(config, items)
    assert [item.name for item in items] == ["first block", "last block", "zero-shot", "comparison", "a", "b", "c", "measurement"]
    assert [item.name for item in items if item.get_closest_marker("gpu")] == marked


# -- the guides ------------------------------------------------------------------------------------------------------------


GUIDES = ["README.md", "tests/README.md", "tests/conformance/README.md", "vp/README.md", "expectations/README.md"]


@pytest.mark.parametrize("guide", GUIDES)
def test_links_of_the_guides_lead_somewhere(guide: str) -> None:
    """Every relative link of a guide is a file or folder of the project; the README has at most 120 lines."""
    path = HERE.parent / guide
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert guide != "README.md" or len(text.splitlines()) <= 120
