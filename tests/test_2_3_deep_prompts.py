"""Report 2.3: deep prompts (tables 3 and 4)."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from unittest import mock

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from tests.conformance.agree import agree
from tests.controls import last_block as controls
from tests.support.asserts import contrasted, paired
from tests.support.small_clip import BLOCKS, WIDTH, small_model, tokenizer
from tests.support.strategies import pixels, seeds, tensor
from vp.data import ImageSet, Preprocess
from vp.evaluation import ImageBatches, PrefixBatches
from vp.evaluation.batches import cache_bytes
from vp.experiments import SCALES, TOKEN_COUNTS, deep_name, runs
from vp.machine.errors import VpError
from vp.models import FrozenCLIP, cosine_logits
from vp.models.vision_transformer import reads_one_token
from vp.prompts import BatchScrambledDeepPrompt, DeepPrompt, DeepPromptedCLIP, FastDeepPromptedCLIP, deep
from vp.prompts.deep import ClassTokenInputs, KeysAndValues, Position, last_block_inputs, last_block_kind, tokens_before_block
from vp.report.expectations import Verdict
from vp.report.writeup import label_of

NAMES, TEXTS = ["house", "red_leaf", "moon"], [f"This is a photo of a {name}" for name in ("house", "red leaf", "moon")]
LENGTH = 5  # of the sequence of small(): 4 patches and the class token
positions = st.sampled_from(["front", "after_class", "back"])
readouts = st.sampled_from(["class", "first"])
blocks = st.integers(0, BLOCKS - 1)
counts = st.integers(0, 4)
batch_sizes = st.integers(1, 4)


def small_clip(**vision: object) -> FrozenCLIP:
    return FrozenCLIP("small", small_model(**vision), tokenizer(), Preprocess(16))


@cache  # in place of a fixture, which would be part of every counterexample
def small() -> CLIP:
    return small_model()


@cache
def wide() -> CLIP:
    """Blocks as many and as wide as those of ViT-B/32; all that has no say in a prompt is small."""
    vision = open_clip.get_model_config("ViT-B-32-quickgelu")["vision_cfg"]
    assert (vision["layers"], vision["width"]) == (12, 768)
    return small_model(**{**vision, "head_width": 64, "mlp_ratio": 1 / 768, "image_size": 32})


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return small_clip()


@st.composite
def deep_prompts(draw: st.DrawFn, least: int = 0, cls: type[DeepPrompt] = DeepPrompt) -> DeepPrompt:
    torch.manual_seed(draw(seeds))
    return cls(draw(st.integers(least, 4)), WIDTH, draw(blocks), draw(positions), draw(readouts))


def images_from(seed: int, batch: int) -> Tensor:
    return tensor(seed, batch, 3, 16, 16)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# -- asked of any implementation: it may keep the backbone that it is given, wrap it, hook it or copy it ---------------------


def tokens_of(model: nn.Module, backbone: CLIP) -> list[nn.Parameter]:
    """What a deep-prompted CLIP learns: its trainable parameters that are not the backbone's."""
    own = {id(one) for one in backbone.parameters()}
    return [one for one in model.parameters() if one.requires_grad and id(one) not in own]


def prompted(impl, backbone: CLIP, seed: int, n: int, block: int, position: str, readout: str) -> nn.Module:
    """A deep-prompted CLIP around `backbone` whose tokens are `learnt(seed, n)`, in whatever shape it holds them."""
    model = impl.DeepPromptedCLIP(backbone, tokenizer(), NAMES, n, block, position, readout)
    tokens = tokens_of(model, backbone)
    count = sum(one.numel() for one in tokens)
    assert count == n * WIDTH, f"n = {n}, width {WIDTH}: {count} trainable parameters beside the backbone's, expected {n * WIDTH}"
    with torch.no_grad():
        for one, values in zip(tokens, learnt(seed, n).flatten().split([one.numel() for one in tokens]), strict=True):
            one.copy_(values.view_as(one))
    return model


def learnt(seed: int, n: int) -> Tensor:
    """Values of n tokens (n, D): for every other seed as at first, else as large as training may make them."""
    return tensor(seed, n, WIDTH) * (1, 30)[seed % 2]


