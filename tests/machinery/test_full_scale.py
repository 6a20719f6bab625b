"""What full scale needs of its machine: devices, memory, precision, downloads, data as it comes; and its rehearsal without any."""

from __future__ import annotations

import copy
import hashlib
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.error import URLError

import open_clip
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import vp.commands.doctor
import vp.commands.fetch
import vp.data.cifar
import vp.machine.downloads
import vp.machine.home
import vp.machine.runtime
import vp.training
from tests.controls import full_scale as controls
from tests.support import full_scale
from tests.support.asserts import Judge
from tests.support.strategies import pixels, seeds, tensor
from vp.__main__ import main
from vp.commands.bench import TABLES, bars, bench, measure, project, works
from vp.commands.doctor import examine
from vp.commands.fetch import fetch, needed, piece
from vp.data import ImageSet, Preprocess, generate_cifar, load_cifar, load_images, union
from vp.data.cifar import CLASS_NAMES, readers
from vp.data.preprocess import CLIP_STD
from vp.evaluation import ImageBatches, PrefixBatches, predict
from vp.evaluation.batches import CACHE_GIB, ComputedBatches, NotKeptWarning, cache_bytes
from vp.experiments import ZERO_SHOT, DeepTokens, NewHead, Result, find_run, runs, source_of, vary
from vp.experiments.methods import Method
from vp.experiments.perform import images_of
from vp.experiments.speed import duration
from vp.machine.devices import SHARING, VISIBLE, assign_device, give_worker_its_device, visible_devices
from vp.machine.downloads import DownloadFailed, download
from vp.machine.errors import NotAvailable, OutOfMemory, VpError
from vp.machine.runtime import device_share, mixed_precision, own_random_stream, precision
from vp.models import FineTunedFromFeatures, FineTunedNetwork, FrozenCLIP, LinearProbe, cosine_logits, load_clip, load_network
from vp.models.loading import preprocess_of
from vp.models.mini_clip import IMAGE_PX, mini_tokenizer, new_mini_clip
from vp.models.weights import check_clip_name, clip_source, find_clip_weights, note_checksum, weights_are_whole
from vp.prompts import BatchScrambledDeepPrompt, DeepPrompt, DeepPromptedCLIP, FastDeepPromptedCLIP, PromptedCLIP
from vp.prompts.deep import Readout
from vp.report.expectations import Expectation, Verdict
from vp.training import Recipe, accumulate_gradient, fit

CPU = torch.device("cpu")
Capture = pytest.CaptureFixture[str]


def name_of(function: Callable[..., object]) -> str:
    return function.__name__


# -- which worker computes where -------------------------------------------------------------------------------------------

Assign = Callable[[int, int, list[str]], tuple[str, int]]
SOME_DEVICES = st.lists(st.sampled_from(["0", "3", "5", "GPU-1", "MIG-2", "7"]), min_size=1, max_size=5, unique=True)


def assert_shared_evenly(assign: Assign, workers: int, devices: list[str]) -> None:
    given = [assign(worker, workers, devices) for worker in range(workers)]
    loads = [sum(device == one for one, _ in given) for device in devices]
    assert sum(loads) == workers
    assert max(loads) - min(loads) <= 1
    assert all(sharing == loads[devices.index(device)] for device, sharing in given)


@given(workers=st.integers(1, 12), devices=SOME_DEVICES)
def test_workers_share_the_callers_devices_evenly(workers: int, devices: list[str]) -> None:
    """Each worker has one of the caller's devices, no device has two workers more than another, and each knows who shares it."""
    assert_shared_evenly(assign_device, workers, devices)


@pytest.mark.parametrize(
    "wrong",
    [controls.everyone_on_the_first, controls.by_number_alone, controls.forgets_who_shares, controls.blocks_of_workers],
    ids=name_of,
)
def test_wrong_assignments_are_rejected(wrong: Assign) -> None:
    """Idle devices, devices that the caller did not give, and shares that are not so, fail the property."""
    with pytest.raises((AssertionError, IndexError, ValueError)):
        assert_shared_evenly(wrong, 5, ["1", "2", "3", "GPU-4"])


@pytest.mark.parametrize(
    ("given", "present", "expected"),
    [
        (None, 3, ["0", "1", "2"]),
        (None, 0, []),
        ("", 4, []),
        ("2,0", 4, ["2", "0"]),
        (" 1 , 0 ", 4, ["1", "0"]),
        ("0,-1,1", 4, ["0"]),
        ("0,9,1", 4, ["0"]),
        ("1,1,0", 4, ["1", "0"]),
        ("GPU-8932f937,MIG-77", 1, ["GPU-8932f937", "MIG-77"]),
        ("5", None, ["5"]),
        ("none", 4, []),
    ],
)
def test_the_callers_list_is_read_as_cuda_reads_it(given: str | None, present: int | None, expected: list[str]) -> None:
    """A list ends at the first device that is not there; names are left to CUDA; no list means all."""
    assert visible_devices(given, present) == expected


