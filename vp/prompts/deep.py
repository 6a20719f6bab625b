"""Deep prompts: learnt tokens put into the sequence of a frozen vision transformer before block k (report 2.3; Jia et al. 2022).

B images, L tokens of the backbone (class token, then patches), n prompt tokens, D the width, k the block (0-based).

`DeepPromptedCLIP` is the definition: hooks on the frozen CLIP's own forward insert the tokens before block k and take them out
after the last block. `FastDeepPromptedCLIP` computes the same from what the tokens cannot change: the activations before
block k, and in the last block everything but the token that is read out. tests/test_2_3_deep_prompts.py proves them equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from vp.models.clip import DEFAULT_TEMPLATE, FrozenCLIP, cosine_logits
from vp.models.inputs import input_of
from vp.prompts.prompted import PromptedCLIP
from vp.runtime import VpError

Position = Literal["front", "after_class", "back"]
Readout = Literal["class", "first"]


def vision_blocks(clip: FrozenCLIP) -> nn.ModuleList:
    """The blocks of open_clip's own, batch-first vision transformer. Raises VpError for any other, such as a ResNet CLIP."""
    transformer = getattr(clip.model.visual, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or not getattr(transformer, "batch_first", True):
        raise VpError(
            f"{clip.name} has no transformer blocks to put tokens into: give a model with open_clip's own vision transformer, "
            "such as mini-clip or ViT-B-32-quickgelu/openai"
        )
    return blocks


class DeepPrompt(nn.Module):
    """n learnt tokens of width D, N(0, 1) at first, the same for every image: D n parameters (768 n on ViT-B/32).

    position: where they stand, in `front` of the class token, `after_class` (between it and the patches) or at the `back`.
    readout: which token of the last block's output becomes the image's feature: `class` is the class token wherever it stands;
    `first` is the token at index 0, which for prompts in front is the first PROMPT token, as in the report's "front" column.
    On a backbone that pools by the mean of its patches, `class` stands for that pooling without the prompts.
    With the class readout all three positions give the same logits, because a block is permutation-equivariant (errata 1).

    Raises ValueError for a negative n or block, an unknown position or readout.
    """

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
        """What each image gets: values of the n tokens (n, D) to (B, n, D), the same for every image."""
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
    """A frozen CLIP whose own forward runs with the prompt's tokens in its sequence: preprocessed images to logits (B, K)."""

    prompt: DeepPrompt

    def __init__(
        self, clip: FrozenCLIP, class_names: Sequence[str], template: str = DEFAULT_TEMPLATE, *, prompt: DeepPrompt
    ) -> None:
        prompt.check_fits(clip)
        super().__init__(clip, class_names, template, prompt)

    @contextmanager
    def _tokens_in_place(self) -> Iterator[None]:
        def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return self.prompt.insert(arguments[0]), *arguments[1:]

        def after(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            return self.prompt.for_pooling(output)

        blocks = vision_blocks(self.clip)
        handles = [blocks[self.prompt.block].register_forward_pre_hook(before), blocks[-1].register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, images: Tensor) -> Tensor:
        with self._tokens_in_place():
            features = self.clip.encode_image(images)
        return cosine_logits(features, self.text_features, self.clip.scale)


# -- the same, from what the tokens cannot change --------------------------------------------------------------------------


def tokens_before_block(clip: FrozenCLIP, images: Tensor, block: int) -> Tensor:
    """The sequence (B, L, D) that enters block k, for preprocessed images, without gradients. Blocks from k on do not run."""
    return input_of(vision_blocks(clip)[block], lambda: clip.model.encode_image(images))


@dataclass(frozen=True)
class LastBlockInputs:
    """What the last block needs of images that prompts cannot change: keys and values (B, L, D), the class token (B, D)."""

    keys: Tensor
    values: Tensor
    class_token: Tensor


def reads_one_token(clip: FrozenCLIP) -> bool:
    """Is the image feature a function of one token of the last block, and that block a standard one?"""
    visual = clip.model.visual
    return (
        type(vision_blocks(clip)[-1]) is ResidualAttentionBlock
        and getattr(visual, "pool_type", None) == "tok"
        and getattr(visual, "attn_pool", None) is None
    )


def _project(block: Any, tokens: Tensor, part: int) -> Tensor:
    """Queries (part 0), keys (1) or values (2) of ln_1(tokens), as `nn.MultiheadAttention` computes them."""
    width = tokens.shape[-1]
    rows = slice(part * width, (part + 1) * width)
    return linear(block.ln_1(tokens), block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows])


def last_block_inputs(clip: FrozenCLIP, sequence: Tensor) -> LastBlockInputs:
    """Keys and values of all tokens (B, L, D) entering the last block, and the class token."""
    block = vision_blocks(clip)[-1]
    with torch.no_grad():
        return LastBlockInputs(_project(block, sequence, 1), _project(block, sequence, 2), sequence[:, 0])


def _read_out(block: Any, token: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The last block's output for one token (B, D) that attends to keys and values (B, L', D): one query instead of L'."""
    heads = block.attn.num_heads
    query, keys, values = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (_project(block, token, 0)[:, None], keys, values))
    attended = scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)[:, 0]
    x: Tensor = token + block.ls_1(block.attn.out_proj(attended))
    return x + cast(Tensor, block.ls_2(block.mlp(block.ln_2(x))))


class FastDeepPromptedCLIP(DeepPromptedCLIP):
    """The same logits as DeepPromptedCLIP, from `tokens_before_block`, or from LastBlockInputs when k is the last block."""

    def forward(self, inputs: Tensor | LastBlockInputs) -> Tensor:
        visual, blocks, prompt = self.clip.model.visual, vision_blocks(self.clip), self.prompt
        if isinstance(inputs, LastBlockInputs):
            tokens = prompt.tokens.to(inputs.keys.dtype)
            batch = len(inputs.keys)
            keys, values = (
                torch.cat([cached, prompt.for_batch(_project(blocks[-1], tokens, part), batch)], dim=1)
                for part, cached in ((1, inputs.keys), (2, inputs.values))
            )
            reads_prompt = prompt.readout == "first" and prompt.position == "front" and len(tokens) > 0
            token = prompt.for_batch(tokens, batch)[:, 0] if reads_prompt else inputs.class_token
            last = _read_out(blocks[-1], token, keys, values)[:, None]
        else:
            sequence = prompt.insert(inputs)
            for block in blocks[prompt.block : -1]:
                sequence = block(sequence)
            if reads_one_token(self.clip):
                keys, values = (_project(blocks[-1], sequence, part) for part in (1, 2))
                last = _read_out(blocks[-1], sequence[:, prompt.readout_index], keys, values)[:, None]
            else:
                last = prompt.for_pooling(blocks[-1](sequence))
        pooled, _ = visual._pool(last)
        features = pooled if visual.proj is None else pooled @ visual.proj
        return cosine_logits(normalize(features, dim=-1), self.text_features, self.clip.scale)
