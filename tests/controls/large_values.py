"""Right on small tests and wrong at full scale: counts, classes, values and scales as large as real ones."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor, nn

from tests.conformance import ours
from tests.controls import control
from vp.prompts import FixedPatch, Padding, RandomPatch

List = list[tuple[Tensor, Tensor]]


@control("accuracy", "test_accuracy_of_a_whole_test_set_is_exact")
def accuracy_counted_in_half_precision(model: nn.Module, batches: List) -> float:
    """Counts right answers in half precision, where 4,000 + 1 is 4,000."""
    right = torch.zeros((), dtype=torch.float16)
    for batch in batches:
        right += round(ours.accuracy(model, [batch]) * len(batch[1]))
    return float(right) / sum(len(labels) for _, labels in batches)


@control("accuracy", "test_accuracy_of_a_whole_test_set_is_exact")
def accuracy_of_the_first_thousand(model: nn.Module, batches: List) -> float:
    """Stops after 1,000 images, as a quick look does."""
    kept, seen = [], 0
    for inputs, labels in batches:
        kept.append((inputs, labels))
        seen += len(labels)
        if seen >= 1000:
            break
    return ours.accuracy(model, kept)


class _Chunked(nn.Module):
    """Texts are encoded 64 at a time, and what is left over is forgotten: its classes get the last features."""

    def __init__(self, whole: Any, classes: int) -> None:
        super().__init__()
        self.whole, self.order = whole, torch.arange(classes).clamp(max=max(classes // 64 * 64, min(classes, 64)) - 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.whole(images)[:, self.order]
        return logits


@control("PromptedCLIP", "test_zero_shot_clip_is_the_open_clip_model_itself")
def texts_64_at_a_time(model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None) -> nn.Module:
    """Encodes texts 64 at a time and forgets what is left over."""
    return _Chunked(ours.PromptedCLIP(model, tokenizer, class_names, prompt), len(class_names))


@control("text_features", "test_text_features_are_open_clips_at_unit_length")
def text_features_64_at_a_time(model: CLIP, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Encodes texts 64 at a time and forgets what is left over."""
    found = ours.text_features(model, tokenizer, texts)
    return found[torch.arange(len(texts)).clamp(max=max(len(texts) // 64 * 64, min(len(texts), 64)) - 1)]


@control("PromptedCLIP", "test_zero_shot_clip_is_the_open_clip_model_itself")
def scale_capped_at_fifty(
    model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None
) -> nn.Module:
    """Takes a logit scale above 50 for 50."""
    model = deepcopy(model)
    model.logit_scale.data.clamp_(max=3.912)
    return ours.PromptedCLIP(model, tokenizer, class_names, prompt)


@control("FixedPatch", "test_a_prompt_is_added_however_large_it_has_grown")
class PatchCutToTen(FixedPatch):
    """Cuts the patch to values between -10 and 10."""

    def canvas(self) -> Tensor:
        return super().canvas().clamp(-10, 10)


@control("Padding", "test_a_prompt_is_added_however_large_it_has_grown")
class PaddingSquashed(Padding):
    """Squashes large values of the frame."""

    def canvas(self) -> Tensor:
        return 100 * torch.tanh(super().canvas() / 100)


@control("RandomPatch", "test_a_prompt_is_added_however_large_it_has_grown")
class RandomPatchInHalfPrecision(RandomPatch):
    """Adds in half precision, in which large values are rounded to tenths."""

    def forward(self, images: Tensor) -> Tensor:
        return images + (super().forward(images) - images).half().float()


@control("mean_aggregate", "test_a_hub_may_have_three_hundred_neighbours")
def degrees_in_a_byte(A: Tensor, H: Tensor) -> Tensor:
    """Counts neighbours in a byte."""
    dense = A.to_dense() if A.layout != torch.strided else A
    degrees = (dense.sum(1) % 256).clamp(min=1e-9)
    return dense @ H / degrees[:, None] * (dense.sum(1) > 0)[:, None]


@control("degree_matrix", "test_a_degree_may_be_three_hundred")
def degree_matrix_in_half_precision(A: Tensor) -> Tensor:
    """Sums the rows in half precision."""
    dense = A.to_dense() if A.layout != torch.strided else A
    found = torch.zeros(len(dense), dtype=torch.bfloat16)
    for column in dense.T:
        found = found + column.bfloat16()
    return found.to(dense.dtype).diag()


@control("DeepPromptedCLIP", "test_the_tokens_run_through_open_clips_own_blocks")
def tokens_cut_to_five(
    model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], n: int, block: int, position: str, readout: str
) -> nn.Module:
    """Cuts tokens to values between -5 and 5."""
    found: Any = ours.DeepPromptedCLIP(model, tokenizer, class_names, n, block, position, readout)
    own = found.prompt.for_batch
    found.prompt.for_batch = lambda tokens, count: own(tokens.clamp(-5, 5), count)
    return found  # type: ignore[no-any-return]
