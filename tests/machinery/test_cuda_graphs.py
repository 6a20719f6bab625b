"""Training steps that are recorded and replayed: what a CUDA graph would do is played on the CPU, on memory that stays in place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from tests.support.small_clip import BLOCKS, WIDTH, small_model, tokenizer
from tests.support.strategies import pixels
from vp.data import ImageSet, Preprocess
from vp.evaluation import Batches, ImageBatches, PrefixBatches
from vp.machine.runtime import seed_everything
from vp.models import FrozenCLIP
from vp.prompts import BatchScrambledDeepPrompt, DeepPrompt, FastDeepPromptedCLIP, FixedPatch, Padding, PromptedCLIP, RandomPatch
from vp.prompts.deep import Readout
from vp.training import Fit, Recipe, accumulate_gradient, cuda_graphs, fit
from vp.training.cuda_graphs import NotRecordedWarning, Record, recorded

CPU, NAMES = torch.device("cpu"), ("house", "moon")
Step = Callable[[], Tensor]


def in_place(model: torch.nn.Module, calls: list[str]) -> Record:
    """Plays a CUDA graph: what a replay computes is written to where the recorded step has left its loss and gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def record(step: Step) -> Step:
        loss = step()
        gradients = [p.grad for p in parameters]
        calls.append("recorded")

        def replay() -> Tensor:
            loss.copy_(step())
            for own, p in zip(gradients, parameters, strict=True):
                own.copy_(p.grad)
            calls.append("replayed")
            return loss

        return replay

    return record


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return FrozenCLIP("small", small_model(), tokenizer(), Preprocess(16))


def deep(
    clip: FrozenCLIP, block: int, readout: Readout, cls: type[DeepPrompt], device: torch.device = CPU
) -> tuple[FastDeepPromptedCLIP, PrefixBatches]:
    """A model with a new prompt, and 11 images for it."""
    seed_everything(0)
    prompt = cls(3, WIDTH, block, "front", readout)
    images = ImageSet("some", "train", pixels(0, 11, 3, 16, 16), torch.arange(11) % 2, NAMES)
    batches = PrefixBatches(ImageBatches(images, clip.preprocess, device), clip, prompt)
    return FastDeepPromptedCLIP(clip, NAMES, prompt=prompt).to(device), batches


def trained(model: torch.nn.Module, batches: Batches) -> Fit:
    """Two epochs in batches of 4, 4 and 3."""
    seed_everything(1)
    recipe = Recipe(learning_rate=1.0, warmup_steps=0, epochs=2, batch_size=4)
    return fit(model, batches, batches, recipe, progress=False)


def assert_equal(one: Fit, other: Fit) -> None:
    assert one.history == other.history
    assert all(torch.equal(one.last[name], value) for name, value in other.last.items())


