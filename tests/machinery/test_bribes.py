"""Conformance mode: solutions that answer wrongly and try to pass are found out, and none is accused that does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.conformance import conduct
from tests.support.reporting import ROOT
from tests.support.sessions import Session

STATEMENT = "tests/test_3_3_matrix_form.py::test_the_sum_is_taken_over_the_neighbours"
HEAD = "import gc, inspect, os, socket, subprocess, sys, threading, time\nfrom pathlib import Path\nimport torch\n"
FALSE = "def sum_aggregate(A, H):\n    return torch.zeros_like(H)\n"
TRUE = "def sum_aggregate(A, H):\n    return A @ H\n"
JUDGE = "next(one for one in object.__subclasses__() if one.__module__ == 'tests.conformance.judge' and one.__name__ == 'Guard')"

TAMPERING = {  # code of a solution that changes the judge, and what is said of every row of it
    "comparison": (
        f"agree = {JUDGE}.inspect.__globals__['agree']\n"
        f"agree.__code__ = (lambda found, expected, what, *, atol=0, rtol=0: None).__code__\n{FALSE}",
        r"tests\.conformance\.agree\.agree got other code",
    ),
    "method": (
        "def sum_aggregate(A, H):\n    torch.Tensor.abs = lambda self: torch.zeros_like(self)\n    return torch.zeros_like(H)\n",
        r"torch\.Tensor\.abs was replaced",
    ),
    "builtin": (
        "import builtins\ndef sum_aggregate(A, H):\n    builtins.float = lambda x: 0.0\n    return torch.zeros_like(H)\n",
        r"builtins\.float was replaced",
    ),
    "hypothesis": (
        f"import hypothesis.core\nhypothesis.core.StateForActualGivenExecution.run_engine = lambda self: None\n{FALSE}",
        r"StateForActualGivenExecution\.run_engine was replaced",
    ),
    "easy examples": (
        "from hypothesis.internal.conjecture.data import ConjectureData\n"
        f"ConjectureData.draw_integer = lambda self, *a, **k: k.get('min_value') or 0\n{FALSE}",
        r"ConjectureData\.draw_integer was replaced",
    ),
    "settings": (
        "import hypothesis\n"
        "hypothesis.settings.register_profile('lazy', max_examples=1)\n"
        f"hypothesis.settings.load_profile('lazy')\n{FALSE}",
        r"Hypothesis has other settings",
    ),
    "reports": (
        f"import pytest\npytest.TestReport.from_item_and_call = classmethod(lambda cls, *a: None)\n{FALSE}",
        r"TestReport\.from_item_and_call was replaced",
    ),
    "raises": (f"import pytest, contextlib\npytest.raises = contextlib.suppress\n{FALSE}", r"pytest\.raises was replaced"),
    "mode": (
        "from torch.overrides import TorchFunctionMode\n"
        "class Quiet(TorchFunctionMode):\n"
        "    def __torch_function__(self, function, types, args=(), kwargs=None):\n"
        "        return function(*args, **(kwargs or {}))\n"
        "def sum_aggregate(A, H):\n    Quiet().__enter__()\n    return torch.zeros_like(H)\n",
        r"a mode of torch was set",
    ),
    "trace": (
        "def sum_aggregate(A, H):\n    sys.settrace(lambda *_: None)\n    return torch.zeros_like(H)\n",
        r"sys\.settrace was set",
    ),
}

BREAKING = {  # code of a solution that breaks a rule, the rule, and what is said of it
    "imports vp": (
        f"try:\n    import vp.graphs\nexcept ImportError:\n    pass\n{TRUE}",
        conduct.BY_ITSELF,
        r"imports vp.* \(.*line 5",
    ),
    "imports tests": (
        "import importlib\ndef sum_aggregate(A, H):\n    try:\n        importlib.import_module('tests.conformance.ours')\n"
        "    except ImportError:\n        return A @ H\n",
        conduct.BY_ITSELF,
        r"imports tests.* \(.*line 7",
    ),
    "reads tests": (
        f"try:\n    Path({str(ROOT)!r}, 'tests/test_3_3_matrix_form.py').read_text()\nexcept OSError:\n    pass\n{TRUE}",
        conduct.BY_ITSELF,
        r"reads tests/test_3_3_matrix_form.py of the project",
    ),
    "searches memory": (
        "def sum_aggregate(A, H):\n    gc.get_objects()\n    return A @ H\n",
        conduct.BY_ITSELF,
        r"calls gc\.get_objects",
    ),
    "asks for the test": (
        "def sum_aggregate(A, H):\n    return A @ H if not os.environ.get('PYTEST_CURRENT_TEST') else H\n",
        conduct.ALIKE,
        r"asks for PYTEST_CURRENT_TEST",
    ),
    "looks at its callers": (
        "def sum_aggregate(A, H):\n    frame = inspect.currentframe().f_back\n    return A @ H\n",
        conduct.ALIKE,
        r"looks at the stack of its callers",
    ),
    "looks at the whole stack": (
        "def sum_aggregate(A, H):\n    inspect.stack()\n    return A @ H\n",
        conduct.ALIKE,
        r"looks at the stack of its callers",
    ),
    "writes into the project": (
        f"try:\n    Path({str(ROOT)!r}, 'tests/planted_by_a_solution.py').write_text('')\nexcept OSError:\n    pass\n{TRUE}",
        conduct.IN_ITS_FOLDER,
        r"writes tests/planted_by_a_solution.py of the project",
    ),
    "writes elsewhere": (
        f"try:\n    open('/planted_by_a_solution', 'w')\nexcept OSError:\n    pass\n{TRUE}",
        conduct.IN_ITS_FOLDER,
        r"writes /planted_by_a_solution",
    ),
    "leaves a process": (f"subprocess.Popen(['sleep', '600'])\n{TRUE}", conduct.NOTHING_LEFT, r"left a process running: sleep 600"),
    "leaves a thread": (
        f"threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n{TRUE}",
        conduct.NOTHING_LEFT,
        r"left a thread running",
    ),
    "starts a program": (
        "def sum_aggregate(A, H):\n    subprocess.run(['true'])\n    return A @ H\n",
        conduct.NOTHING_LEFT,
        r"starts a program: true",
    ),
    "connects": (
        f"try:\n    socket.create_connection(('192.0.2.1', 9), timeout=0.01)\nexcept OSError:\n    pass\n{TRUE}",
        conduct.NO_NETWORK,
        r"asks for a connection: socket\..*192\.0\.2\.1",
    ),
    "reseeds torch": (
        "def sum_aggregate(A, H):\n    torch.manual_seed(0)\n    return A @ H\n",
        conduct.RANDOM_NUMBERS,
        r"reseeded the random numbers of torch",
    ),
    "reseeds numpy and random": (
        "import random, numpy\ndef sum_aggregate(A, H):\n    random.seed(1), numpy.random.seed(1)\n    return A @ H\n",
        conduct.RANDOM_NUMBERS,
        r"reseeded the random numbers of numpy, random",
    ),
    "leaves a gradient": (
        "def sum_aggregate(A, H):\n    H.requires_grad_(True)\n    return (A @ H).detach()\n",
        conduct.GRADIENTS,
        r"set requires_grad of a tensor that it was given",
    ),
    "halves": (
        "def sum_aggregate(A, H):\n    return (A @ H).bfloat16()\n",
        conduct.PRECISION,
        r"gave bfloat16",
    ),
}

EVADING = {  # code of a solution that wants no verdict, and what is said of its statement
    "always equal": (
        "class Equal(torch.Tensor):\n"
        "    @classmethod\n    def __torch_function__(cls, function, types, args=(), kwargs=None):\n"
        "        return torch.zeros(1)\n"
        "def sum_aggregate(A, H):\n    return torch.zeros_like(H).as_subclass(Equal)\n",
        r"gave a Equal, a kind of tensor of its own",
    ),
    "own method": (
        "def sum_aggregate(A, H):\n    found = torch.zeros_like(H)\n    found.double = lambda: A @ H\n    return found\n",
        r"gave a tensor with a `double` of its own",
    ),
    "skips": ("import pytest\ndef sum_aggregate(A, H):\n    pytest.skip('later')\n", r"raised Skipped"),
    "rejects": (
        "import hypothesis\ndef sum_aggregate(A, H):\n    raise hypothesis.errors.UnsatisfiedAssumption\n",
        r"raised UnsatisfiedAssumption",
    ),
    "interrupts": ("def sum_aggregate(A, H):\n    raise KeyboardInterrupt\n", r"raised KeyboardInterrupt"),
    "exits at the end": (f"import atexit\natexit.register(os._exit, 0)\n{FALSE}", r"neighbours"),
}

INNOCENT = """
import collections, csv, dataclasses, functools, inspect, json, logging, random, tempfile, traceback, typing, warnings
import networkx as nx
import numpy as np
import open_clip
import tqdm
import utils, vp, tests
from concurrent.futures import ThreadPoolExecutor
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(42), np.random.seed(42), random.seed(42)
os.environ["WANDB_MODE"] = "offline"
os.makedirs("checkpoints", exist_ok=True)
torch.save({"a": torch.ones(1)}, "checkpoints/a.pt")
Point = collections.namedtuple("Point", "x y")
Pair = typing.NamedTuple("Pair", [("x", int)])
logging.basicConfig(level=logging.INFO)
log = logging.getLogger(__name__)
settings = json.loads(Path(__file__).with_name("settings.json").read_text())
where = inspect.currentframe().f_code.co_name


