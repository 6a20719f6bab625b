"""A frozen CLIP with its zero-shot head: text features of class names, and logits = exp(logit_scale) x cosine.

Any model of open_clip serves, by name; `mini-clip` is the miniature one that ships with the package, an instance of the same
open_clip `CLIP` class. Source: report 2.1; Radford et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vp.data.preprocess import Preprocess
from vp.machine.artifacts import content_hash
from vp.machine.errors import VpError
from vp.models.fast_blocks import faster, with_weights_in
from vp.models.vision_transformer import read_out, reads_one_token, tokens_before

if TYPE_CHECKING:
    from open_clip import CLIP, SimpleTokenizer

DEFAULT_TEMPLATE = "This is a photo of a {}"
Template = str | tuple[str, ...]  # one, or an ensemble of several


class FrozenCLIP(nn.Module):
    """An open_clip CLIP whose parameters never train, with its tokenizer and preprocessing.

    `self.model` shares the given model's parameters; its vision tower uses faster blocks (vp.models.fast_blocks). Hooks on the
    given model are not called; move the FrozenCLIP, not the model, to another device. Where only the class token is read out,
    `encode_image` computes one token of the last block: hooks on that block see `self.model.encode_image` only.

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
        self.kept: dict[Any, Any] = {}  # computed from frozen weights: text features, the tower in half precision
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
        """The vision tower; under autocast a copy whose weights are already in autocast's precision."""
        where = self.model.logit_scale.device
        if not (torch.amp.is_autocast_available(where.type) and torch.is_autocast_enabled(where.type)):
            return self.model.visual
        dtype = torch.get_autocast_dtype(where.type)
        if (dtype, where) not in self.kept:
            with torch.inference_mode(False):
                self.kept[dtype, where] = with_weights_in(dtype, self.model.visual)
        return self.kept[dtype, where]

    def encode_image(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to unit features (B, D) of `self.model`, without the last block's unread tokens."""
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

    def class_features(self, class_names: Sequence[str], template: Template = DEFAULT_TEMPLATE) -> Tensor:
        """Unit text features (K, D) of K class names in a template; `_` in a name is read as a space (report 2.1, settings).

        Of an ensemble of T templates: f_k = m_k / |m_k| with m_k = 1/T sum_t e_tk, where e_tk is the unit feature of class k in
        template t. Computed once for all runs of a process: the weights are frozen. Raises VpError for an ensemble of none.
        """
        if not isinstance(template, str):
            if not template:
                raise VpError("an ensemble of no templates: give at least one, e.g. " + repr(DEFAULT_TEMPLATE))
            return normalize(torch.stack([self.class_features(class_names, one) for one in template]).mean(0), dim=-1)
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
