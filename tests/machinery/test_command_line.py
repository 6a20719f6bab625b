"""vp.__main__: list, run, ask and pretrain; that every error a user can mend is one line and exit code 2.

fetch, doctor and bench: tests/machinery/test_full_scale.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import vp.commands.ask
import vp.commands.runs
import vp.experiments.store
from tests.controls import data as controls
from vp.__main__ import main
from vp.data import Preprocess
from vp.experiments import Result, Run, own_runs, runs
from vp.experiments.store import run_key, store_folder
from vp.machine.errors import VpError
from vp.models import FrozenCLIP
from vp.models.mini_clip import IMAGE_PX, known_tokens, mini_tokenizer, new_mini_clip

Capture = pytest.CaptureFixture[str]


def assert_one_line_error(main: Callable[[list[str]], int], words: list[str], capsys: Capture) -> str:
    """Exit code 2, one line on stderr that starts with `error:`, nothing on stdout; gives back the line."""
    code = main(words)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    return said.err


@pytest.mark.parametrize(
    "wrong",
    [
        controls.main_with_traceback,
        controls.main_that_reports_to_stdout,
        controls.main_that_claims_success,
        controls.main_of_two_lines,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_wrong_command_lines_are_rejected(wrong: Callable[[list[str]], int], capsys: Capture) -> None:
    """A traceback, an error on stdout, a wrong exit code or a second line fails the property of errors."""
    with pytest.raises(AssertionError):
        assert_one_line_error(wrong, ["run", "nothing"], capsys)


def in_a_new_process(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_list_imports_no_library_of_models() -> None:
    """The list of runs is there in seconds: libraries of models, statistics and figures are imported where they are needed."""
    slow = {"torchvision", "open_clip", "timm", "scipy.stats", "matplotlib"}
    code = f"import sys; from vp.__main__ import main; main(['list', '--json']); sys.exit(bool({slow} & set(sys.modules)))"
    assert '"padding-10"' in in_a_new_process("-c", code)


def test_importing_vp_imports_no_torch() -> None:
    """`import vp` is instant: it brings in neither torch nor numpy."""
    assert in_a_new_process("-c", "import sys, vp; print({'torch', 'numpy'} & set(sys.modules))") == "set()\n"


# -- list ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_module_runs_as_a_program() -> None:
    """`python -m vp list --json` prints the miniature runs as JSON, and nothing else."""
    listed = json.loads(in_a_new_process("-m", "vp", "list", "--json"))
    assert [run["name"] for run in listed] == list(runs("mini"))


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_list_names_every_run_once(scale: str, capsys: Capture) -> None:
    """Both ways of listing give every run of the scale, in the same order, under names that differ."""
    assert main(["list", "--scale", scale]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["list", "--scale", scale, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    names = [run["name"] for run in listed]
    assert names == [line.split()[0] for line in lines] == list(runs(scale))
    assert len(set(names)) == len(names) > 0
    assert {run["scale"] for run in listed} == {scale}


# -- run -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """What was performed, in order; nothing is trained, and three of four images are right."""
    calls = []

    def perform(run: Run, seed: int, device: str, progress: bool, trained: Result | None) -> Result:
        calls.append((run.name, seed, device))
        correct = torch.tensor([True, True, False, True])
        where = {"torch": "2", "device": "cpu"}
        return Result(run.name, run.scale, run.dataset, run.backbone, seed, correct, {}, [], None, 12, 1.5, where)

    monkeypatch.setattr(vp.experiments.store, "perform", perform)
    monkeypatch.setattr(
        vp.experiments.store, "run_key", lambda run, seed, device: f"{run.name} {seed}".encode().hex().ljust(24, "0")
    )
    return calls


def test_run_prints_the_numbers_and_where_they_come_from(performed: list, capsys: Capture) -> None:
    """`run NAME --json` gives correct, total, top-1, seconds and provenance of the run and seed asked for."""
    assert main(["run", "padding-10", "--seed", "3", "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert performed == [("padding-10", 3, "cpu")]
    assert {key: said[key] for key in ("run", "scale", "seed", "correct", "total", "top1", "seconds", "provenance")} == {
        "run": "padding-10", "scale": "mini", "seed": 3, "correct": 3, "total": 4, "top1": 75.0, "seconds": 1.5,
        "provenance": {"torch": "2", "device": "cpu"},
    }  # fmt: skip
    low, high = said["interval95"]
    assert 0 < low < 75 < high < 100


@pytest.mark.usefixtures("performed")
def test_run_prints_a_sentence_for_people(capsys: Capture) -> None:
    """Without --json the same numbers come as two lines of text."""
    assert main(["run", "padding-10"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "padding-10 (mini, seed 0): 3 of 4 correct, top-1 75.00%"
    assert second.startswith("95% interval ")
    assert second.endswith("%; 12 trained parameters; 1.5 s")


def test_run_reads_the_store_unless_asked_for_a_fresh_result(performed: list, capsys: Capture) -> None:
    """The second call is answered from the store with the same numbers; --fresh performs the run again."""
    answers = []
    for words in ([], [], ["--fresh"]):
        assert main(["run", "zero-shot-10-test", *words, "--json"]) == 0
        answers.append((json.loads(capsys.readouterr().out), len(performed)))
    first = answers[0][0]
    assert answers == [(first, 1), (first, 1), (first, 2)]


def test_an_interrupted_command_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Ctrl-C ends with exit code 130 and one line."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vp.commands.runs, "obtain", interrupt)
    assert main(["run", "padding-10"]) == 130
    assert capsys.readouterr().err == "interrupted: finished runs and downloads so far are kept, start again to go on\n"


# -- runs of one's own -----------------------------------------------------------------------------------------------------

OWN = """
from dataclasses import dataclass