@pytest.mark.parametrize(
    ("environment", "present", "after"),
    [
        ({"PYTEST_XDIST_WORKER": "gw1", VISIBLE: "2,5"}, 8, {VISIBLE: "5", SHARING: "2"}),
        ({"PYTEST_XDIST_WORKER": "gw3"}, 1, {VISIBLE: "0", SHARING: "4"}),
        ({"PYTEST_XDIST_WORKER": "gw6"}, 4, {VISIBLE: "2", SHARING: "1"}),
        ({"PYTEST_XDIST_WORKER": "gw0"}, 0, {VISIBLE: "", SHARING: "1"}),
        ({"PYTEST_XDIST_WORKER": "gw0", VISIBLE: ""}, 4, {VISIBLE: "", SHARING: "1"}),
        ({"PYTEST_XDIST_WORKER": "gw0"}, None, {SHARING: "4"}),
        ({"PYTEST_XDIST_WORKER": "gw1", VISIBLE: "3,1"}, None, {VISIBLE: "1", SHARING: "2"}),
        ({VISIBLE: "1"}, 8, {VISIBLE: "1"}),
        ({"PYTEST_XDIST_WORKER": "master"}, 8, {}),
    ],
)
def test_a_worker_sees_one_device(
    environment: dict[str, str], present: int | None, after: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of pytest-xdist sees its device alone, more workers than devices share; any other process keeps what it had."""
    monkeypatch.setattr("vp.machine.devices.count_devices", lambda: present)
    found = {"PYTEST_XDIST_WORKER_COUNT": "4", **environment}
    give_worker_its_device(found)
    assert {key: value for key, value in found.items() if not key.startswith("PYTEST")} == after


def test_devices_are_given_before_torch_is_imported() -> None:
    """Neither conftest.py nor what it calls imports torch before a worker has its device."""
    code = "import sys, conftest, tests.support.full_scale, vp.machine.devices; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "False\n"


@pytest.fixture
def _tf32_allowed() -> Iterator[None]:
    """As an environment may have it; monkeypatch does not find the attributes of these objects."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.usefixtures("_tf32_allowed")
@pytest.mark.parametrize(
    ("shared", "share", "fraction"), [(None, 1, None), ("4", 4, 0.95 / 4), ("10", 10, 0.9 / 10), ("0", 1, None), ("many", 1, None)]
)
def test_workers_on_one_device_divide_its_memory(
    shared: str | None, share: int, fraction: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of w workers on a device each may take its w-th part, less a GiB for CUDA itself, and keep 40% of that for prefixes.
    Float32 is not cut to TF32."""
    monkeypatch.delenv(SHARING, raising=False)
    if shared is not None:
        monkeypatch.setenv(SHARING, shared)
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100 * 2**30))
    vp.machine.runtime._prepare_cuda.cache_clear()
    assert vp.machine.runtime.pick_device("auto") == vp.machine.runtime.pick_device("cuda") == torch.device("cuda")
    vp.machine.runtime._prepare_cuda.cache_clear()
    assert device_share() == share
    assert fractions == ([] if fraction is None else [pytest.approx(fraction)])
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert cache_bytes(torch.device("cuda")) == pytest.approx(40 * 2**30 / share)


# -- precision -------------------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """A linear layer that notes the dtype of its products."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 3), set()

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.layer(rows)
        self.seen.add(logits.dtype)
        return logits


class Rows:
    """N rows of four numbers with labels."""

    def __init__(self, count: int) -> None:
        self.inputs, self.labels = tensor(0, count, 4), torch.arange(count) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.labels[indices]


RECIPE = Recipe("sgd", learning_rate=0.1, warmup_steps=0, epochs=2, batch_size=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_compute_in_the_precision_of_the_device(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and evaluation multiply in the device's precision: float32 on a CPU, and half of it where a GPU has that."""
    assert precision(CPU) == torch.float32
    monkeypatch.setattr(vp.machine.runtime, "precision", lambda device: dtype)
    model = Watched()
    fit(model, Rows(8), Rows(3), RECIPE, progress=False)
    assert model.seen == {dtype}
    assert model.layer.weight.dtype == torch.float32


def test_a_gpu_without_bfloat16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 where the GPU has it itself, float16 elsewhere on CUDA."""
    for has, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert precision(torch.device("cuda")) == expected
    with mixed_precision(CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_logits_keep_their_precision() -> None:
    """Logits are float32 in a region of mixed precision: at a scale of 100 half a precision would make ties of classes."""
    images, texts = (torch.nn.functional.normalize(tensor(seed, 20, 64), dim=-1) for seed in (0, 1))
    expected = 100 * images @ texts.T
    with torch.autocast("cpu", torch.bfloat16):
        ours, wrong = cosine_logits(images, texts, 100.0), controls.logits_in_mixed_precision(images, texts, 100.0)
    torch.testing.assert_close(ours, expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong.float(), expected, atol=0.01, rtol=0)


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return FrozenCLIP("mini-clip, random weights", new_mini_clip(), mini_tokenizer(), Preprocess(IMAGE_PX))


def test_heads_keep_their_precision(clip: FrozenCLIP) -> None:
    """A new head gives float32 logits in a region of mixed precision, those of its own weights and of the features it is given."""
    network, images = load_network("mini-resnet/random"), tensor(0, 6, 3, IMAGE_PX, IMAGE_PX)
    whole, split, probe = FineTunedNetwork(network, 10), FineTunedFromFeatures(network, 10), LinearProbe(clip, 10)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        features = split.features(images)
        logits = [split(features), whole.eval()(images), probe(images)]
    assert {some.dtype for some in logits} == {torch.float32}
    assert torch.equal(logits[0], torch.nn.functional.linear(features.float(), split.head.weight, split.head.bias))


# Fast deep prompts at the first, middle and last block, and what their tokens are trained on.
BLOCKS = (0, 6, 11)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("readout", ["class", "first"])
@pytest.mark.parametrize("block", BLOCKS)
def test_deep_prompts_train_in_mixed_precision(
    block: int, readout: Readout, dtype: torch.dtype, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either half precision deep prompts give nearly the logits of float32, and train, from what is kept of the prefix."""
    torch.manual_seed(0)
    images = ImageSet("some", "train", pixels(0, 8, 3, IMAGE_PX, IMAGE_PX), torch.arange(8) % 2, ("red", "blue"))
    model = FastDeepPromptedCLIP(clip, images.class_names, prompt=DeepPrompt(4, 64, block, "front", readout))
    exact = DeepTokens(4, block, "front", readout).training_batches(model, images, CPU)
    inputs, labels = exact[torch.arange(8)]
    with torch.no_grad():
        expected = model(inputs)
    monkeypatch.setattr(vp.machine.runtime, "precision", lambda _: dtype)
    monkeypatch.setattr(vp.training.loop, "precision", lambda _: dtype)
    batches = PrefixBatches(ImageBatches(images, clip.preprocess), clip, model.prompt)
    before = model.prompt.tokens.detach().clone()
    with torch.no_grad(), mixed_precision(CPU):
        logits = model(batches[torch.arange(8)][0])
    assert logits.dtype == torch.float32
    kept, _ = batches[torch.arange(1)]
    for name, part in ({"tokens": kept} if isinstance(kept, Tensor) else vars(kept)).items():
        assert part.dtype == (torch.float32 if name in ("score", "value") else dtype), name
    torch.testing.assert_close(logits, expected, atol=0.02 * float(clip.scale), rtol=0)
    recipe = Recipe("adam", learning_rate=0.05, warmup_steps=0, epochs=3, batch_size=4)
    history = fit(model, batches, batches, recipe, progress=False).history
    assert history[-1]["loss"] < cross_entropy(expected, labels)
    assert not torch.equal(model.prompt.tokens, before)


def test_attention_is_fused(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the vision tower computes its attention in one fused operation, also when gradients are asked for."""
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention", lambda *args, **named: calls.append(1) or fused(*args, **named)
    )
    clip.encode_image(torch.zeros(1, 3, IMAGE_PX, IMAGE_PX, requires_grad=True))
    assert len(calls) == 12


@pytest.mark.gpu
@pytest.mark.parametrize("block", BLOCKS)
def test_a_gpu_gives_the_logits_of_the_cpu(block: int, clip: FrozenCLIP) -> None:
    """In its own precision a GPU gives nearly the logits of the CPU, zero-shot and with a deep prompt, from what is kept there."""
    torch.manual_seed(0)
    images = ImageSet("some", "test", pixels(0, 8, 3, IMAGE_PX, IMAGE_PX), torch.arange(8) % 2, ("red", "blue"))
    prompt, gpu = DeepPrompt(4, 64, block), torch.device("cuda")
    logits: dict[torch.device, list[Tensor]] = {}
    for device in (CPU, gpu):
        frozen = copy.deepcopy(clip).to(device)
        frozen.kept.clear()
        plain = PromptedCLIP(frozen, images.class_names).to(device)
        deep = FastDeepPromptedCLIP(frozen, images.class_names, prompt=copy.deepcopy(prompt)).to(device)
        with torch.no_grad(), mixed_precision(device):
            kept = PrefixBatches(ImageBatches(images, clip.preprocess, device), frozen, prompt)
            shown = [(plain, ZERO_SHOT.evaluation_batches(plain, images, device)), (deep, kept)]
            logits[device] = [model(batches[torch.arange(8)][0]).cpu() for model, batches in shown]
    for ours, expected in zip(logits[gpu], logits[CPU], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, atol=0.02 * float(clip.scale), rtol=0)


# -- too little memory -----------------------------------------------------------------------------------------------------

Accumulate = Callable[[nn.Module, Tensor, Tensor, int], float]


def in_parts(model: nn.Module, inputs: Tensor, labels: Tensor, at_once: int) -> float:
    parts = zip(inputs.split(at_once), labels.split(at_once), strict=True)
    return accumulate_gradient(model, parts, len(labels)).item()


def assert_same_gradient(accumulate: Accumulate, count: int, at_once: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model, inputs, labels = nn.Linear(4, 3), tensor(seed, count, 4), pixels(seed, count).long() % 3
    whole = cross_entropy(model(inputs), labels)
    expected = torch.autograd.grad(whole, list(model.parameters()))
    assert accumulate(model, inputs, labels, at_once) == pytest.approx(whole.item(), abs=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)


@given(count=st.integers(1, 20), at_once=st.integers(1, 25), seed=seeds)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(count: int, at_once: int, seed: int) -> None:
    """Accumulated over parts of any size, the loss and its gradient are those of the whole batch."""
    assert_same_gradient(in_parts, count, at_once, seed)


@pytest.mark.parametrize("wrong", [controls.mean_of_means, controls.sum_of_means, controls.drops_the_rest], ids=name_of)
def test_wrong_accumulations_are_rejected(wrong: Accumulate) -> None:
    """Parts that weigh alike, that add up, or that are left out do not have the gradient of the batch."""
    with pytest.raises(AssertionError):
        assert_same_gradient(wrong, 7, 4)


class SmallDevice(nn.Module):
    """A model on a device that holds `room` examples at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.room, self.tried = nn.Linear(4, 3), room, []

    def forward(self, rows: Tensor) -> Tensor:
        self.tried.append(len(rows))
        if len(rows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.layer(rows)
        return logits


def test_training_goes_on_in_smaller_parts_to_the_same_weights() -> None:
    """When memory is too small for a batch it is halved until it fits, once for all, and the training ends where it should."""
    trained = {}
    for room in (100, 3):
        model = SmallDevice(room)
        torch.manual_seed(0)
        trained[room] = fit(model, Rows(21), Rows(5), RECIPE, progress=False).last, model.tried
    for name, value in trained[100][0].items():
        torch.testing.assert_close(trained[3][0][name], value, atol=1e-6, rtol=1e-5)
    assert trained[3][1][:4] == [8, 4, 2, 2]
    assert max(trained[3][1][4:-8]) <= 5


@pytest.mark.parametrize(
    ("room", "batch_size", "tried"),
    [
        (100, 8, [8, 3]),
        (3, 8, [8, 4, *[2] * 5, 1]),
        (1, 8, [8, 4, 2, *[1] * 11]),
        (3, 100, [11, 5, *[2] * 5, 1]),
        (9, 10, [10, 5, 5, 1]),
    ],
)
def test_evaluation_goes_on_in_smaller_batches(room: int, batch_size: int, tried: list[int]) -> None:
    """When memory is too small for a batch, evaluation halves what it tried, once for all, and predicts the same."""
    rows, model = Rows(11), SmallDevice(room)
    predicted, true = predict(model, rows, batch_size=batch_size)
    assert model.tried == tried
    expected = SmallDevice(100).layer(rows.inputs).argmax(1)
    assert torch.equal(predicted, expected)
    assert torch.equal(true, rows.labels)


@pytest.mark.parametrize("work", [lambda m: fit(m, Rows(9), Rows(2), RECIPE, progress=False), lambda m: predict(m, Rows(9))])
def test_a_device_too_small_for_one_image_is_not_available(work: Callable[[nn.Module], object]) -> None:
    """A device that cannot hold a single image is NOT RUN, in one line that says what to do."""
    with pytest.raises(OutOfMemory, match="too small for a single image: give a device with more memory, fewer workers") as error:
        work(SmallDevice(0))
    assert isinstance(error.value, NotAvailable)
    assert "\n" not in str(error.value)


def test_batches_that_must_not_be_split_are_not(clip: FrozenCLIP) -> None:
    """BatchNorm that moves, and a prompt scrambled over the batch, would give other numbers in parts: that is an error."""
    drifting = nn.Sequential(nn.BatchNorm1d(4), SmallDevice(3))
    with pytest.raises(OutOfMemory, match="a batch of 8, which BatchNorm1d does not allow to be split"):
        fit(drifting, Rows(9), Rows(2), RECIPE, progress=False)
    assert len(predict(drifting.eval(), Rows(9))[0]) == 9  # at rest it looks at each image alone

    scrambled = DeepPromptedCLIP(clip, ["a", "b"], prompt=BatchScrambledDeepPrompt(4, 64, 0))
    scrambled.forward = lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemory, match="BatchScrambledDeepPrompt does not allow"):
        predict(scrambled, Rows(9))


class RowsOfSmallDevice(Rows):
    """Rows that are prepared on a device which has room for `room` of them at once."""

    def __init__(self, count: int, room: int, error: Exception) -> None:
        super().__init__(count)
        self.room, self.error = room, error

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if len(indices) > self.room:
            raise self.error
        flipped = torch.rand(len(indices)) < 0.5
        inputs, labels = super().__getitem__(indices)
        return torch.where(flipped[:, None], -inputs, inputs), labels


CPU_FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)
FULL = [torch.OutOfMemoryError("CUDA out of memory"), CPU_FULL, MemoryError()]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_preparing_a_batch_goes_on_in_smaller_parts(error: Exception) -> None:
    """When memory does not suffice to prepare a batch, training halves it as well, to the same weights and the same flips."""
    trained = []
    for room in (100, 3):
        model = SmallDevice(100)
        torch.manual_seed(0)
        trained.append(fit(model, RowsOfSmallDevice(21, room, error), Rows(5), RECIPE, progress=False).last)
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, atol=1e-6, rtol=1e-5)
    with pytest.raises(OutOfMemory, match="too small for a single image"):
        fit(model, RowsOfSmallDevice(21, 0, error), Rows(5), RECIPE, progress=False)


@pytest.mark.parametrize("work", [lambda m, rows: fit(m, rows, rows, RECIPE, progress=False), predict])
def test_other_errors_are_not_taken_for_a_lack_of_memory(work: Callable[..., object]) -> None:
    """Any other error of a batch is raised as it is, at once."""
    with pytest.raises(RuntimeError, match="shapes"):
        work(SmallDevice(9), RowsOfSmallDevice(9, 0, RuntimeError("shapes")))


class Means(ComputedBatches):
    """The mean colours of images, on a device that has room for `room` images at once."""

    room = 100
    tried: ClassVar[list[int]] = []

    def compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
        self.tried.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (inputs.mean((2, 3)),)


def some_images() -> ImageBatches:
    return ImageBatches(ImageSet("some", "train", pixels(0, 5, 3, 8, 8), torch.arange(5), tuple("abcde")), Preprocess(8))


@pytest.mark.parametrize(("room", "tried"), [(100, [5]), (3, [5, 2, 2, 1]), (1, [5, 2, *[1] * 5])])
def test_what_is_kept_is_computed_in_batches_that_fit(
    room: int, tried: list[int], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """When memory is too small for a batch of a prefix, what was tried is halved, once for all, and all is kept nonetheless."""
    whole = Means(some_images())
    monkeypatch.setattr(Means, "room", room)
    monkeypatch.setattr(Means, "tried", [])
    halved = Means(some_images())
    assert Means.tried == [1, *tried]  # one image first, to see what there is to keep
    assert halved.kept is not None
    assert torch.equal(halved.kept[0], whole.kept[0])
    assert capsys.readouterr().err == ""


def test_what_cannot_be_kept_is_computed_at_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a prefix does not fit beside what others keep on the device, it is computed batch by batch instead, and that is said."""
    images = some_images()
    kept = Means(images)
    monkeypatch.setattr(ComputedBatches, "_all", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    message = rf"^what is kept of 5 images comes to more than what memory is left; .* every pass: set {CACHE_GIB} to less, or start"
    with pytest.warns(NotKeptWarning, match=message) as warned:
        computed = Means(images)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert kept.kept is not None
    assert computed.kept is None
    assert torch.equal(kept[torch.arange(5)][0], computed[torch.arange(5)][0])


# -- downloads -------------------------------------------------------------------------------------------------------------

CONTENT = bytes(pixels(0, 100_000).tolist())
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:8]}"


class Server:
    """A web server of one file: can go on in the middle, unless told otherwise; may break off or answer an error."""

    def __init__(self) -> None:
        self.files = {"/file": CONTENT}
        self.ranges, self.most, self.status, self.asked = True, len(CONTENT), 200, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        content = self.files.get(request.path, b"")
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        self.asked.append(start)
        if self.status != 200 or start >= len(content):
            request.send_error(self.status if self.status != 200 else 416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start : start + self.most])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in vp.machine.downloads.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


Download = Callable[[str, Path, str], None]


def assert_arrives(download: Download, server: Server, path: Path) -> None:
    download(server.url, path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert not path.with_name("file.part").exists()


def assert_goes_on_where_it_stopped(download: Download, server: Server, path: Path) -> None:
    path.with_name("file.part").write_bytes(CONTENT[:60_000])
    assert_arrives(download, server, path)
    assert server.asked == [60_000]


def assert_starts_again_where_the_server_cannot_go_on(download: Download, server: Server, path: Path) -> None:
    server.ranges = False
    path.with_name("file.part").write_bytes(CONTENT[:60_000])
    assert_arrives(download, server, path)


def assert_refuses_what_is_altered(download: Download, server: Server, path: Path) -> None:
    server.files["/file"] = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadFailed, match="another checksum"):
        download(server.url, path, CHECKSUM)
    assert not path.exists()
    assert not path.with_name("file.part").exists()


RULES = (assert_goes_on_where_it_stopped, assert_starts_again_where_the_server_cannot_go_on, assert_refuses_what_is_altered)


@pytest.mark.parametrize("rule", [assert_arrives, *RULES], ids=name_of)
def test_downloads_arrive_whole_or_not_at_all(rule: Callable[..., None], server: Server, tmp_path: Path) -> None:
    """A download goes on where it stopped, starts again where the server cannot, and refuses what has another checksum."""
    rule(download, server, tmp_path / "file")


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [*zip(RULES, (controls.download_from_the_start, controls.download_appending, controls.download_believing), strict=True)],
    ids=name_of,
)
def test_wrong_downloads_are_rejected(rule: Callable[..., None], wrong: Download, server: Server, tmp_path: Path) -> None:
    """Starting from nothing, appending to anything and believing everything fail the rules."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        rule(wrong, server, tmp_path / "file")


def test_a_download_that_breaks_off_goes_on_at_the_next_start(server: Server, tmp_path: Path) -> None:
    """A connection that breaks off is one line, what has come stays, and the next start asks for the rest."""
    server.most = 70_000
    with pytest.raises(DownloadFailed, match="broke off at 70000 of 100000 bytes: start again to go on there"):
        download(server.url, tmp_path / "file", CHECKSUM)
    server.most = len(CONTENT)
    assert_arrives(download, server, tmp_path / "file")
    assert server.asked == [0, 70_000]


def test_a_file_that_is_here_is_fetched_again_only_if_it_is_damaged(server: Server, tmp_path: Path) -> None:
    """A whole file is left alone; a damaged one, such as of an interrupted copy, is replaced."""
    (tmp_path / "file").write_bytes(CONTENT[:500])
    assert_arrives(download, server, tmp_path / "file")
    assert_arrives(download, server, tmp_path / "file")
    assert len(server.asked) == 1


def test_a_part_of_another_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    """What stopped was of another file, longer than this one: it is thrown away, and the next start succeeds."""
    (tmp_path / "file.part").write_bytes(b"?" * 200_000)
    with pytest.raises(DownloadFailed, match="another checksum"):
        download(server.url, tmp_path / "file", CHECKSUM)
    assert_arrives(download, server, tmp_path / "file")


def _no_space(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=99_999))
    return tmp_path / "file"


def _not_found(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    server.status = 404
    return tmp_path / "file"


def _no_network(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    server.http.shutdown()
    server.http.server_close()
    return tmp_path / "file"


def _no_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "taken").write_text("")
    return tmp_path / "taken" / "file"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_space, r"no space for .* needs 0 MiB, 0 MiB are free; free some or set VP_HOME"),
        (_not_found, "answers 404 Not Found: try again later"),
        (_no_network, r"no network to http.* \(.*refused.*\): start again to go on, or copy "),
        (_no_folder, r"cannot write .*: free space or set VP_HOME"),
    ],
    ids=["no space", "not found", "no network", "no folder"],
)
def test_what_stops_a_download_is_one_line(
    spoil: Callable[..., Path], message: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a missing file, no network and a folder that is none are errors of one line that say what to do."""
    path = spoil(server, tmp_path, monkeypatch)
    with pytest.raises(DownloadFailed, match=message) as error:
        download(server.url, path, CHECKSUM)
    assert "\n" not in str(error.value)
    assert not path.exists()


# -- CIFAR as it comes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_ins() -> Path:
    folder = vp.machine.home.home() / vp.data.cifar.REHEARSAL / "stand-ins"
    generate_cifar(folder, train=100, test=30)
    return folder


def test_stand_ins_are_read_in_a_rehearsal_only(stand_ins: Path, tmp_path: Path) -> None:
    """A folder that brings checksums of its own is not believed, for its pickles might run code: only CIFAR's own are opened."""
    elsewhere = stand_ins.rename(tmp_path / "handed-over")
    for name in CLASS_NAMES:
        with pytest.raises(NotAvailable, match=f"{name} is truncated or damaged"):
            load_cifar(name, "test", elsewhere)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_stand_ins_are_read_like_cifar_and_say_what_they_are(name: str, stand_ins: Path) -> None:
    """Generated images in CIFAR's format come through torchvision's reader and checksums, and are named as generated."""
    for split, count in (("train", 100), ("test", 30)):
        images = load_cifar(name, split, stand_ins)
        assert images.pixels.shape == (count, 3, 32, 32)
        assert images.class_names == tuple(n.replace("_", " ") for n in CLASS_NAMES[name])
        assert images.source == f"{name}: GENERATED stand-ins, not CIFAR"
    assert len({image.numpy().tobytes() for image in images.pixels}) == 30


def test_there_are_as_many_class_names_as_classes() -> None:
    """The names by which class folders are recognised are 10 and 100 different ones, in the alphabetical order of the labels."""
    for name, count in (("cifar10", 10), ("cifar100", 100)):
        assert len(set(CLASS_NAMES[name])) == count
        assert [*CLASS_NAMES[name]] == sorted(CLASS_NAMES[name])


def test_stand_ins_are_generated_once(stand_ins: Path) -> None:
    """What is there is left alone; another size is generated anew; a damaged file is never read."""
    batch = stand_ins / "cifar-10-batches-py" / "test_batch"
    before = batch.stat().st_mtime_ns
    generate_cifar(stand_ins, train=100, test=30)
    assert batch.stat().st_mtime_ns == before
    generate_cifar(stand_ins, train=100, test=40)
    assert len(load_cifar("cifar10", "test", stand_ins)) == 40
    batch.write_bytes(batch.read_bytes()[:-10])
    with pytest.raises(NotAvailable, match=r"cifar10 is truncated or damaged in .*: run `python -m vp fetch`, or give --data"):
        load_cifar("cifar10", "test", stand_ins)


@pytest.fixture
def published(server: Server, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """As if the stand-ins were what is published: an archive on the server, with the checksums that torchvision knows."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(stand_ins / "cifar-10-batches-py", arcname="cifar-10-batches-py")
    generated = vp.data.cifar._reader("cifar10", stand_ins)
    names = {"url": f"{server.url}.tar.gz", "tgz_md5": hashlib.md5(archive.getvalue()).hexdigest()}
    monkeypatch.setitem(readers(), "cifar10", type("Published", (generated,), names))
    server.files["/file.tar.gz"] = archive.getvalue()
    server.most = len(archive.getvalue())
    return archive.getvalue()


def test_a_whole_archive_is_unpacked_where_it_lies(published: bytes, stand_ins: Path, tmp_path: Path) -> None:
    """An archive that nobody has unpacked is verified, unpacked and read."""
    root = tmp_path / "copied"
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(published)
    images = load_cifar("cifar10", "test", root)
    assert torch.equal(images.pixels, load_cifar("cifar10", "test", stand_ins).pixels)
    assert images.source == "cifar10: published files, checksums verified by torchvision"


@pytest.mark.parametrize("spoil", [lambda b: b[:-100], lambda b: b[:100] + b"?" + b[101:], lambda b: b""])
def test_a_damaged_archive_is_not_unpacked(spoil: Callable[[bytes], bytes], published: bytes, tmp_path: Path) -> None:
    """An archive that is truncated, altered or empty is not available, in one line that says how to cure it."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(spoil(published))
    with pytest.raises(NotAvailable, match=r"cifar-10-python.tar.gz is truncated or damaged, .*: run `python -m vp fetch`"):
        load_cifar("cifar10", "test", tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "stand-ins"] == []


def test_an_archive_is_unpacked_as_data(published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives are unpacked by tarfile's filter for data: what leaves the folder, or has special modes, is never written."""
    filters: list[Any] = []
    whole = tarfile.TarFile.extractall

    def extract(*places: Any, **named: Any) -> None:
        filters.append(named.get("filter"))
        whole(*places, **named)

    monkeypatch.setattr(tarfile.TarFile, "extractall", extract)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(published)
    vp.data.cifar.unpack(tmp_path / "cifar-10-python.tar.gz")
    assert filters == ["data"]
    assert (tmp_path / "cifar-10-batches-py" / "test_batch").is_file()


def class_folders(root: Path, suffix: str = ".png", name: str = "cifar10") -> dict[str, Tensor]:
    """Two pictures of each class below train and test; gives back the pixels by split, in the order of labels."""
    written: dict[str, Tensor] = {}
    for split in ("train", "test"):
        written[split] = pixels(len(split), 2 * len(CLASS_NAMES[name]), 3, 32, 32)
        for i, image in enumerate(written[split]):
            folder = root / split / CLASS_NAMES[name][i // 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}{suffix}")
    return written


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_class_folders_serve_in_place_of_the_files(below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders named as CIFAR's classes, below train and test, are recognised; --data points to them."""
    written = class_folders(tmp_path / below)
    monkeypatch.setenv("VP_DATA", str(tmp_path))
    for split, expected in written.items():
        images = load_images("cifar10", split)
        assert torch.equal(images.pixels, expected)
        assert images.labels.tolist() == [i // 2 for i in range(20)]
        assert images.source == f"cifar10: 20 {split} images from class folders of png files, not verified to be the original"
    with pytest.raises(NotAvailable, match="cifar100 is not in "):
        load_images("cifar100", "test")


def test_jpeg_copies_are_named_as_such(tmp_path: Path) -> None:
    """JPEG pictures are not CIFAR's original pixels, and the provenance says so."""
    class_folders(tmp_path, ".jpg")
    assert load_cifar("cifar10", "test", tmp_path).source.endswith("of jpg files, re-encoded copies, not the original pixels")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "cifar10" / "test" / "cat").rename(root / "cat"), "test has not the classes of cifar10: cat missing"),
        (lambda root: (root / "cifar10" / "test" / "cat").rename(root / "cifar10" / "test" / "lion"), "cat, lion missing or too"),
        (lambda root: (root / "cifar10" / "test").rename(root / "other"), "has no test images of cifar10: expected "),
        (lambda root: [(p / "cat").rename(p / "lion") for p in (root / "cifar10").iterdir()], "are not the classes of cifar10"),
    ],
    ids=["a class missing", "a class renamed", "no test", "other classes"],
)
def test_other_folders_are_not_taken_for_cifar(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    """A missing or renamed class would shift labels or change the zero-shot names: it is an error that names it."""
    class_folders(tmp_path / "cifar10")
    spoil(tmp_path)
    with pytest.raises(NotAvailable, match=message):
        load_cifar("cifar10", "test", tmp_path)


def test_class_folders_train_on_no_test_picture(tmp_path: Path) -> None:
    """A training picture that is also a test picture is left out, in any class; links to the same folder are refused."""
    class_folders(tmp_path)
    for place in ("cat", "dog"):
        shutil.copy(tmp_path / "test" / "cat" / "6.png", tmp_path / "train" / place / "copy.png")
    images = load_cifar("cifar10", "train", tmp_path)
    assert len(images) == 20
    assert images.source.endswith("; 2 train images left out that are also test images")
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(NotAvailable, match=r"all training pictures of 'airplane' in .* are test pictures as well"):
        load_cifar("cifar10", "train", tmp_path)


def test_a_broken_picture_of_cifar_is_an_error(tmp_path: Path) -> None:
    """An image set of that name has all its images, or none."""
    class_folders(tmp_path)
    (tmp_path / "test" / "cat" / "torn.png").write_bytes(b"not a picture")
    with pytest.raises(NotAvailable, match=r"1 broken picture\(s\) of cifar10, .*torn.png"):
        load_cifar("cifar10", "test", tmp_path)


def test_images_move_to_a_device_once() -> None:
    """However many runs ask for a set on a device, it is moved there once."""
    images = ImageSet("some", "test", pixels(0, 3, 3, 4, 4), torch.arange(3), tuple("abc"))
    assert images.on("cpu")[0] is images.pixels
    assert images.on("meta") is images.on(torch.device("meta"))
    assert {part.device.type for part in images.on("meta")} == {"meta"}
    assert ImageBatches(images, Preprocess(4), "meta").pixels is images.on("meta")[0]


def test_what_editors_and_notebooks_leave_in_class_folders_is_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden folders, and links that lead nowhere, among a class's pictures or beside the classes, are not looked at."""
    monkeypatch.setenv("VP_DATA", str(tmp_path))
    class_folders(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
        (tmp_path / split / "cat" / ".#0.png").symlink_to(tmp_path / "nowhere")
        assert len(load_images("cifar10", split)) == 20


# -- fetch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_fetch_brings_what_is_missing_and_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """`fetch cifar10` downloads, verifies and unpacks below VP_HOME; a second call does nothing; a copy of the folder serves."""
    monkeypatch.setenv("VP_HOME", str(tmp_path / "home"))
    assert main(["fetch", "cifar10"]) == 0
    assert capsys.readouterr().out.startswith("cifar10: fetching, about 340 MiB\nall here, in ")
    monkeypatch.setattr(vp.machine.downloads, "urlopen", lambda *_, **__: pytest.fail("the network was asked again"))
    (tmp_path / "home").rename(tmp_path / "copied")
    monkeypatch.setenv("VP_HOME", str(tmp_path / "copied"))
    assert main(["fetch", "cifar10"]) == 0
    assert capsys.readouterr().out.startswith("cifar10: here already\n")
    assert len(load_images("cifar10", "test")) == 30


@pytest.mark.usefixtures("published")
def test_fetch_brings_data_where_runs_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """With VP_DATA set, CIFAR is looked for there, by runs and by fetch."""
    monkeypatch.setenv("VP_DATA", str(tmp_path / "elsewhere"))
    assert main(["fetch", "cifar10"]) == 0
    assert (tmp_path / "elsewhere" / readers()["cifar10"].filename).is_file()
    assert main(["fetch", "cifar10"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "cifar10: here already"


@pytest.mark.parametrize("name", [name for name in needed() if "/" in name])
def test_a_folder_that_cannot_be_made_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Weights for which there can be no folder end with exit code 2 and a line that says what to set."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VP_HOME", str(tmp_path / "file" / "home"))
    for variable in vp.machine.downloads.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    assert main(["fetch", name]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: cannot write .*\(Not a directory\): .* set VP_HOME to a folder you can write\n", said)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    def hub(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub\nand we cannot find it")

    monkeypatch.setattr(vp.machine.downloads, "urlopen", refuse)
    monkeypatch.setattr(vp.commands.fetch, "hf_hub_download", hub)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "nowhere")
    for name in vp.machine.downloads.OFFLINE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("name", needed())
def test_no_network_is_one_line(name: str, capsys: Capture) -> None:
    """Without a network, fetching any piece ends with exit code 2 and one line that says how to go on."""
    assert main(["fetch", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no network to ")
    assert said.endswith("from a machine that has fetched it\n")
    assert said.count("\n") == 1


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("variable", vp.machine.downloads.OFFLINE)
def test_offline_variables_forbid_downloads(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a variable of the hubs says offline, nothing is asked for, and the error names the variable and what is missing."""
    monkeypatch.setenv(variable, "1")
    with pytest.raises(VpError, match=f"{variable} forbids downloads, and cifar10, cifar100, ViT.*, resnet18.* is missing: unset"):
        fetch(needed(), say=lambda _: pytest.fail("something was fetched"))
    monkeypatch.setenv(variable, "0")
    with pytest.raises(DownloadFailed):
        fetch(["cifar10"], say=str)


@pytest.mark.usefixtures("_no_network")
def test_missing_weights_name_the_command_that_cures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not here, or damaged, are NOT RUN with the command that brings them."""
    monkeypatch.setenv("VP_HOME", str(tmp_path))
    with pytest.raises(NotAvailable, match="run `python -m vp fetch ViT-B-32-quickgelu/openai`"):
        load_clip("ViT-B-32-quickgelu/openai")
    with pytest.raises(NotAvailable, match="run `python -m vp fetch resnet18/IMAGENET1K_V1`"):
        load_network("resnet18/IMAGENET1K_V1")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet18-f37072fd.pth").write_bytes(b"half")
    with pytest.raises(NotAvailable, match=r"resnet18-f37072fd.pth is truncated or altered, .*: delete it and run"):
        load_network("resnet18/IMAGENET1K_V1")
    assert not piece("resnet18/IMAGENET1K_V1").is_here()


def test_damaged_clip_weights_name_the_command_that_cures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weights file that an interrupted copy left half is NOT RUN, not a trace."""
    blob = tmp_path / hashlib.sha256(b"whole").hexdigest()
    blob.write_bytes(b"half")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(blob))
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("header too large")))
    with pytest.raises(NotAvailable, match=r"truncated or altered, its checksum is wrong: delete it and run `python -m vp fetch"):
        load_clip("ViT-B-32-quickgelu/openai")
    assert not piece("ViT-B-32-quickgelu/openai").is_here()
    blob.write_bytes(b"whole")
    assert piece("ViT-B-32-quickgelu/openai").is_here()
    with pytest.raises(NotAvailable, match=r"truncated or damaged \(header too large\): delete it and run `python -m vp fetch"):
        load_clip("ViT-B-32-quickgelu/openai")


TINY = {  # an architecture as open_clip's own files describe them
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def test_weights_are_read_from_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded computes what the model computed whose weights were saved, and random weights something else."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: ["own"])
    monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: {"hf_hub": "somebody/tiny/weights.safetensors"})
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "weights.safetensors"))
    torch.manual_seed(1)
    saved = open_clip.create_model("tiny").eval()
    save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    images, texts = tensor(0, 2, 3, 32, 32), ["a photo of a cat"]
    loaded = load_clip("tiny/own")
    expected = [saved.encode_image(images), saved.encode_text(open_clip.get_tokenizer("tiny")(texts))]
    found = [loaded.encode_image(images), loaded.encode_text(texts)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, nn.functional.normalize(other, dim=-1))
    assert not torch.allclose(load_clip("tiny/random").encode_image(images), found[0])


def hub_cache(root: Path, content: bytes) -> Path:
    """A cache as the hub's library lays it out, with OpenAI's weights of that content; gives back the blob."""
    place, (file, *_) = clip_source("ViT-B-32-quickgelu", "openai")
    folder = root / f"models--{place.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/0"):
        (folder / part).mkdir(parents=True)
    blob = folder / "blobs" / hashlib.sha256(b"whole").hexdigest()
    blob.write_bytes(content)
    (folder / "refs" / "main").write_text("0")
    (folder / "snapshots" / "0" / file).symlink_to(blob)
    return blob


def test_weights_of_the_hubs_own_cache_are_copied_once_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that another program fetched are copied into VP_HOME, whose copies know their checksum; theirs stay as they are."""
    name = "ViT-B-32-quickgelu/openai"
    blob = hub_cache(tmp_path / "theirs", b"whole")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setenv("VP_HOME", str(tmp_path / "ours"))
    for variable in vp.machine.downloads.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(vp.commands.fetch, "check_network", lambda _: pytest.fail("the network was asked"))
    assert not piece(name).is_here()
    fetch([name], say=str)
    assert piece(name).is_here()
    shutil.copytree(tmp_path / "ours", tmp_path / "copied")
    monkeypatch.setenv("VP_HOME", str(tmp_path / "copied"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    ours = find_clip_weights(*name.split("/"))
    assert ours is not None
    assert ours.read_bytes() == b"whole"
    ours.write_bytes(b"other")
    with pytest.raises(NotAvailable, match="its checksum is wrong"):
        load_clip(name)
    assert blob.read_bytes() == b"whole"


def test_damaged_weights_elsewhere_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged in another program's cache is neither copied nor deleted."""
    blob = hub_cache(tmp_path / "theirs", b"half")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setattr(vp.commands.fetch, "check_network", lambda _: (_ for _ in ()).throw(DownloadFailed("no network")))
    with pytest.raises(DownloadFailed):
        piece("ViT-B-32-quickgelu/openai").bring()
    assert blob.read_bytes() == b"half"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ViT-B-32-quickgel/openai",
            r"no CLIP named 'ViT-B-32-quickgel/openai': did you mean ViT-B-32-quickgelu, [\w-]+, [\w-]+\? Give mini-clip or "
            r"MODEL/PRETRAINED of open_clip, e\.g\. ViT-B-32-quickgelu/openai",
        ),
        ("ViT-B32/openai", r"no CLIP named 'ViT-B32/openai': did you mean ViT-B-32, .*"),
        ("?", r"no CLIP named '\?': did you mean mini-clip, ViT-B-32-quickgelu\? Give .*"),
        ("clp", r"no CLIP named 'clp': did you mean mini-clip\? Give .*"),
        ("ViT-B-32-quickgelu/openia", r"no weights 'openia' of ViT-B-32-quickgelu: did you mean ViT-B-32-quickgelu/openai\?"),
        (
            "ViT-B-32-quickgelu",
            r"no weights '' of ViT-B-32-quickgelu: did you mean ViT-B-32-quickgelu/openai( or ViT-B-32-quickgelu/\w+){2}\?",
        ),
        ("ViT-B-32", r"no weights '' of ViT-B-32: did you mean ViT-B-32-quickgelu/openai( or ViT-B-32(-quickgelu)?/\w+){2}\?"),
        ("ViT-B-32/openia", r"no weights 'openia' of ViT-B-32: did you mean ViT-B-32-quickgelu/openai\?"),
        (
            "roberta-ViT-B-32",
            "no weights '' of roberta-ViT-B-32: those that open_clip has are of another activation: give another model",
        ),
        ("ViT-B-32/commonpool_m_", r"no weights 'commonpool_m_' of ViT-B-32: did you mean ViT-B-32/\w+( or ViT-B-32/\w+){2}\?"),
        ("convnext_tiny/openai", "no weights 'openai' of convnext_tiny: open_clip has none"),
        ("ViT-B-32/openai", "'ViT-B-32/openai' was trained with QuickGELU: give ViT-B-32-quickgelu/openai"),
        ("RN50/openai", "'RN50/openai' was trained with QuickGELU: give RN50-quickgelu/openai"),
        ("ViT-L-14/metaclip_400m", "'ViT-L-14/metaclip_400m' was trained with QuickGELU: give ViT-L-14-quickgelu/metaclip_400m"),
        (
            "roberta-ViT-B-32/laion2b_s12b_b32k",
            "'roberta-ViT-B-32/laion2b_s12b_b32k' was trained without QuickGELU: give another model",
        ),
    ],
)
def test_an_unknown_model_or_tag_suggests_the_nearest(name: str, message: str) -> None:
    """A mistyped model or tag suggests at most three like it; weights of the other activation are an error, not a warning."""
    with pytest.raises(VpError, match=f"^{message}$"):
        check_clip_name(name)


def test_random_weights_are_those_of_the_named_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """MODEL/random builds that model, with the same weights each time, and leaves torch's stream as it was."""
    built = []

    def create(*named: str) -> Any:
        built.append(named)
        model = new_mini_clip(int(torch.randint(1000, ())))
        model.visual.image_size = 40
        return model

    monkeypatch.setattr(open_clip, "create_model", create)
    stream = torch.get_rng_state()
    first, second = load_clip("ViT-B-32/random"), load_clip("ViT-B-32/random")
    assert built == [("ViT-B-32",)] * 2
    assert torch.equal(stream, torch.get_rng_state())
    assert first.fingerprint == second.fingerprint
    assert (first.name, first.preprocess) == ("ViT-B-32/random", Preprocess(40))
    assert first.tokenizer.context_length == open_clip.get_tokenizer("ViT-B-32").context_length
    assert load_clip("mini-clip/random").fingerprint != load_clip("mini-clip").fingerprint
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: type("HFTokenizer", (), {})())
    with pytest.raises(VpError, match=r"^ViT-B-16-SigLIP/random reads text by HFTokenizer: give a model with open_clip's own"):
        load_clip("ViT-B-16-SigLIP/random")


def test_what_fits_is_kept_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes to the limit exactly is kept and computed once; a byte less room, and it is computed at every pass, as is said."""
    images = ImageSet("some", "train", pixels(0, 5, 3, 8, 8), torch.arange(5), tuple("abcde"))

    class Doubled(ComputedBatches):
        computed = 0

        def compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
            self.computed += len(inputs)
            return (2 * inputs.flatten(1)[:, :7],)

    monkeypatch.delenv("VP_CACHE_GIB", raising=False)
    assert cache_bytes(CPU) == 4 * 2**30
    for room, again in ((5 * 7 * 4, 0), (5 * 7 * 4 - 1, 2)):
        monkeypatch.setenv("VP_CACHE_GIB", repr(room / 2**30))
        with pytest.warns(NotKeptWarning, match=r"5 images comes to 1\.3e-07 GiB") if again else nullcontext():
            batches = Doubled(ImageBatches(images, Preprocess(8)))
        assert (batches.kept is None) == bool(again)
        before = batches.computed
        indices = torch.tensor([3, 1])
        inputs, labels = batches[indices]
        assert torch.equal(inputs, 2 * batches.images[indices][0].flatten(1)[:, :7])
        assert labels.tolist() == [3, 1]
        assert batches.computed - before == again


def test_the_place_of_weights_is_a_repository_and_the_files_it_may_have() -> None:
    """open_clip's records name a repository of the hub, and sometimes the one file in it."""
    assert clip_source("ViT-B-32-quickgelu", "openai") == (
        "timm/vit_base_patch32_clip_224.openai",
        ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
    )
    assert clip_source("ViTamin-S", "datacomp1b") == ("jienengchen/ViTamin-S", ["pytorch_model.bin"])


def test_weights_are_whole_when_their_checksum_is_right_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is as its checksum was noted, or as its name in the hub's cache says; without either it is taken as it is."""
    monkeypatch.setenv("VP_HOME", str(tmp_path))
    folder = tmp_path / "weights"
    folder.mkdir()
    path, other = folder / "model.bin", folder / "other.bin"
    assert not weights_are_whole(path)
    path.write_bytes(b"whole")
    assert weights_are_whole(path)
    note_checksum(path)
    other.write_bytes(b"other")
    note_checksum(other)
    assert json.loads((folder / "checksums.json").read_text("utf-8")) == {
        "model.bin": hashlib.sha256(b"whole").hexdigest(),
        "other.bin": hashlib.sha256(b"other").hexdigest(),
    }
    path.write_bytes(b"other")
    assert not weights_are_whole(path)
    assert weights_are_whole(other)
    blob = tmp_path / hashlib.sha256(b"whole").hexdigest()
    blob.write_bytes(b"other")
    assert not weights_are_whole(blob)


def test_every_model_of_open_clip_is_checked_by_its_records() -> None:
    """Of all weights that open_clip lists, those without QuickGELU pass under their plain name, those with it under the other."""
    refused = []
    for architecture, tag in open_clip.list_pretrained():
        try:
            check_clip_name(f"{architecture}/{tag}")
        except VpError as error:
            refused.append(str(error))
    assert all("QuickGELU" in reason for reason in refused)
    assert 0 < len(refused) < len(open_clip.list_pretrained()) / 2
    for tag in ("laion2b_s34b_b79k", "datacomp_xl_s13b_b90k"):
        assert check_clip_name(f"ViT-B-32/{tag}") == ("ViT-B-32", tag)
    assert check_clip_name("ViT-B-32-quickgelu/openai") == ("ViT-B-32-quickgelu", "openai")


def test_what_is_suggested_is_accepted() -> None:
    """Whoever follows a suggestion, for a model without a tag or weights of the other activation, gets no second error."""
    suggested = set()
    for name in [*open_clip.list_models(), *("/".join(pair) for pair in open_clip.list_pretrained())]:
        try:
            check_clip_name(name)
        except VpError as error:
            suggested.update(re.findall(r"[^ /]+/[^ /?]+", str(error).partition(": ")[2]))
    for name in suggested:
        assert "/".join(check_clip_name(name)) == name
    assert "ViT-B-32-quickgelu/openai" in suggested


OPENAI, HALVES, ZEROS = (0.48145466, 0.4578275, 0.40821073), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)


@pytest.mark.parametrize("size", [224, (224, 224)], ids=["number", "pair"])
@pytest.mark.parametrize(
    ("architecture", "tag", "mean", "interpolation", "squash"),
    [
        ("ViT-B-32-quickgelu", "openai", OPENAI, "bicubic", False),
        ("ViT-B-16-SigLIP", "webli", HALVES, "bicubic", True),
        ("MobileCLIP2-B", "dfndr2b", ZEROS, "bilinear", False),
        ("PE-Core-B-16", "meta", HALVES, "bilinear", True),
        ("ViT-B-32", "random", OPENAI, "bicubic", False),
    ],
)
def test_preprocessing_follows_the_models_records(
    size: Any, architecture: str, tag: str, mean: tuple[float, ...], interpolation: str, squash: bool
) -> None:
    """Mean, deviation, filter and shape of the images are those open_clip records for the weights; without weights, OpenAI's."""
    found = preprocess_of(SimpleNamespace(visual=SimpleNamespace(image_size=size)), architecture, tag)
    record = open_clip.pretrained.get_pretrained_cfg(architecture, tag) or {"std": CLIP_STD}
    assert found == Preprocess(224, mean, tuple(record["std"]), interpolation, squash)


@pytest.mark.parametrize(("size", "mode"), [((224, 112), "shortest"), ((224, 224), "longest")])
def test_preprocessing_that_is_not_built_is_refused(size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are not square, or resized by their longest side, are refused with what would do."""
    monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: {"resize_mode": mode})
    expected = rf"ViT-B-32/openai takes images of \({size[0]}, {size[1]}\) px, resized by '{mode}': give a model of square images "
    with pytest.raises(VpError, match=f"^{expected}that resizes by shortest or squash$"):
        preprocess_of(SimpleNamespace(visual=SimpleNamespace(image_size=size)), "ViT-B-32", "openai")


# -- doctor and bench ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_says_what_is_missing_and_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` names what is missing, estimates both scales, and gives the next command; with all here, another one."""
    monkeypatch.setattr(vp.commands.doctor, "_project_mini", lambda device: {"table_1": 400.0})
    monkeypatch.setattr(vp.commands.doctor, "matrix_rate", lambda device: 1e12)
    lines: list[str] = []
    examine("cpu", lines.append)
    assert any(line.startswith("data: cifar10 is not in ") for line in lines)
    assert "weights: ViT-B-32-quickgelu/openai, not here" in lines
    assert "mini scale: can run here, about 6.7 min of training and evaluation in one process, without any download" in lines
    full = next(line for line in lines if line.startswith("full scale"))
    assert full.startswith(
        "full scale: cannot run yet, cifar10, cifar100, ViT-B-32-quickgelu/openai, resnet18/IMAGENET1K_V1 missing"
    )
    assert lines[-1].startswith("next: `python -m vp fetch`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    examine("cpu", lines.append)
    assert lines[-1].startswith("next: unset HF_HUB_OFFLINE")
    monkeypatch.setattr(vp.commands.doctor, "load_cifar", lambda name, *_: SimpleNamespace(source=f"{name}: published files"))
    monkeypatch.setattr(vp.commands.doctor, "piece", lambda name: SimpleNamespace(is_here=lambda: True))
    examine("cpu", lines.append)
    assert lines[-2].startswith("full scale: can run here, about ")
    assert "--limit 1000" in lines[-1]


def test_the_doctor_names_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with less memory than full scale takes is named as too small."""
    properties = SimpleNamespace(name="Small GPU", total_memory=2 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    said = vp.commands.doctor._device(torch.device("cuda"))
    assert said == "1 x Small GPU, 2 GiB, float16; too small for full scale, which takes 4 GiB"
    lines = examined_with_everything_here(monkeypatch, torch.device("cuda"))
    assert lines[-2].startswith("full scale: cannot run on this device, too small for full scale, which takes 4 GiB")
    assert lines[-1] == f"next: `{vp.commands.doctor.LAPTOP}` for real CLIP on 1,000 real images"


def examined_with_everything_here(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[str]:
    monkeypatch.setattr(vp.commands.doctor, "pick_device", lambda _: device)
    monkeypatch.setattr(vp.commands.doctor, "_project_mini", lambda device: {"table_1": 400.0})
    monkeypatch.setattr(vp.commands.doctor, "matrix_rate", lambda device: 1e12)
    monkeypatch.setattr(vp.commands.doctor, "load_cifar", lambda name, *_: SimpleNamespace(source=f"{name}: published files"))
    monkeypatch.setattr(vp.commands.doctor, "piece", lambda name: SimpleNamespace(is_here=lambda: True))
    lines: list[str] = []
    examine("auto", lines.append)
    return lines


@pytest.mark.parametrize(
    ("devices", "gib", "cores", "workers"),
    [(1, 139, 16, 7), (1, 80, 64, 4), (1, 72.1, 64, 3), (2, 40, 64, 4), (2, 139, 8, 8), (1, 6, 64, 1)],
)
def test_the_doctor_advises_as_many_workers_as_fit(
    devices: int, gib: int, cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command has as many workers as can each keep what is computed once, and as the machine has cores for."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="GPU", total_memory=gib * 2**30))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(vp.commands.doctor, "usable_cores", lambda: cores)
    assert f"pytest -m gpu -n {workers} --html" in examined_with_everything_here(monkeypatch, torch.device("cuda"))[-1]


@pytest.mark.usefixtures("_no_network")
def test_the_doctor_reads_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data without its training images is not all here, and the doctor says so."""

    def load(name: str, split: str, root: Path) -> SimpleNamespace:
        if split == "train":
            raise NotAvailable(f"{name} is truncated")
        return SimpleNamespace(source=f"{name}: published files")

    monkeypatch.setattr(vp.commands.doctor, "load_cifar", load)
    lines: list[str] = []
    assert vp.commands.doctor._missing(lines.append)[:2] == ["cifar10", "cifar100"]
    assert lines[:2] == ["data: cifar10 is truncated", "data: cifar100 is truncated"]


def test_the_doctors_operations_are_those_of_the_network() -> None:
    """The operations an image of ViT-B/32 takes, forward and with a backward pass to the image, are what torch counts."""
    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-32-quickgelu", device="meta")
        clip = FrozenCLIP("ViT-B-32", model, mini_tokenizer(), Preprocess(224))
        images = torch.zeros(1, 3, 224, 224, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        features = clip.encode_image(images)
    with FlopCounterMode(display=False) as backward:
        features.sum().backward()
    counted = forward.get_total_flops() / 1e9, (forward.get_total_flops() + backward.get_total_flops()) / 1e9
    expected = vp.commands.doctor.GFLOP["evaluation, ViT-B-32-quickgelu"], vp.commands.doctor.GFLOP["visual prompt"]
    assert counted == pytest.approx(expected, rel=0.02)
    assert vp.commands.doctor.GFLOP.keys() == {work.name.replace(" under noise", "") for work in works("full")}


def test_the_doctor_assumes_a_share_of_the_matrix_rate_and_a_least_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image takes its operations at 35% of the matrix rate, also under noise, but never less than 10 microseconds."""
    monkeypatch.setattr(vp.commands.doctor, "matrix_rate", lambda device: 1e12)
    seconds = vp.commands.doctor._assumed(CPU)
    assert seconds("visual prompt") == pytest.approx(16.3 / 350)
    assert seconds("evaluation under noise, resnet18") == pytest.approx(3.6 / 350)
    assert seconds("head, frozen statistics") == 1e-5


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_every_run_is_projected_from_work_that_is_measured(scale: str) -> None:
    """Bench measures each kind of work that the runs of the report's tables do, and projects every table."""
    names = [work.name for work in works(scale)]
    assert len(set(names)) == len(names)
    asked: set[str] = set()
    seconds = project(scale, lambda kind: asked.add(kind) or 1.0)
    assert asked == set(names)
    assert set(TABLES) <= seconds.keys() == {run.table for run in runs(scale).values()}


def test_a_projection_counts_images() -> None:
    """At a second an image, zero-shot takes its 120,000 images, and a visual prompt 20 epochs and its test images."""
    seconds = project("full", lambda kind: 1.0)
    assert seconds["table_1"] == 2 * 50_000 + 2 * 10_000
    assert seconds["table_2"] == pytest.approx(4 * (20 * (40_000 + 10_000 / 3) + 10_000))
    assert seconds["table_6"] == 7 * 20_000
    deep = 20 * (40_000 + 10_000 / 3) + 10_000
    kept = 2 * 3 * 50_000  # of either set, before two blocks, before the last in two ways: before the first nothing is kept
    borrowed = 6 * 10_000  # cells of one scrambled token take others' weights
    assert seconds["table_3"] == pytest.approx(48 * deep + kept + borrowed)
    head, stage = (epochs * (45_000 + 5_000 / 3) + 10_000 for epochs in (30, 10))
    assert seconds["table_1_2"] == pytest.approx(4 * head + 2 * stage + 3 * 50_000)  # under the head, also mirrored; before layer4


@pytest.mark.slow
def test_bench_runs_what_it_times() -> None:
    """On the miniature scale every kind of work is really done, and comes with its rate, operations and share."""
    lines: list[str] = []
    measured = bench("mini", CPU, images=4, batch=2, say=lines.append)
    assert measured["speeds"].keys() == {work.name for work in works("mini")}
    for speed in measured["speeds"].values():
        assert 0 < speed["slowest"] <= speed["images_per_s"] <= speed["fastest"]
    visual, deep = (measured["speeds"][name] for name in ("visual prompt", "deep prompt, k = 11"))
    assert visual["gflop_per_image"] > 4 * deep["gflop_per_image"] > 0
    assert len(lines) == 4 + len(measured["speeds"]) + len(TABLES)


def test_bars_stand_beside_what_was_measured() -> None:
    """What one H200 is asked for is printed with the ratio of the last block to the first, the rate and the total."""
    lines = bars({"visual prompt": 9000.0, "deep prompt, k = 0": 8000.0, "deep prompt, k = 11": 256_000.0}, 1800.0)
    assert [line.split(":", 1)[1].split() for line in lines] == [
        ["9,000", "(on", "one", "H200:", "at", "least", "8,000)"],
        ["32.0", "times", "(on", "one", "H200:", "at", "least", "30", "times)"],
        ["30", "min", "(on", "one", "H200:", "40", "min", "or", "less)"],
    ]


def build_nothing(monkeypatch: pytest.MonkeyPatch, batches: Callable[..., None] = lambda *_, **__: None) -> None:
    """Neither models nor batches are built; `batches` is called in place of any method's `training_batches`."""
    monkeypatch.setattr("vp.commands.bench.build_model", lambda *_: None)
    for method in (Method, DeepTokens, NewHead):
        monkeypatch.setattr(method, "training_batches", batches)
        monkeypatch.setattr(method, "evaluation_batches", lambda *_, **__: None)


def test_a_gpu_is_measured_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA a measurement is repeated until it has taken 0.7 s in all; elsewhere it is made once."""
    monkeypatch.setattr("vp.commands.bench.time_each", lambda works, **_: {"work": [0.1, 0.1]})
    counted: list[list[float]] = []
    monkeypatch.setattr("vp.commands.bench.median", lambda rates: counted.append(rates) or 1.0)
    monkeypatch.setattr("vp.commands.bench._flop_per_image", lambda *_: 1.0)
    build_nothing(monkeypatch)
    for device in ("cpu", "cuda"):
        measure(works("mini")[0], torch.device(device), images=4, batch=2)
    assert [len(rates) for rates in counted] == [2, 8]


def test_a_short_training_is_measured_over_more_epochs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA a training whose epoch takes an eighth of 0.7 s is measured over 8 epochs, or as many as the run itself has;
    evaluation, and a CPU, over one."""
    recipes: list[Recipe] = []
    monkeypatch.setattr("vp.commands.bench.fit", lambda *given, **_: recipes.append(given[3]))
    monkeypatch.setattr("vp.commands.bench.per_image_correctness", lambda *_: recipes.append(Recipe(epochs=1)))
    monkeypatch.setattr("vp.commands.bench._flop_per_image", lambda *_: 1.0)
    build_nothing(monkeypatch)

    def quarter_of_a_second(steps: dict[str, Callable[[], object]], **_: object) -> dict[str, list[float]]:
        steps["work"]()
        return {"work": [0.0875 * recipes[-1].epochs]}

    monkeypatch.setattr("vp.commands.bench.time_each", quarter_of_a_second)
    of = {scale: {work.name: work for work in works(scale)} for scale in ("mini", "full")}
    for work, device, epochs in [
        (of["full"]["deep prompt, k = 11"], "cuda", 8),
        (of["mini"]["visual prompt"], "cuda", 2),
        (of["full"]["deep prompt, k = 11"], "cpu", 1),
        (of["full"]["evaluation, resnet18"], "cuda", 1),
    ]:
        speed = measure(work, torch.device(device), images=2, batch=2)
        assert recipes[-1].epochs == epochs
        assert speed.images_per_s == pytest.approx(speed.images / 0.0875)


def test_a_gpu_is_measured_on_more_of_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA what trains on kept activations is measured on ten times as many images, at most the run's own, kept from no one."""
    monkeypatch.setattr("vp.commands.bench.time_each", lambda works, **_: {"work": [5.0]})
    monkeypatch.setattr("vp.commands.bench._flop_per_image", lambda *_: 1.0)
    shown: list[tuple[int, dict[str, bool]]] = []
    build_nothing(monkeypatch, lambda _, __, images, ___, **how: shown.append((len(images), how)))
    of = {work.name: work for work in works("mini")}
    names = ["deep prompt, k = 6", "deep prompt, k = 0", "visual prompt", "head and layer4, frozen statistics"]
    for device, images in (("cpu", 4), ("cuda", 4), ("cuda", 900)):
        assert [measure(of[name], torch.device(device), images, batch=2).images for name in names] == [
            n for n, _ in shown[-len(names) :]
        ]
    assert [n for n, _ in shown] == [4, 4, 4, 4, 40, 4, 4, 40, 4000, 900, 900, 4000]
    assert all(how == {"shared": False} for _, how in shown)


@pytest.mark.parametrize(("seconds", "words"), [(3.2, "3 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h"), (2e6, "23 days")])
def test_durations_in_words(seconds: float, words: str) -> None:
    """Durations are said in the unit that suits them."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--images", "1"], "--images 1: give at least 2"),
        (["bench", "--device", "cuda"], "device 'cuda' asked for, but this machine has none"),
        (["doctor", "--device", "cuda"], "device 'cuda' asked for, but this machine has none"),
        (["fetch", "cifar11/none"], "no CLIP named 'cifar11/none': did you mean "),
        (["fetch", "cifar11"], "nothing to fetch is called 'cifar11': did you mean cifar10 or cifar100?"),
        (["fetch", "mini-clip"], "mini-clip ships with the package, there is nothing to fetch: give one of cifar10, "),
        (["fetch", "mini-resnet"], "mini-resnet ships with the package, there is nothing to fetch: give one of cifar10, "),
        (["fetch", "ViT-B-32-quickgelu/random"], "ViT-B-32-quickgelu/random has random weights, there is nothing to fetch"),
        (["fetch", "resnet18/random"], "resnet18/random has random weights, there is nothing to fetch"),
        (["fetch", "resnet18/best"], "no weights 'best' of resnet18: give resnet18/IMAGENET1K_V1"),
        (["run", "padding-10", "--limit", "3"], "--limit 3: give at least 10 images"),
        (["run", "padding-10", "--scale", "full", "--data", "nowhere"], "cifar10 is not in nowhere: run `python -m vp fetch`"),
    ],
)
def test_errors_of_the_commands_are_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What a user can mend is one line on stderr and exit code 2."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("VP_DATA", "")
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {message}")
    assert (said.err.count("\n"), said.out) == (1, "")


def test_the_laptops_command_trains_nothing() -> None:
    """What is offered to those without a GPU collects zero-shot cells alone, every test with its run; README gives the same."""
    tests = Path(__file__).parents[1]
    word = vp.commands.doctor.LAPTOP.partition(" -k ")[2]
    assert f"`{vp.commands.doctor.LAPTOP}`" in " ".join((tests.parent / "README.md").read_text(encoding="utf-8").split())
    asked: list[str] = []
    for path in tests.glob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        if path == Path(__file__) or not re.search(rf"def test_\w*{word}", source):
            assert word not in path.name
            continue
        module = importlib.import_module(f"tests.{path.stem}")
        for name, function in vars(module).items():
            if name.startswith("test_") and word in name:
                cases = [case for mark in function.pytestmark if mark.name == "parametrize" for case in mark.args[1]]
                assert cases, f"{name} may need any run"
                asked += [run for case in cases for mark in case.marks if mark.name == "reproduces" for run in mark.args]
    assert sorted(asked) == sorted(name for name, run in runs("full").items() if run.table == "table_1")
    assert all(find_run(name, "full").method is ZERO_SHOT for name in asked)


# -- some of the images ----------------------------------------------------------------------------------------------------

Sample = Callable[[ImageSet, int], ImageSet]


def assert_a_sample(sample: Sample) -> None:
    labels = torch.arange(1000) // 100
    images = ImageSet("sorted", "test", pixels(0, 1000, 3, 4, 4), labels, tuple("abcdefghij"), source="a folder")
    torch.manual_seed(0)
    first = sample(images, 200)
    torch.manual_seed(1)
    assert sample(images, 200).fingerprint == first.fingerprint
    assert len({image.numpy().tobytes() for image in first.pixels}) == 200
    assert first.labels.bincount(minlength=10).min() >= 8


def test_a_sample_is_the_same_at_every_call_and_of_all_classes() -> None:
    """N of the images are the same ones at every call, each once, and of all classes however the images are sorted."""
    assert_a_sample(ImageSet.sample)
    images = ImageSet("some", "test", pixels(0, 3, 3, 4, 4), torch.arange(3), tuple("abc"), source="a folder")
    assert images.sample(3) is images
    assert images.sample(2).source == "a folder; 2 of its 3 images"


@pytest.mark.parametrize("wrong", [controls.the_first, controls.another_each_time, controls.with_repeats], ids=name_of)
def test_wrong_samples_are_rejected(wrong: Sample) -> None:
    """The first images, others at each call, or some twice, fail the rule."""
    with pytest.raises(AssertionError):
        assert_a_sample(wrong)


def test_a_limit_is_part_of_a_runs_identity() -> None:
    """On N images a run is another run, and so is the run whose weights it takes."""
    run = find_run("padding-100-on-110", "full")
    limited = vary(run, 20)
    assert limited.canonical() != run.canonical() == vary(run).canonical()
    assert source_of(limited) == vary(find_run("padding-100", "full"), 20)
    assert source_of(source_of(limited)) == source_of(limited)


def test_a_limited_union_has_as_many_images_of_each_set() -> None:
    """On both sets together, a limit of N takes N of each, and each part is what runs on that set alone see."""
    both = images_of(vary(find_run("zero-shot-on-110", "mini"), 20), "test")
    parts = [images_of(vary(find_run(f"zero-shot-{classes}-test", "mini"), 20), "test") for classes in ("10", "100")]
    assert both.fingerprint == union(*parts).fingerprint
    assert len(both) == 40


def test_some_images_are_held_to_wider_tolerances() -> None:
    """On N images a zero-shot value is held to its tolerance and the interval of N; what trained on N images to nothing."""
    given = {name: Expectation(88.9, 0.15, "report", "replicated") for name in ("zero-shot-10-test", "padding-10", "residual-100")}
    kept = full_scale.on_some_images(given, 1000)
    assert kept.keys() == {"zero-shot-10-test"}
    assert 3.4 < kept["zero-shot-10-test"].tolerance < 3.9  # 3.29 standard errors, and Wilson's asymmetry
    assert kept["zero-shot-10-test"].reason == "replicated; and the 99.9% interval of 1000 images"


def test_a_limit_shortens_the_warm_up() -> None:
    """On a fiftieth of the images the warm-up has a fiftieth of its steps: it must not outlast the training."""
    run = find_run("padding-10", "full")
    assert (run.recipe.warmup_steps, vary(run, 1000).recipe.warmup_steps) == (1000, 20)
    assert vary(run, 50_000).recipe == vary(run, 80_000).recipe == vary(run).recipe == run.recipe


def some_result(right: float, trained: int) -> Result:
    correct = torch.arange(1000) < 1000 * right
    return Result("a run", "full", "cifar10", "clip", 0, correct, {}, [], None, trained, 1.0, {})


@pytest.mark.parametrize("trained", [0, 12])
def test_what_rests_on_little_training_is_not_judged(trained: int) -> None:
    """On N images an ordering, contrast or conclusion that rests on a trained run is NOT RUN with the reason; others are judged."""
    recorded: list[dict[str, Any]] = []
    better, worse = ([some_result(right, trained if right > 0.5 else 0)] for right in (0.9, 0.2))
    name = "padding-10-beats-zero-shot-on-110"
    judge = Judge("full", False, lambda kind, **values: recorded.append(values), [name])
    judge.obtained, judge.limit = [*better, *worse], 1000
    attempts: list[Callable[[], None]] = [
        lambda: judge.ordering([worse], [better]),
        lambda: judge.contrast([(1.0, [worse]), (-1.0, [better])]),
        lambda: judge.conclude("worse", Verdict.CONTRADICTED),
    ]
    for attempt in attempts:
        with nullcontext() if trained else pytest.raises(pytest.fail.Exception):
            attempt()
    assert {values["verdict"] for values in recorded} == {"NOT RUN" if trained else "contradicted"}
    assert {values["reason"] for values in recorded} == {"trained on 1000 images only" if trained else ""}
    assert all((values["paired"] or values["contrast"]) is None for values in recorded if trained)


# -- rehearsals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(runs("full")))
def test_a_rehearsal_is_short_random_and_another_run(name: str) -> None:
    """Every full-scale run rehearses with random weights in two epochs, under another key than the run itself."""
    run = find_run(name, "full")
    rehearsed = vary(run, 16, rehearsal=True)
    assert rehearsed.backbone.endswith("/random")
    assert rehearsed.recipe is None or (rehearsed.recipe.epochs, rehearsed.recipe.batch_size) == (2, run.recipe.batch_size)
    assert rehearsed.canonical() not in (run.canonical(), vary(run, 16).canonical())
    assert (rehearsed.method, rehearsed.noise) == (run.method, run.noise)
    assert source_of(rehearsed).rehearsal


def test_random_weights_are_the_same_at_every_call() -> None:
    """A backbone of random weights has the same ones in every process, and leaves the global stream alone."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (load_network("resnet18/random").fingerprint for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_are_drawn_without_a_look_at_any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many GPUs are visible, a stream of one's own is the CPU's: nothing is seeded, saved or warned about elsewhere."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for touching in ("get_rng_state", "set_rng_state", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, touching, lambda *_: pytest.fail("the GPU was touched"))
    before = torch.get_rng_state()
    with own_random_stream(7):
        first = torch.rand(3)
    with own_random_stream(7):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


Forgive = Callable[[Callable[[], list[Any]]], AbstractContextManager[None]]


def assert_forgives_verdicts_only(forgive: Forgive) -> None:
    with forgive(lambda: ["a cell"]):
        pytest.fail("top-1 1.00%, expected 88.94")
    with pytest.raises(ZeroDivisionError), forgive(lambda: ["a cell"]):
        _ = 1 / 0
    with pytest.raises(pytest.fail.Exception), forgive(list):
        pytest.fail("no such fixture")
    with pytest.raises(pytest.fail.Exception), forgive(list):
        pass
    with pytest.raises(pytest.skip.Exception), forgive(lambda: ["a cell"]):
        pytest.skip("NOT RUN: no data")


def test_a_rehearsal_forgives_verdicts_and_nothing_else() -> None:
    """In a rehearsal a number may be anything; what breaks, or records nothing, fails."""
    assert_forgives_verdicts_only(full_scale.without_verdicts)


@pytest.mark.parametrize("outcome", ["passed", "failed", "skipped"])
def test_a_rehearsal_skips_nothing(outcome: str) -> None:
    """A rehearsal brings all that it needs: what is skipped there, for whatever reason, fails, and nothing else changes."""
    report = SimpleNamespace(outcome=outcome, skipped=outcome == "skipped", longrepr=("file", 1, "Skipped: NOT RUN: no data"))
    full_scale.refuse_skip(report)
    assert report.outcome == ("failed" if outcome == "skipped" else outcome)
    assert ("not rehearsed" in report.longrepr) == (outcome == "skipped")
    assert "NOT RUN: no data" in str(report.longrepr)


def test_every_term_of_the_continuous_rehearsal_names_a_test() -> None:
    """What .ci/run rehearses is named test by test, which pytest refuses where there is none, and covers every table."""
    root = Path(__file__).parents[2]
    script = (root / ".ci" / "proof.py").read_text(encoding="utf-8")
    chosen = re.findall(r"(tests/\w+\.py)::(\w+)\[([\w-]+)\]", script)
    assert {runs("full")[name].table for *_, name in chosen} == {*TABLES}
    assert all(f"def {function}(" in (root / file).read_text(encoding="utf-8") for file, function, _ in chosen)
    run = (root / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"timeout \d+ \.ci/gpu --device cpu --rehearse$", run, re.MULTILINE)


@pytest.mark.parametrize("wrong", [controls.forgives_everything, controls.forgives_any_failure], ids=name_of)
def test_wrong_forgiveness_is_rejected(wrong: Forgive) -> None:
    """A rehearsal in which anything passes proves nothing."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        assert_forgives_verdicts_only(wrong)


def test_every_verdict_of_a_rehearsal_says_so() -> None:
    """Whatever was recorded, its verdict is `rehearsal`, and it is held to nothing."""
    cell = {"kind": "cell", "run": "x", "value": 1.0, "verdict": "contradicted", "expected": 88.9, "tolerance": 0.1, "reason": "r"}
    assert full_scale.rehearsed(cell) == cell | {"verdict": "rehearsal", "expected": None, "tolerance": None, "reason": None}
    assert full_scale.rehearsed({"kind": "figure", "id": "figure-5"}) == {"kind": "figure", "id": "figure-5"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 100, "scale": "mini"}, "belong to --scale full"),
        ({"rehearse": True, "scale": "mini"}, "belong to --scale full"),
        ({"limit": 100, "accept": True}, "--accept takes numbers of whole runs"),
        ({"limit": 3}, "--limit 3: give at least 10 images"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    """A limit or rehearsal at mini scale, with --accept, or of too few images, is refused before anything runs."""
    options = SimpleNamespace(**{"limit": None, "rehearse": False, "accept": False, "scale": "full", "data": None} | changes)
    with pytest.raises(pytest.UsageError, match=message):
        full_scale.configure(SimpleNamespace(option=options))


def test_reasons_are_listed_once_with_their_counts() -> None:
    """Whatever was NOT RUN is told reason by reason with the number of tests, so that `N skipped` hides nothing."""
    told = ["Skipped: NOT RUN: no CUDA", "Skipped: NOT RUN: no data", "Skipped: of another kind", "NOT RUN: no data"]
    reports = [SimpleNamespace(longrepr=("file", 1, one)) for one in told]
    assert full_scale.reasons_not_run(reports) == {"no data": 2, "no CUDA": 1}
    assert full_scale.reasons_not_run([]) == {}


REHEARSAL = {"limit": None, "rehearse": True, "accept": False, "scale": "full", "data": None, "device": "cpu"}


def test_a_rehearsal_without_its_device_or_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal on a device that is not here, or with a VP_HOME that cannot be written, ends in one line before it starts."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("VP_HOME", str(tmp_path / "taken"))
    for device, message in (("cuda", "--rehearse: device 'cuda' asked for"), ("cpu", r"--rehearse: cannot write .*: set VP_HOME")):
        with pytest.raises(pytest.UsageError, match=message):
            full_scale.configure(SimpleNamespace(option=SimpleNamespace(**REHEARSAL | {"device": device})))


def test_a_gpu_is_needed_only_for_whole_runs() -> None:
    """Full scale needs CUDA, unless the caller chose another device, a limit, or a rehearsal."""
    needs = {"device": "auto", "limit": None, "rehearse": False}
    assert full_scale.needs_a_gpu(SimpleNamespace(**needs))
    assert full_scale.needs_a_gpu(SimpleNamespace(**needs | {"device": "cuda"}))
    for changes in ({"device": "cpu"}, {"limit": 100}, {"rehearse": True}):
        assert not full_scale.needs_a_gpu(SimpleNamespace(**needs | changes))
