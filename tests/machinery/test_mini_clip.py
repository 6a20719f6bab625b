"""vp.models.mini_clip: the miniature model, its file, and a pre-training that can be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tests.support.strategies import pixels, seeds
from vp.data import ImageSet, Preprocess
from vp.data.world import CAPTIONS, draw, training_scenes, world
from vp.evaluation import ImageBatches, per_image_correctness
from vp.machine import artifacts
from vp.machine.errors import VpError
from vp.models import FrozenCLIP, load_clip, mini_clip
from vp.models.mini_clip import (
    IMAGE_PX,
    WEIGHTS,
    known_tokens,
    load_mini_clip,
    mini_tokenizer,
    new_mini_clip,
    pretrain,
    pretraining_loss,
    save_mini_clip,
    training_batch,
)
from vp.models.pretraining import Pretraining
from vp.prompts import PromptedCLIP

TEXTS = ["a red house", "This is a photo of a moon", "an object that is human-made"]


def frozen(model: open_clip.CLIP) -> FrozenCLIP:
    return FrozenCLIP("random", model, mini_tokenizer(), Preprocess(IMAGE_PX), known_tokens())


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return frozen(new_mini_clip(1))


def features(clip: FrozenCLIP) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return clip.encode_image(clip.preprocess(pixels(0, 3, 3, 11, 11))), clip.encode_text(TEXTS)


# -- the model -------------------------------------------------------------------------------------------------------------


def test_the_miniature_is_open_clips_own_model(clip: FrozenCLIP) -> None:
    """The miniature CLIP is open_clip's own CLIP with 12 vision blocks, ViT-B/32's 7 x 7 patches and 0.4 M vision parameters."""
    visual = clip.model.visual
    assert type(clip.model) is open_clip.CLIP
    assert len(visual.transformer.resblocks) == 12
    assert visual.positional_embedding.shape == (1 + 7 * 7, 64)
    assert 0.40e6 < sum(p.numel() for p in visual.parameters()) < 0.45e6
    assert all(image.shape == (3, 64) for image in features(clip))


def test_the_architecture_comes_from_its_seed_alone() -> None:
    """Random weights come from the seed, whatever was drawn before, and leave the global stream as it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = new_mini_clip(1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second, other = new_mini_clip(1).state_dict(), new_mini_clip(2).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["visual.proj"], other["visual.proj"])


def test_words_never_shown_have_no_embedding(clip: FrozenCLIP) -> None:
    """Tokens that pre-training never shows have a zero embedding, all others one of their own."""
    empty = (clip.model.token_embedding.weight == 0).all(1)
    assert (~empty).nonzero().flatten().tolist() == known_tokens()
    assert 0 < len(known_tokens()) < 200


@pytest.mark.parametrize(
    ("texts", "unknown"),
    [
        ([], []),
        (TEXTS, []),
        (["This is a photo of a zebra", "a red zebra in a spaceship"], ["zebra", "spaceship"]),
        (["a PHOTO of a House"], []),
        (["a déjà-vu"], ["déjà-vu"]),
    ],
)
def test_words_never_shown_are_named(texts: list[str], unknown: list[str], clip: FrozenCLIP) -> None:
    """Words that pre-training never showed are named, in order and once; a model that knows all words names none."""
    assert all(word in clip.unknown_words(texts) for word in unknown)
    assert set(clip.unknown_words(texts)) <= {*unknown, "in"}
    all_known = FrozenCLIP("full", clip.model, mini_tokenizer(), Preprocess(IMAGE_PX))
    assert all_known.unknown_words(texts) == []


# -- its file --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What save_mini_clip writes."""
    path = tmp_path_factory.mktemp("saved") / "mini.safetensors"
    save_mini_clip(clip.model, path, {"why": "test"})
    return path.read_bytes()


def test_a_saved_miniature_is_the_same_model(clip: FrozenCLIP, saved: bytes, tmp_path: Path) -> None:
    """Saved and loaded, the miniature gives the same features to the bit, is frozen and knows the same words."""
    path = tmp_path / "mini.safetensors"
    path.write_bytes(saved)
    loaded = load_mini_clip(path)
    for one, other in zip(features(clip), features(loaded), strict=True):
        assert torch.equal(one, other)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.unknown_words(["a red zebra"]) == ["zebra"]
    assert artifacts.load(path)[1] == {"why": "test"}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _of_another_model(path: Path) -> None:
    artifacts.save(path, {"weight": torch.zeros(3)}, {})


def _of_another_size(path: Path) -> None:
    tensors, note = artifacts.load(path)
    artifacts.save(path, tensors | {"visual.proj": torch.zeros(3, 3)}, note)


