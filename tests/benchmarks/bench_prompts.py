"""One training step of deep prompts on random-weight ViT-B/32, batch 32, n = 4: shortcuts against the whole network each step.

`pytest -s tests/benchmarks/bench_prompts.py` prints, for each block k, the median ratio of interleaved pairs and the relative
difference of the gradients. What is cached for a data set is computed outside the step, as it is once for all steps of all runs.
"""

from __future__ import annotations

from statistics import median

import open_clip
import pytest
import torch

from vp.data import Preprocess
from vp.evaluation.cost import time_each
from vp.models import FrozenCLIP
from vp.prompts import DeepPrompt, DeepPromptedCLIP, FastDeepPromptedCLIP
from vp.prompts.deep import last_block_inputs, last_block_kind, tokens_before_block

BATCH, TOKENS, PAIRS = 32, 4, 9
BAR = {11: 80.0, 6: 1.5, 0: 1.03}


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu")
    return FrozenCLIP("ViT-B-32, random weights", model, open_clip.get_tokenizer("ViT-B-32-quickgelu"), Preprocess(224))


@pytest.mark.parametrize("block", BAR)
def test_step_time_against_the_plain_way(clip: FrozenCLIP, block: int) -> None:
    """Prints how much faster a training step is; the gradients must agree to 1e-5 relative."""
    names = [f"class {i}" for i in range(100)]
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(100, (BATCH,))
    prompt = DeepPrompt(TOKENS, 768, block)
    plain, fast = (cls(clip, names, prompt=prompt) for cls in (DeepPromptedCLIP, FastDeepPromptedCLIP))
    inputs = tokens_before_block(clip, images, block)
    if kind := last_block_kind(clip, prompt):
        inputs = last_block_inputs(clip, inputs, kind)

    def step(model: torch.nn.Module, given: object) -> torch.Tensor:
        prompt.zero_grad()
        torch.nn.functional.cross_entropy(model(given), labels).backward()
        return prompt.tokens.grad.clone()

    slow_gradient, fast_gradient = step(plain, images), step(fast, inputs)
    difference = ((slow_gradient - fast_gradient).norm() / slow_gradient.norm()).item()
    seconds = time_each({"plain": lambda: step(plain, images), "fast": lambda: step(fast, inputs)}, PAIRS)
    ratios = sorted(a / b for a, b in zip(seconds["plain"], seconds["fast"], strict=True))
    print(
        f"\nblock {block:>2}: {median(ratios):.2f}x faster (pairs {ratios[0]:.2f} to {ratios[-1]:.2f}; bar {BAR[block]}x), "
        f"{1000 * median(seconds['plain']):.0f} against {1000 * median(seconds['fast']):.1f} ms, gradients {difference:.1e} apart",
        end="",
    )
    assert difference < 1e-5
