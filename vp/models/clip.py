"""A frozen CLIP with its zero-shot head: text features of class names, and logits = exp(logit_scale) x cosine.

Any model of open_clip serves, by name; `mini-clip` is the miniature one that ships with the package, an instance of the same
open_clip `CLIP` class. Source: report 2.1; Radford et al. 2021.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import constants, try_to_load_from_cache
from open_clip import CLIP, SimpleTokenizer
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn.functional import normalize

from vp.artifacts import content_hash
from vp.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from vp.downloads import matches, weights_folder
from vp.models.fast_blocks import faster, with_weights_in
from vp.models.vision import read_out, reads_one_token, tokens_before
from vp.runtime import RANDOM, NotAvailable, VpError, own_random_stream

CHECKSUMS = "checksums.json"  # in the folder of weights: SHA-256 by file
DEFAULT_TEMPLATE = "This is a photo of a {}"


class FrozenCLIP(nn.Module):
    """An open_clip CLIP whose parameters never train, with its tokenizer and preprocessing.

    `self.model` is a copy of the one given, on the same parameters, its vision part quicker (vp.models.fast_blocks): hooks on
    the one given are not called, and what is to be moved to another device is the FrozenCLIP. Where the class token alone is read
    out, `encode_image` does not call the last block as a whole: hooks on it are for `self.model.encode_image`.

    D is the width of the joint feature space (512 for ViT-B/32, 64 for mini-clip). `known_tokens` lists the tokens that its
    pre-training has seen, for models with a small vocabulary; None means all.
    """

    def __init__(
        self, name: str, model: CLIP, tokenizer: SimpleTokenizer, preprocess: Preprocess, known_tokens: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.model: Any = faster(model.eval().requires_grad_(False))  # open_clip carries no types
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.kept: dict[Any, Any] = {}  # what the weights, which never change, give: text features, the tower in half precision
        self.known_tokens = None if known_tokens is None else frozenset(known_tokens)

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stays in evaluation mode: a frozen model has no training mode."""
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all weights and of the preprocessing."""
        return content_hash(self.model.state_dict(), note=f"{self.name} {self.preprocess}")

    @property
    def width(self) -> int:
        """D, the width of the joint feature space."""
        return int(self.model.visual.output_dim)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), the inverse temperature: 100 in OpenAI's models."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    @property
    def visual(self) -> Any:
        """The vision tower; under autocast one whose weights have its precision, to which they would be cast at every use."""
        where = self.model.logit_scale.device
        if not (torch.amp.is_autocast_available(where.type) and torch.is_autocast_enabled(where.type)):
            return self.model.visual
        dtype = torch.get_autocast_dtype(where.type)
        if (dtype, where) not in self.kept:
            with torch.inference_mode(False):
                self.kept[dtype, where] = with_weights_in(dtype, self.model.visual)
        return self.kept[dtype, where]

    def encode_image(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to unit features (B, D): what `self.model` computes, less what is not read out."""
        visual = self.visual
        if not reads_one_token(visual):
            return normalize(self.model.encode_image(images), dim=-1)
        before_last = tokens_before(visual, images, len(visual.transformer.resblocks) - 1)
        return normalize(read_out(visual, before_last), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts to unit features (K, D). Raises VpError for a text longer than the model reads."""
        for text in texts:
            used, room = len(self.tokenizer.encode(text)), self.tokenizer.context_length - 2
            if used > room:
                raise VpError(f"{text!r} has {used} tokens, but {self.name} reads {room}: shorten the template or the label")
        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        with torch.no_grad():
            return normalize(self.model.encode_text(tokens), dim=-1)

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """Words of `texts` that the pre-training of a small-vocabulary model has never shown it, in order, once each."""
        if self.known_tokens is None:
            return []
        words = dict.fromkeys(word for text in texts for word in text.split())
        return [word for word in words if not self.known_tokens.issuperset(self.tokenizer.encode(word))]

    def class_features(self, class_names: Sequence[str], template: str = DEFAULT_TEMPLATE) -> Tensor:
        """Unit text features (K, D) of K class names in a template; `_` in a name is read as a space (report 2.1, settings).

        Computed once for all runs of a process: the weights are frozen.
        """
        texts = tuple(fill_template(template, class_names))
        where = (texts, next(self.model.parameters()).device)
        if where not in self.kept:
            with torch.inference_mode(False):  # what is kept may be part of a training step later
                self.kept[where] = self.encode_text(texts)
        features: Tensor = self.kept[where]
        return features


def label_probabilities(clip: FrozenCLIP, pixels: Tensor, template: str, labels: Sequence[str]) -> Tensor:
    """Free-form prompting: softmax over the labels' logits for each image, uint8 (N, 3, H, W) to (N, K) (report 2.1 b)."""
    text_features = clip.class_features(labels, template)
    with torch.inference_mode():
        parts = [clip.encode_image(clip.preprocess(part.to(text_features.device))) for part in pixels.split(250)]
        return cosine_logits(torch.cat(parts), text_features, clip.scale).softmax(1).cpu()


def fill_template(template: str, labels: Sequence[str]) -> list[str]:
    """One text per label. Raises VpError for a template without `{}` or with other fields, or for no or equal labels."""
    if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
        raise VpError(f"template {template!r} must contain {{}} exactly once, for the label: give e.g. {DEFAULT_TEMPLATE!r}")
    if not labels or not all(label.strip() for label in labels):
        raise VpError(f"labels {list(labels)} must be at least one non-empty name: give e.g. --labels red green blue")
    names = [label.replace("_", " ") for label in labels]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise VpError(f"labels must differ, but {repeated} occur more than once: name each class once")
    return [template.format(name) for name in names]


def cosine_logits(image_features: Tensor, text_features: Tensor, scale: Tensor | float) -> Tensor:
    """logits[b, k] = scale * <image_features[b], text_features[k]>, (B, K). Both inputs are unit vectors, (B, D) and (K, D).

    In float32 also where the network computes in less: at a scale of 100, a bfloat16 could not tell logits 0.1 apart.
    """
    with torch.autocast(image_features.device.type, enabled=False):
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        return scale * image_features.to(dtype) @ text_features.to(dtype).T


def load_clip(name: str, device: torch.device | str = "cpu") -> FrozenCLIP:
    """`mini-clip`, `MODEL/PRETRAINED` of open_clip, e.g. `ViT-B-32-quickgelu/openai`, or `MODEL/random` to rehearse.

    Raises VpError for an unknown name or the wrong activation function, NotAvailable when the weights are not on this machine.
    """
    if name in ("mini-clip", f"mini-clip/{RANDOM}"):
        from vp.models.mini_clip import load_mini_clip, random_mini_clip

        return (random_mini_clip() if name == f"mini-clip/{RANDOM}" else load_mini_clip()).to(device)
    architecture, tag = check_clip_name(name)
    if tag == RANDOM:
        with own_random_stream(0), _without_log():
            model = open_clip.create_model(architecture)
    else:
        weights = find_clip_weights(architecture, tag)
        if weights is None:
            raise NotAvailable(f"the weights of {name} are not on this machine: run `python -m vp fetch {name}`")
        if not weights_are_whole(weights):
            raise NotAvailable(
                f"{weights} is truncated or altered, its checksum is wrong: delete it and run `python -m vp fetch {name}`"
            )
        try:
            with _without_log():
                model = open_clip.create_model(architecture, pretrained=str(weights))
        except Exception as error:  # damaged files make the readers raise many types
            raise NotAvailable(
                f"{weights} is truncated or damaged ({error}): delete it and run `python -m vp fetch {name}`"
            ) from error
    tokenizer = open_clip.get_tokenizer(architecture)
    if not isinstance(tokenizer, SimpleTokenizer):
        raise VpError(f"{name} reads text by {type(tokenizer).__name__}: give a model with open_clip's own, such as ViT-B-32")
    return FrozenCLIP(name, model, tokenizer, preprocess_of(model, architecture, tag)).to(device)


@contextmanager
def _without_log() -> Iterator[None]:
    """open_clip notes on the root logger what its caller has decided: random weights, weights from a file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check_clip_name(name: str) -> tuple[str, str]:
    """Architecture and tag of `MODEL/PRETRAINED`. Raises VpError that suggests the nearest names, or the right activation."""
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


def _as_trained(architecture: str, tag: str) -> str | None:
    """MODEL/PRETRAINED with the activation that these weights were trained with; None where open_clip has no such model."""
    trained_quick = bool(get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    is_quick = bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu"))
    if trained_quick == is_quick:
        return f"{architecture}/{tag}"
    return f"{architecture}-quickgelu/{tag}" if trained_quick else None


def clip_source(architecture: str, tag: str) -> tuple[str, list[str]]:
    """Where open_clip's weights come from: a repository of the Hugging Face hub, and the names that they may have there."""
    repository, _, file = get_pretrained_cfg(architecture, tag)["hf_hub"].rpartition("/")
    return repository, [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]


def find_clip_weights(architecture: str, tag: str, *, elsewhere: bool = True) -> Path | None:
    """The weights that `python -m vp fetch` brought, or (`elsewhere`) that open_clip has brought before; None where none are."""
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


def preprocess_of(model: Any, architecture: str, tag: str) -> Preprocess:
    """How a model's images are prepared, from open_clip's own records. Raises VpError for a way that is not built here."""
    size = model.visual.image_size
    sides = size if isinstance(size, tuple) else (size, size)
    wanted: dict[str, Any] = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    wanted |= {key: value for key, value in get_pretrained_cfg(architecture, tag).items() if key in wanted and value}
    if sides[0] != sides[1] or wanted["resize_mode"] not in ("shortest", "squash"):
        raise VpError(
            f"{architecture}/{tag} takes images of {sides} px, resized by {wanted['resize_mode']!r}: give a model of square images "
            "that resizes by shortest or squash"
        )
    return Preprocess(
        sides[0],
        tuple(wanted["mean"]),
        tuple(wanted["std"]),
        wanted["interpolation"],
        wanted["resize_mode"] == "squash",
    )
