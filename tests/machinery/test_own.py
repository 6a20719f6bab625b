"""A run of one's own folder from the command line, and the linear probe as a method."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import pytest
import torch

from tests.machinery.test_folders import classes
from vp.__main__ import main
from vp.experiments import SCALES, LinearProbing
from vp.experiments.methods import clip_of
from vp.experiments.own import fitted, own_run
from vp.experiments.perform import images_of
from vp.machine.errors import VpError
from vp.models import LinearProbe

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("VP_HOME", str(tmp_path / "home"))
    return ["run", "--dataset", str(classes(tmp_path / "mine", each=10)), "--method", "padding", "--size", "2"]


def test_a_folder_is_run_beside_zero_shot_and_a_linear_probe(words: list[str], capsys: Capture) -> None:
    """Each seed of the method, zero-shot CLIP and the probe are measured on the same images; a second call trains nothing."""
    assert main([*words, "--recipe", "epochs=1", "--seeds", "2", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    told = whole["methods"]
    assert [(one["method"], len(one["results"])) for one in told] == [("padding, 2 px", 2), ("zero-shot", 1), ("linear probe", 2)]
    assert {result["total"] for one in told for result in one["results"]} == {4}
    assert "divided once by content" in told[0]["results"][0]["provenance"]["images"]
    assert main([*words, "--recipe", "epochs=1", "--seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert f"top-1 {told[0]['results'][1]['top1']:.2f}%, 95% " in said
    assert "mean of 2 seeds" in said
    assert whole["images"].startswith("mine: 4 test images from class folders, divided once by content")
    assert [one["against"] for one in whole["differences"]] == ["zero-shot", "linear probe"]
    for one in whole["differences"]:
        line = f"padding, 2 px against {one['against']}: {one['points']:+.2f} points, p = {one['p_value']:.2g}"
        assert line in said.splitlines(), said
    assert main([*words, "--recipe", "epochs=1", "--seeds", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == whole  # seconds included: read, not trained


def test_the_probe_on_features_is_the_probe_on_images() -> None:
    """The method's classifier on unit features gives W x + b, as LinearProbe does on images, with (D + 1) K parameters."""
    clip, device = clip_of("mini-clip"), torch.device("cpu")
    model = LinearProbing().classifier("mini-clip", ("a", "b", "c"), "{}", device)
    whole = LinearProbe(clip, 3)
    whole.head.load_state_dict(model.head.state_dict())
    images = torch.randn(5, 3, clip.preprocess.size, clip.preprocess.size)
    torch.testing.assert_close(model(model.features(images)), whole(images))
    torch.testing.assert_close(whole(images), clip.encode_image(images) @ model.head.weight.T + model.head.bias)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == (clip.width + 1) * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "no method 'magic': give one of"),
        ({"method": "padding", "block": 3}, "padding has no setting 'block': it has size"),
        ({"method": "padding", "size": 0}, "size = 0: give a whole number of at least 1"),
        ({"method": "deep", "position": "top"}, "position = 'top': give one of"),
        ({"method": "zero-shot", "recipe": "epochs=1"}, "zero-shot trains nothing"),
        ({"method": "padding", "recipe": "epoch=1"}, "--recipe has no field 'epoch'"),
        ({"method": "padding", "recipe": "epochs=0"}, "cannot train"),
        ({"method": "padding", "recipe": "epochs=2.9"}, "--recipe epochs=2.9: give a value like 2"),
        ({"method": "padding", "recipe": "epochs=null"}, "--recipe epochs=null: give a value like 2"),
        ({"method": "padding", "recipe": "epochs=many"}, "--recipe epochs=many: give a value like 2"),
    ],
)
def test_settings_that_make_no_run_are_refused(settings: dict[str, object], message: str) -> None:
    """An unknown method, a setting of another method and an impossible value are errors that say what is possible."""
    with pytest.raises(VpError, match=message):
        own_run("mini10", **settings)  # type: ignore[arg-type]


def test_equal_settings_have_one_name_and_others_another() -> None:
    """The name of a run says its dataset and method, and differs with any setting."""
    names = {own_run("a/mini10", "padding", size=size).name for size in (2, 3, 3)}
    assert len(names) == 2
    assert all(name.startswith("mini10-padding-") for name in names)


def test_the_warm_up_is_in_proportion_to_the_images(words: list[str]) -> None:
    """A folder of few images has as large a share of its steps to warm up as the scale's own images have; a given one stays."""
    folder, usual = words[2], SCALES["mini"].padding_recipe
    run = fitted(own_run(folder, "padding", size=2), None)
    assert run.recipe is not None
    assert run.recipe.warmup_steps == ceil(len(images_of(run, "train")) / 4000 * usual.warmup_steps) < usual.warmup_steps
    kept = fitted(own_run(folder, "padding", recipe="warmup_steps=7", size=2), None, "warmup_steps=7")
    assert kept.recipe is not None
    assert kept.recipe.warmup_steps == 7


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "30"], "padding, 30 px does not fit mini-clip: "),
        (["--limit", "0"], "--limit 0: give at least 10 images"),
        (["--seed", "-1"], "--seed -1: give 0 to"),
        (["--seeds", "0"], "--seeds 0: give at least 1"),
        (["--template", "a {}", "--templates", "simple"], "--template and --templates are both given"),
    ],
)
def test_what_cannot_run_is_one_line_before_anything_trains(
    more: list[str], message: str, words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt too large for the backbone, a limit, seed or template that makes no sense: an error, and nothing is trained."""
    monkeypatch.setattr("vp.commands.own.obtain", lambda *_, **__: pytest.fail("something is performed"))
    assert main([*words, *more]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"error: {message}")


def test_a_folder_too_small_to_validate_on_is_refused(words: list[str], capsys: Capture, tmp_path: Path) -> None:
    """Two training pictures leave none to choose the best epoch: an error before anything trains."""
    words[2] = str(classes(tmp_path / "tiny", each=2))
    assert main(words) == 2
    assert "has 2 training images, too few to validate on any: give at least 3" in capsys.readouterr().err


def test_options_of_a_run_of_ones_own_do_not_change_a_named_one(capsys: Capture) -> None:
    """`run NAME --size 3` is refused: the named run has settings of its own."""
    for option in (["--size", "3"], ["--seeds", "2"], ["--strict"], ["--method", "padding"]):
        assert main(["run", "padding-10", *option]) == 2
        assert f"{option[0]} belongs to a run of your own: give --dataset in place of 'padding-10'" in capsys.readouterr().err


def test_given_names_are_not_doubted(words: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Who gives words for folders called by numbers is not told to give words."""
    folder = tmp_path / "numbered"
    Path(words[2]).rename(folder)
    for nth, path in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        path.rename(folder / str(nth))
    (tmp_path / "names.txt").write_text("boat\nleaf\n")
    assert main(["run", "--dataset", str(folder), "--class-names", str(tmp_path / "names.txt")]) == 0
    assert not [one for one in recwarn if "class names are" in str(one.message)]
