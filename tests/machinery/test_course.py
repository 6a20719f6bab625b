"""Folders of the course's template are asked as they are: the stand-ins compute what they stand in for, and defects are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.course.args import args_of, own_settings
from tests.conformance.course.clip import OpenAICLIP
from tests.conformance.course.files import parts_of
from tests.conformance.course.position import TOKENS, place_of_prompt
from tests.conformance.foreign import Complaint, Foreign, GivenUp, Marks, NotClaimed
from tests.conformance.plugin import _unusable
from tests.support.course_solutions import RIGHT, SOLUTIONS, misjudged, write
from tests.support.reporting import ROOT
from tests.support.sessions import conform
from tests.support.small_clip import small_model, tokenizer
from tests.support.strategies import tensor

# where the statements are that catch defects
STATED_IN = (
    *("test_2_1_zero_shot.py", "test_2_2_visual_prompts.py", "test_2_3_deep_prompts.py", "test_2_4_noise.py", "test_2_5_union.py"),
    *("machinery/test_training.py", "machinery/test_evaluation.py"),
)
TEXTS = ["a house", "a red leaf", "moon"]


# -- the stand-in for OpenAI's clip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_the_stand_in_computes_what_the_open_clip_model_does(quick_gelu: bool) -> None:
    """Features of images and texts, logits and their gradients are open_clip's own, in OpenAI's layout."""
    model = small_model(quick_gelu=quick_gelu)
    stand_in, tokens, images = OpenAICLIP(model), tokenizer()(TEXTS), tensor(0, 2, 3, 16, 16)
    for found, expected in (
        (stand_in.encode_image(images), model.encode_image(images)),
        (stand_in.encode_text(tokens), model.encode_text(tokens)),
        (stand_in(images, tokens)[0], model.get_logits(images, tokens)[0]),
        (stand_in(images, tokens)[1], model.get_logits(images, tokens)[1]),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = []
    for encode in (stand_in.encode_image, model.encode_image):
        learnt = images.clone().requires_grad_()
        encode(learnt).square().sum().backward()
        gradients.append(learnt.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_tokens_come_first_in_the_stand_ins_blocks() -> None:
    """A block takes (L, B, D): tokens of images do not mix, and the blocks one by one are the tower."""
    model = small_model()
    visual, x = OpenAICLIP(model).visual, tensor(1, 5, 2, 16)
    together, alone = visual.transformer.resblocks[0](x), visual.transformer.resblocks[0](x[:, :1])
    torch.testing.assert_close(together[:, :1], alone)
    expected = x.transpose(0, 1)
    for block in model.visual.transformer.resblocks:
        expected = block(expected)
    torch.testing.assert_close(visual.transformer(x), expected.transpose(0, 1))


def test_the_stand_in_is_called_as_openais_model_is() -> None:
    """Parameters have OpenAI's names, and are the given model's own."""
    model = small_model()
    stand_in = OpenAICLIP(model)
    names = {name for name, _ in stand_in.named_parameters()}
    blocks = {f"resblocks.0.{part}" for part in ("attn.in_proj_weight", "ln_1.weight", "mlp.c_fc.bias", "ln_2.bias")}
    assert {f"{tower}transformer.{one}" for tower in ("", "visual.") for one in blocks} <= names
    of_visual = {"class_embedding", "positional_embedding", "proj", "conv1.weight", "ln_pre.weight", "ln_post.weight"}
    of_texts = {"positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.weight"}
    assert {f"visual.{one}" for one in of_visual} | of_texts <= names
    assert {id(one) for one in stand_in.parameters()} == {id(one) for one in model.parameters()}
    assert (stand_in.dtype, stand_in.visual.input_resolution, stand_in.training) == (torch.float32, 16, False)


@pytest.mark.parametrize(
    "vision", [{"pool_type": "avg"}, {"layers": (1, 1, 1, 1), "width": 8, "image_size": 32, "patch_size": None}]
)
def test_other_towers_have_no_stand_in(vision: dict[str, Any]) -> None:
    """A tower that is not read at its class token is refused in words."""
    with pytest.raises(ValueError, match="takes a vision transformer that is read at its class token"):
        OpenAICLIP(small_model(**vision))


# -- args ----------------------------------------------------------------------------------------------------------------------


def test_an_unknown_setting_is_none_and_told_of() -> None:
    """args.name that nobody knows gives None and a note; hasattr and getattr with a default see that it is missing."""
    told: list[str] = []
    args = args_of({"prompt_size": 3}, told.append)
    assert (args.prompt_size, hasattr(args, "dropout"), getattr(args, "dropout", 0.1)) == (3, False, 0.1)
    assert not told
    assert args.dropout is None
    assert vars(args) == {"prompt_size": 3}
    assert told == ["args.dropout is no setting of the template, nor of parse_option: it was None"]


def test_settings_of_the_solutions_own_command_line_are_taken() -> None:
    """What parse_option gives when nothing is written is known; where it ends the process nothing is."""
    from argparse import ArgumentParser

    def parse_option(required: bool = False) -> Any:
        parser = ArgumentParser()
        parser.add_argument("--dropout", type=float, default=0.3, required=required)
        return parser.parse_args()

    assert own_settings(parse_option) == {"dropout": 0.3}
    assert own_settings(lambda: parse_option(required=True)) == {}


# -- folders -------------------------------------------------------------------------------------------------------------------


def test_parts_are_found_wherever_they_lie(tmp_path: Path) -> None:
    """Parts lie in the folder, in sub-folders or deeper; copies in an environment are no part."""
    assert parts_of(RIGHT) == {"part1": RIGHT / "part1", "part2": RIGHT / "part2"}
    deep = tmp_path / "submission" / "assignment2" / "part2"
    environment = tmp_path / "venv" / "part2"
    for place in (deep, environment):
        place.mkdir(parents=True)
        (place / "vpt_model.py").write_text("")
    (environment / "vp.py").write_text("")
    assert parts_of(tmp_path) == {"part2": deep}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("course:", "it names no folder: give course:FOLDER"),
        ("course:nowhere", "there is no folder nowhere"),
        ("course:README.md", "README.md is no folder"),
        (
            "course:expectations",
            "expectations has none of the template's files, nor have its folders: expected any of cifar100_utils.py,",
        ),
    ],
)
def test_a_folder_that_is_no_solution_is_an_error_before_workers_start(label: str, words: str) -> None:
    """No folder, no files of the template: a usage error that says what is expected."""
    assert words in _unusable(label)  # which the session says as a usage error: test_conformance.py


# -- what a folder is asked ------------------------------------------------------------------------------------------------------


def asked(folder: Path, files: dict[str, str]) -> Foreign:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return Foreign(f"course:{folder}", Marks(folder / "marks", "course"), 9)


PROMPT = (
    "import torch\nfrom torch import nn\nclass PadPrompter(nn.Module):\n    def __init__(self, args):\n        super().__init__()\n"
)


def test_the_course_s_own_vp_is_not_ours(tmp_path: Path) -> None:
    """The template's module vp is imported as such, and this package is vp again afterwards."""
    import vp

    solution = asked(
        tmp_path, {"vp.py": f"{PROMPT}        self.size = args.prompt_size\n", "vpt_model.py": "from vp import PadPrompter"}
    )
    assert solution.names == ("Padding",)
    assert solution.Padding(3, 16).size == 3
    import vp as again

    assert again is vp
    assert (vp.__file__ or "").endswith("vp/__init__.py")