def defined(backbone: CLIP, seed: int, n: int, block: int, position: str, readout: str, images: Tensor) -> Tensor:
    """The definition: open_clip's own blocks, run on the sequence with the tokens in it from block `block` on."""
    visual = backbone.visual
    sequence = visual._embeds(images)  # class token, then patches
    for index, one in enumerate(visual.transformer.resblocks):
        if index == block:
            place = {"front": 0, "after_class": 1, "back": sequence.shape[1]}[position]
            tokens = learnt(seed, n).expand(len(images), n, WIDTH)
            sequence = torch.cat([sequence[:, :place], tokens, sequence[:, place:]], dim=1)
        sequence = one(sequence)
    read = n if readout == "class" and position == "front" else 0
    features = normalize(visual.ln_post(sequence[:, read]) @ visual.proj, dim=-1)
    texts = normalize(backbone.encode_text(tokenizer()(TEXTS)), dim=-1)
    return backbone.logit_scale.exp() * features @ texts.T


# -- the theorem -----------------------------------------------------------------------------------------------------------


@pytest.mark.claim("position-does-not-matter", "attention-reaches-every-position")
@pytest.mark.specifies("DeepPromptedCLIP")
@given(seed=seeds, n=counts, block=blocks, batch=batch_sizes)
def test_the_position_of_the_prompt_does_not_matter(impl, seed: int, n: int, block: int, batch: int) -> None:
    """With the class token as readout, prompts in front, after the class token or at the back give the same logits: a theorem."""
    after_class, front, back = (
        prompted(impl, deepcopy(small()), seed, n, block, position, "class")(images_from(seed, batch))
        for position in ("after_class", "front", "back")
    )
    agree(front, after_class, "logits with tokens in front, against those with the same tokens after the class token", atol=1e-4)
    agree(back, after_class, "logits with tokens at the back, against those with the same tokens after the class token", atol=1e-4)


@pytest.mark.claim("readout-matters")
@pytest.mark.specifies("DeepPromptedCLIP")
@given(seed=seeds, n=st.integers(1, 4), block=blocks)
def test_the_readout_does_matter(impl, seed: int, n: int, block: int) -> None:
    """Reading the first token is another classifier than reading the class token once prompts stand in front."""
    logits = [
        prompted(impl, deepcopy(small()), seed, n, block, "front", readout)(images_from(seed, 2)) for readout in ("class", "first")
    ]
    differ = (logits[0] - logits[1]).abs().max().item()
    assert differ > 1e-3, f"with n = {n} and position front, logits of readout first and readout class are the same"


@pytest.mark.specifies("DeepPromptedCLIP")
@given(seed=seeds, n=counts, block=blocks, position=st.sampled_from(["after_class", "back"]))
def test_both_readouts_agree_while_the_class_token_comes_first(impl, seed: int, n: int, block: int, position) -> None:
    """Behind the class token, prompts leave it the first token, and both readouts are one."""
    logits = [
        prompted(impl, deepcopy(small()), seed, n, block, position, readout)(images_from(seed, 2)) for readout in ("class", "first")
    ]
    agree(
        logits[1],
        logits[0],
        f"logits with position {position}, readout first against readout class, which are one token",
        atol=1e-4,
    )


# -- what a deep prompt is -------------------------------------------------------------------------------------------------


@pytest.mark.claim("attention-reaches-every-position")
@pytest.mark.specifies("DeepPromptedCLIP")
@given(seed=seeds, n=counts, block=blocks, position=positions, readout=readouts, batch=batch_sizes, training=st.booleans())
def test_the_tokens_run_through_open_clips_own_blocks(
    impl, seed: int, n: int, block: int, position, readout, batch: int, training: bool
) -> None:
    """The logits are those of open_clip's own blocks on the sequence that has the tokens in it from block k to the end."""
    images = images_from(seed, batch)
    model = prompted(impl, deepcopy(small()), seed, n, block, position, readout)
    model.train(training)
    found = model(images)
    expected = defined(small(), seed, n, block, position, readout, images)
    agree(found, expected, f"logits with n = {n} from block {block} on, position {position}, readout {readout}", atol=1e-4)


@pytest.mark.claim("deep-parameters")
@pytest.mark.specifies("DeepPromptedCLIP")
@settings(max_examples=3)
@given(n=st.sampled_from([1, 4, 8]), block=st.sampled_from([0, 6, 11]), position=positions)
def test_deep_prompts_of_vit_b_32_have_768_n_parameters(impl, n: int, block: int, position) -> None:
    """n deep prompts of ViT-B/32 have 768 n parameters."""
    model = impl.DeepPromptedCLIP(deepcopy(wide()), tokenizer(), NAMES, n, block, position, "class")
    found = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert found == 768 * n, f"n = {n}, width 768: {found:,} trainable parameters, expected {768 * n:,} and a frozen backbone"


