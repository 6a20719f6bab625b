"""Conformance mode: solutions that answer wrongly and try to pass are found out, and none is accused that does not."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.conformance import conduct, isolation, judge
from tests.conformance.agree import agree
from tests.conformance.lent import Streams
from tests.conformance.plain import plain
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", EVADING)
def test_what_would_evade_a_verdict_fails(asked, name: str) -> None:
    """An answer that compares itself, or an exception that ends or skips a test, is a failure like any other."""
    (row,) = rows_of(asked[name])
    assert row["verdict"] == "fail"
    assert re.search(EVADING[name][1], row["words"]), row["words"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["innocent", "last"])
def test_nobody_is_accused_who_does_not_cheat(asked, name: str) -> None:
    """A right solution passes untouched among the others, whatever of Python, torch and its own folder it uses."""
    assert asked[name]["holds"], (asked[name]["problem"], rows_of(asked[name]))
    assert asked[name]["passed"] == 1
    assert not (ROOT / "tests" / "planted_by_a_solution.py").exists()


def test_the_solutions_are_many() -> None:
    """There are a dozen ways to cheat, and more."""
    assert len({*TAMPERING, *BREAKING, *EVADING}) == len(TAMPERING) + len(BREAKING) + len(EVADING) >= 12


# -- parts of the judge and of what is looked for ------------------------------------------------------------------------------


def test_a_judge_that_lets_a_wrong_answer_pass_is_found_by_asking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions with known answers find a judge that accepts all or refuses all, whatever was changed to make it so."""
    asked = judge.questions()
    assert judge.answers(asked) == []
    monkeypatch.setattr(torch, "equal", lambda *_: True)
    assert "torch.equal lets a wrong answer pass" in judge.answers(asked)
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    assert "torch.equal refuses a right answer" in judge.answers(asked)


def test_what_is_replaced_is_named_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, methods and their code are as they were once the judge was mended."""
    seal = judge.Seal()
    assert seal.holds()
    kept = torch.nn.functional.softmax, agree.__code__
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda *_: None)
    torch.Tensor.argmax = lambda *_: 0  # which hides the one that it inherits, and is taken away again below
    monkeypatch.setattr(agree, "__code__", (lambda found, expected, what, *, atol=0, rtol=0: None).__code__)
    broken = seal.broken()
    told = {one.words for one in broken}
    assert {"torch.nn.functional.softmax was replaced", "torch.Tensor.argmax was replaced"} <= told
    assert "tests.conformance.agree.agree got other code" in told
    for one in broken:
        one.mend()
    assert (torch.nn.functional.softmax, agree.__code__) == kept
    assert "argmax" not in vars(torch.Tensor)
    assert seal.broken() == []


@pytest.mark.parametrize("seed", [0, 3])
def test_drawing_random_numbers_is_told_from_seeding_them(seed: int) -> None:
    """However many numbers are drawn, the stream is followed; one that is seeded, with whatever number, is not."""
    outside = Streams()
    try:
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        before = Streams()
        assert before.reseeded() == set()
        torch.randn(100_000), np.random.randn(100_000), [random.gauss(0, 1) for _ in range(2000)], torch.randperm(77)
        assert before.reseeded() == set()
        before = Streams()
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        assert before.reseeded() == {"torch", "numpy", "random"}
        before.restore({"torch", "random"})
        assert before.reseeded() == {"numpy"}
    finally:
        outside.restore()


class Named(NamedTuple):
    """A result with names."""

    training: list[int]
    validation: torch.Tensor


class Sneaky(float):
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


class Pretender:
    """No number, but it can be one."""

    def __float__(self) -> float:
        return 1.0


def test_what_comes_back_is_plain_data() -> None:
    """Named tuples, numbers and strings of a kind of their own become plain ones; numpy's and torch's own kinds are accepted."""
    (training, validation), words = plain(Named([1], torch.ones(2)))
    assert (training, words) == ([1], "")
    assert type(plain(Named([1], torch.ones(2)))[0]) is tuple
    assert type(validation) is torch.Tensor
    assert type(plain(Sneaky(2.0))[0]) is float
    assert not plain(Sneaky(2.0))[0] == 3.0
    for one in (
        np.float64(1),
        np.ones((1, 1)).view(np.matrix),
        torch.nn.Parameter(torch.ones(1)),
        {"a": np.ones(1)},
        torch.ones(1).max(0),
        None,
    ):
        assert plain(one)[1] == ""
    assert "a kind of number of its own" in plain(Pretender())[1]
    assert "a kind of number of its own" in plain([Pretender()])[1]


LINUX_ROOT = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="NOT RUN: needs root on Linux, and setpriv",
)


def isolated(*arguments: str, prefix: tuple[str, ...] = ()) -> str:
    """What a command says that runs isolated; its Python and its project are such that every user may read them."""
    done = subprocess.run([*prefix, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that everybody may read."""
    with tempfile.TemporaryDirectory(prefix="vp-public-") as name:
        (Path(name) / "vp").mkdir()
        (Path(name) / "tests" / "conformance").mkdir(parents=True)
        Path(name).chmod(0o755)
        yield Path(name)


