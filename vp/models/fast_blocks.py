"""Faster parts of a frozen vision transformer, equal to open_clip's own, on the same weight tensors.

Patches are embedded by a product, which goes backward in a third of the convolution's time. Attention projects queries, keys and
values by one product, images first, where `nn.MultiheadAttention` copies to tokens first and back. QuickGELU goes backward by one
kernel. Half precision is normalised as it is, where autocast would write it in float32 before and after.
tests/test_2_1_zero_shot.py holds all to open_clip's own: values, and in float32 gradients.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from open_clip import CLIP

QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x)


class PatchEmbedding(nn.Module):
    """The convolution of a vision transformer, whose kernel and stride are a patch (p, q), as a product of patches and weights.

    out[b, d, i, j] = sum over c, y, x of weight[d, c, y, x] images[b, c, p i + y, q j + x].
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.patch_size = convolution.weight, convolution.weight.shape[2:]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, D, H // p, W // q); pixels beyond the last whole patch are left out."""
        (p, q), (height, width) = self.patch_size, images.shape[-2:]
        rows, columns = height // p, width // q
        patches = images[..., : rows * p, : columns * q].unflatten(2, (rows, p)).unflatten(4, (columns, q))
        flat = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return functional.linear(flat, self.weight.flatten(1)).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence with itself (B, L, D), called as open_clip's blocks call it."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The attended sequence (B, L, D). Raises ValueError for other keys or values, a mask, or where weights are asked for."""
        if key is not query or value is not query or attn_mask is not None or need_weights:
            raise ValueError(
                "self-attention in a frozen vision transformer has no other keys or values, no mask and no weights: ask for none"
            )
        projected = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        parts = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return self.out_proj(attended), None


class _SiluOfScaled(torch.autograd.Function):
    """silu(c x) / c = x sigmoid(c x), whose derivative by x is silu'(c x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = QUICK * x
        ctx.save_for_backward(scaled)
        return functional.silu(scaled).mul_(1 / QUICK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (scaled,), (gradient,) = ctx.saved_tensors, gradients
        by_scaled: Tensor = torch.ops.aten.silu_backward(gradient, scaled)
        return by_scaled


class FusedQuickGELU(nn.Module):
    """open_clip's QuickGELU, (any shape): one tensor kept for the backward pass instead of two."""

    def forward(self, x: Tensor) -> Tensor:
        """x sigmoid(1.702 x)."""
        activated: Tensor = _SiluOfScaled.apply(x)
        return activated


class SamePrecisionLayerNorm(nn.LayerNorm):
    """open_clip's LayerNorm (..., D) that reads and writes the precision of its input, to which weight and bias are rounded, too;
    statistics are float32 within the kernel."""

    rounded: tuple[Tensor, ...] = ()  # weight and bias in the precision of `with_weights_in`

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension."""
        if x.dtype == self.weight.dtype:
            return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        known = self.rounded and self.rounded[0].dtype == x.dtype
        weight, bias = self.rounded if known else (self.weight.to(x.dtype), self.bias.to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):
            return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def _on_the_same_tensors(module: nn.Module) -> Any:
    """A copy of a module that shares its parameters and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def with_weights_in(dtype: torch.dtype, visual: nn.Module) -> nn.Module:
    """A copy of a frozen vision tower for autocast to `dtype`: the weights of products, embeddings and norms are cast once, where
    autocast would cast what needs no gradient at every use. The results are the same to the bit."""
    from open_clip.transformer import VisionTransformer

    copied: nn.Module = _on_the_same_tensors(visual)
    for module in copied.modules():
        if isinstance(module, SamePrecisionLayerNorm):  # what enters it may be float32 all the same
            module.rounded = module.weight.to(dtype), module.bias.to(dtype)
        elif isinstance(module, nn.Linear | nn.Conv2d | VisionTransformer | PatchEmbedding | SelfAttention):
            for name, weight in [*module.named_parameters(recurse=False)]:
                setattr(module, name, nn.Parameter(weight.to(dtype), requires_grad=False))
    return copied


def faster(model: CLIP) -> CLIP:
    """A copy of `model` on the same parameters and buffers, with these in place of patch embedding and norms of its vision
    transformer, and of attention and activation in its standard blocks; other parts stay."""
    from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock, VisionTransformer

    copied: CLIP = _on_the_same_tensors(model)
    if type(copied.visual) is VisionTransformer:
        copied.visual.conv1 = PatchEmbedding(copied.visual.conv1)
    for norm in copied.visual.modules():
        if type(norm) is LayerNorm:
            norm.__class__ = SamePrecisionLayerNorm
    for block in copied.visual.modules():
        if type(block) is not ResidualAttentionBlock:
            continue
        if type(block.attn) is nn.MultiheadAttention and block.attn.batch_first:
            block.attn = SelfAttention(block.attn)
        if type(block.mlp.gelu) is QuickGELU:
            block.mlp.gelu = FusedQuickGELU()
    return copied
