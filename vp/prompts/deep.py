"""Deep prompts: learnt tokens put into the sequence of a frozen vision transformer before block k (report 2.3; Jia et al. 2022).

B images, L tokens of the backbone (class token, then patches), n prompt tokens, D the width, k the block (0-based).

`DeepPromptedCLIP` is the definition: the frozen CLIP's own blocks run in turn, with the tokens inserted before block k and
taken out after the last. `FastDeepPromptedCLIP` computes the same from cached activations, those before block k, and in the last
block it computes the token that is read out only. tests/test_2_3_deep_prompts.py proves them equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vp.machine.errors import VpError
from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, Template, cosine_logits
from vp.models.vision_transformer import (
    attend,
    features_of_token,
    image_features,
    keys_and_values,
    queries,
    read_out,
    reads_one_token,
    tokens_before,
    transformer_blocks,
)
from vp.prompts.prompted import PromptedCLIP

Position = Literal["front", "after_class", "back"]
Readout = Literal["class", "first"]


def vision_blocks(clip: FrozenCLIP) -> nn.ModuleList:
    """The blocks of open_clip's own, batch-first vision transformer. Raises VpError for any other, such as a ResNet CLIP."""
    if (blocks := transformer_blocks(clip.model.visual)) is None:
        raise VpError(
            f"{clip.name} has no transformer blocks to put tokens into: give a model with open_clip's own vision transformer, "
            "such as mini-clip or ViT-B-32-quickgelu/openai"
        )
    return blocks


def reads_prompt(n: int, position: Position, readout: Readout) -> bool:
    """Is the token that is read out one of the n of a prompt?"""
    return n > 0 and position == "front" and readout == "first"


class DeepPrompt(nn.Module):
    """n learnt tokens of width D, N(0, 1) at first, the same for every image: D n parameters (768 n on ViT-B/32).

    position: where they stand, in `front` of the class token, `after_class` (between it and the patches) or at the `back`.
    readout: which token of the last block's output becomes the image's feature: `class` is the class token wherever it stands;
    `first` is the token at index 0, which for prompts in front is the first PROMPT token, as in the report's "front" column.
    On a backbone that pools by the mean of its patches, `class` stands for that pooling without the prompts.
    With the class readout all three positions give the same logits, because a block is permutation-equivariant (errata 1).

    Raises ValueError for a negative n or block, an unknown position or readout.
    """

    replayable = True  # see vp.training.cuda_graphs

    def __init__(self, n: int, width: int, block: int, position: Position = "after_class", readout: Readout = "class") -> None:
        super().__init__()
        if n < 0 or block < 0:
            raise ValueError(f"{n} tokens before block {block}: give n and a 0-based block of at least 0")
        if position not in get_args(Position) or readout not in get_args(Readout):
            choices = f"position {', '.join(get_args(Position))}; readout {', '.join(get_args(Readout))}"
            raise ValueError(f"no position {position!r} with readout {readout!r}: give {choices}")
        self.tokens = nn.Parameter(torch.randn(n, width))
        self.block = block
        self.position = position
        self.readout = readout

    def _place(self, length: int) -> int:
        return {"front": 0, "after_class": 1, "back": length}[self.position]

    def for_batch(self, tokens: Tensor, batch: int) -> Tensor:
        """The tokens of each image: values of the n tokens (n, D) to (B, n, D), the same for every image."""
        return tokens.expand(batch, -1, -1)

    def insert(self, sequence: Tensor) -> Tensor:
        """(B, L, D) to (B, L + n, D); with n = 0 the sequence itself."""
        if len(self.tokens) == 0:
            return sequence
        place = self._place(sequence.shape[1])
        tokens = self.for_batch(self.tokens.to(sequence.dtype), len(sequence))
        return torch.cat([sequence[:, :place], tokens, sequence[:, place:]], dim=1)

    def for_pooling(self, sequence: Tensor) -> Tensor:
        """The last block's output as the backbone's own pooling should see it: without prompts, or as it is for `first`."""
        if self.readout == "first":
            return sequence
        n = len(self.tokens)
        place = self._place(sequence.shape[1] - n)
        return torch.cat([sequence[:, :place], sequence[:, place + n :]], dim=1)

    @property
    def reads_prompt(self) -> bool:
        """Is the token that is read out one of the prompt's own?"""
        return reads_prompt(len(self.tokens), self.position, self.readout)

    @property
    def readout_index(self) -> int:
        """Index, in the sequence with prompts, of the token that is read out."""
        return len(self.tokens) if self.readout == "class" and self.position == "front" else 0

    def check_fits(self, clip: FrozenCLIP) -> None:
        """Raises ValueError when the block or the width is not one of `clip`'s."""
        blocks, width = vision_blocks(clip), clip.model.visual.transformer.width
        if self.block >= len(blocks):
            raise ValueError(f"block {self.block} of {clip.name}, which has {len(blocks)}: give 0 to {len(blocks) - 1}")
        if self.tokens.shape[1] != width:
            raise ValueError(f"tokens of width {self.tokens.shape[1]} for {clip.name}: give width {width}")


