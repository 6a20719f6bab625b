"""The vision transformer of an open_clip CLIP in parts: the tokens that enter block k, and its last block for one token only.

B images, L tokens (the class token, then patches), D the width, k the block (0-based). Where only the class token is read out, the
last block need not compute the others: one query attends to the keys and values of all. tests/test_2_1_zero_shot.py holds this to
open_clip's own forward, values and gradients.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def transformer_blocks(visual: nn.Module) -> nn.ModuleList | None:
    """The blocks of open_clip's own, batch-first vision transformer; None for any other, such as that of a ResNet CLIP."""
    transformer = getattr(visual, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    return blocks if isinstance(blocks, nn.ModuleList) and getattr(transformer, "batch_first", True) else None


def reads_one_token(visual: nn.Module) -> bool:
    """Is the image feature a function of one token of the last block, and that block a standard one?"""
    if (blocks := transformer_blocks(visual)) is None:
        return False
    from open_clip.transformer import ResidualAttentionBlock  # here, where there is such a model: importing it takes seconds

    return (
        type(blocks[-1]) is ResidualAttentionBlock
        and getattr(visual, "pool_type", None) == "tok"
        and getattr(visual, "attn_pool", None) is None
    )


def tokens_before(visual: Any, images: Tensor, block: int) -> Tensor:
    """The sequence (B, L, D) that enters block k, for preprocessed images. Blocks from k on do not run.

    Raises ValueError for other than a batch of at least one image.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images are {tuple(images.shape)}: expected (B, 3, H, W) with at least one image")
    sequence: Tensor = visual._embeds(images)
    for each in visual.transformer.resblocks[:block]:
        sequence = each(sequence)
    return sequence


def queries(block: Any, tokens: Tensor) -> Tensor:
    """Queries (..., D) of ln_1(tokens), as `nn.MultiheadAttention` computes them."""
    width = tokens.shape[-1]
    projected: Tensor = functional.linear(block.ln_1(tokens), block.attn.in_proj_weight[:width], block.attn.in_proj_bias[:width])
    return projected


def keys_and_values(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values, each (..., D), of ln_1(tokens), as `nn.MultiheadAttention` computes them."""
    width = tokens.shape[-1]
    keys, values = functional.linear(block.ln_1(tokens), block.attn.in_proj_weight[width:], block.attn.in_proj_bias[width:]).chunk(
        2, -1
    )
    return keys, values


def by_head(block: Any, tokens: Tensor) -> Tensor:
    """(B, L, D) to heads first, (B, heads, L, D / heads)."""
    heads: int = block.attn.num_heads
    split: Tensor = tokens.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def attend(block: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of queries (B, D), one an image, over keys and values (B, L, D): (B, D), before the output projection."""
    one, keys, values = (by_head(block, tokens) for tokens in (query[:, None], keys, values))
    attended: Tensor = functional.scaled_dot_product_attention(one, keys, values)
    return attended.flatten(1)


def after_attention(block: Any, token: Tensor, attended: Tensor) -> Tensor:
    """The block's output for a token (B, D), from its attention output."""
    x: Tensor = token + block.ls_1(block.attn.out_proj(attended))
    output: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return output


def image_features(visual: Any, sequence: Tensor) -> Tensor:
    """The tower's features (B, D') from the last block's output: the sequence, or the one token that is read (B, 1, D)."""
    pooled: Tensor = visual._pool(sequence)[0]
    return pooled if visual.proj is None else pooled @ visual.proj


def features_of_token(visual: Any, token: Tensor, attended: Tensor) -> Tensor:
    """The tower's features (B, D') of the token that is read out (B, D), from its attention output in the last block (B, D)."""
    return image_features(visual, after_attention(visual.transformer.resblocks[-1], token, attended)[:, None])


def read_out(visual: Any, sequence: Tensor, index: int = 0) -> Tensor:
    """The features (B, D') of the token at `index`, from the sequence (B, L, D) that enters the last block."""
    block, token = visual.transformer.resblocks[-1], sequence[:, index]
    attended = attend(block, queries(block, token), *keys_and_values(block, sequence))
    return features_of_token(visual, token, attended)