def _with_a_weight_too_few(path: Path) -> None:
    tensors, note = artifacts.load(path)
    del tensors["visual.proj"]
    artifacts.save(path, tensors, note)


def _with_a_weight_too_many(path: Path) -> None:
    tensors, note = artifacts.load(path)
    artifacts.save(path, tensors | {"visual.extra": torch.zeros(3)}, note)


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, _cut, _altered, _of_another_model, _of_another_size, _with_a_weight_too_few, _with_a_weight_too_many],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_weights_that_cannot_be_used_say_how_to_make_them(damage: Callable[[Path], None], saved: bytes, tmp_path: Path) -> None:
    """Weights that are missing, damaged or of another model are an error of one line that says to pre-train."""
    path = tmp_path / "mini.safetensors"
    path.write_bytes(saved)
    damage(path)
    with pytest.raises(VpError, match="run `python -m vp pretrain`") as error:
        load_mini_clip(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shipped_weights_are_whole_and_say_where_they_come_from() -> None:
    """The package's weights load, match their checksum, take at most 8 MB and carry settings, time and provenance."""
    assert WEIGHTS.exists(), "the package has no weights: run `python -m vp pretrain`"
    assert WEIGHTS.stat().st_size <= 8e6
    _, note = artifacts.load(WEIGHTS)
    assert note["source"] == "vp.models.mini_clip.pretrain"
    assert note["seconds"] > 0
    assert {"torch", "python", "device", "threads", "commit"} <= note["provenance"].keys()
    shipped, as_read = load_clip("mini-clip"), load_mini_clip()
    assert shipped.fingerprint == as_read.fingerprint
    assert all(tensor.isfinite().all() for tensor in shipped.model.state_dict().values() if tensor is not shipped.model.attn_mask)


def test_the_shipped_weights_were_made_with_the_settings_of_the_code() -> None:
    """Pre-training with its defaults makes the weights that are shipped: same steps, batch, rate, warm-up and seed."""
    assert artifacts.load(WEIGHTS)[1]["settings"] == asdict(mini_clip.SETTINGS)


def test_the_shipped_weights_know_the_world() -> None:
    """On new scenes as pre-training shows them, zero-shot names nine of ten silhouettes and colours."""
    scenes, _ = training_scenes(500, step=10**6, seed=1)
    images = ImageSet("new", "test", draw(scenes, IMAGE_PX), CAPTIONS[1].truth(scenes), CAPTIONS[1].names)
    clip = load_clip("mini-clip")
    assert per_image_correctness(PromptedCLIP(clip, images.class_names), ImageBatches(images, clip.preprocess)).float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least", "most"), [("mini10", 80, 93), ("mini100", 55, 72)])
def test_the_downstream_sets_leave_room_in_both_directions(name: str, least: float, most: float) -> None:
    """Zero-shot top-1 on the downstream images is near CLIP's on CIFAR (88.8 and 63.1%): far from chance, and from 100%."""
    clip, images = load_clip("mini-clip"), world(name, "test", count=1000)
    correct = per_image_correctness(PromptedCLIP(clip, images.class_names), ImageBatches(images, clip.preprocess))
    assert least <= 100 * correct.float().mean() <= most


# -- pre-training ----------------------------------------------------------------------------------------------------------

STEPS = 4
SETTINGS = Pretraining(steps=STEPS, batch_size=8, warmup=2)
EVERY_TWO: dict[str, Any] = {"save_every": 2, "progress": False}


class Interrupted(Exception):
    pass


class Steps:
    """The steps that a pre-training takes, and an interruption before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[int] = []
        self.most = STEPS
        monkeypatch.setattr(mini_clip, "training_batch", self)

    def __call__(self, batch_size: int, step: int, seed: int) -> Any:
        if len(self.taken) == self.most:
            raise Interrupted
        self.taken.append(step)
        return training_batch(batch_size, step, seed)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a pre-training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    pretrain(folder / "weights", folder / "checkpoint", SETTINGS, **EVERY_TWO)
    assert not (folder / "checkpoint").exists()
    return artifacts.load(folder / "weights")[0]


def assert_same(path: Path, straight: dict[str, Tensor]) -> None:
    tensors, _ = artifacts.load(path)
    assert tensors.keys() == straight.keys()
    assert all(torch.equal(tensor, straight[name]) for name, tensor in tensors.items())


def interrupted(watched: Steps, folder: Path, after: int, **others: Any) -> list[int]:
    """Pre-train until an interruption: the steps taken. What is left is a checkpoint, if one was due."""
    watched.taken, watched.most = [], after
    with pytest.raises(Interrupted):
        pretrain(folder / "weights", folder / "checkpoint", replace(SETTINGS, **others), **EVERY_TWO)
    assert not (folder / "weights").exists()
    taken, watched.taken, watched.most = watched.taken, [], STEPS
    return taken


@pytest.mark.slow
def test_an_interrupted_pretraining_goes_on_where_it_was(steps: Steps, straight: dict[str, Tensor], tmp_path: Path) -> None:
    """Interrupted and started again, pre-training goes on from its checkpoint to weights bit-equal to an uninterrupted one's."""
    assert interrupted(steps, tmp_path, after=3) == [0, 1, 2]
    note = pretrain(tmp_path / "weights", tmp_path / "checkpoint", SETTINGS, **EVERY_TWO)
    assert steps.taken == [2, 3]
    assert_same(tmp_path / "weights", straight)
    assert note == artifacts.load(tmp_path / "weights")[1]
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_taken_up(steps: Steps, tmp_path: Path) -> None:
    """A checkpoint is taken up by a pre-training of the same settings only; any other starts from its first step."""
    interrupted(steps, tmp_path, after=2)
    for other in ({"learning_rate": 2e-3}, {"seed": 1}, {"steps": STEPS + 1}):
        assert interrupted(steps, tmp_path, after=1, **other) == [0]
    assert interrupted(steps, tmp_path, after=1) == [2]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_taken_up(steps: Steps, straight: dict[str, Tensor], tmp_path: Path) -> None:
    """A damaged checkpoint is left aside: pre-training starts from its first step and ends where it should."""
    interrupted(steps, tmp_path, after=2)
    _altered(tmp_path / "checkpoint")
    pretrain(tmp_path / "weights", tmp_path / "checkpoint", SETTINGS, **EVERY_TWO)
    assert steps.taken == [0, 1, 2, 3]
    assert_same(tmp_path / "weights", straight)


@pytest.mark.slow
def test_pretraining_changes_what_it_shows_and_nothing_else(straight: dict[str, Tensor]) -> None:
    """Pre-training moves all weights but keeps the embedding of words that it never shows at zero."""
    started = new_mini_clip(0).state_dict()
    assert straight["known_tokens"].tolist() == known_tokens()
    assert not torch.equal(straight["token_embedding.known"], started["token_embedding.weight"][known_tokens()])
    for name, value in started.items():
        if name not in ("token_embedding.weight", "attn_mask"):
            assert not torch.equal(straight[name], value), name


def test_a_loss_that_is_not_finite_stops_the_pretraining(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A loss that is not finite is an error of one line that advises a smaller rate, and no weights are written."""
    monkeypatch.setattr(mini_clip, "pretraining_loss", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    with pytest.raises(VpError, match=r"the loss is nan at step 0: give a smaller learning rate than 0\.001"):
        pretrain(tmp_path / "weights", tmp_path / "checkpoint", SETTINGS, **EVERY_TWO)
    assert list(tmp_path.iterdir()) == []


def test_the_loss_asks_for_the_true_caption_of_each_family(clip: FrozenCLIP) -> None:
    """The loss is the mean over the families of captions of the cross-entropy of each image's true caption."""
    images, truth, captions = batch = training_batch(8, step=3, seed=0)
    with torch.no_grad():
        loss = pretraining_loss(clip.model, clip.preprocess, clip.tokenizer, batch, torch.device("cpu"))
        seen = normalize(clip.model.encode_image(clip.preprocess(images)), dim=-1)
        each = []
        for family in CAPTIONS:
            read = normalize(clip.model.encode_text(clip.tokenizer(captions[family.name])), dim=-1)
            assert len(read) == len(family.names)
            each.append(cross_entropy(clip.model.logit_scale.exp() * seen @ read.T, truth[family.name]))
    torch.testing.assert_close(loss, torch.stack(each).mean())


@settings(max_examples=5)
@given(seed=seeds)
def test_a_step_draws_the_same_batch_at_any_time(seed: int) -> None:
    """The batch of a step comes from seed and step alone; other steps and seeds show other images."""
    images, truth, captions = training_batch(4, 7, seed)
    torch.rand(3)
    again = training_batch(4, 7, seed)
    assert torch.equal(images, again[0])
    assert all(torch.equal(indices, again[1][name]) for name, indices in truth.items())
    assert captions == again[2]
    assert images.shape == (4, 3, IMAGE_PX, IMAGE_PX)
    for other in (training_batch(4, 8, seed), training_batch(4, 7, seed + 1)):
        assert not torch.equal(images, other[0])
