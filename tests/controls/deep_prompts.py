"""Wrong deep prompts. Each breaks one sentence of section 2.3 and must be rejected by the test named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vp.prompts import DeepPrompt, DeepPromptedCLIP
from vp.prompts.deep import vision_blocks


class AddedTokens(DeepPrompt):
    """Adds to the first tokens instead of joining the sequence: test_the_sequence_has_n_more_tokens_from_block_k_on."""

    def insert(self, sequence: Tensor) -> Tensor:
        n = min(len(self.tokens), sequence.shape[1])
        return torch.cat([sequence[:, :n] + self.tokens[:n], sequence[:, n:]], dim=1)

    def for_pooling(self, sequence: Tensor) -> Tensor:
        return sequence


class RedrawnTokens(DeepPrompt):
    """New random tokens at every step: test_the_same_prompt_gives_the_same_logits_again."""

    def for_batch(self, tokens: Tensor, batch: int) -> Tensor:
        return super().for_batch(tokens * 0 + torch.randn_like(tokens), batch)


class DetachedTokens(DeepPrompt):
    """Tokens cut from the graph: test_the_prompt_and_nothing_else_gets_a_gradient."""

    def for_batch(self, tokens: Tensor, batch: int) -> Tensor:
        return super().for_batch(tokens, batch).detach() + 0 * tokens.sum()


class FirstPassedOffAsClass(DeepPrompt):
    """Claims the class readout but leaves the sequence as it is: test_the_position_of_the_prompt_does_not_matter."""

    def for_pooling(self, sequence: Tensor) -> Tensor:
        return sequence


class OneBlockLate(DeepPromptedCLIP):
    """Puts the tokens in before block k + 1: test_the_sequence_has_n_more_tokens_from_block_k_on."""

    @contextmanager
    def _tokens_in_place(self) -> Iterator[None]:
        self.prompt.block += 1
        try:
            with super()._tokens_in_place():
                yield
        finally:
            self.prompt.block -= 1


class BlockRunTwice(DeepPromptedCLIP):
    """Runs block k once more on its own output: test_every_block_runs_exactly_once."""

    @contextmanager
    def _tokens_in_place(self) -> Iterator[None]:
        again = [False]

        def rerun(block: torch.nn.Module, _: object, output: Tensor) -> Tensor:
            if again[0]:
                return output
            again[0] = True
            try:
                return block(output)
            finally:
                again[0] = False

        with super()._tokens_in_place():
            handle = vision_blocks(self.clip)[self.prompt.block].register_forward_hook(rerun, prepend=True)
            try:
                yield
            finally:
                handle.remove()
