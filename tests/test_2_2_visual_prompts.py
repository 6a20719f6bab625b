"""Report 2.2: visual prompts (table 2, figures 7 and 8)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conformance.agree import agree
from tests.support.small_clip import small_model, tokenizer
from tests.support.strategies import Sizes, batches, prompt_sizes, seeds, tensor
from vp.experiments import runs
from vp.experiments.perform import images_of, restore_model
from vp.machine.runtime import pick_device
from vp.prompts import VISUAL_PROMPTS, FixedPatch, Padding, RandomPatch
from vp.report.writeup import learnt_prompt, to_svg

PROMPTS = ["FixedPatch", "RandomPatch", "Padding"]


def parameters(prompt: torch.nn.Module) -> int:
    return sum(p.numel() for p in prompt.parameters() if p.requires_grad)


def images_for(sizes: Sizes, seed: int, batch: int) -> torch.Tensor:
    return tensor(seed, batch, 3, sizes.image_size, sizes.image_size)


def learnt_by(prompt: torch.nn.Module) -> torch.Tensor:
    """All values that a prompt learns, in increasing order."""
    return torch.cat([p.detach().flatten() for p in prompt.parameters()]).sort().values


@pytest.mark.claim("prompt-parameters")
@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize(("kind", "size", "count"), [("FixedPatch", 1, 3), ("Padding", 30, 69_840)], ids=["patch", "padding"])
def test_the_reports_prompts_have_3_and_69840_parameters(impl, kind: str, size: int, count: int) -> None:
    """The one-pixel patch has 3 trainable parameters, the padding of 30 pixels 69,840."""
    found = parameters(getattr(impl, kind)(size, 224))
    assert found == count, f"{kind} of {size} px has {found:,} trainable parameters: expected {count:,}"


@pytest.mark.claim("prompt-parameter-formulas")
@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize("kind", PROMPTS)
@given(sizes=prompt_sizes())
def test_parameter_counts_follow_their_formulas(impl, kind: str, sizes: Sizes) -> None:
    """A patch of p pixels has 3 p^2 parameters, a padding of p pixels 12 p (I - p)."""
    p, image_size = sizes
    expected = 12 * p * (image_size - p) if kind == "Padding" else 3 * p**2
    found = parameters(getattr(impl, kind)(*sizes))
    assert found == expected, f"{found} trainable parameters: expected {expected}"


@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize("kind", PROMPTS)
@given(sizes=prompt_sizes(), seed=seeds, batch=batches)
def test_a_prompt_keeps_the_shape_of_its_images(impl, kind: str, sizes: Sizes, seed: int, batch: int) -> None:
    """A prompted batch has the shape of the batch."""
    images = images_for(sizes, seed, batch)
    shape = getattr(impl, kind)(*sizes)(images).shape
    assert shape == images.shape, f"images {tuple(images.shape)} came back as {tuple(shape)}"


@pytest.mark.claim("prompt-leaves-its-batch-alone")
@pytest.mark.purity
@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize("kind", PROMPTS)
@given(sizes=prompt_sizes(), seed=seeds, batch=batches)
def test_a_prompt_never_modifies_the_batch_it_is_given(impl, kind: str, sizes: Sizes, seed: int, batch: int) -> None:
    """The input batch is never modified."""
    images = images_for(sizes, seed, batch)
    before = images.clone()
    getattr(impl, kind)(*sizes)(images)
    assert torch.equal(images, before), "the batch given has changed"


@pytest.mark.claim("prompt-learns-in-every-pixel")
@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize("kind", PROMPTS)
@given(sizes=prompt_sizes(), seed=seeds, batch=batches)
def test_gradients_reach_every_prompt_parameter(impl, kind: str, sizes: Sizes, seed: int, batch: int) -> None:
    """The loss has a gradient in every learnt pixel."""
    prompt = getattr(impl, kind)(*sizes)
    prompted = prompt(images_for(sizes, seed, batch))
    assert prompted.requires_grad, "the prompted images do not depend on the prompt's parameters"
    weights = torch.rand(prompted.shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    (prompted * weights).sum().backward()
    for name, parameter in prompt.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert (parameter.grad > 0).all(), (
            f"{int((parameter.grad == 0).sum())} of {parameter.numel()} values of {name} learn nothing"
        )


@pytest.mark.claim("fixed-patch-place")
@pytest.mark.specifies("FixedPatch")
@given(sizes=prompt_sizes("FixedPatch"), seed=seeds, training=st.booleans())
def test_the_fixed_patch_is_added_at_the_top_left(impl, sizes: Sizes, seed: int, training: bool) -> None:
    """The fixed patch is added to the top left pixels and to no others, in training and evaluation mode."""
    prompt = impl.FixedPatch(*sizes)
    prompt.train(training)
    images = images_for(sizes, seed, 2)
    added = (prompt(images) - images).detach()
    patch = added[:, :, : sizes.size, : sizes.size].clone()
    added[:, :, : sizes.size, : sizes.size] = 0
    agree(added, torch.zeros_like(added), "added outside of the patch")
    for shown in patch:
        agree(shown.flatten().sort().values, learnt_by(prompt), "values added at the top left, in order")


@pytest.mark.claim("padding-place")
@pytest.mark.specifies("Padding")
@given(sizes=prompt_sizes(), seed=seeds, batch=batches, training=st.booleans())
def test_padding_leaves_the_inside_as_it_was_and_adds_each_parameter_once(
    impl, sizes: Sizes, seed: int, batch: int, training: bool
) -> None:
    """The padding is added to the frame only, each parameter to one pixel, and the same to every image; in evaluation mode, too."""
    prompt = impl.Padding(*sizes)
    prompt.train(training)
    images = images_for(sizes, seed, batch)
    added = (prompt(images) - images).detach()
    inner = slice(sizes.size, sizes.image_size - sizes.size)
    agree(added[:, :, inner, inner], torch.zeros_like(added[:, :, inner, inner]), "added inside of the frame")
    frame = torch.ones(sizes.image_size, sizes.image_size, dtype=torch.bool)
    frame[inner, inner] = False
    for shown in added:
        agree(shown[:, frame].flatten().sort().values, learnt_by(prompt), "values added to the frame, in order")
    agree(added, added[:1].expand_as(added), "added to other images than the first")


@pytest.mark.specifies("RandomPatch")
@given(sizes=prompt_sizes("RandomPatch"), seed=seeds, batch=batches, training=st.booleans())
def test_the_random_patch_is_added_whole_at_some_place_of_each_image(
    impl, sizes: Sizes, seed: int, batch: int, training: bool
) -> None:
    """The random patch appears once in every image, whole, wherever it fell, in training and evaluation mode."""
    prompt = impl.RandomPatch(*sizes)
    prompt.train(training)
    images = images_for(sizes, seed, batch)
    for shown in (prompt(images) - images).detach():
        rows, columns = (shown.abs().amax((0, axis)) > 1e-4 for axis in (2, 1))
        top, left = int(rows.int().argmax()), int(columns.int().argmax())
        here = (slice(None), slice(top, top + sizes.size), slice(left, left + sizes.size))
        values, rest = shown[here].flatten().sort().values, shown.clone()
        rest[here] = 0
        agree(rest, torch.zeros_like(rest), "added outside of the patch")
        if top + sizes.size <= sizes.image_size and left + sizes.size <= sizes.image_size:
            agree(values, learnt_by(prompt), "values added, in order")


@pytest.mark.specifies("RandomPatch")
def test_the_random_patch_reaches_every_place_and_differs_between_images(impl) -> None:
    """All places of a random patch are about equally likely, for each image by itself."""
    torch.manual_seed(0)
    prompt = impl.RandomPatch(2, 5)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.fill_(1)
        prompted, again = (prompt(torch.zeros(4000, 3, 5, 5)) for _ in range(2))
    assert not torch.equal(again, prompted), "two batches have their patches in the same places: expected them to be drawn anew"
    assert not torch.equal(prompted, prompted[:1].expand_as(prompted)), "all images of a batch have their patch in the same place"
    corners = prompted[:, 0].unfold(1, 2, 1).unfold(2, 2, 1).sum((-1, -2)).flatten(1).argmax(1)
    counts = torch.bincount(corners, minlength=16)
    chi_square = ((counts - 250) ** 2 / 250).sum()
    # 37.7 is the 0.1% point of chi-square with 15 degrees of freedom
    assert chi_square < 37.7, f"of 4,000 patches, {counts.tolist()} fell on the 16 places: expected about 250 on each"


@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize("kind", PROMPTS)
@given(seed=seeds)
def test_a_prompt_is_added_however_large_it_has_grown(impl, kind: str, seed: int) -> None:
    """Of 300 times a prompt, as large as a learning rate of 40 makes it, 300 times as much is added: nothing cuts or rounds it."""
    prompt, added = getattr(impl, kind)(2, 9), []
    with torch.no_grad():
        for size in (1, 300):
            for nth, parameter in enumerate(prompt.parameters()):
                parameter.copy_(size * tensor(seed + nth, *parameter.shape))
            added.append(prompt(torch.zeros(1, 3, 9, 9)).flatten().sort().values)
    agree(added[1], 300 * added[0], "values of 300 times the prompt on a black image, in order", atol=1e-2, rtol=1e-5)


@pytest.mark.specifies("{kind}")
@pytest.mark.parametrize(("kind", "size"), [("FixedPatch", 150), ("RandomPatch", 150), ("Padding", 30)])
@given(seed=seeds)
def test_prompts_start_as_standard_normal_values(impl, kind: str, size: int, seed: int) -> None:
    """Initial values of a prompt are N(0, 1)."""
    torch.manual_seed(seed)
    values = learnt_by(getattr(impl, kind)(size, 224))
    mean, std = values.mean().item(), values.std().item()
    assert abs(mean) < 5 / len(values) ** 0.5, f"{len(values)} initial values have mean {mean:.3g}: expected about 0"
    assert abs(std - 1) < 5 / (2 * len(values)) ** 0.5, f"{len(values)} initial values have std {std:.4g}: expected about 1"


@given(sizes=prompt_sizes())
def test_corners_of_the_padding_belong_to_up_and_down(sizes: Sizes) -> None:
    """Up and down span the whole width, left and right what is left between them."""
    size, image_size = sizes
    prompt = Padding(size, image_size)
    canvas = prompt.canvas()
    assert torch.equal(canvas[:, :, :size], prompt.up)
    assert torch.equal(canvas[:, :, -size:], prompt.down)
    assert torch.equal(canvas[:, :, size : image_size - size, :size], prompt.left)
    assert torch.equal(canvas[:, :, size : image_size - size, -size:], prompt.right)


class AddedPicture(torch.nn.Module):
    """The plainest of prompts, for those who have none: a learnt picture of the image's size."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.picture = torch.nn.Parameter(torch.randn(3, image_size, image_size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.picture


