"""Prompts for a frozen CLIP: visual prompts on its input, deep prompts in its sequence, and the classifiers they make."""

from vp.prompts.deep import BatchScrambledDeepPrompt, DeepPrompt, DeepPromptedCLIP, FastDeepPromptedCLIP
from vp.prompts.prompted import PromptedCLIP
from vp.prompts.visual import VISUAL_PROMPTS, FixedPatch, Padding, RandomPatch

__all__ = [
    "VISUAL_PROMPTS",
    "BatchScrambledDeepPrompt",
    "DeepPrompt",
    "DeepPromptedCLIP",
    "FastDeepPromptedCLIP",
    "FixedPatch",
    "Padding",
    "PromptedCLIP",
    "RandomPatch",
]