def test_files_that_do_not_import_are_told(tmp_path: Path) -> None:
    """A file that does not import fails where its names are asked about; a folder of such files is one sentence."""
    one = asked(tmp_path / "one", {"vp.py": PROMPT, "dpt_model.py": "import no_such_module"})
    assert set(one.names) == {"Padding", "DeepPromptedCLIP"}
    with pytest.raises(Complaint, match=r"does not import: dpt_model.py raised ModuleNotFoundError: .*no_such_module"):
        one.DeepPromptedCLIP(None, None, ["a"], 1, 0, "back", "class")
    none = asked(tmp_path / "none", {"dpt_model.py": "import no_such_module", "vp.py": "1 / 0"})
    with pytest.raises(
        GivenUp, match=r"^does not import: vp.py raised ZeroDivisionError.*; dpt_model.py raised ModuleNotFoundError"
    ):
        _ = none.names


def test_what_the_template_leaves_open_is_not_claimed(tmp_path: Path) -> None:
    """A TODO of the template raises NotImplementedError: what it would do is not asked."""
    solution = asked(tmp_path, {"vp.py": f"{PROMPT}        raise NotImplementedError\n"})
    with pytest.raises(NotClaimed):
        solution.Padding(3, 16)


def test_nothing_is_downloaded_and_no_data_is_needed(tmp_path: Path) -> None:
    """Weights are refused where no model is asked about; CIFAR is a few pictures; absent packages do nothing, and are named."""
    code = f"import wandb, seaborn\nfrom torchvision.datasets import CIFAR10\n{PROMPT}"
    code += "        wandb.init(project='x').log({'a': 1})\n        self.count = len(CIFAR10('data', download=True))\n"
    code += "        self.where = torch.zeros(1).cuda().device.type\n        open('left_here.txt', 'w').close()\n"
    code += "        if args.prompt_size == 2: torch.hub.load_state_dict_from_url('https://example.org/weights.pt')\n"
    solution = asked(tmp_path, {"vp.py": code})
    prompt = solution.Padding(1, 8)
    assert (prompt.count, prompt.where) == (20, "cpu")
    assert any(note.startswith("not installed, and stubbed: ") and "wandb" in note for note in solution.misnamed)
    with pytest.raises(Complaint, match="OSError: nothing is downloaded while a solution is asked"):
        solution.Padding(2, 8)
    assert not list(ROOT.glob("left_here.txt"))