from vp.experiments import Method, Run
from vp.experiments.methods import clip_of
from vp.prompts import Padding, PromptedCLIP
from vp.training import Recipe


@dataclass(frozen=True)
class Frame(Method):
    size: int

    def classifier(self, backbone, class_names, template, device):
        clip = clip_of(backbone, device)
        return PromptedCLIP(clip, class_names, template, Padding(self.size, clip.preprocess.size)).to(device)

    def __str__(self):
        return f"frame of {self.size} px"


RECIPE = Recipe("adam", learning_rate=0.1, warmup_steps=0, epochs=1, batch_size=32)
RUNS = [Run("frame-2", "own", "mini", "mini10", "test", "mini-clip", Frame(2), RECIPE, limit=40)]
"""


@pytest.mark.slow
def test_a_method_of_ones_own_is_listed_performed_and_stored(tmp_path: Path, capsys: Capture) -> None:
    """Runs of a file are listed and run by name; what comes out is found again, until the file's own statements change."""
    file = tmp_path / "frames.py"
    file.write_text(OWN)
    assert main(["list", "--runs", str(file)]) == 0
    assert "frame of 2 px" in capsys.readouterr().out
    for _ in range(2):
        assert main(["run", "frame-2", "--runs", str(file)]) == 0
        assert "frame-2 (mini, seed 0): " in capsys.readouterr().out
    stored = [path.name for path in store_folder().glob("frame-2-*.safetensors")]
    assert len(stored) == 1
    run = own_runs(file)["frame-2"]
    keys = [run_key(run, 0, "cpu")]
    for text in (f"# a remark\n{OWN}", OWN.replace("self.size, clip", "self.size + 1, clip")):
        file.write_text(text)
        keys.append(run_key(run, 0, "cpu"))
    assert keys[0] == keys[1] != keys[2]
    assert {key[:24] in stored[0] for key in keys[:2]} == {True}


@pytest.mark.slow
def test_a_method_without_a_file_is_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class made at a prompt has no code that a key could know: it is refused before anything is trained."""
    space = vars(ModuleType("at_a_prompt"))
    monkeypatch.setitem(sys.modules, "at_a_prompt", ModuleType("at_a_prompt"))
    exec(OWN, space)
    with pytest.raises(VpError, match=r"the code of Frame has no file, .*: define the method in a .py file"):
        run_key(space["RUNS"][0], 0, "cpu")


@pytest.mark.parametrize(("text", "complaint"), [("RUNS = []", "RUNS = []"), ("", "RUNS = None"), (None, "there is no file")])
def test_a_file_without_runs_is_one_line(text: str | None, complaint: str, tmp_path: Path, capsys: Capture) -> None:
    """What is no file, or has no list of Runs, is an error that says what to give."""
    file = tmp_path / f"own_{len(complaint)}.py"
    if text is not None:
        file.write_text(text)
    assert complaint in assert_one_line_error(main, ["list", "--runs", str(file)], capsys)


# -- ask -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def random_clip() -> FrozenCLIP:
    """The miniature CLIP's architecture with random weights: what it answers does not matter here."""
    return FrozenCLIP("mini-clip", new_mini_clip(), mini_tokenizer(), Preprocess(IMAGE_PX), known_tokens())