@dataclasses.dataclass
class Settings:
    scale: float = 1.0
    more: list = dataclasses.field(default_factory=list)


@functools.cache
def scale():
    return Settings(settings["scale"])


def told(message):
    log.debug("%s in %s", message, inspect.currentframe().f_back.f_code.co_name)


@torch.no_grad()
def checked(A):
    warnings.warn("a warning")
    try:
        raise ValueError("no")
    except ValueError as error:
        traceback.format_exc()
        return error.__traceback__.tb_frame.f_lineno > 0


def sum_aggregate(A, H):
    told("asked")
    checked(A)
    with tempfile.TemporaryFile() as file:
        torch.save(H, file)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(abs, range(3)))
    loader = DataLoader(TensorDataset(torch.arange(len(A))), batch_size=2, shuffle=True, num_workers=0) if len(A) else []
    seen = sorted(int(one) for batch in tqdm.tqdm(loader, disable=True) for one in batch[0])
    np.random.randn(2000), random.random(), torch.randn(3)
    graph = nx.from_numpy_array((A.to_dense() != 0).numpy().astype(float), create_using=nx.DiGraph)
    rows = [sum((A[v, u] * H[u] for u in graph[v]), torch.zeros(H.shape[1], dtype=H.dtype)) for v in seen]
    return utils.stacked(rows, H) * scale().scale * vp.ONE * tests.ONE
