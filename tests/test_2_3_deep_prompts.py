"""Report 2.3: deep prompts (tables 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from tests.controls import deep_prompts as controls
from tests.strategies import pixels, seeds
from vp.data import Preprocess
from vp.models import FrozenCLIP, cosine_logits
from vp.models.mini_clip import mini_tokenizer
from vp.prompts import BatchScrambledDeepPrompt, DeepPrompt, DeepPromptedCLIP, FastDeepPromptedCLIP
from vp.prompts.deep import last_block_inputs, tokens_before_block, vision_blocks
from vp.runtime import VpError, own_random_stream

NAMES = ["house", "red leaf", "moon"]
WIDTH, BLOCKS, LENGTH = 16, 3, 5  # 4 patches and the class token
positions = st.sampled_from(["front", "after_class", "back"])
readouts = st.sampled_from(["class", "first"])
blocks = st.integers(0, BLOCKS - 1)
counts = st.integers(0, 4)
batch_sizes = st.integers(1, 4)


def small_clip(**vision: object) -> FrozenCLIP:
    with own_random_stream(0):
        config = {"layers": BLOCKS, "width": WIDTH, "head_width": 8, "patch_size": 8, "image_size": 16, **vision}
        model = open_clip.CLIP(8, CLIPVisionCfg(**config), CLIPTextCfg(context_length=20, width=16, heads=2, layers=1))
    return FrozenCLIP("small", model, mini_tokenizer(), Preprocess(16))


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    """A random vision transformer: what follows holds for any weights."""
    return small_clip()


@st.composite
def deep_prompts(draw: st.DrawFn, least: int = 0, cls: type[DeepPrompt] = DeepPrompt) -> DeepPrompt:
    torch.manual_seed(draw(seeds))
    return cls(draw(st.integers(least, 4)), WIDTH, draw(blocks), draw(positions), draw(readouts))


def images_from(seed: int, batch: int) -> torch.Tensor:
    return Preprocess(16)(pixels(seed, batch, 3, 9, 9))


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# -- the theorem -----------------------------------------------------------------------------------------------------------


def assert_position_does_not_matter(
    clip: FrozenCLIP, seed: int, n: int, block: int, batch: int, cls: type[DeepPrompt] = DeepPrompt
) -> None:
    logits = []
    for position in ("front", "after_class", "back"):
        torch.manual_seed(seed)
        logits.append(DeepPromptedCLIP(clip, NAMES, prompt=cls(n, WIDTH, block, position, "class"))(images_from(seed, batch)))
    close(logits[0], logits[1])
    close(logits[0], logits[2])


@pytest.mark.states(
    "2.3",
    corrects="Appending the prompts to the front of the sequence does seem to yield slightly better results than appending them to "
    "the back of the sequence.",
)
@given(seed=seeds, n=counts, block=blocks, batch=batch_sizes)
def test_the_position_of_the_prompt_does_not_matter(clip: FrozenCLIP, seed: int, n: int, block: int, batch: int) -> None:
    """With the class token as readout, prompts in front, after the class token or at the back give the same logits: a theorem."""
    assert_position_does_not_matter(clip, seed, n, block, batch)


@pytest.mark.states("2.3")
@given(seed=seeds, n=st.integers(1, 4), block=blocks)
def test_the_readout_does_matter(clip: FrozenCLIP, seed: int, n: int, block: int) -> None:
    """Reading the first token is another classifier than reading the class token once prompts stand in front."""
    logits = []
    for readout in ("class", "first"):
        torch.manual_seed(seed)
        logits.append(DeepPromptedCLIP(clip, NAMES, prompt=DeepPrompt(n, WIDTH, block, "front", readout))(images_from(seed, 2)))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@given(seed=seeds, n=counts, block=blocks, position=st.sampled_from(["after_class", "back"]))
def test_both_readouts_agree_while_the_class_token_comes_first(clip: FrozenCLIP, seed: int, n: int, block: int, position) -> None:
    """Behind the class token, prompts leave it the first token, and both readouts are one."""
    logits = []
    for readout in ("class", "first"):
        torch.manual_seed(seed)
        logits.append(DeepPromptedCLIP(clip, NAMES, prompt=DeepPrompt(n, WIDTH, block, position, readout))(images_from(seed, 2)))
    close(*logits)


# -- what a deep prompt is -------------------------------------------------------------------------------------------------


@pytest.mark.states("2.3")
@given(n=st.sampled_from([1, 4, 8]), block=st.sampled_from([0, 6, 11]))
def test_deep_prompts_of_vit_b_32_have_768_n_parameters(n: int, block: int) -> None:
    """n deep prompts of ViT-B/32 have 768 n parameters."""
    assert sum(p.numel() for p in DeepPrompt(n, 768, block).parameters()) == 768 * n


def test_tokens_start_as_standard_normal_values() -> None:
    """Initial values of the tokens are N(0, 1)."""
    torch.manual_seed(0)
    values = DeepPrompt(200, 768, 0).tokens.detach()
    assert abs(values.mean().item()) < 5 / values.numel() ** 0.5
    assert abs(values.std().item() - 1) < 5 / (2 * values.numel()) ** 0.5


@given(seed=seeds, block=blocks, position=positions, readout=readouts)
def test_no_tokens_is_the_backbone_itself(clip: FrozenCLIP, seed: int, block: int, position, readout) -> None:
    """With n = 0 the logits are exactly those of encode_image."""
    model = DeepPromptedCLIP(clip, NAMES, prompt=DeepPrompt(0, WIDTH, block, position, readout))
    images = images_from(seed, 3)
    assert torch.equal(model(images), cosine_logits(clip.encode_image(images), model.text_features, clip.scale))


def lengths_seen(model: DeepPromptedCLIP, images: torch.Tensor) -> list[int]:
    seen: list[int] = []
    handles = [
        block.ln_1.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
        for block in vision_blocks(model.clip)
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def assert_lengths(model: DeepPromptedCLIP, n: int, block: int) -> None:
    assert lengths_seen(model, images_from(0, 2)) == [LENGTH] * block + [LENGTH + n] * (BLOCKS - block)


@pytest.mark.states("2.3")
@given(prompt=deep_prompts())
def test_the_sequence_has_n_more_tokens_from_block_k_on(clip: FrozenCLIP, prompt: DeepPrompt) -> None:
    """The sequence has L tokens before block k and L + n from block k on."""
    assert_lengths(DeepPromptedCLIP(clip, NAMES, prompt=prompt), len(prompt.tokens), prompt.block)


@given(prompt=deep_prompts())
def test_every_block_runs_exactly_once(clip: FrozenCLIP, prompt: DeepPrompt) -> None:
    """Each block runs once for each image."""
    assert len(lengths_seen(DeepPromptedCLIP(clip, NAMES, prompt=prompt), images_from(0, 1))) == BLOCKS


def assert_prompt_alone_learns(model: DeepPromptedCLIP, seed: int) -> None:
    torch.nn.functional.cross_entropy(model(images_from(seed, 3)), torch.tensor([0, 1, 2])).backward()
    assert model.prompt.tokens.grad is not None
    assert (model.prompt.tokens.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("prompt."))


@pytest.mark.states("2.3")
@given(prompt=deep_prompts(least=1), seed=seeds)
def test_the_prompt_and_nothing_else_gets_a_gradient(clip: FrozenCLIP, prompt: DeepPrompt, seed: int) -> None:
    """Every token of the prompt gets a gradient, and no parameter of the backbone does."""
    assert_prompt_alone_learns(DeepPromptedCLIP(clip, NAMES, prompt=prompt), seed)


def assert_images_are_independent(model: DeepPromptedCLIP, seed: int) -> None:
    images = images_from(seed, 4)
    together = model(images)
    close(together[[2, 0, 3, 1]], model(images[[2, 0, 3, 1]]))
    close(together, torch.cat([model(image[None]) for image in images]))


@pytest.mark.states("2.3")
@given(prompt=deep_prompts(), seed=seeds)
def test_an_images_logits_do_not_depend_on_its_place_in_the_batch(clip: FrozenCLIP, prompt: DeepPrompt, seed: int) -> None:
    """An image's logits do not depend on the other images or on its place in the batch."""
    assert_images_are_independent(DeepPromptedCLIP(clip, NAMES, prompt=prompt), seed)