def test_a_learner_that_cannot_be_made_costs_its_own_names_only(tmp_path: Path) -> None:
    """Models are built without a Learner that raises, frozen as the template's hint says, and that is told."""
    files = {name: (RIGHT / "part2" / name).read_text() for name in ("vp.py", "vpt_model.py", "utils.py")}
    files["learner.py"] = "class Learner:\n    def __init__(self, args):\n        raise NotImplementedError('a TODO')\n"
    files["learner.py"] += "    def run(self): ...\n    def evaluate(self, split): ...\n"
    solution, prompt = asked(tmp_path, files), torch.nn.Linear(16, 16)
    model = solution.PromptedCLIP(small_model(), tokenizer(), ["moon"], prompt)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == {
        "prompt_learner.weight",
        "prompt_learner.bias",
    }
    assert "models are built without learner.py, which raised NotImplementedError: a TODO" in solution.misnamed
    with pytest.raises(NotClaimed):
        solution.fit(
            prompt, (torch.zeros(2, 16), torch.zeros(2).long()), (torch.zeros(2, 16), torch.zeros(2).long()), 1, 0, 0, 1, 1
        )


class Prompted(torch.nn.Module):
    """A deep-prompted tower that runs its blocks itself, with n tokens at a place before block 1, and reads one token."""

    def __init__(self, clip_model: OpenAICLIP, n: int, position: str, read: int, runs: int = 1) -> None:
        super().__init__()
        self.clip_model, self.position, self.read, self.runs = clip_model, position, read, runs
        self.tokens = torch.nn.Parameter(torch.randn(n, 1, 16))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        visual = self.clip_model.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x).transpose(0, 1)
        for index, block in enumerate(visual.transformer.resblocks):
            if index == 1:
                at = {"front": 0, "after_class": 1, "back": len(x), "nowhere": 0}[self.position]
                tokens = self.tokens.expand(-1, x.shape[1], -1)[: 0 if self.position == "nowhere" else None]
                x = torch.cat([x[:at], tokens, x[at:]])
            for _ in range(self.runs):
                x = block(x)
        return visual.ln_post(x[self.read])


@pytest.mark.parametrize(
    ("position", "read", "expected"),
    [
        ("back", 0, ("back", "class")),
        ("after_class", 0, ("after_class", "class")),
        ("front", 0, ("front", "first")),
        ("front", TOKENS, ("front", "class")),
        ("nowhere", 0, ("back", "class")),
    ],
)
@pytest.mark.parametrize("runs", [1, 2])
def test_where_prompts_stand_and_what_is_read_is_found_out(position: str, read: int, expected: tuple[str, str], runs: int) -> None:
    """The position and the readout that the code has are seen in one forward, whatever else is wrong with it."""
    clip_model = OpenAICLIP(small_model())
    found = place_of_prompt(lambda n: Prompted(clip_model, n, position, read, runs), clip_model)
    assert (found.position, found.readout) == expected
    assert expected in found.supported
    assert len(found.supported) == (1 if position == "front" else 2)  # behind the class token both readouts are one


def test_each_part_has_its_own_helpers(tmp_path: Path) -> None:
    """Modules of one name beside each part are each part's own."""
    files = {
        "part1/cifar100_utils.py": "import helpers",
        "part1/train.py": "import helpers\ndef get_model(num_classes): raise ValueError(helpers.whose)\ndef evaluate_model(): ...",
        "part1/helpers.py": "whose = 'of part 1'",
        "part2/vp.py": f"import helpers\n{PROMPT}        raise ValueError(helpers.whose)\n",
        "part2/helpers.py": "whose = 'of part 2'",
    }
    solution = asked(tmp_path, files)
    with pytest.raises(Complaint, match="of part 1"):
        solution.new_head(torch.nn.Linear(1, 1), 2)
    with pytest.raises(Complaint, match="of part 2"):
        solution.Padding(3, 16)


# -- defects ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_defect_is_caught_by_the_statement_named_for_it(tmp_path: Path) -> None:
    """Each defect of the template's shape is caught by its statement, and what is right holds there.

    Only the files that a defect is about are handed in, and only those statements are asked, so that this is quick. Whole folders,
    of which everything is asked: tests/controls/check_controls.py.
    """
    names = [name for name, solution in SOLUTIONS.items() if solution.files]
    labels = [f"--impl={write(name, tmp_path, whole=False)}" for name in names]
    statements = " or ".join(sorted({solution.caught_by for solution in SOLUTIONS.values()} - {""}))
    options = ["--hypothesis-profile=unshrunk", "-k", statements, *labels, *(f"tests/{file}" for file in STATED_IN)]
    found = conform(tmp_path / "results.json", *options)
    assert [Path(one["solution"]).name for one in found] == names
    assert not (wrong := misjudged(found)), "\n".join(wrong)
