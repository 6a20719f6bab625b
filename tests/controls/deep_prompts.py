"""Wrong deep prompts: each breaks one sentence of section 2.3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tests.controls import control


class _Plain(nn.Module):
    """A correct DeepPromptedCLIP, written out so that each control can change it in one place."""

    def __init__(self, model, tokenizer, class_names, n, block, position, readout) -> None:
        super().__init__()
        self.n, self.block, self.position, self.readout = n, block, position, readout
        self.model = model.requires_grad_(False)
        self.tokens = nn.Parameter(self.initial(n, model.visual.transformer.width))
        with torch.no_grad():
            texts = model.encode_text(tokenizer([f"This is a photo of a {name.replace('_', ' ')}" for name in class_names]))
        self.texts = normalize(texts, dim=-1)

    def initial(self, n: int, width: int) -> Tensor:
        return torch.randn(n, width)

    def for_batch(self, batch: int) -> Tensor:
        """(B, n, D)."""
        return self.tokens.expand(batch, -1, -1)

    def place(self, length: int) -> int:
        return {"front": 0, "after_class": 1, "back": length}[self.position]

    def insert(self, sequence: Tensor) -> Tensor:
        """(B, L, D) to (B, L + n, D)."""
        place = self.place(sequence.shape[1])
        return torch.cat([sequence[:, :place], self.for_batch(len(sequence)), sequence[:, place:]], dim=1)

    def remove(self, sequence: Tensor) -> Tensor:
        """(B, L + n, D) to (B, L, D)."""
        place = self.place(sequence.shape[1] - self.n)
        return torch.cat([sequence[:, :place], sequence[:, place + self.n :]], dim=1)

    def run(self, sequence: Tensor) -> Tensor:
        for index, block in enumerate(self.model.visual.transformer.resblocks):
            sequence = block(self.insert(sequence) if index == self.block else sequence)
        return sequence

    def read(self, sequence: Tensor) -> Tensor:
        """(B, L + n, D) to (B, D)."""
        return sequence[:, 0] if self.readout == "first" else self.remove(sequence)[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        visual = self.model.visual
        features = visual.ln_post(self.read(self.run(visual._embeds(images)))) @ visual.proj
        return self.model.logit_scale.exp() * normalize(features, dim=-1) @ self.texts.T


@control("DeepPromptedCLIP", "test_an_images_logits_do_not_depend_on_its_place_in_the_batch")
class TokensScrambledOverTheBatch(_Plain):
    """Image j of a batch gets n copies of token j mod n."""

    def for_batch(self, batch: int) -> Tensor:
        of_image = torch.arange(batch) % max(self.n, 1)
        return self.tokens[of_image][:, None].expand(-1, self.n, -1) if self.n else super().for_batch(batch)


@control("DeepPromptedCLIP", "test_every_block_runs_exactly_once")
class BlockRunTwice(_Plain):
    """Runs block k once more on its own output."""

    def run(self, sequence: Tensor) -> Tensor:
        for index, block in enumerate(self.model.visual.transformer.resblocks):
            sequence = block(block(self.insert(sequence))) if index == self.block else block(sequence)
        return sequence


@control("DeepPromptedCLIP", "test_the_sequence_has_n_more_tokens_from_block_k_on")
class OneBlockLate(_Plain):
    """Puts the tokens in after block k, before block k + 1."""

    def run(self, sequence: Tensor) -> Tensor:
        for index, block in enumerate(self.model.visual.transformer.resblocks):
            sequence = self.insert(block(sequence)) if index == self.block else block(sequence)
        return sequence


@control("DeepPromptedCLIP", "test_the_position_of_the_prompt_does_not_matter")
class FirstPassedOffAsClass(_Plain):
    """Reads the first token where the class token is asked for."""

    def read(self, sequence: Tensor) -> Tensor:
        return sequence[:, 0]


@control("DeepPromptedCLIP", "test_the_readout_does_matter")
class ClassPassedOffAsFirst(_Plain):
    """Reads the class token where the first token is asked for."""

    def read(self, sequence: Tensor) -> Tensor:
        return self.remove(sequence)[:, 0]


@control("DeepPromptedCLIP", "test_no_tokens_is_the_backbone_itself")
class ReadsAPatch(_Plain):
    """Counts the class token's place from 1, and reads the first patch."""

    def read(self, sequence: Tensor) -> Tensor:
        return sequence[:, 1] if self.readout == "first" else self.remove(sequence)[:, 1]