@pytest.mark.specifies("DeepPromptedCLIP")
@settings(max_examples=3)
@given(position=positions)
def test_tokens_start_as_standard_normal_values(impl, position) -> None:
    """Initial values of the tokens are N(0, 1)."""
    torch.manual_seed(0)
    backbone = deepcopy(wide())
    model = impl.DeepPromptedCLIP(backbone, tokenizer(), NAMES, 200, 0, position, "class")
    values = torch.cat([one.detach().flatten() for one in tokens_of(model, backbone)])
    mean, std, inner = values.mean().item(), values.std().item(), (values.abs() < 1).float().mean().item()
    assert abs(mean) < 5 / values.numel() ** 0.5, f"initial values have mean {mean:.3g}: expected about 0"
    assert abs(std - 1) < 5 / (2 * values.numel()) ** 0.5, f"initial values have std {std:.3g}: expected about 1"
    assert abs(inner - 0.6827) < 5 * (0.22 / values.numel()) ** 0.5, f"{inner:.1%} of initial values are within 1: expected 68.3%"


@pytest.mark.specifies("DeepPromptedCLIP")
@given(seed=seeds, block=blocks, position=positions, readout=readouts)
def test_no_tokens_is_the_backbone_itself(impl, seed: int, block: int, position, readout) -> None:
    """With n = 0 the logits are those of the backbone without a prompt."""
    images = images_from(seed, 3)
    features, texts, scale = small()(images, tokenizer()(TEXTS))
    found = prompted(impl, deepcopy(small()), seed, 0, block, position, readout)(images)
    agree(found, scale * features @ texts.T, "logits with n = 0, against those of the backbone alone", atol=1e-4)


@pytest.mark.parametrize(("position", "order"), [("front", "ppcabde"), ("after_class", "cppabde"), ("back", "cabdepp")])
def test_tokens_stand_where_they_are_put(position: Position, order: str) -> None:
    """Before the class token, after it, or after all patches; without them the sequence is as it was, in its own precision."""
    value = {"c": 0.0, "a": 1.0, "b": 2.0, "d": 3.0, "e": 4.0, "p": 9.0}
    sequence = torch.tensor([value[one] for one in "cabde"], dtype=torch.float16)[None, :, None].expand(2, 5, 3)
    prompt = DeepPrompt(2, 3, 0, position, "class")
    prompt.tokens.data.fill_(value["p"])
    inserted = prompt.insert(sequence)
    assert inserted.dtype == torch.float16
    assert inserted[1, :, 2].tolist() == [value[one] for one in order]
    assert torch.equal(prompt.for_pooling(inserted), sequence)