class BatchScrambledDeepPrompt(DeepPrompt):
    """NEGATIVE CONTROL, wrong on purpose: image j of a batch gets n copies of token j mod n (errata 2).

    It is what comes of repeating a (1, n, D) parameter along the wrong axis and viewing it as (B, n, D), and the only reading
    under which the report's "back" accuracies fall as n grows.
    """

    mixes_images = True  # what an image gets depends on its place in the batch, so that batches must not be split

    def for_batch(self, tokens: Tensor, batch: int) -> Tensor:
        """Values of n > 0 tokens (n, D) to (B, n, D), scrambled over the batch."""
        n = len(tokens)
        of_image = tokens.repeat(-(-batch // n), 1)[:batch]  # row j is token j mod n
        return of_image[:, None].expand(-1, n, -1)


class DeepPromptedCLIP(PromptedCLIP):
    """A frozen CLIP whose blocks run with the prompt's tokens in their sequence: preprocessed images to logits (B, K)."""

    prompt: DeepPrompt

    def __init__(
        self, clip: FrozenCLIP, class_names: Sequence[str], template: Template = DEFAULT_TEMPLATE, *, prompt: DeepPrompt
    ) -> None:
        prompt.check_fits(clip)
        super().__init__(clip, class_names, template, prompt)

    def forward(self, images: Tensor) -> Tensor:
        """The tokens are an argument of the computation, never a state of the shared CLIP: forwards may overlap in threads."""
        visual, prompt = self.clip.model.visual, self.prompt
        sequence = prompt.insert(tokens_before(visual, images, prompt.block))
        for block in visual.transformer.resblocks[prompt.block :]:
            sequence = block(sequence)
        return self.logits(image_features(visual, prompt.for_pooling(sequence)))

    def logits(self, features: Tensor) -> Tensor:
        """The vision transformer's features (B, D') to logits (B, K)."""
        return cosine_logits(normalize(features, dim=-1), self.text_features, self.clip.scale)


# -- the same, from what the tokens cannot change --------------------------------------------------------------------------


def tokens_before_block(clip: FrozenCLIP, images: Tensor, block: int) -> Tensor:
    """The sequence (B, L, D) that enters block k, for preprocessed images, without gradients. Blocks from k on do not run."""
    with torch.no_grad():
        return tokens_before(clip.visual, images, block)


@dataclass(frozen=True)
class KeysAndValues:
    """The last block's inputs of an image where a prompt token is read out: keys and values of its L tokens (B, L, D)."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class ClassTokenInputs:
    """The last block's inputs of an image where its class token is read out: the image's L tokens count as one.

    A softmax over the scores of L + n tokens is one over 1 + n: the L have log(sum of exp(score)) as their common score (B, heads),
    and what the class token attends to among them as their common value (B, D).
    """

    token: Tensor  # (B, D), as it enters the block
    query: Tensor  # (B, D)
    score: Tensor
    value: Tensor


LastBlockInputs = KeysAndValues | ClassTokenInputs


def last_block_kind(clip: FrozenCLIP, prompt: DeepPrompt) -> type[LastBlockInputs] | None:
    """The LastBlockInputs of a prompt before the last block; None where earlier blocks run, or where all tokens are read out."""
    if prompt.block < len(vision_blocks(clip)) - 1 or not reads_one_token(clip.model.visual):
        return None
    return KeysAndValues if prompt.reads_prompt else ClassTokenInputs


def last_block_inputs(clip: FrozenCLIP, sequence: Tensor, kind: type[LastBlockInputs]) -> LastBlockInputs:
    """The part of the last block that no prompt changes, from the tokens (B, L, D) that enter it, of either kind."""
    block = clip.visual.transformer.resblocks[-1]
    with torch.no_grad():
        keys, values = keys_and_values(block, sequence)
        if kind is KeysAndValues:
            return KeysAndValues(keys, values)
        token = sequence[:, 0]
        query = queries(block, token)
        scores = _scores(block, query, keys)
        return ClassTokenInputs(token, query, scores.logsumexp(1), _weighted(scores.softmax(1), values))


def _scores(block: Any, query: Tensor, keys: Tensor) -> Tensor:
    """<query, key> / sqrt(D / heads), (B, L, heads), of a query of each image (B, D) and its keys (B, L, D)."""
    products = _precise(query)[:, None] * _precise(keys)
    by_head: Tensor = products.unflatten(-1, (block.attn.num_heads, -1))
    return by_head.sum(-1) / math.sqrt(by_head.shape[-1])


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Values (B, L, D) as each head weighs them (B, L, heads), added up: (B, D)."""
    by_head: Tensor = _precise(values).unflatten(-1, (weights.shape[-1], -1))
    return (weights[..., None] * by_head).sum(1).flatten(1)


def _precise(tensor: Tensor) -> Tensor:
    """In no less than float32: a softmax of scores in half precision would weigh wrongly."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class FastDeepPromptedCLIP(DeepPromptedCLIP):
    """The same logits as DeepPromptedCLIP, from `tokens_before_block`, or from LastBlockInputs when k is the last block."""

    def forward(self, inputs: Tensor | LastBlockInputs) -> Tensor:
        visual, prompt = self.clip.visual, self.prompt
        blocks = visual.transformer.resblocks
        if not isinstance(inputs, Tensor):
            return self.logits(features_of_token(visual, *self._attention(blocks[-1], inputs)))
        sequence = prompt.insert(inputs)
        for block in blocks[prompt.block : -1]:
            sequence = block(sequence)
        if reads_one_token(visual):
            return self.logits(read_out(visual, sequence, prompt.readout_index))
        return self.logits(image_features(visual, prompt.for_pooling(blocks[-1](sequence))))

    def _attention(self, block: Any, inputs: LastBlockInputs) -> tuple[Tensor, Tensor]:
        """The token that is read out, as it enters the last block, and what it attends to, each (B, D)."""
        prompt = self.prompt
        if isinstance(inputs, KeysAndValues):
            batch, tokens = len(inputs.keys), prompt.tokens.to(inputs.keys.dtype)
            own = (prompt.for_batch(projected, batch) for projected in keys_and_values(block, tokens))
            keys, values = (torch.cat(both, dim=1) for both in zip((inputs.keys, inputs.values), own, strict=True))
            token = prompt.for_batch(tokens, batch)[:, 0]
            return token, attend(block, queries(block, token), keys, values)
        tokens = prompt.tokens.to(inputs.token.dtype)
        keys, values = (prompt.for_batch(projected, len(inputs.token)) for projected in keys_and_values(block, tokens))
        scores = torch.cat([inputs.score[:, None], _scores(block, inputs.query, keys)], dim=1)
        values = torch.cat([inputs.value[:, None], values], dim=1)
        return inputs.token, _weighted(scores.softmax(1), values)