@LINUX_ROOT
def test_root_becomes_nobody_who_can_write_nothing_of_the_project(public: Path) -> None:
    """A command that root isolates runs as nobody, and cannot write into the project."""
    script = f"id -u; touch {public}/tests/planted 2>/dev/null || echo refused"
    assert isolated(*isolation.command(public, [Path("/bin/sh")], "/bin/sh", "-c", script)).split() == ["65534", "refused"]
    assert not (public / "tests" / "planted").exists()


@LINUX_ROOT
def test_what_the_system_does_not_allow_is_said(public: Path) -> None:
    """In a container without further capabilities root becomes another user, the project is read-only, and the network stays."""
    less = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    found = json.loads(isolated(*isolation.command(public, [Path("/bin/sh")]), prefix=less))
    assert found == {"user": "", "network": "unshare: Operation not permitted", "project": ""}
    assert isolation.in_words(found) == (
        "isolated: another user, a read-only project; NOT isolated: no network (unshare: Operation not permitted)"
    )


@LINUX_ROOT
def test_what_nobody_may_not_read_is_named(public: Path) -> None:
    """Where the other user could not read Python or a solution, the user stays as it is, and the file is named."""
    secret = public / "solution.py"
    secret.write_text("")
    secret.chmod(0o600)
    assert isolation.not_isolated(public, [Path("/bin/sh"), secret])["user"] == f"nobody may not read {secret}"


def test_isolation_needs_workers_and_a_system_that_allows_it(tmp_path: Path) -> None:
    """Without workers there is nothing to isolate: a usage error, before anything is asked."""
    file = write(tmp_path, "right", TRUE)
    done = Session(ROOT, "-n", "0", "--isolated", f"--impl={file}", "-p", "no:cacheprovider", STATEMENT).done()
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--isolated needs workers" in done.said


@pytest.mark.slow
@LINUX_ROOT
def test_isolated_workers_answer_as_others_do(tmp_path: Path) -> None:
    """What is isolated is said above the table, and a right solution passes; where nothing can be, pytest refuses."""
    file = write(tmp_path, "right", TRUE)
    results = tmp_path / "results.json"
    options = ["-q", "-n", "1", "--isolated", f"--impl={file}", f"--results={results}", "-p", "no:cacheprovider"]
    lacking = isolation.not_isolated(ROOT, isolation.needed([file]))
    done = Session(ROOT, *options, STATEMENT).done()
    assert isolation.in_words(lacking) in done.said
    if all(lacking.values()):
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
    else:
        (found,) = json.loads(results.read_text(encoding="utf-8"))
        assert found["holds"], done.said[-2000:]