def test_the_last_block_is_shortened_where_one_token_is_read(clip: FrozenCLIP) -> None:
    """Only a standard block whose class token alone is read out computes one token; other towers compute all of them."""
    images = ImageSet("some", "test", pixels(0, 3, 3, 16, 16), torch.zeros(3, dtype=torch.long), ("a",))
    cells = [(1, "front", "class"), (2, "front", "class"), (2, "front", "first"), (2, "back", "first")]
    prompts = [DeepPrompt(1, WIDTH, block, position, readout) for block, position, readout in cells]
    given_inputs = [PrefixBatches(ImageBatches(images, clip.preprocess), clip, prompt)[torch.arange(3)][0] for prompt in prompts]
    assert [type(one) for one in given_inputs] == [Tensor, ClassTokenInputs, KeysAndValues, ClassTokenInputs]
    visual = clip.model.visual
    assert reads_one_token(visual)
    for name, other in (("pool_type", "avg"), ("attn_pool", torch.nn.Identity())):
        with mock.patch.object(visual, name, other):
            assert not reads_one_token(visual), name
            assert last_block_kind(clip, prompts[1]) is None
    with mock.patch("open_clip.transformer.ResidualAttentionBlock", type(None)):
        assert not reads_one_token(visual)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_one_token_of_the_last_block_is_computed(block: int) -> None:
    """With a deep prompt before any block, one token an image passes through the last block's feed-forward layer."""
    clip, prompt, seen = small_clip(), DeepPrompt(2, WIDTH, block), []
    inputs, _ = PrefixBatches(
        ImageBatches(ImageSet("some", "test", pixels(0, 3, 3, 16, 16), torch.zeros(3).long(), ("a",)), clip.preprocess),
        clip,
        prompt,
    )[torch.arange(3)]
    for one in clip.model.visual.transformer.resblocks:
        one.mlp.register_forward_hook(lambda _, given, __: seen.append(given[0].numel() // WIDTH))
    FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)(inputs)
    assert seen == [*[3 * (LENGTH + 2)] * (BLOCKS - 1 - block), 3]


@given(seed=seeds, block=blocks, position=positions, readout=readouts)
def test_no_tokens_change_no_bit(clip: FrozenCLIP, seed: int, block: int, position, readout) -> None:
    """With n = 0 the logits are exactly those of the vision transformer's own features."""
    model = DeepPromptedCLIP(clip, NAMES, prompt=DeepPrompt(0, WIDTH, block, position, readout))
    images = images_from(seed, 3)
    features = normalize(clip.model.encode_image(images), dim=-1)
    assert torch.equal(model(images), cosine_logits(features, model.text_features, clip.scale))


def watch_blocks(backbone: CLIP) -> list[tuple[int, int]]:
    """A list that will have (block, values) for each time that a block of `backbone`, or of a copy of it, normalises its input."""
    seen: list[tuple[int, int]] = []

    def hook_of(index: int):
        return lambda _, arguments: seen.append((index, arguments[0].numel()))  # a copy of a module has its hooks, too

    for index, one in enumerate(backbone.visual.transformer.resblocks):
        one.ln_1.register_forward_pre_hook(hook_of(index))
    return seen


deep_settings = {"seed": seeds, "block": blocks, "position": positions, "readout": readouts}


@pytest.mark.claim("tokens-join-the-sequence")
@pytest.mark.specifies("DeepPromptedCLIP")
@given(n=counts, **deep_settings)
def test_the_sequence_has_n_more_tokens_from_block_k_on(impl, seed: int, n: int, block: int, position, readout) -> None:
    """The sequence has L tokens before block k and L + n from block k on."""
    backbone, images = deepcopy(small()), images_from(seed, 1)
    seen = watch_blocks(backbone)
    model = prompted(impl, backbone, seed, n, block, position, readout)
    seen.clear()
    logits = model(images)
    if not seen:  # the blocks are the solution's own: what they give is all that can be told
        agree(logits, defined(small(), seed, n, block, position, readout, images), "logits", atol=1e-4)
        return
    for index in range(BLOCKS):
        # In any layout; of several runs the longest, for that a block runs once is said elsewhere.
        length = max((values for at, values in seen if at == index), default=0) / WIDTH
        expected = LENGTH + n * (index >= block)
        assert length == expected, (
            f"with n = {n} from block {block} on, block {index} has {length:g} tokens of an image: expected {expected}"
        )


@pytest.mark.specifies("DeepPromptedCLIP")
@given(n=counts, **deep_settings)
def test_every_block_runs_exactly_once(impl, seed: int, n: int, block: int, position, readout) -> None:
    """Each block runs once for each image."""
    backbone, images = deepcopy(small()), images_from(seed, 1)
    seen = watch_blocks(backbone)
    model = prompted(impl, backbone, seed, n, block, position, readout)
    seen.clear()
    logits = model(images)
    if not seen:
        agree(logits, defined(small(), seed, n, block, position, readout, images), "logits", atol=1e-4)
        return
    for index in range(BLOCKS):
        times = sum(at == index for at, _ in seen)
        assert times == 1, f"with n = {n} from block {block} on, block {index} ran {times} times for one image: expected 1"


@pytest.mark.claim("only-the-tokens-learn", "attention-reaches-every-position")
@pytest.mark.specifies("DeepPromptedCLIP")
@given(n=st.integers(1, 4), **deep_settings)
def test_the_prompt_and_nothing_else_gets_a_gradient(impl, seed: int, n: int, block: int, position, readout) -> None:
    """Every token of the prompt gets a gradient, and no parameter of the backbone does."""
    backbone = deepcopy(small())
    model = prompted(impl, backbone, seed, n, block, position, readout)
    logits = model(images_from(seed, 3))
    assert logits.requires_grad, "the logits do not depend on the tokens: nothing is learnt"
    cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    tokens = tokens_of(model, backbone)
    assert all(one.grad is not None for one in tokens), "the tokens have no gradient"
    gradients = torch.cat([one.grad.flatten() for one in tokens]).view(n, WIDTH)
    idle = int((gradients.abs().sum(1) == 0).sum())
    assert idle == 0, f"{idle} of {n} tokens learn nothing: their gradient is 0"
    learning = {id(one) for one in tokens}
    for name, parameter in [*backbone.named_parameters(), *model.named_parameters()]:
        assert id(parameter) in learning or parameter.grad is None, f"{name} of the backbone gets a gradient"


@pytest.mark.claim("place-in-the-batch-does-not-matter")
@pytest.mark.specifies("DeepPromptedCLIP")
@given(n=counts, **deep_settings)
def test_an_images_logits_do_not_depend_on_its_place_in_the_batch(impl, seed: int, n: int, block: int, position, readout) -> None:
    """An image's logits do not depend on the other images or on its place in the batch."""
    model, images = prompted(impl, deepcopy(small()), seed, n, block, position, readout), images_from(seed, 4)
    together = model(images)
    agree(model(images[[2, 0, 3, 1]]), together[[2, 0, 3, 1]], "logits of the same images in another order", atol=1e-4)
    alone = torch.cat([model(image[None]) for image in images])
    agree(together, alone, "logits of images in a batch, against those of each alone", atol=1e-4)


@pytest.mark.specifies("DeepPromptedCLIP")
@given(n=counts, **deep_settings)
def test_the_same_prompt_gives_the_same_logits_again(impl, seed: int, n: int, block: int, position, readout) -> None:
    """A prompt is the same at every step: nothing is drawn anew."""
    model, images = prompted(impl, deepcopy(small()), seed, n, block, position, readout), images_from(seed, 2)
    first = model(images)
    agree(model(images), first, "logits of the same images a second time", atol=0, rtol=0)


@given(seed=seeds, block=blocks, readout=readouts)
def test_one_token_is_the_same_scrambled_or_not(clip: FrozenCLIP, seed: int, block: int, readout) -> None:
    """With n = 1 the batch-scrambled control is the correct prompt, logits and gradients: what one learns is the other's."""
    found = []
    for cls in (DeepPrompt, BatchScrambledDeepPrompt):
        torch.manual_seed(seed)
        prompt, images = cls(1, WIDTH, block, "back", readout), images_from(seed, 3)
        before = tokens_before_block(clip, images, block)
        kind = last_block_kind(clip, prompt)
        inputs = last_block_inputs(clip, before, kind) if kind else before
        for logits in (
            DeepPromptedCLIP(clip, NAMES, prompt=prompt)(images),
            FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)(inputs),
        ):
            found.append((logits, *torch.autograd.grad(logits.square().sum(), prompt.tokens)))
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            close(one, another)


