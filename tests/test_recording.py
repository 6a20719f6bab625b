"""Training steps that are recorded and replayed: what a CUDA graph would do is played on the CPU, on memory that stays in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.small_clip import BLOCKS, WIDTH, small_model, tokenizer
from tests.strategies import pixels
from vp import recording
from vp.data import ImageSet, Preprocess
from vp.evaluation import ImageBatches, PrefixBatches
from vp.models import FrozenCLIP
from vp.prompts import BatchScrambledDeepPrompt, DeepPrompt, FastDeepPromptedCLIP, PromptedCLIP
from vp.prompts.deep import Readout
from vp.recording import NotRecordedWarning, Record, recorded
from vp.runtime import seed_everything
from vp.training import Fit, Recipe, accumulate_gradient, fit

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


def deep(clip: FrozenCLIP, block: int, readout: Readout, cls: type[DeepPrompt]) -> tuple[FastDeepPromptedCLIP, PrefixBatches]:
    """A model with a new prompt, and 11 images for it."""
    seed_everything(0)
    prompt = cls(3, WIDTH, block, "front", readout)
    images = ImageSet("some", "train", pixels(0, 11, 3, 16, 16), torch.arange(11) % 2, NAMES)
    return FastDeepPromptedCLIP(clip, NAMES, prompt=prompt), PrefixBatches(ImageBatches(images, clip.preprocess), clip, prompt)


def trained(model: FastDeepPromptedCLIP, batches: PrefixBatches) -> Fit:
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
    monkeypatch.setitem(recording.RECORDERS, "cpu", in_place(model, calls))
    assert_equal(trained(model, batches), plain)
    assert calls.count("recorded") == 2
    assert calls.count("replayed") == 2 + 2 * 3  # once each to be compared, and once for each step


def wrong_loss(step: Step) -> Step:
    return lambda: 2 * step()


def cannot(step: Step) -> Step:
    step()
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("record", "why"), [(wrong_loss, "it gave .* and the plain step"), (cannot, "operation not permitted when stream is capturing")]
)
def test_what_cannot_be_recorded_trains_as_it_did(
    record: Record, why: str, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where recording fails, or gives another loss than the plain step, a warning says so, and steps go on one by one."""
    plain = trained(*deep(clip, BLOCKS - 1, "class", DeepPrompt))
    monkeypatch.setitem(recording.RECORDERS, "cpu", record)
    with pytest.warns(NotRecordedWarning, match=rf"a step could not be recorded \({why}.*\): its kernels are launched one by one"):
        assert_equal(trained(*deep(clip, BLOCKS - 1, "class", DeepPrompt)), plain)


def test_a_recording_that_leaves_gradients_as_they_were_is_refused(clip: FrozenCLIP) -> None:
    """A replay must write gradients for the batch that it is given: those it was recorded with do not pass for them."""
    model, batches = deep(clip, BLOCKS - 1, "class", DeepPrompt)
    plain = partial(accumulate_gradient, model)

    def stale(step: Step) -> Step:
        step()
        gradients = [p.grad for p in (model.prompt.tokens,)]

        def replay() -> Tensor:
            loss = step()
            for own in gradients:
                own.zero_()
            return loss

        return replay

    step = recording._Recorded(model, plain, stale)
    with pytest.warns(NotRecordedWarning, match="it gave 0 and the plain step"):
        loss = step([batches[torch.arange(4)]], 4)
    found = model.prompt.tokens.grad
    model.zero_grad()
    torch.testing.assert_close(loss, plain([batches[torch.arange(4)]], 4))
    torch.testing.assert_close(found, model.prompt.tokens.grad)


def test_only_short_steps_are_recorded(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a batch, and steps through earlier blocks, are computed as they come; visual prompts, which may draw, always."""
    calls: list[str] = []
    model, batches = deep(clip, BLOCKS - 1, "class", DeepPrompt)
    monkeypatch.setitem(recording.RECORDERS, "cpu", in_place(model, calls))
    step = recorded(model, partial(accumulate_gradient, model), CPU)
    step((batches[some] for some in torch.arange(4).split(2)), 4)
    parts = model.prompt.tokens.grad
    assert calls == []
    model.zero_grad()
    step([batches[torch.arange(4)]], 4)
    assert calls == ["recorded", "replayed", "replayed"]
    torch.testing.assert_close(parts, model.prompt.tokens.grad)
    calls.clear()
    trained(*deep(clip, 1, "class", DeepPrompt))
    assert calls == []
    plain = partial(accumulate_gradient, PromptedCLIP(clip, NAMES))
    assert recorded(PromptedCLIP(clip, NAMES), plain, CPU) is plain


def test_memory_that_does_not_suffice_is_an_error(clip: FrozenCLIP) -> None:
    """A recording that runs out of memory is no failure to record: the batch is split as for plain steps."""
    model, batches = deep(clip, BLOCKS - 1, "class", DeepPrompt)

    def full(step: Step) -> Step:
        raise torch.OutOfMemoryError("full")

    step = recording._Recorded(model, partial(accumulate_gradient, model), full)
    with pytest.raises(torch.OutOfMemoryError):
        step([batches[torch.arange(4)]], 4)


@pytest.mark.gpu
@pytest.mark.parametrize("readout", ["class", "first"])
def test_a_cuda_graph_gives_the_gradients_of_plain_steps(readout: Readout, clip: FrozenCLIP) -> None:
    """On a GPU recorded steps give the losses and gradients of plain ones, batch after batch, without a warning."""
    device = torch.device("cuda")
    model, batches = deep(deepcopy(clip), BLOCKS - 1, readout, DeepPrompt)
    model.to(device)
    plain = partial(accumulate_gradient, model)
    step = recorded(model, plain, device)
    for some in torch.arange(8).split(4):
        inputs, labels = batches[some]
        inputs = type(inputs)(*(tensor.to(device) for tensor in vars(inputs).values()))
        found = []
        for accumulate in (step, plain):
            model.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("error", NotRecordedWarning)
                found.append((accumulate([(inputs, labels.to(device))], 4), model.prompt.tokens.grad.clone()))
        torch.testing.assert_close(*found, rtol=0.01, atol=1e-4)