def assert_repeatable(model: DeepPromptedCLIP, seed: int) -> None:
    images = images_from(seed, 2)
    assert torch.equal(model(images), model(images))


@given(prompt=deep_prompts(), seed=seeds)
def test_the_same_prompt_gives_the_same_logits_again(clip: FrozenCLIP, prompt: DeepPrompt, seed: int) -> None:
    """A prompt is the same at every step: nothing is drawn anew."""
    assert_repeatable(DeepPromptedCLIP(clip, NAMES, prompt=prompt), seed)


@given(seed=seeds, block=blocks, readout=readouts)
def test_one_token_is_the_same_scrambled_or_not(clip: FrozenCLIP, seed: int, block: int, readout) -> None:
    """With n = 1 the batch-scrambled control is the correct prompt: the report's n = 1 columns agree."""
    logits = []
    for cls in (DeepPrompt, BatchScrambledDeepPrompt):
        torch.manual_seed(seed)
        logits.append(DeepPromptedCLIP(clip, NAMES, prompt=cls(1, WIDTH, block, "back", readout))(images_from(seed, 3)))
    close(*logits)


@given(prompt=deep_prompts(), seed=seeds)
def test_hooks_leave_the_backbone_as_it_was(clip: FrozenCLIP, prompt: DeepPrompt, seed: int) -> None:
    """After a prompted forward the backbone computes what it did before."""
    images = images_from(seed, 2)
    before = clip.encode_image(images)
    DeepPromptedCLIP(clip, NAMES, prompt=prompt)(images)
    assert torch.equal(clip.encode_image(images), before)


# -- wrong implementations -------------------------------------------------------------------------------------------------


def new(cls: type[DeepPrompt], n: int = 2, block: int = 1) -> DeepPrompt:
    torch.manual_seed(0)
    return cls(n, WIDTH, block, "front", "class")