@pytest.mark.specifies("DeepPromptedCLIP")
@given(n=counts, **deep_settings)
def test_hooks_leave_the_backbone_as_it_was(impl, seed: int, n: int, block: int, position, readout) -> None:
    """After a prompted forward the backbone computes what it did before."""
    backbone, images = deepcopy(small()), images_from(seed, 2)
    with torch.no_grad():
        before = backbone.encode_image(images)
        prompted(impl, backbone, seed, n, block, position, readout)(images)
        agree(backbone.encode_image(images), before, "features of the backbone given, after a prompted forward", atol=0, rtol=0)


# -- the shortcuts are the definition --------------------------------------------------------------------------------------


def assert_shortcuts_are_the_definition(clip: FrozenCLIP, prompt: DeepPrompt, images: Tensor) -> None:
    plain = DeepPromptedCLIP(clip, NAMES, prompt=prompt)(images)
    fast = FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)
    before = tokens_before_block(clip, images, prompt.block)
    kind = last_block_kind(clip, prompt)
    inputs = [before, deep.last_block_inputs(clip, before, kind)] if kind else [before]
    (gradient,) = torch.autograd.grad(plain.square().sum(), prompt.tokens)
    for given_inputs in inputs:
        logits = fast(given_inputs)
        close(logits, plain)
        (other,) = torch.autograd.grad(logits.square().sum(), prompt.tokens)
        assert (other - gradient).norm() <= 1e-4 * gradient.norm()


@given(data=st.data(), seed=seeds, batch=batch_sizes)
def test_the_shortcuts_give_the_same_logits_and_gradients(clip: FrozenCLIP, data: st.DataObject, seed: int, batch: int) -> None:
    """Cached activations and a last block for one token give the logits and gradients of the plain forward."""
    prompt = data.draw(st.one_of(deep_prompts(least=1), deep_prompts(least=1, cls=BatchScrambledDeepPrompt)))
    assert_shortcuts_are_the_definition(clip, prompt, images_from(seed, batch))