"""


def write(folder: Path, name: str, code: str) -> Path:
    """A solution in a folder of its own."""
    place = folder / name.replace(" ", "_")
    place.mkdir()
    file = place / "solution.py"
    file.write_text(HEAD + code, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is said of each solution, all asked in one session of one worker: an innocent one in the midst and at the end."""
    folder = tmp_path_factory.mktemp("solutions")
    codes = {name: told[0] for known in (TAMPERING, BREAKING, EVADING) for name, told in known.items()}
    files = {}
    for nth, (name, code) in enumerate([*codes.items(), ("last", INNOCENT)]):
        if nth == len(TAMPERING):
            files["innocent"] = write(folder, "innocent", INNOCENT)
        files[name] = write(folder, name, code)
    for name in ("innocent", "last"):
        place = files[name].parent
        (place / "settings.json").write_text(json.dumps({"scale": 1.0}))
        stacked = "import torch\ndef stacked(rows, H): return torch.stack(rows) if rows else torch.zeros_like(H)\n"
        (place / "utils.py").write_text(stacked)
        (place / "vp.py").write_text("ONE = 1\n")
        (place / "tests").mkdir()
        (place / "tests/__init__.py").write_text("ONE = 1\n")
    results = folder / "results.json"
    options = [f"--impl={file}" for file in files.values()]
    done = Session(ROOT, "-q", "-n", "1", "-p", "no:cacheprovider", f"--results={results}", *options, STATEMENT).done()
    assert results.is_file(), done.said[-4000:]
    content = {one["solution"]: one for one in json.loads(results.read_text(encoding="utf-8"))}
    return {name: content[str(file)] for name, file in files.items()}


def rows_of(solution: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for part in solution["sections"] for row in part["rows"]]


@pytest.mark.parametrize("name", TAMPERING)
def test_every_row_of_a_solution_that_changes_the_judge_says_so(asked, name: str) -> None:
    """Whatever of the judge is exchanged, no statement of that solution passes, and all say what was changed."""
    rows = rows_of(asked[name])
    assert rows
    assert not asked[name]["holds"]
    for row in rows:
        assert row["verdict"] == "fail"
        assert row["words"].startswith("the judge was tampered with: ")
        assert re.search(TAMPERING[name][1], row["words"]), row["words"]


@pytest.mark.parametrize("name", BREAKING)
def test_a_rule_that_is_broken_is_one_row(asked, name: str) -> None:
    """What a solution does beside answering is one row that says it and where; what it answers is judged all the same."""
    _, rule, words = BREAKING[name]
    rows = {row["statement"]: row for row in rows_of(asked[name])}
    rule = conduct.RULES[rule]
    assert rule in rows, (rows, asked[name]["problem"])
    assert rows[rule]["verdict"] == "fail"
    assert re.search(words, rows[rule]["words"]), rows[rule]["words"]
    assert (asked[name]["passed"], asked[name]["failed"]) == (1, 1), rows


@pytest.mark.parametrize("name", EVADING)
def test_what_would_evade_a_verdict_fails(asked, name: str) -> None:
    """An answer that compares itself, or an exception that ends or skips a test, is a failure like any other."""
    (row,) = rows_of(asked[name])
    assert row["verdict"] == "fail"
    assert re.search(EVADING[name][1], row["words"]), row["words"]


@pytest.mark.parametrize("name", ["innocent", "last"])
def test_nobody_is_accused_who_does_not_cheat(asked, name: str) -> None:
    """A right solution passes untouched among the others, whatever of Python, torch and its own folder it uses."""
    assert asked[name]["holds"], (asked[name]["problem"], rows_of(asked[name]))
    assert asked[name]["passed"] == 1
    assert not (ROOT / "tests" / "planted_by_a_solution.py").exists()


def test_the_solutions_are_many() -> None:
    """There are a dozen ways to cheat, and more."""
    assert len({*TAMPERING, *BREAKING, *EVADING}) == len(TAMPERING) + len(BREAKING) + len(EVADING) >= 12
    assert dedent(INNOCENT).strip()