WRONG: dict[str, Callable[[FrozenCLIP], None]] = {
    "batch-scrambled tokens": lambda clip: assert_images_are_independent(
        DeepPromptedCLIP(clip, NAMES, prompt=new(BatchScrambledDeepPrompt)), 0
    ),
    "block run twice": lambda clip: assert_lengths(controls.BlockRunTwice(clip, NAMES, prompt=new(DeepPrompt)), 2, 1),
    "injection off by one": lambda clip: assert_lengths(controls.OneBlockLate(clip, NAMES, prompt=new(DeepPrompt)), 2, 1),
    "first token passed off as class": lambda clip: assert_position_does_not_matter(
        clip, 0, 2, 1, 2, controls.FirstPassedOffAsClass
    ),
    "tokens added, not concatenated": lambda clip: assert_lengths(
        DeepPromptedCLIP(clip, NAMES, prompt=new(controls.AddedTokens)), 2, 1
    ),
    "tokens re-drawn each step": lambda clip: assert_repeatable(
        DeepPromptedCLIP(clip, NAMES, prompt=new(controls.RedrawnTokens)), 0
    ),
    "detached tokens": lambda clip: assert_prompt_alone_learns(
        DeepPromptedCLIP(clip, NAMES, prompt=new(controls.DetachedTokens)), 0
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_deep_prompts_are_rejected(clip: FrozenCLIP, wrong: str) -> None:
    """Each wrong deep prompt fails the property named for it."""
    with pytest.raises(AssertionError):
        WRONG[wrong](clip)


# -- the shortcuts are the definition --------------------------------------------------------------------------------------


@given(data=st.data(), seed=seeds, batch=batch_sizes)
def test_the_shortcuts_give_the_same_logits_and_gradients(clip: FrozenCLIP, data: st.DataObject, seed: int, batch: int) -> None:
    """Cached activations and a last block for one token give the logits and gradients of the plain forward."""
    prompt = data.draw(st.one_of(deep_prompts(least=1), deep_prompts(least=1, cls=BatchScrambledDeepPrompt)))
    images = images_from(seed, batch)
    plain = DeepPromptedCLIP(clip, NAMES, prompt=prompt)(images)
    fast = FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)
    before = tokens_before_block(clip, images, prompt.block)
    inputs = [before] if prompt.block < BLOCKS - 1 else [before, last_block_inputs(clip, before)]
    (gradient,) = torch.autograd.grad(plain.square().sum(), prompt.tokens)
    for given_inputs in inputs:
        logits = fast(given_inputs)
        close(logits, plain)
        (other,) = torch.autograd.grad(logits.square().sum(), prompt.tokens)
        assert (other - gradient).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize(
    "vision",
    [{"pool_type": "avg"}, {"final_ln_after_pool": True}, {"ls_init_value": 0.5}, {"no_ln_pre": True}, {"block_type": "custom"}],
    ids=str,
)
@pytest.mark.parametrize("readout", ["class", "first"])
@pytest.mark.parametrize("block", [0, BLOCKS - 1])
def test_deep_prompts_work_on_any_open_clip_vision_transformer(vision: dict[str, object], readout: str, block: int) -> None:
    """Other poolings, norms and blocks of open_clip take deep prompts, and the shortcuts hold for them."""
    clip = small_clip(**vision)
    torch.manual_seed(0)
    prompt = DeepPrompt(3, WIDTH, block, "front", readout)
    images = images_from(0, 2)
    plain = DeepPromptedCLIP(clip, NAMES, prompt=prompt)(images)
    close(FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)(tokens_before_block(clip, images, block)), plain)


# -- bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 16, 0), "-1 tokens before block 0: give n and a 0-based block of at least 0"),
        ((1, 16, -1), "1 tokens before block -1"),
        ((1, 16, 0, "middle"), "no position 'middle' with readout 'class': give position front, after_class, back"),
        ((1, 16, 0, "front", "last"), "no position 'front' with readout 'last'"),
    ],
)
def test_a_prompt_out_of_range_is_refused(arguments: tuple[object, ...], message: str) -> None:
    """A negative count or block, an unknown position or readout is refused with what is known."""
    with pytest.raises(ValueError, match=message):
        DeepPrompt(*arguments)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (DeepPrompt(1, WIDTH, BLOCKS), "block 3 of small, which has 3: give 0 to 2"),
        (DeepPrompt(1, 8, 0), "tokens of width 8 for small"),
    ],
)
def test_a_prompt_that_does_not_fit_its_backbone_is_refused(clip: FrozenCLIP, prompt: DeepPrompt, message: str) -> None:
    """Injecting at k = number of blocks, or tokens of another width, is an error."""
    with pytest.raises(ValueError, match=message):
        DeepPromptedCLIP(clip, NAMES, prompt=prompt)


def test_a_backbone_without_transformer_blocks_is_refused() -> None:
    """A ResNet CLIP has no blocks to put tokens into."""
    resnet = small_clip(layers=(1, 1, 1, 1), width=8, image_size=32, patch_size=None)
    with pytest.raises(VpError, match="small has no transformer blocks"):
        DeepPromptedCLIP(resnet, NAMES, prompt=DeepPrompt(1, 16, 0))