@pytest.mark.parametrize("name", ["largest_score", "mean_value", "without_the_class_token"])
def test_wrong_inputs_of_the_last_block_are_rejected(name: str, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong way to let an image's tokens count as one fails the property of the shortcuts."""
    torch.manual_seed(0)
    prompt, images = DeepPrompt(2, WIDTH, BLOCKS - 1), images_from(0, 3)
    assert_shortcuts_are_the_definition(clip, prompt, images)
    monkeypatch.setattr(deep, "last_block_inputs", getattr(controls, name))
    with pytest.raises(AssertionError):
        assert_shortcuts_are_the_definition(clip, prompt, images)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("readout", ["class", "first"])
def test_the_last_blocks_shortcut_holds_for_any_number_of_tokens(clip: FrozenCLIP, n: int, readout: str) -> None:
    """In the last block the first token is the prompt's own as soon as there is one, and the class token where there is none."""
    torch.manual_seed(0)
    prompt = DeepPrompt(n, WIDTH, BLOCKS - 1, "front", readout)
    images = images_from(0, 2)
    kind = last_block_kind(clip, prompt)
    assert kind is (KeysAndValues if n and readout == "first" else ClassTokenInputs)
    inputs = last_block_inputs(clip, tokens_before_block(clip, images, BLOCKS - 1), kind)
    close(FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)(inputs), DeepPromptedCLIP(clip, NAMES, prompt=prompt)(images))


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


@given(prompt=deep_prompts(), seed=seeds, count=st.integers(1, 7))
def test_kept_and_streamed_prefixes_are_the_same(clip: FrozenCLIP, prompt: DeepPrompt, seed: int, count: int) -> None:
    """A prefix kept in memory gives what one computed batch by batch gives, and both give the logits of the plain forward."""
    images = ImageSet("some", "test", pixels(seed, count, 3, 9, 9), torch.zeros(count, dtype=torch.long), ("thing",))
    plain = ImageBatches(images, clip.preprocess)
    kept, streamed = (PrefixBatches(plain, clip, prompt, keep=keep, batch_size=2) for keep in (True, False))
    assert kept.kept is not None
    assert streamed.kept is None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    fast = FastDeepPromptedCLIP(clip, NAMES, prompt=prompt)
    expected = DeepPromptedCLIP(clip, NAMES, prompt=prompt)(plain[order][0])
    for batches in (kept, streamed):
        inputs, labels = batches[order]
        close(fast(inputs), expected)
        assert torch.equal(labels, images.labels[order])


@pytest.mark.parametrize(("gib", "kept"), [("0", False), ("1e-7", False), ("1", True)])
@pytest.mark.filterwarnings("ignore::vp.evaluation.batches.NotKeptWarning")
def test_a_prefix_larger_than_the_cache_is_not_kept(
    clip: FrozenCLIP, gib: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VP_CACHE_GIB bounds what a process keeps of a prefix."""
    monkeypatch.setenv("VP_CACHE_GIB", gib)
    images = ImageSet("some", "test", pixels(0, 9, 3, 9, 9), torch.zeros(9, dtype=torch.long), ("thing",))
    assert (PrefixBatches(ImageBatches(images, clip.preprocess), clip, DeepPrompt(1, WIDTH, 1)).kept is not None) == kept


@pytest.mark.parametrize("gib", ["4GB", "-1", "nan"])
def test_a_cache_size_that_is_no_number_is_refused(gib: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VP_CACHE_GIB that is no size is an error that says what to give."""
    monkeypatch.setenv("VP_CACHE_GIB", gib)
    with pytest.raises(VpError, match="give a number of GiB of at least 0"):
        cache_bytes(torch.device("cpu"))


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


# -- tables 3 and 4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.reproduces(name))
        for name, run in runs("mini").items()
        if run.table in ("table_3", "why")
    ],
)
def test_table_3_deep_prompt_accuracy(name: str, results, judge) -> None:
    """A learnt deep prompt reaches the accuracy of table 3."""
    judge.cell(results(name))


@pytest.fixture
def cells(results, scale: str):
    """cells(which, n, column): results of both datasets; the block is first, middle or last; None stands for all of them."""

    def get(which: str | None, n: int | None, column: str, classes: tuple[str, ...] = ("10", "100")):
        places = dict(zip(("first", "middle", "last"), SCALES[scale].blocks, strict=True))
        chosen = places.values() if which is None else [places[which]]
        counts = TOKEN_COUNTS if n is None else [n]
        return [results(deep_name(c, block, tokens, column)) for c in classes for block in chosen for tokens in counts]

    return get


