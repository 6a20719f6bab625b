"""Wrong ways to compute the last block for one token: tests/test_2_1_zero_shot.py and test_2_3_deep_prompts.py reject each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from vp.models import FrozenCLIP
from vp.models.vision_transformer import attend, features_of_token, keys_and_values, queries, read_out
from vp.prompts import deep
from vp.prompts.deep import ClassTokenInputs, vision_blocks

# -- in place of vp.models.vision_transformer.read_out -----------------------------------------------------------------------------


def first_patch(visual: Any, sequence: Tensor) -> Tensor:
    """Reads the token after the class token."""
    return read_out(visual, sequence, 1)


def _features(visual: Any, sequence: Tensor, query: Tensor, keys: Tensor, values: Tensor, shortcut: float = 1.0) -> Tensor:
    block = visual.transformer.resblocks[-1]
    return features_of_token(visual, shortcut * sequence[:, 0], attend(block, query, keys, values))


def query_not_normalised(visual: Any, sequence: Tensor) -> Tensor:
    """Projects the query of the token as it enters, without ln_1."""
    block = visual.transformer.resblocks[-1]
    weight, bias = (each[: sequence.shape[-1]] for each in (block.attn.in_proj_weight, block.attn.in_proj_bias))
    return _features(visual, sequence, functional.linear(sequence[:, 0], weight, bias), *keys_and_values(block, sequence))


def without_its_shortcut(visual: Any, sequence: Tensor) -> Tensor:
    """Adds what the token attends to onto nothing."""
    block = visual.transformer.resblocks[-1]
    return _features(visual, sequence, queries(block, sequence[:, 0]), *keys_and_values(block, sequence), shortcut=0.0)


def keys_for_values(visual: Any, sequence: Tensor) -> Tensor:
    """Takes the second part of the projection for values, the third for keys."""
    block = visual.transformer.resblocks[-1]
    return _features(visual, sequence, queries(block, sequence[:, 0]), *reversed(keys_and_values(block, sequence)))


# -- in place of vp.prompts.deep.last_block_inputs -------------------------------------------------------------------------

_last_block_inputs = deep.last_block_inputs


def _class_token_inputs(clip: FrozenCLIP, sequence: Tensor, kind: type) -> ClassTokenInputs:
    found = _last_block_inputs(clip, sequence, kind)
    assert isinstance(found, ClassTokenInputs)
    return found


def largest_score(clip: FrozenCLIP, sequence: Tensor, kind: type) -> ClassTokenInputs:
    """The largest score of an image's tokens for their logsumexp."""
    inputs, block = _class_token_inputs(clip, sequence, kind), vision_blocks(clip)[-1]
    return replace(inputs, score=deep._scores(block, inputs.query, keys_and_values(block, sequence)[0]).amax(1))


def mean_value(clip: FrozenCLIP, sequence: Tensor, kind: type) -> ClassTokenInputs:
    """The mean of an image's values, for what the class token attends to among them."""
    inputs = _class_token_inputs(clip, sequence, kind)
    return replace(inputs, value=keys_and_values(vision_blocks(clip)[-1], sequence)[1].mean(1))


def without_the_class_token(clip: FrozenCLIP, sequence: Tensor, kind: type) -> ClassTokenInputs:
    """The class token attends to the patches, but not to itself."""
    inputs = _class_token_inputs(clip, sequence, kind)
    block = vision_blocks(clip)[-1]
    keys, values = keys_and_values(block, sequence[:, 1:])
    scores = deep._scores(block, inputs.query, keys)
    return replace(inputs, score=scores.logsumexp(1), value=deep._weighted(scores.softmax(1), values))
