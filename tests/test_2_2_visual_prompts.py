"""Report 2.2: visual prompts (table 2, figures 7 and 8)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.controls import prompts as controls
from tests.strategies import batches, fixed_patches, image_sizes, paddings, random_patches, seeds, tensor, visual_prompts
from vp.data import Preprocess
from vp.experiments import runs
from vp.models import FrozenCLIP
from vp.models.mini_clip import mini_tokenizer, new_mini_clip
from vp.performing import images_of, restore_model
from vp.prompts import FixedPatch, Padding, PromptedCLIP, RandomPatch
from vp.runtime import pick_device
from vp.writeup import learnt_prompt, to_svg


def parameters(prompt: torch.nn.Module) -> int:
    return sum(p.numel() for p in prompt.parameters() if p.requires_grad)


@pytest.mark.claim("prompt-parameters")
@pytest.mark.parametrize(("prompt", "count"), [(FixedPatch(1, 224), 3), (Padding(30, 224), 69_840)], ids=["patch", "padding"])
def test_the_reports_prompts_have_3_and_69840_parameters(prompt: torch.nn.Module, count: int) -> None:
    """The one-pixel patch has 3 trainable parameters, the padding of 30 pixels 69,840."""
    assert parameters(prompt) == count


@pytest.mark.claim("prompt-parameter-formulas")
@given(image_size=image_sizes, data=st.data())
def test_parameter_counts_follow_their_formulas(image_size: int, data: st.DataObject) -> None:
    """A patch of p pixels has 3 p^2 parameters, a padding of p pixels 12 p (I - p)."""
    p = data.draw(st.integers(1, (image_size - 1) // 2))
    assert parameters(FixedPatch(p, image_size)) == parameters(RandomPatch(p, image_size)) == 3 * p**2
    assert parameters(Padding(p, image_size)) == 12 * p * (image_size - p)


def assert_keeps_shape(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    images = tensor(seed, batch, 3, prompt.image_size, prompt.image_size)
    assert prompt(images).shape == images.shape


def assert_input_untouched(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    images = tensor(seed, batch, 3, prompt.image_size, prompt.image_size)
    before = images.clone()
    prompt(images)
    assert torch.equal(images, before)


def assert_gradients_reach_all(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    images = tensor(seed, batch, 3, prompt.image_size, prompt.image_size)
    weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    (prompt(images) * weights).sum().backward()
    for name, parameter in prompt.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad > 0).all(), name


def assert_patch_at_top_left(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    size, image_size = prompt.patch.shape[-1], prompt.image_size
    images = tensor(seed, batch, 3, image_size, image_size)
    out = prompt(images)
    for b in range(batch):
        for i in range(image_size):
            for j in range(image_size):
                added = prompt.patch[0, :, i, j] if i < size and j < size else torch.zeros(3)
                torch.testing.assert_close(out[b, :, i, j], images[b, :, i, j] + added)


def assert_frame_added_once(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    size, image_size = prompt.up.shape[-2], prompt.image_size
    images = tensor(seed, batch, 3, image_size, image_size)
    added = prompt(images) - images
    inner = slice(size, image_size - size)
    torch.testing.assert_close(added[:, :, inner, inner], torch.zeros_like(added[:, :, inner, inner]))
    shown = added[0].flatten().sort().values
    learnt = torch.cat([p.flatten() for p in prompt.parameters()])
    expected = torch.cat([learnt, torch.zeros(shown.numel() - learnt.numel())]).sort().values
    torch.testing.assert_close(shown, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(added, added[:1].expand_as(added), atol=1e-5, rtol=1e-5)


@given(prompt=visual_prompts, seed=seeds, batch=batches)
def test_a_prompt_keeps_the_shape_of_its_images(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    """A prompted batch has the shape of the batch."""
    assert_keeps_shape(prompt, seed, batch)


@pytest.mark.claim("prompt-leaves-its-batch-alone")
@given(prompt=visual_prompts, seed=seeds, batch=batches)
def test_a_prompt_never_modifies_the_batch_it_is_given(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    """The input batch is never modified."""
    assert_input_untouched(prompt, seed, batch)


@pytest.mark.claim("prompt-learns-in-every-pixel")
@given(prompt=visual_prompts, seed=seeds, batch=batches)
def test_gradients_reach_every_prompt_parameter(prompt: torch.nn.Module, seed: int, batch: int) -> None:
    """The loss has a gradient in every learnt pixel."""
    assert_gradients_reach_all(prompt, seed, batch)


@pytest.mark.claim("fixed-patch-place")
@given(prompt=fixed_patches(), seed=seeds)
def test_the_fixed_patch_is_added_at_the_top_left(prompt: FixedPatch, seed: int) -> None:
    """The fixed patch is added to the top left pixels and to no others."""
    assert_patch_at_top_left(prompt, seed, 2)


@pytest.mark.claim("padding-place")
@given(prompt=paddings(), seed=seeds, batch=batches)
def test_padding_leaves_the_inside_as_it_was_and_adds_each_parameter_once(prompt: Padding, seed: int, batch: int) -> None:
    """The padding is added to the frame only, each parameter to one pixel, and the same to every image."""
    assert_frame_added_once(prompt, seed, batch)


@given(prompt=paddings())
def test_corners_of_the_padding_belong_to_up_and_down(prompt: Padding) -> None:
    """Up and down span the whole width, left and right what is left between them."""
    size, image_size = prompt.up.shape[-2], prompt.image_size
    canvas = prompt.canvas()
    assert torch.equal(canvas[:, :, :size], prompt.up)
    assert torch.equal(canvas[:, :, -size:], prompt.down)
    assert torch.equal(canvas[:, :, size : image_size - size, :size], prompt.left)
    assert torch.equal(canvas[:, :, size : image_size - size, -size:], prompt.right)


@given(prompt=random_patches(), seed=seeds, batch=batches)
def test_the_random_patch_is_added_whole_at_some_place_of_each_image(prompt: RandomPatch, seed: int, batch: int) -> None:
    """The random patch appears once in every image, whole, wherever it fell."""
    size, image_size = prompt.patch.shape[-1], prompt.image_size
    images = tensor(seed, batch, 3, image_size, image_size)
    added = (prompt(images) - images).detach()
    for picture in added:
        windows = picture.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)
        here = (windows - prompt.patch).abs().amax((1, 2, 3)) < 1e-4
        assert here.any()
        torch.testing.assert_close(picture.sum(), prompt.patch.sum(), atol=1e-3, rtol=1e-3)


def test_the_random_patch_reaches_every_place_and_differs_between_images() -> None:
    """All places of a random patch are about equally likely, for each image by itself."""
    torch.manual_seed(0)
    prompt = RandomPatch(2, 5)
    with torch.no_grad():
        prompt.patch.fill_(1)
    corners = prompt(torch.zeros(4000, 3, 5, 5))[:, 0].unfold(1, 2, 1).unfold(2, 2, 1).sum((-1, -2)).flatten(1).argmax(1)
    counts = torch.bincount(corners, minlength=16)
    chi_square = ((counts - 250) ** 2 / 250).sum()
    assert chi_square < 37.7  # 0.1% point of chi-square with 15 degrees of freedom


@given(seed=seeds)
def test_prompts_start_as_standard_normal_values(seed: int) -> None:
    """Initial values of a prompt are N(0, 1)."""
    torch.manual_seed(seed)
    values = torch.cat([p.flatten() for p in Padding(30, 224).parameters()])
    assert abs(values.mean().item()) < 5 / len(values) ** 0.5
    assert abs(values.std().item() - 1) < 5 / (2 * len(values)) ** 0.5


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (controls.ModifiesItsInput(2, 9), assert_input_untouched),
        (controls.CornersCountedTwice(2, 9), assert_frame_added_once),
        (controls.EnlargesTheImage(2, 9), assert_keeps_shape),
        (controls.OverwritesPixels(2, 9), assert_patch_at_top_left),
        (controls.PatchAtTheBottomRight(2, 9), assert_patch_at_top_left),
        (controls.CopiesASide(2, 9), assert_gradients_reach_all),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else value.__name__,
)
def test_wrong_prompts_are_rejected(wrong: torch.nn.Module, rule) -> None:
    """Each wrong prompt fails the property named for it."""
    with pytest.raises(AssertionError):
        rule(wrong, 0, 2)


def test_a_prompt_cut_from_the_graph_is_rejected() -> None:
    """A prompt whose output does not depend on its parameters cannot pass the gradient property."""
    with pytest.raises(RuntimeError, match="does not require grad"):
        assert_gradients_reach_all(controls.CutFromTheGraph(2, 9), 0, 2)


@pytest.mark.claim("only-the-prompt-learns")
@given(seed=seeds, kind=st.sampled_from([lambda: FixedPatch(1, 40), lambda: RandomPatch(3, 40), lambda: Padding(6, 40)]))
def test_nothing_but_the_prompt_gets_a_gradient(clip: FrozenCLIP, seed: int, kind) -> None:
    """Training a prompted CLIP gives gradients to every prompt pixel and to nothing else."""
    torch.manual_seed(seed)
    model = PromptedCLIP(clip, ["house", "car", "moon"], prompt=kind())
    torch.nn.functional.cross_entropy(model(tensor(seed, 2, 3, 40, 40)), torch.tensor([0, 2])).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("prompt."):
            assert parameter.grad is not None
            assert (parameter.grad != 0).float().mean() > 0.99
        else:
            assert parameter.grad is None
            assert not parameter.requires_grad


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return FrozenCLIP("random", new_mini_clip(1), mini_tokenizer(), Preprocess(40))


@pytest.mark.parametrize("size", [0, -1, 112, 1.5])
def test_padding_too_large_for_the_image_is_refused(size: int) -> None:
    """A padding that leaves no image, or of no pixels, is refused with what would fit."""
    with pytest.raises(ValueError, match="give 1 to 111"):
        Padding(size, 224)


@pytest.mark.parametrize("kind", [FixedPatch, RandomPatch])
def test_a_patch_larger_than_the_image_is_refused(kind) -> None:
    """A patch larger than its image is refused with what would fit."""
    with pytest.raises(ValueError, match="a patch of 41 px does not fit an image of 40 px: give 1 to 40"):
        kind(41, 40)


@given(prompt=visual_prompts)
def test_images_of_another_size_are_refused(prompt: torch.nn.Module) -> None:
    """A prompt says which images it was made for."""
    with pytest.raises(ValueError, match="was made for"):
        prompt(torch.zeros(1, 3, prompt.image_size + 1, prompt.image_size))


# -- table 2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(run, marks=pytest.mark.reproduces(run)) for run, it in runs("mini").items() if it.table == "table_2"]
)
def test_table_2_visual_prompt_accuracy(name: str, results, judge) -> None:
    """A learnt visual prompt reaches the accuracy of table 2."""
    judge.cell(results(name))


@pytest.mark.claim("padding-beats-patch-{classes}")
@pytest.mark.reproduces
@pytest.mark.parametrize("classes", ["10", "100"])
def test_padding_beats_the_fixed_patch(classes: str, results, judge) -> None:
    """The padding prompt performs better than the fixed patch prompt."""
    judge.ordering([results(f"padding-{classes}")], [results(f"fixed-patch-{classes}")])


@pytest.mark.claim("padding-beats-baseline-{classes}")
@pytest.mark.reproduces
@pytest.mark.parametrize("classes", ["10", "100"])
def test_padding_beats_the_baseline(classes: str, results, judge) -> None:
    """The padding prompt's accuracy is higher than the zero-shot baseline's."""
    padding, baseline = results(f"padding-{classes}"), results(f"zero-shot-{classes}-test")
    judge.ordering([padding], [baseline])


@pytest.mark.claim("patch-beats-baseline-{classes}")
@pytest.mark.reproduces
@pytest.mark.parametrize("classes", ["10", "100"])
def test_the_fixed_patch_beats_the_baseline(classes: str, results, judge) -> None:
    """The fixed patch's accuracy is higher than the zero-shot baseline's."""
    patch, baseline = results(f"fixed-patch-{classes}"), results(f"zero-shot-{classes}-test")
    judge.ordering([patch], [baseline])


@pytest.mark.claim("padding-gains-more-on-100")
@pytest.mark.reproduces
def test_padding_gains_more_on_the_100_class_set(results, judge) -> None:
    """The gain of the padding over the fixed patch is larger on the 100-class set than on the 10-class set."""
    pairs = [(1.0, "padding-100"), (-1.0, "fixed-patch-100"), (-1.0, "padding-10"), (1.0, "fixed-patch-10")]
    judge.contrast([(weight, [results(name)]) for weight, name in pairs])


@pytest.mark.claim("{kind}-place")
@pytest.mark.reproduces
@pytest.mark.parametrize(("kind", "figure"), [("fixed-patch", "figure-7"), ("padding", "figure-8")])
def test_figures_7_and_8_show_the_learnt_prompts(kind: str, figure: str, results, record, find, pytestconfig) -> None:
    """Figures 7 and 8 show the learnt prompts and what they do to an image."""
    run = find(f"{kind}-100")
    result = results(run.name)[0]
    images = images_of(run, "test")
    model = restore_model(run, result, images.class_names, pick_device(pytestconfig.getoption("--device")))
    shown = model.clip.preprocess(images.pixels[:5].to(model.text_features.device))
    with torch.no_grad():
        prompted, canvas = model.prompt(shown), model.prompt.canvas()
    assert torch.equal(prompted, shown + canvas)
    back = model.clip.preprocess.to_rgb
    learnt = learnt_prompt(back(canvas)[0], list(back(shown)), list(back(prompted)), "learnt prompt")
    caption = (
        f"The {kind.replace('-', ' ')} prompt learnt on {run.dataset} ({run.prompt.size} px, "
        f"{result.trained_parameters:,} parameters) on a grey ground, and five test images without and with it. "
        "The same pixels are added to every image, and nothing else of it changes. Values beyond black and white are clipped."
    )
    record("figure", id=figure, caption=caption, svg=to_svg(learnt, figure))
