"""A random CLIP small enough for a property: what is stated of it holds for any weights."""

from __future__ import annotations

from functools import cache

from open_clip import CLIP, SimpleTokenizer
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import nn

from vp.machine.runtime import own_random_stream
from vp.models.mini_clip import mini_tokenizer

WIDTH, BLOCKS = 16, 3  # of the small model's vision transformer


@cache
def tokenizer() -> SimpleTokenizer:
    """The miniature CLIP's, for texts of up to 18 tokens."""
    return mini_tokenizer()


def small_model(*, quick_gelu: bool = False, **vision: object) -> CLIP:
    """A random CLIP of open_clip on images of 16 px, in evaluation mode."""
    with own_random_stream(0):
        config = {"layers": BLOCKS, "width": WIDTH, "head_width": 8, "patch_size": 8, "image_size": 16, **vision}
        model = CLIP(8, CLIPVisionCfg(**config), CLIPTextCfg(context_length=20, width=16, heads=2, layers=1), quick_gelu).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("in_proj_bias") or ".ln_" in name:  # 0 and 1 in a new model, which would hide that they are forgotten
                nn.init.normal_(parameter, float(name.endswith("weight")), 0.5)
        return model