@pytest.mark.claim("early-beats-late-{column}")
@pytest.mark.reproduces
@pytest.mark.parametrize("column", ["front", "back"])
def test_early_injection_beats_late(column: str, cells, judge) -> None:
    """Injecting prompts at early layers yields higher classification performance than at later layers, over all cells together."""
    judge.ordering(cells("first", None, column), cells("last", None, column))


@pytest.mark.claim("early-beats-late-everywhere-{column}")
@pytest.mark.reproduces
@pytest.mark.parametrize("column", ["front", "back"])
def test_early_injection_beats_late_in_every_cell(column: str, cells, judge) -> None:
    """Injecting prompts at the first layer yields higher classification performance than at the last, in each of six cells."""
    pairs = zip(cells("first", None, column), cells("last", None, column), strict=True)
    judge.every([paired([first], [last]) for first, last in pairs])


@pytest.mark.claim("middle-closer-to-first-{column}")
@pytest.mark.reproduces
@pytest.mark.parametrize("column", ["front", "back"])
def test_the_step_from_first_to_middle_is_smaller_than_from_middle_to_last(column: str, cells, judge) -> None:
    """The difference between injecting at layer 0 and 6 is less pronounced than between layer 6 and 11: |f - m| < |m - l|, which
    for f the first, m the middle and l the last is (m - l) - (f - m) > 0 and (m - l) + (f - m) = f - l > 0."""
    first, middle, last = (cells(which, None, column) for which in ("first", "middle", "last"))
    steps = [(1.0, middle), (-0.5, first), (-0.5, last)]  # the mean over the two sets
    judge.every([contrasted(steps, "step to the last block less step from the first"), paired(first, last)])


@pytest.mark.claim("more-prompts-help-{column}")
@pytest.mark.reproduces
@pytest.mark.parametrize("column", ["front", "back"])
def test_more_prompts_help(column: str, cells, judge) -> None:
    """Increasing the number of prompts generally correlates well with an increase in classification accuracy."""
    judge.ordering(cells(None, 8, column), cells(None, 1, column))


@pytest.mark.claim("more-prompts-help-most-early-{column}")
@pytest.mark.reproduces
@pytest.mark.parametrize("column", ["front", "back"])
def test_more_prompts_help_most_at_early_and_middle_layers_of_the_100_class_set(column: str, cells, judge) -> None:
    """More prompts have the largest effect when injecting at early to middle layers on the 100-class set."""
    hundred = ("100",)
    weights = [
        (0.5, cells("first", 8, column, hundred)),
        (-0.5, cells("first", 1, column, hundred)),
        (0.5, cells("middle", 8, column, hundred)),
        (-0.5, cells("middle", 1, column, hundred)),
        (-1.0, cells("last", 8, column, hundred)),
        (1.0, cells("last", 1, column, hundred)),
    ]
    judge.contrast(weights)


@pytest.mark.claim("more-prompts-help-most-on-100-{column}")
@pytest.mark.reproduces
@pytest.mark.parametrize("column", ["front", "back"])
def test_more_prompts_help_most_on_the_100_class_set(column: str, cells, judge) -> None:
    """More prompts, 8 against 1, gain more accuracy on the 100-class set than on the 10-class set."""
    sets = ((1.0, ("100",)), (-1.0, ("10",)))
    judge.contrast([(sign * gain, cells(None, n, column, of)) for sign, of in sets for gain, n in ((1.0, 8), (-1.0, 1))])


@pytest.mark.claim("class-readout-beats-first-{which}")
@pytest.mark.reproduces
@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_reading_the_class_token_beats_reading_the_first(which: str, cells, judge) -> None:
    """With prompts in front, reading the class token gives a higher accuracy than reading the first token, a prompt."""
    judge.ordering(cells(which, None, "back"), cells(which, None, "front"))


@pytest.mark.claim("scrambling-loses-{which}")
@pytest.mark.reproduces
@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_scrambling_loses_what_more_tokens_gain(which: str, cells, judge) -> None:
    """With 4 and 8 tokens a batch-scrambled prompt is worse than the correct one, as the report's back column is."""
    correct, scrambled = (cells(which, 4, column) + cells(which, 8, column) for column in ("back", "scrambled"))
    judge.ordering(correct, scrambled)


