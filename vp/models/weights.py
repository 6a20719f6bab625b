"""Pre-trained weights: how they are named, where they are found, and whether a file is whole.

Libraries of models are imported where they are needed: that takes seconds, which `python -m vp list` need not wait for.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path

from vp.machine.downloads import matches, weights_folder
from vp.machine.errors import VpError

RANDOM = "random"  # in place of the name of weights: a backbone of random weights, to rehearse with


CHECKSUMS = "checksums.json"  # in the folder of weights: SHA-256 by file


def check_clip_name(name: str) -> tuple[str, str]:
    """Architecture and tag of `MODEL/PRETRAINED`. Raises VpError that suggests the nearest names, or the right activation."""
    import open_clip

    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, ["mini-clip", *known], cutoff=0.5) or ["mini-clip", "ViT-B-32-quickgelu"]
        raise VpError(
            f"no CLIP named {name!r}: did you mean {', '.join(near)}? Give mini-clip or MODEL/PRETRAINED of open_clip, e.g. "
            "ViT-B-32-quickgelu/openai"
        )
    if tag == RANDOM:
        return architecture, tag
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        near = [like for each in difflib.get_close_matches(tag, tags) or tags if (like := _as_trained(architecture, each))]
        if near:
            had = f"did you mean {' or '.join(near[:3])}?"
        else:
            had = "those that open_clip has are of another activation: give another model" if tags else "open_clip has none"
        raise VpError(f"no weights {tag!r} of {architecture}: {had}")
    if (right := _as_trained(architecture, tag)) != name:
        with_it = "with" if right else "without"
        raise VpError(f"{name!r} was trained {with_it} QuickGELU: give {right or 'another model'}")
    return architecture, tag


def image_px(backbone: str) -> int:
    """Side of the images that a CLIP of open_clip takes; 0 for any other backbone, which takes what it is given or 224 px."""
    if backbone.startswith("mini") or "/" not in backbone:
        return 0
    import open_clip

    found = open_clip.get_model_config(backbone.partition("/")[0]) or {}
    size = found.get("vision_cfg", {}).get("image_size", 0)
    return int(max(size) if isinstance(size, list | tuple) else size)


def _as_trained(architecture: str, tag: str) -> str | None:
    """MODEL/PRETRAINED with the activation that these weights were trained with; None where open_clip has no such model."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    trained_quick = bool(get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    is_quick = bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu"))
    if trained_quick == is_quick:
        return f"{architecture}/{tag}"
    return f"{architecture}-quickgelu/{tag}" if trained_quick else None


def clip_source(architecture: str, tag: str) -> tuple[str, list[str]]:
    """Where open_clip's weights come from: a repository of the Hugging Face hub, and the names that they may have there."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import get_pretrained_cfg

    repository, _, file = get_pretrained_cfg(architecture, tag)["hf_hub"].rpartition("/")
    return repository, [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]


def find_clip_weights(architecture: str, tag: str, *, elsewhere: bool = True) -> Path | None:
    """The weights that `python -m vp fetch` brought, or (`elsewhere`) that open_clip has brought before; None where none are."""
    from huggingface_hub import constants, try_to_load_from_cache

    repository, files = clip_source(architecture, tag)
    for cache in (weights_folder(), constants.HF_HUB_CACHE) if elsewhere else (weights_folder(),):
        for file in files:
            if isinstance(found := try_to_load_from_cache(repository, file, cache_dir=cache), str):
                return Path(found)
    return None


def weights_are_whole(path: Path) -> bool:
    """Is a file there, and of its checksum where one is known: noted when it was fetched, or its name in the hub's cache?"""
    if not path.is_file():
        return False
    name = path.resolve().name
    digest = _noted_checksums().get(_place_of(path)) or (name if len(name) == 64 else None)
    return digest is None or matches(path, f"sha256:{digest}")


def note_checksum(path: Path) -> None:
    """Note the SHA-256 of weights in VP_HOME that have just been verified, so that a copy of the folder can be verified, too."""
    with path.open("rb") as file:
        noted = _noted_checksums() | {_place_of(path): hashlib.file_digest(file, "sha256").hexdigest()}
    temporary = weights_folder() / f"{CHECKSUMS}.{os.getpid()}.part"
    temporary.write_text(json.dumps(noted), encoding="utf-8")
    temporary.replace(weights_folder() / CHECKSUMS)


def _noted_checksums() -> dict[str, str]:
    try:
        noted: dict[str, str] = json.loads((weights_folder() / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted


def _place_of(path: Path) -> str:
    """Where a file is below the folder of weights; its whole path where it is elsewhere."""
    return path.relative_to(weights_folder()).as_posix() if path.is_relative_to(weights_folder()) else str(path)


def is_network(name: str) -> bool:
    """Does `name` call a network for fine-tuning, rather than a CLIP?"""
    return name.partition("/")[0] in ("mini-resnet", *_torchvision_names())


def _torchvision_names() -> list[str]:
    """Its classifiers, without networks for detection, video and the like."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def network_source(architecture: str, tag: str) -> str:
    """The address of torchvision's weights; the first digits of their SHA-256 are in the file's name. Raises VpError for others."""
    import torchvision

    weights = torchvision.models.get_model_weights(architecture).__members__
    if tag not in weights:
        raise VpError(f"no weights {tag!r} of {architecture}: give {' or '.join(f'{architecture}/{each}' for each in weights)}")
    return str(weights[tag].url)


def network_weights(url: str) -> tuple[Path, str]:
    """The file in which weights of that address are kept, and its checksum."""
    file = url.rpartition("/")[2]
    return weights_folder() / file, f"sha256:{file.rpartition('-')[2].partition('.')[0]}"
