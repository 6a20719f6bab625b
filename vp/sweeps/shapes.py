"""What of a CLIP's vision part decides whether a prompt has room in it, and what it costs: known without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vp.experiments import SCALES


@dataclass(frozen=True)
class VisionShape:
    """A vision transformer: blocks, tokens of an image (class token included) and their width."""

    blocks: int
    tokens: int
    width: int


@lru_cache(maxsize=64)
def image_side(backbone: str) -> int:
    """The side of a CLIP's images in px."""
    if _is_mini(backbone):
        from vp.models.pretraining import IMAGE_PX

        return IMAGE_PX
    side = _vision(backbone).get("image_size", 224)
    return max(side) if isinstance(side, list) else int(side)


@lru_cache(maxsize=64)
def vision_shape(backbone: str) -> VisionShape | None:
    """The shape of a CLIP's vision transformer; None where it has another network, such as a ResNet."""
    if _is_mini(backbone):
        return VisionShape(SCALES["mini"].blocks[-1] + 1, 50, 64)
    vision = _vision(backbone)
    blocks, patch = vision.get("layers", 12), vision.get("patch_size")
    if "timm_model_name" in vision or not isinstance(blocks, int) or not isinstance(patch, int):
        return None
    return VisionShape(blocks, (image_side(backbone) // patch) ** 2 + 1, vision.get("width", 768))


def _is_mini(backbone: str) -> bool:
    return backbone.partition("/")[0] == "mini-clip"


def _vision(backbone: str) -> dict[str, Any]:
    """open_clip's record of the vision part; empty for what it does not know."""
    import open_clip

    found: dict[str, Any] = (open_clip.get_model_config(backbone.partition("/")[0]) or {}).get("vision_cfg", {})
    return found