@pytest.mark.claim("scrambled-falls-with-n-{which}")
@pytest.mark.reproduces
@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_scrambled_accuracy_falls_as_tokens_are_added(which: str, cells, judge) -> None:
    """A batch-scrambled prompt of 8 tokens is worse than one of 1 token, as in the report's back column."""
    judge.ordering(cells(which, 1, "scrambled"), cells(which, 8, "scrambled"))


@pytest.mark.parametrize("scale", SCALES)
def test_one_scrambled_token_takes_weights_and_spread_from_the_correct_prompt(scale: str) -> None:
    """Only a single scrambled token is not trained again: it takes the weights of the correct prompt, and spreads with its kind."""
    scrambled = [run for run in runs(scale).values() if run.table == "table_3" and run.method.scrambled]
    for run in scrambled:
        correct = runs(scale)[run.name.replace("scrambled", "back")]
        single = run.method.n == 1
        assert (run.weights_from, run.recipe) == ((correct.name, None) if single else (None, correct.recipe))
        assert (run.kind == correct.kind) == single
    assert sum(run.method.n == 1 for run in scrambled) == 6


@pytest.mark.claim("one-scrambled-token-is-correct")
@pytest.mark.reproduces
def test_one_scrambled_token_is_the_correct_prompt(cells, judge) -> None:
    """With one token the scrambled prompt is the correct one: the same images are right, as the report's n = 1 columns agree."""
    pairs = [
        (a.correct_images, b.correct_images)
        for one, other in zip(cells(None, 1, "back"), cells(None, 1, "scrambled"), strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    differing = sum(int((a != b).sum()) for a, b in pairs) / sum(len(a) for a, _ in pairs)
    verdict = Verdict.REPRODUCED if differing < 0.001 else Verdict.CONTRADICTED  # same weights; rounding may turn a tie
    judge.conclude(f"{differing:.2%} of the images differ over the cells with n = 1", verdict)


def mean_validation(cell) -> float:
    return sum(result.validation_top1 for result in cell) / len(cell)


@pytest.mark.claim("deep-beats-visual-{classes}")
@pytest.mark.reproduces
@pytest.mark.parametrize("classes", ["10", "100"])
def test_table_4_deep_beats_visual(classes: str, results, cells, judge, record) -> None:
    """The best performing deep prompt outperforms the best visual prompt."""
    readout = cells(None, None, "back", (classes,)) + cells(None, None, "front", (classes,))
    visual = [results(f"{kind}-{classes}") for kind in ("padding", "fixed-patch")]
    best = [max(some, key=mean_validation) for some in (readout, visual)]
    baseline, known = results(f"zero-shot-{classes}-test"), runs("mini")
    record(
        "table",
        id="table-4",
        caption="Table 4. The best deep and visual prompts, chosen on validation images, against the baseline: test top-1 (%).",
        head=["Dataset", "Deep prompt", "Visual prompt", "Baseline", "Report (deep, visual, baseline)"],
        rows=[
            [
                best[0][0].dataset,
                *(f"{sum(r.top1 for r in cell) / len(cell):.2f} ({label_of(known[cell[0].run], known)})" for cell in best),
                f"{baseline[0].top1:.2f}",
                {"10": "96.59, 92.74, 88.94", "100": "79.98, 71.39, 63.15"}[classes],
            ]
        ],
    )
    judge.ordering([best[0]], [best[1]])


@pytest.mark.claim("deep-beats-baseline-{classes}")
@pytest.mark.reproduces
@pytest.mark.parametrize("classes", ["10", "100"])
def test_table_4_deep_beats_the_baseline(classes: str, results, cells, judge) -> None:
    """The best performing deep prompt is a considerable improvement over the baseline."""
    readout = cells(None, None, "back", (classes,)) + cells(None, None, "front", (classes,))
    best = max(readout, key=mean_validation)
    judge.ordering([best], [results(f"zero-shot-{classes}-test")])


@pytest.mark.reproduces
@pytest.mark.parametrize(
    "what",
    [
        pytest.param("long", marks=pytest.mark.claim("class-readout-beats-long-training")),
        pytest.param("wide", marks=pytest.mark.claim("class-readout-beats-more-tokens")),
    ],
)
def test_longer_training_does_not_mend_the_late_first_token_readout(what: str, results, judge, scale: str) -> None:
    """Neither ten times the training nor three times the tokens lets the first token, read at the last block, catch up."""
    last = SCALES[scale].blocks[-1]
    judge.ordering([results(deep_name("100", last, 8, "back"))], [results(f"deep-100-block{last}-{what}")])