@pytest.mark.claim("only-the-prompt-learns")
@pytest.mark.specifies("PromptedCLIP")
@settings(max_examples=3)
@given(seed=seeds)
def test_nothing_but_the_prompt_gets_a_gradient(impl, seed: int) -> None:
    """Training a prompted CLIP gives gradients to every prompt pixel and to nothing else."""
    torch.manual_seed(seed)
    clip, prompt = small_model(image_size=40), AddedPicture(40)
    model = impl.PromptedCLIP(clip, tokenizer(), ["house", "car", "moon"], prompt)
    logits = model(tensor(seed, 2, 3, 40, 40))
    assert logits.requires_grad, "the logits do not depend on the prompt: nothing is learnt"
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert prompt.picture.grad is not None, "the prompt has no gradient"
    assert (prompt.picture.grad != 0).float().mean() > 0.99, "some pixels of the prompt learn nothing"
    for name, parameter in [*clip.named_parameters(), *model.named_parameters()]:
        if parameter is not prompt.picture:
            assert parameter.grad is None, f"{name} of the backbone gets a gradient"
    for name, parameter in model.named_parameters():
        assert parameter is prompt.picture or not parameter.requires_grad, f"{name} of the backbone requires a gradient"


@pytest.mark.parametrize("size", [0, -1, 112, 1.5])
def test_padding_too_large_for_the_image_is_refused(size: int) -> None:
    """A padding that leaves no image, or of no pixels, is refused with what would fit."""
    with pytest.raises(ValueError, match="give 1 to 111"):
        Padding(size, 224)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", VISUAL_PROMPTS.values(), ids=VISUAL_PROMPTS)