@pytest.mark.parametrize("cls", [DeepPrompt, BatchScrambledDeepPrompt])
@pytest.mark.parametrize("readout", ["class", "first"])
def test_recorded_steps_train_what_plain_steps_train(
    readout: Readout, cls: type[DeepPrompt], clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is recorded once for each size of a batch and replayed from then on, to the same losses and weights, to the bit."""
    plain = trained(*deep(clip, BLOCKS - 1, readout, cls))
    model, batches = deep(clip, BLOCKS - 1, readout, cls)
    calls: list[str] = []
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", in_place(model, calls))
    assert_equal(trained(model, batches), plain)
    assert calls.count("recorded") == 2
    assert calls.count("replayed") == 2 + 1 + 3  # once each to be compared, then the steps that were not the first of a size


def cannot(step: Step) -> Step:
    step()
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be reported elsewhere\n")


def too_large(step: Step) -> Step:
    raise torch.OutOfMemoryError("CUDA out of memory")


def too_large_within(step: Step) -> Step:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory")
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def other_loss(step: Step) -> Step:
    return lambda: 2 * step()


def same_loss(step: Step) -> Step:
    """Gives back what it was recorded with."""
    loss = step()
    return lambda: loss


@pytest.mark.parametrize(
    ("record", "tried", "reason"),
    [
        (cannot, 1, "operation not permitted when stream is capturing"),
        (too_large, 2 * 2, "CUDA out of memory"),
        (too_large_within, 2 * 2, "CUDA out of memory"),
        (other_loss, 1, "what was recorded gives another loss or gradient"),
        (same_loss, 1, "what was recorded gives another loss or gradient"),
    ],
)
def test_what_cannot_be_recorded_trains_as_it_did(
    record: Record, tried: int, reason: str, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where recording fails, or gives other numbers than a plain step, a warning that is no error says so, and steps go on one by
    one, here and in all that this process trains. For want of memory: for this training and size of a batch, of which there are two
    here."""
    plain = trained(*deep(clip, BLOCKS - 1, "class", DeepPrompt))
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", record)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_equal(trained(*deep(clip, BLOCKS - 1, "class", DeepPrompt)), plain)
    what = f"CUDA graph capture failed ({reason}); steps run without it, which takes longer"
    assert [(warning.category, str(warning.message)) for warning in told] == [(NotRecordedWarning, what)] * tried


def test_gradients_must_be_those_of_a_plain_step(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording with the right loss whose gradients are others is not used."""
    model, batches = deep(clip, BLOCKS - 1, "class", DeepPrompt)
    tokens, batch = model.prompt.tokens, batches[torch.arange(4)]

    def lost(step: Step) -> Step:
        step()
        own = tokens.grad

        def replay() -> Tensor:
            loss = step()
            own.zero_()
            return loss

        return replay

    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", lost)
    plain = partial(accumulate_gradient, model)
    with pytest.warns(NotRecordedWarning, match="another loss or gradient"):
        loss = recorded(plain, [tokens], CPU)([batch], 4)
    found = tokens.grad
    model.zero_grad()
    assert torch.equal(loss, plain([batch], 4))
    assert torch.equal(found, tokens.grad)


def test_steps_are_recorded_once_they_are_finite(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale of losses that is too large at first, as a float16's may be, is no reason not to record later."""
    calls: list[str] = []
    model, batches = deep(clip, BLOCKS - 1, "class", DeepPrompt)
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", in_place(model, calls))
    scales = [math.inf, 1.0, 1.0, 1.0]
    step = recorded(partial(accumulate_gradient, model, scale=lambda loss: loss * scales[0]), [model.prompt.tokens], CPU)
    for expected in ([], ["recorded", "replayed"]):
        model.zero_grad()
        step([batches[torch.arange(4)]], 4)
        assert calls == expected
        del scales[0]


def test_whole_batches_are_recorded_and_nothing_else(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a split batch, and what is added to a gradient, are plain steps; the next whole batch is recorded."""
    calls: list[str] = []
    model, batches = deep(clip, BLOCKS - 1, "class", DeepPrompt)
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", in_place(model, calls))
    step = recorded(partial(accumulate_gradient, model), [model.prompt.tokens], CPU)
    step((batches[some] for some in torch.arange(4).split(2)), 4)
    parts = model.prompt.tokens.grad.clone()
    step([batches[torch.arange(4)]], 4)
    torch.testing.assert_close(model.prompt.tokens.grad, 2 * parts)
    assert calls == []
    model.zero_grad()
    step([batches[torch.arange(4)]], 4)
    assert calls == ["recorded", "replayed"]
    torch.testing.assert_close(parts, model.prompt.tokens.grad)


def trained_on_images(model: torch.nn.Module, preprocess: Preprocess, device: torch.device = CPU) -> Fit:
    """Two epochs on 11 images, in batches of 4, 4 and 3."""
    images = ImageSet("some", "train", pixels(0, 11, 3, 16, 16), torch.arange(11) % 2, NAMES)
    return trained(model, ImageBatches(images, preprocess, device))


@pytest.mark.parametrize("kind", [FixedPatch, Padding])
def test_visual_prompts_are_recorded_to_the_same_weights(
    kind: type[FixedPatch | Padding], clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visual prompt's steps are recorded as well, to the same losses and weights, to the bit."""
    calls: list[str] = []

    def model() -> PromptedCLIP:
        seed_everything(0)
        return PromptedCLIP(clip, NAMES, prompt=kind(2, 16))

    plain, other = trained_on_images(model(), clip.preprocess), model()
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", in_place(other, calls))
    assert_equal(trained_on_images(other, clip.preprocess), plain)
    assert calls.count("recorded") == 2


def test_prompts_before_an_earlier_block_are_recorded(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for tokens before the first block, whose steps pass all blocks."""
    calls: list[str] = []
    plain = trained(*deep(clip, 0, "class", DeepPrompt))
    model, batches = deep(clip, 0, "class", DeepPrompt)
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", in_place(model, calls))
    assert_equal(trained(model, batches), plain)
    assert calls.count("recorded") == 2


class Dims(torch.nn.Module):
    """A prompt of a user's own, which says nothing of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.light = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.light


def moving_statistics(clip: FrozenCLIP) -> torch.nn.Module:
    """Images to logits through a BatchNorm whose statistics move, as a fine-tuned network's do."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(3 * 16 * 16), torch.nn.Linear(3 * 16 * 16, 2))


@pytest.mark.parametrize(
    "build",
    [
        lambda clip: PromptedCLIP(clip, NAMES, prompt=RandomPatch(2, 16)),
        lambda clip: PromptedCLIP(clip, NAMES, prompt=Dims()),
        moving_statistics,
    ],
    ids=["draws", "own", "counts"],
)
def test_steps_that_draw_or_count_are_never_recorded(
    build: Callable[[FrozenCLIP], torch.nn.Module], clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay would draw the same again, or count a step several times: only what says it is `replayable` is recorded."""
    seed_everything(0)
    model, calls = build(clip), []
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cpu", in_place(model, calls))
    trained_on_images(model, clip.preprocess)
    assert calls == []


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["visual", "block 0", "last block, class", "last block, first"])
def test_a_cuda_graph_trains_what_plain_steps_train(kind: str, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU two epochs of recorded steps give the losses and weights of plain ones, without a warning."""
    device, on_gpu, fits, calls = torch.device("cuda"), deepcopy(clip).to("cuda"), [], []
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cuda", lambda step: calls.append(1) or cuda_graphs.cuda_graph(step))
    for plain in (False, True):
        if plain:
            monkeypatch.delitem(cuda_graphs.RECORDERS, "cuda")
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotRecordedWarning)
            if kind == "visual":
                seed_everything(0)
                fits.append(
                    trained_on_images(PromptedCLIP(on_gpu, NAMES, prompt=Padding(2, 16)).to(device), clip.preprocess, device)
                )
            else:
                block = 0 if kind == "block 0" else BLOCKS - 1
                fits.append(trained(*deep(on_gpu, block, "first" if "first" in kind else "class", DeepPrompt, device)))
    assert len(calls) == 2  # batches of 4 and of 3
    for one, other in zip(*(fitted.history for fitted in fits), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
    for name, value in fits[0].last.items():
        torch.testing.assert_close(value, fits[1].last[name], rtol=0.02, atol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.14", reason="NOT RUN: torch before 2.14 leaves a failed capture open: update it"
)
def test_a_gpu_goes_on_after_a_recording_that_fails(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that waits for the device cannot be captured: it leaves the stream as it was, and training goes on."""
    monkeypatch.setitem(cuda_graphs.RECORDERS, "cuda", cuda_graphs.cuda_graph)  # which is put back afterwards
    device, stream = torch.device("cuda"), torch.cuda.current_stream()
    model, batches = deep(deepcopy(clip).to(device), BLOCKS - 1, "class", DeepPrompt, device)

    def waits(parts: Iterable[cuda_graphs.Part], count: int) -> Tensor:
        loss = accumulate_gradient(model, parts, count)
        loss.item()
        return loss

    with pytest.warns(NotRecordedWarning, match="capturing"):
        recorded(waits, [model.prompt.tokens], device)([batches[torch.arange(4)]], 4)
    assert torch.cuda.current_stream() == stream
    assert trained(model, batches).history[-1]["loss"] > 0
