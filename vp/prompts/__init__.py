"""What is learnt around a frozen CLIP: visual prompts on its input, and the classifier they make together."""

from vp.prompts.prompted import PromptedCLIP
from vp.prompts.visual import VISUAL_PROMPTS, FixedPatch, Padding, RandomPatch

__all__ = ["VISUAL_PROMPTS", "FixedPatch", "Padding", "PromptedCLIP", "RandomPatch"]