@pytest.fixture
def _quick_clip(random_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vp.commands.ask, "load_clip", lambda name, device: random_clip)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of several shapes, one in a folder below."""
    pictures = tmp_path / "pictures"
    (pictures / "deep").mkdir(parents=True)
    for name, size, colour in (("wide.png", (50, 20), "red"), ("tall.jpg", (3, 90), "blue"), ("deep/dot.gif", (1, 1), "lime")):
        Image.new("RGB", size, colour).save(pictures / name)
    return pictures


def ask(folder: Path, *more: object, template: str = "a photo of a {}", labels: tuple[str, ...] = ("red", "blue")) -> list[str]:
    return ["ask", "--images", str(folder), "--template", template, "--labels", *labels, *map(str, more)]


@pytest.mark.usefixtures("_quick_clip")
def test_ask_gives_every_picture_a_probability_for_every_label(folder: Path, capsys: Capture) -> None:
    """Free-form prompting answers for each picture with probabilities that add up to 1, as JSON or as text."""
    labels = ("red", "blue", "green")
    assert main(ask(folder, "--json", labels=labels)) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [Path(answer["image"]).name for answer in answers] == ["dot.gif", "tall.jpg", "wide.png"]
    for answer in answers:
        assert tuple(answer["probabilities"]) == labels
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert main(ask(folder, labels=labels)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [answer["image"] for answer in answers]
    shown = [f"{label} {value:.1%}" for label, value in answers[0]["probabilities"].items()]
    assert lines[0].split("\t")[1:] == shown


@pytest.mark.usefixtures("_quick_clip")
def test_ask_says_which_words_the_model_does_not_know(folder: Path, capsys: Capture) -> None:
    """A word that the miniature CLIP has never seen is named on stderr, beside the answer."""
    assert main(ask(folder, labels=("red", "zebra"))) == 0
    said = capsys.readouterr()
    assert said.err == "note: mini-clip has never seen the word(s) zebra; its answer ignores them\n"
    assert len(said.out.splitlines()) == 3


@pytest.mark.usefixtures("_quick_clip")
@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: file names are bytes on Linux only")
def test_ask_shows_names_that_are_no_text(tmp_path: Path, capsys: Capture) -> None:
    """A file name whose bytes are no UTF-8, as on old disks, is shown with a sign for what cannot be, printed and drawn."""
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(os.fsencode(tmp_path / "pictures") + b"/caf\xe9.png", format="PNG")
    assert main(ask(tmp_path / "pictures", "--out", tmp_path / "answer.svg")) == 0
    assert capsys.readouterr().out.partition("\t")[0].endswith("pictures/caf\ufffd.png")
    assert "caf\ufffd.png" in (tmp_path / "answer.svg").read_text(encoding="utf-8")


@pytest.mark.usefixtures("_quick_clip")
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_ask_draws_the_answers(folder: Path, tmp_path: Path, suffix: str, capsys: Capture) -> None:
    """--out writes one picture file of the kind its suffix says, over an older one, and leaves nothing else."""
    out = tmp_path / f"answers{suffix}"
    out.write_text("older")
    before = sorted(tmp_path.rglob("*"))
    assert main(ask(folder, "--out", out, "--most", 2)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert sorted(tmp_path.rglob("*")) == before
    if suffix == ".png":
        with Image.open(out) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100
    else:
        assert ElementTree.parse(out).getroot().tag.endswith("svg")
        assert sum(name in out.read_text() for name in ("tall.jpg", "wide.png", "deep/dot.gif")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("_quick_clip")
@pytest.mark.parametrize(
    "out", ["missing/answers.png", "pictures/wide.png/answers.png", "taken.png", "answers.docx", "answers", ".", "x" * 300 + ".png"]
)
def test_an_unwritable_drawing_leaves_nothing_half_written(folder: Path, tmp_path: Path, out: str, capsys: Capture) -> None:
    """Where --out cannot be written, the error says so and no file appears, in part or under another name."""
    (tmp_path / "taken.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    error = assert_one_line_error(main, ask(folder, "--out", tmp_path / out, "--most", 1), capsys)
    assert error.startswith(f"error: cannot write {tmp_path / out} (")
    assert error.endswith("give a file ending in .png, .svg or .pdf in a folder you can write\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_quick_clip")
def test_a_full_disk_leaves_the_older_drawing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """When the disk fills up while drawing, the file that was there is untouched and the rest is cleared away."""

    def half(self: Figure, path: Path, **_: object) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    out = tmp_path / "answers.png"
    out.write_text("older")
    before = sorted(tmp_path.rglob("*"))
    assert "(No space left on device)" in assert_one_line_error(main, ask(folder, "--out", out), capsys)
    assert out.read_text() == "older"
    assert sorted(tmp_path.rglob("*")) == before


# -- errors ----------------------------------------------------------------------------------------------------------------

PICTURES = Path("pictures")
ERRORS: dict[str, tuple[list[str], str]] = {
    "list: unknown scale": (["list", "--scale", "huge"], "no scale 'huge': give one of mini, full"),
    "run: unknown scale": (["run", "padding-10", "--scale", "huge"], "no scale 'huge': give one of mini, full"),
    "run: unknown run": (["run", "pading-10"], "no run 'pading-10' at scale mini: did you mean padding-10"),
    "run: nothing like it": (["run", "?"], "no run '?' at scale mini: did you mean "),
    "run: negative seed": (["run", "padding-10", "--seed", "-1"], "--seed -1: give 0 to"),
    "run: endless seed": (["run", "padding-10", "--seed", "9" * 30], f"--seed {'9' * 30}: give 0 to"),
    "run: no CUDA": (["run", "padding-10", "--device", "cuda"], "device 'cuda' asked for, but this machine has none"),
    "run: unknown device": (["run", "padding-10", "--device", "tpu"], "no device 'tpu': give auto, cpu, cuda, mps"),
    "run: no CIFAR": (["run", "zero-shot-10-test", "--scale", "full"], "cifar10 is not in "),
    "ask: no place for the label": (ask(PICTURES, template="a photo"), "template 'a photo' must contain {} exactly once"),
    "ask: two places": (ask(PICTURES, template="{} {}"), "template '{} {}' must contain {} exactly once"),
    "ask: named place": (ask(PICTURES, template="{label}"), "template '{label}' must contain {} exactly once"),
    "ask: empty label": (ask(PICTURES, labels=("red", " ")), "labels ['red', ' '] must be at least one non-empty name"),
    "ask: equal labels": (ask(PICTURES, labels=("red", "blue", "red")), "labels must differ, but ['red'] occur more than once"),
    "ask: too long": (ask(PICTURES, template="a " * 30 + "{}"), "tokens, but mini-clip reads 18: shorten"),
    "ask: missing folder": (ask(Path("missing")), "missing is not a folder: give a folder of pictures"),
    "ask: a file for a folder": (ask(PICTURES / "wide.png"), "wide.png is not a folder: give a folder of pictures"),
    "ask: empty folder": (ask(Path("empty")), "no pictures in empty: expected files ending in"),
    "ask: corrupt picture": (ask(Path("corrupt"), labels=("zebra",)), "cannot read corrupt/holiday.png as a picture"),
    "ask: no pictures to draw": (ask(PICTURES, "--out", "a.png", "--most", 0), "--most 0: give at least 1"),
    "ask: no CUDA": (ask(PICTURES, "--device", "cuda"), "device 'cuda' asked for, but this machine has none"),
    "pretrain: no steps": (["pretrain", "--steps", "0"], "--steps 0: give at least 1"),
    "pretrain: unwritable": (["pretrain", "--out", "pictures/wide.png/weights"], "cannot write pictures/wide.png/weights ("),
    "pretrain: no CUDA": (["pretrain", "--device", "cuda", "--out", "w"], "device 'cuda' asked for, but this machine has none"),
}


@pytest.mark.usefixtures("_quick_clip")
def test_ask_leaves_out_a_broken_picture(folder: Path, capsys: Capture) -> None:
    """A broken picture is named and left out, the rest is answered; --strict refuses."""
    (folder / "torn.png").write_bytes(b"not a picture")
    assert main(ask(folder, "--json")) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 3
    assert "torn.png as a picture" in said.err
    assert "1 of 4 pictures left out" in said.err
    assert "torn.png as a picture" in assert_one_line_error(main, ask(folder, "--strict"), capsys)


@pytest.mark.usefixtures("_quick_clip", "folder")
@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line_that_says_what_to_do(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What a user can mend is one line on stderr and exit code 2, with nothing on stdout and nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "holiday.png").write_bytes(b"not a picture")
    before = sorted(tmp_path.rglob("*"))
    words, message = ERRORS[case]
    assert message in assert_one_line_error(main, words, capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_backbone_is_one_line(folder: Path, capsys: Capture) -> None:
    """A backbone that open_clip does not know is an error that says how backbones are named."""
    error = assert_one_line_error(main, ask(folder, "--backbone", "resnet"), capsys)
    assert error.startswith("error: no CLIP named 'resnet': did you mean ")
    assert "Give mini-clip or MODEL/PRETRAINED of open_clip" in error


def test_words_that_are_no_command_end_with_the_usage(capsys: Capture) -> None:
    """Unknown commands and missing options end with exit code 2 and the usage on stderr."""
    for words in ([], ["dance"], ["run"], ["ask", "--images", "."], ["run", "padding-10", "--seed", "one"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        assert said.err.startswith("usage: python -m vp")