def test_a_prompt_is_added_where_the_images_are(kind: type[torch.nn.Module], dtype: torch.dtype) -> None:
    """Prompts are added on the device of the images, and in their precision: here a GPU that torch plays on machines without."""
    with FakeTensorMode(), torch.device("cuda"):
        prompted = kind(2, 6)(torch.zeros(4, 3, 6, 6, dtype=dtype))
    assert (prompted.device.type, prompted.dtype) == ("cuda", dtype)


@pytest.mark.parametrize("kind", [FixedPatch, RandomPatch])
def test_a_patch_larger_than_the_image_is_refused(kind) -> None:
    """A patch larger than its image is refused with what would fit."""
    with pytest.raises(ValueError, match="a patch of 41 px does not fit an image of 40 px: give 1 to 40"):
        kind(41, 40)


def test_a_frame_that_leaves_no_image_is_refused() -> None:
    """A frame must leave a middle, of one pixel at least: 2 pixels of 6 do, 3 do not."""
    assert parameters(Padding(2, 6)) == 12 * 2 * 4
    with pytest.raises(ValueError, match=r"^padding of 3 px does not fit an image of 6 px: give 1 to 2$"):
        Padding(3, 6)


@pytest.mark.parametrize("kind", VISUAL_PROMPTS.values(), ids=VISUAL_PROMPTS)
@given(sizes=prompt_sizes())
def test_images_of_another_size_are_refused(kind: type[torch.nn.Module], sizes: Sizes) -> None:
    """A prompt says which images it was made for."""
    prompt = kind(*sizes)
    i = prompt.image_size
    told = rf"^images are \(1, 3, {i + 1}, {i}\): this {kind.__name__} was made for \(B, 3, {i}, {i}\)$"
    with pytest.raises(ValueError, match=told):
        prompt(torch.zeros(1, 3, i + 1, i))


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
        f"The {kind.replace('-', ' ')} prompt learnt on {run.dataset} ({run.method.size} px, "
        f"{result.trained_parameters:,} parameters) on a grey ground, and five test images without and with it. "
        "The same pixels are added to every image, and nothing else of it changes. Values beyond black and white are clipped."
    )
    record("figure", id=figure, caption=caption, svg=to_svg(learnt, figure))