@control("DeepPromptedCLIP", "test_the_sequence_has_n_more_tokens_from_block_k_on")
class TokensAdded(_Plain):
    """Adds the tokens to those of the sequence instead of joining it."""

    def insert(self, sequence: Tensor) -> Tensor:
        n = min(self.n, sequence.shape[1])
        return torch.cat([sequence[:, :n] + self.tokens[:n], sequence[:, n:]], dim=1)

    def read(self, sequence: Tensor) -> Tensor:
        return sequence[:, 0]


@control("DeepPromptedCLIP", "test_the_sequence_has_n_more_tokens_from_block_k_on")
class TokensRemovedTooEarly(_Plain):
    """Takes the tokens out after block k instead of after the last one."""

    def run(self, sequence: Tensor) -> Tensor:
        for index, block in enumerate(self.model.visual.transformer.resblocks):
            sequence = self.remove(block(self.insert(sequence))) if index == self.block else block(sequence)
        return sequence

    def read(self, sequence: Tensor) -> Tensor:
        return sequence[:, 0]


@control("DeepPromptedCLIP", "test_the_position_of_the_prompt_does_not_matter")
class RemovesTheFirstTokens(_Plain):
    """Takes the first n tokens out at the end, wherever those of the prompt are."""

    def remove(self, sequence: Tensor) -> Tensor:
        return sequence[:, self.n :]


@control("DeepPromptedCLIP", "test_the_tokens_run_through_open_clips_own_blocks")
class TokensAnewAtEveryBlock(_Plain):
    """Puts the tokens in again at every block from k on, in place of what became of them: VPT-deep."""

    def run(self, sequence: Tensor) -> Tensor:
        for index, block in enumerate(self.model.visual.transformer.resblocks):
            sequence = block(self.insert(sequence) if index >= self.block else sequence)
            sequence = self.remove(sequence) if self.block <= index < len(self.model.visual.transformer.resblocks) - 1 else sequence
        return sequence


@control("DeepPromptedCLIP", "test_the_same_prompt_gives_the_same_logits_again")
class TokensRedrawn(_Plain):
    """New random tokens at every step."""

    def for_batch(self, batch: int) -> Tensor:
        return (self.tokens * 0 + torch.randn_like(self.tokens)).expand(batch, -1, -1)


@control("DeepPromptedCLIP", "test_the_prompt_and_nothing_else_gets_a_gradient")
class TokensDetached(_Plain):
    """Tokens cut from the graph."""

    def for_batch(self, batch: int) -> Tensor:
        return super().for_batch(batch).detach()


@control("DeepPromptedCLIP", "test_tokens_start_as_standard_normal_values")
class UniformTokens(_Plain):
    """Initial values as in VPT's own code: uniform, and small."""

    def initial(self, n: int, width: int) -> Tensor:
        bound = (6 / (3 * 32**2 + width)) ** 0.5
        return torch.empty(n, width).uniform_(-bound, bound)


@control("DeepPromptedCLIP", "test_deep_prompts_of_vit_b_32_have_768_n_parameters")
class TrainsTheBackboneToo(_Plain):
    """Does not freeze the backbone."""

    def __init__(self, model, tokenizer, class_names, n, block, position, readout) -> None:
        super().__init__(model, tokenizer, class_names, n, block, position, readout)
        model.requires_grad_(True)


@control("DeepPromptedCLIP", "test_hooks_leave_the_backbone_as_it_was")
class LeavesItsHooksBehind(_Plain):
    """Puts the tokens in by a hook on the backbone that it never takes off."""

    def __init__(self, model, tokenizer, class_names, n, block, position, readout) -> None:
        super().__init__(model, tokenizer, class_names, n, block, position, readout)
        blocks = model.visual.transformer.resblocks
        blocks[block].register_forward_pre_hook(lambda _, arguments: (self.insert(arguments[0]), *arguments[1:]))

    def run(self, sequence: Tensor) -> Tensor:
        return self.model.visual.transformer(sequence)


@control("DeepPromptedCLIP", "test_the_tokens_run_through_open_clips_own_blocks")
class UnderscoresKept(_Plain):
    """Asks about class names with their underscores."""

    def __init__(self, model, tokenizer, class_names, n, block, position, readout) -> None:
        super().__init__(model, tokenizer, class_names, n, block, position, readout)
        with torch.no_grad():
            self.texts = normalize(model.encode_text(tokenizer([f"This is a photo of a {name}" for name in class_names])), dim=-1)


@control("DeepPromptedCLIP", "test_the_tokens_run_through_open_clips_own_blocks")
class TokensOfTrainingOnly(_Plain):
    """Reads images without the prompt when it is evaluated."""

    def insert(self, sequence: Tensor) -> Tensor:
        return super().insert(sequence) if self.training else sequence

    def remove(self, sequence: Tensor) -> Tensor:
        return super().remove(sequence) if self.training else sequence
