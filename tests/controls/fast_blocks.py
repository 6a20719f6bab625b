"""Wrong blocks of a frozen vision transformer: test_a_frozen_clip_has_open_clips_features_and_gradients rejects each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vp.models.fast_blocks import QUICK, FusedQuickGELU, PatchEmbedding, SamePrecisionLayerNorm, SelfAttention


class TransposedPatches(PatchEmbedding):
    """Reads each patch column by column."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.transpose(2, 3)).transpose(2, 3)


class InterleavedHeads(SelfAttention):
    """Takes queries, keys and values of each head side by side, as other libraries keep them."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        projected = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        parts = projected.unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        return self.out_proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)), None


class WithoutBias(SelfAttention):
    """Forgets the bias of queries, keys and values."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        projected = functional.linear(query, self.in_proj_weight)
        parts = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)), None


class _GradientAtUnscaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(QUICK * x) / QUICK

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(*gradients, *ctx.saved_tensors)


class GradientAtUnscaled(FusedQuickGELU):
    """The right values, with the derivative of SiLU where it is not."""

    def forward(self, x: Tensor) -> Tensor:
        return _GradientAtUnscaled.apply(x)


class PlainSiLU(FusedQuickGELU):
    """x sigmoid(x): forgets the 1.702."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x)


class WithoutGain(SamePrecisionLayerNorm):
    """Forgets the weight and bias after normalising."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, eps=self.eps)


class OverAllTokens(SamePrecisionLayerNorm):
    """Takes mean and variance over the whole sequence of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[1:], eps=self.eps) * self.weight + self.bias
