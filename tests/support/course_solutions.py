"""Solutions of the course's template: a right one (tests/conformance/examples/course), and edits of it, each with one defect.

An edit replaces a text of a file, which must be there once. `write` makes the folder of a solution, whole, or only with the files
that the edit is about, so that little is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.reporting import ROOT

AT_MOST = 3  # statements that may fail for one defect
RIGHT = ROOT / "tests" / "conformance" / "examples" / "course"
Edit = tuple[str, str, str]  # file, what stands there, what shall

DEEP = ("part2/dpt_model.py",)
VISUAL = ("part2/vp.py", "part2/vpt_model.py")
BOTH_SETS = ("part2/cross_dataset.py", "part2/main.py", "part2/dataset.py", "part2/utils.py", "part2/learner.py")
PART_1 = ("part1/train.py", "part1/cifar100_utils.py")

INJECTION = """\
            if i == self.injection_layer:
                x = torch.cat([x, self.deep_prompt.expand(-1, x.shape[1], -1)], dim=0)
            x = block(x)
"""
RANDOM_PATCH = """

class RandomPatchPrompter(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.image_size, self.prompt_size = args.image_size, args.prompt_size
        self.patch = nn.Parameter(torch.randn([1, 3, args.prompt_size, args.prompt_size]))

    def forward(self, x):
        p, prompt = self.prompt_size, torch.zeros_like(x)
        places = torch.randint(0, self.image_size - p + 1, (len(x), 2)).tolist()
        for image, (top, left) in enumerate(places):
            prompt[image, :, top : top + p, left : left + p] = self.patch[0]
        return x + prompt
"""

LAYOUT_OF_2022 = (
    ("vpt_model.py", "class VisualPromptCLIP", "class CustomCLIP"),
    ("learner.py", "from dpt_model import DeepPromptCLIP\n", ""),
    ("learner.py", "from vpt_model import VisualPromptCLIP", "from vpt_model import CustomCLIP"),
    (
        "learner.py",
        '        if args.prompt_type == "visual_prompt":\n            self.clip = VisualPromptCLIP',
        "        self.clip = CustomCLIP",
    ),
    (
        "learner.py",
        "        else:\n            self.clip = DeepPromptCLIP(args, self.test_dataset, template=args.text_prompt_template)\n",
        "",
    ),
)


@dataclass(frozen=True)
class Solution:
    """What is done to the right solution, and which test shows it; "" where it is right, too."""

    says: str
    caught_by: str = ""
    edits: tuple[Edit, ...] = ()
    files: tuple[str, ...] = ()  # that the edits are about
    is_of_2022: bool = False


SOLUTIONS = {
    "right": Solution("The template, filled in."),
    "prompts_in_front": Solution(
        "Prompts stand in front, and the first token is read: another position, and no other.",
        edits=(
            (DEEP[0], "[x, self.deep_prompt.expand(-1, x.shape[1], -1)]", "[self.deep_prompt.expand(-1, x.shape[1], -1), x]"),
            (DEEP[0], "args.prompt_num, 1, 768", "args.prompt_num, 1, clip_model.visual.transformer.width"),
        ),
        files=DEEP,
    ),
    "layout_of_2022": Solution(
        "All files in one folder, CustomCLIP, a Learner with vpt, a random patch, no deep prompts.",
        is_of_2022=True,
    ),
    "one_place_for_the_batch": Solution(
        "The random patch is put at one place of all images of a batch.",
        "test_the_random_patch_reaches_every_place_and_differs_between_images",
        edits=(("vp.py", "(len(x), 2)).tolist()", "(1, 2)).tolist() * len(x)"),),
        files=("vp.py",),
        is_of_2022=True,
    ),
    "in_place": Solution(
        "The patch is added to the batch itself.",
        "test_a_prompt_never_modifies_the_batch_it_is_given",
        edits=(
            (
                "part2/vp.py",
                "        prompt = torch.zeros([1, 3, self.image_size, self.image_size], device=x.device)\n"
                "        prompt[:, :, : self.prompt_size, : self.prompt_size] = self.patch\n        return x + prompt\n",
                "        x[:, :, : self.prompt_size, : self.prompt_size] += self.patch\n        return x\n",
            ),
        ),
        files=("part2/vp.py",),
    ),
    "corners_twice": Solution(
        "Left and right span the whole height, too: corners get two prompts.",
        "test_padding_leaves_the_inside_as_it_was_and_adds_each_parameter_once",
        edits=(
            ("part2/vp.py", "inner = image_size - 2 * pad_size", "inner = image_size"),
            ("part2/vp.py", "prompt[:, :, p : size - p, :p] += self.pad_left", "prompt[:, :, :, :p] += self.pad_left"),
            (
                "part2/vp.py",
                "prompt[:, :, p : size - p, size - p :] += self.pad_right",
                "prompt[:, :, :, size - p :] += self.pad_right",
            ),
        ),
        files=("part2/vp.py",),
    ),
    "block_twice": Solution(
        "The block runs, then once more with the prompts.",
        "test_every_block_runs_exactly_once",
        edits=(
            (
                DEEP[0],
                INJECTION,
                "            x = block(x)\n            if i == self.injection_layer:\n"
                "                x = block(torch.cat([x, self.deep_prompt.expand(-1, x.shape[1], -1)], dim=0))\n",
            ),
        ),
        files=DEEP,
    ),
    "off_by_one": Solution(
        "Prompts join behind the block that is asked for.",
        "test_the_sequence_has_n_more_tokens_from_block_k_on",
        edits=((DEEP[0], "if i == self.injection_layer:", "if i == self.injection_layer + 1:"),),
        files=DEEP,
    ),
    "scale_not_exponentiated": Solution(
        "Logits are scaled by the logarithm of the scale.",
        "test_logits_are_the_scaled_cosine",
        edits=((VISUAL[1], "return self.logit_scale * image", "return self.clip_model.logit_scale * image"),),
        files=VISUAL,
    ),
    "texts_normalised_over_classes": Solution(
        "Text features are divided by the length of a column, over all classes.",
        "test_text_features_are_open_clips_at_unit_length",
        edits=(("part2/clipzs.py", "text_features / text_features.norm(dim=-1,", "text_features / text_features.norm(dim=0,"),),
        files=("part2/clipzs.py", "part2/utils.py"),
    ),
    "nothing_frozen": Solution(
        "CLIP trains with its prompt.",
        "test_nothing_but_the_prompt_gets_a_gradient",
        edits=(
            (
                "part2/learner.py",
                'param.requires_grad = "prompt_learner" in name or "deep_prompt" in name',
                "param.requires_grad = True",
            ),
        ),
        files=(*VISUAL, *DEEP, "part2/learner.py", "part2/dataset.py", "part2/utils.py"),
    ),
    "noise_clamped": Solution(
        "Noisy images are cut to [0, 1].",
        "test_noise_cuts_nothing_off",
        edits=(
            (PART_1[1], "return img + noise * self.std + self.mean", "return (img + noise * self.std + self.mean).clamp(0, 1)"),
        ),
        files=PART_1[1:],
    ),
    "label_offset_lost": Solution(
        "Labels of CIFAR-100 stay as they are.",
        "test_the_union_keeps_every_image_with_its_own_class_name",
        edits=((BOTH_SETS[0], "[target + 10 for target in cifar100_test.targets]", "list(cifar100_test.targets)"),),
        files=BOTH_SETS,
    ),
    "best_is_an_alias": Solution(
        "The best weights are those of the model, which goes on training.",
        "test_the_accuracy_of_a_run_is_that_of_the_weights_asked_for",
        edits=(
            (PART_1[0], "torch.save(model.state_dict(), checkpoint_name)", "best_weights = model.state_dict()"),
            (PART_1[0], "model.load_state_dict(torch.load(checkpoint_name))", "model.load_state_dict(best_weights)"),
        ),
        files=PART_1,
    ),
    "best_from_0": Solution(
        "The best accuracy starts from 0: with no answer right there is no best epoch, which does not happen.",
        edits=((PART_1[0], "best_accuracy = -1.0", "best_accuracy = 0"),),
        files=PART_1,
    ),
    "accuracy_of_batches": Solution(
        "The accuracy is the mean of those of the batches, whatever their sizes; in percent.",
        "test_accuracy_is_k_of_n",
        edits=(
            (
                PART_1[0],
                "correct += (model(images).argmax(dim=1) == labels).sum().item()",
                "correct += (model(images).argmax(dim=1) == labels).float().mean().item()",
            ),
            (PART_1[0], "total += len(labels)", "total += 1"),
            (PART_1[0], "return correct / total", "return 100 * correct / total"),
        ),
        files=PART_1,
    ),
}


def write(name: str, folder: Path, *, whole: bool) -> str:
    """The folder of a solution, as --impl takes it. Raises AssertionError where an edit does not fit the right solution."""
    solution = SOLUTIONS[name]
    texts = {path.relative_to(RIGHT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(RIGHT.rglob("*.py"))}
    if solution.is_of_2022:
        texts = {file.partition("/")[2]: text for file, text in texts.items() if file != "part2/dpt_model.py"}
        texts["vp.py"] += RANDOM_PATCH
    for file, before, after in (*(LAYOUT_OF_2022 if solution.is_of_2022 else ()), *solution.edits):
        assert texts[file].count(before) == 1, f"{name}: {file} has {before!r} {texts[file].count(before)} times"
        texts[file] = texts[file].replace(before, after)
    if solution.is_of_2022:
        texts = {
            file: text.replace("self.clip.", "self.vpt.")
            .replace("self.clip =", "self.vpt =")
            .replace("self.clip(", "self.vpt(")
            .replace("learn.clip.", "learn.vpt.")
            for file, text in texts.items()
        }
    if not whole and solution.files:
        texts = {file: text for file, text in texts.items() if file in solution.files}
        if "part2/vpt_model.py" not in texts and "part2/learner.py" in texts:  # all that others import of it
            texts["part2/learner.py"] = "class Learner:\n    pass\n"
    for file, text in texts.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return f"course:{folder / name}"


def failures(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """The statements that a solution fails, by the names of their tests, with the words."""
    rows = [row for section in asked["sections"] for row in section["rows"] if row["verdict"] == "fail"]
    return [(row["test"].rpartition("::")[2].partition("[")[0], row["words"]) for row in rows]


def misjudged(asked: list[dict[str, Any]]) -> list[str]:
    """Which solutions are not judged as their defects say, in words."""
    told = []
    for one in asked:
        name, failed = Path(one["solution"]).name, failures(one)
        expected = SOLUTIONS[name].caught_by
        if one["problem"] or not one["passed"] + one["failed"]:
            told.append(f"{name}: {one['problem'] or 'nothing was asked'}")
        elif not expected and failed:
            told.append(f"{name} is right, and fails {failed}")
        elif expected and expected not in dict(failed):
            told.append(f"{name} is caught by {failed or 'nothing'}, not by {expected}")
        elif len(failed) > AT_MOST:
            told.append(f"{name} fails {len(failed)} statements: {failed}")
    return told
