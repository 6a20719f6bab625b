"""A stand-in for OpenAI's `clip` package, around the open_clip model that a statement gives.

`OpenAICLIP` has the attributes and the layout of OpenAI's class: tokens come first, (L, B, D), where open_clip has the batch first.
It shares the given model's modules and parameters, so that it computes the same numbers and what watches the model sees it run.
`modules_of` makes the package: `clip.load`, `clip.tokenize`, `clip.available_models`, and what the template calls to load weights
by itself, `clip._MODELS`, `clip._download` and `clip.build_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor, nn
from torchvision import transforms

MODELS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's preprocessing


class Block(nn.Module):
    """A block of open_clip's on tokens (L, B, D), with the submodules that OpenAI's has."""

    def __init__(self, block: nn.Module, attn_mask: Tensor | None) -> None:
        super().__init__()
        self.attn, self.ln_1, self.mlp, self.ln_2 = block.attn, block.ln_1, block.mlp, block.ln_2
        self.attn_mask = attn_mask
        self._own = (block,)  # not a submodule of this one: its parameters have their names already

    def forward(self, x: Tensor) -> Tensor:
        return self._own[0](x.transpose(0, 1), attn_mask=self.attn_mask).transpose(0, 1)


class Transformer(nn.Module):
    """Blocks one after the other on tokens (L, B, D)."""

    def __init__(self, transformer: nn.Module, attn_mask: Tensor | None = None) -> None:
        super().__init__()
        if not transformer.batch_first:
            raise ValueError("the transformer has its tokens first: expected an open_clip model with batch_first")
        self.width, self.layers = transformer.width, transformer.layers
        self.resblocks = nn.Sequential(*(Block(block, attn_mask) for block in transformer.resblocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    """Images (B, 3, S, S) to features (B, D): the parts of OpenAI's class, which are those of the tower given."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        if not hasattr(visual, "transformer") or visual.pool_type != "tok" or visual.attn_pool is not None:
            raise ValueError("the stand-in for OpenAI's clip takes a vision transformer that is read at its class token")
        size = visual.image_size
        self.input_resolution = size if isinstance(size, int) else size[0]
        self.output_dim = visual.output_dim
        self.conv1, self.ln_pre, self.ln_post = visual.conv1, visual.ln_pre, visual.ln_post
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        self.transformer = Transformer(visual.transformer)
        self.proj = visual.proj

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (B, patches, D)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding.to(x.dtype))
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        x = self.ln_post(x[:, 0, :])
        return x if self.proj is None else x @ self.proj


class OpenAICLIP(nn.Module):
    """An open_clip CLIP as OpenAI's class has it. Raises ValueError for other towers than transformers read at one token."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        if model.text_pool_type != "argmax" or isinstance(model.text_projection, nn.Linear):
            raise ValueError("the stand-in for OpenAI's clip takes a text tower that is read at its last token")
        self.visual = VisionTransformer(model.visual)
        self.transformer = Transformer(model.transformer, model.attn_mask)
        self.token_embedding, self.positional_embedding = model.token_embedding, model.positional_embedding
        self.ln_final, self.text_projection = model.ln_final, model.text_projection
        self.logit_scale = model.logit_scale
        self.context_length, self.vocab_size = model.context_length, model.vocab_size
        self.training = model.training
        for module in self.modules():
            if module is not self and isinstance(module, VisionTransformer | Transformer | Block | nn.Sequential):
                module.training = model.training

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image.type(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text).type(self.dtype) + self.positional_embedding.type(self.dtype)
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        images, texts = self.encode_image(image), self.encode_text(text)
        images, texts = images / images.norm(dim=-1, keepdim=True), texts / texts.norm(dim=-1, keepdim=True)
        logits = self.logit_scale.exp() * images @ texts.t()
        return logits, logits.t()


class Holder(Protocol):
    """What the package is asked for: the model of the statement that is being asked, and its tokenizer."""

    scratch: Path
    texts: list[str]  # all that were tokenised since the bench was set

    def clip_model(self) -> nn.Module: ...

    def tokens_of(self, texts: list[str]) -> Tensor: ...


def modules_of(bench: Holder) -> dict[str, ModuleType]:
    """The package `clip` and its modules, by their names in sys.modules."""

    def load(name: str = "ViT-B/32", device: Any = "cpu", jit: bool = False, download_root: Any = None) -> tuple[nn.Module, Any]:
        model = build_model()
        return model, preprocess(_size_of(model))

    def tokenize(texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> Tensor:
        texts = [texts] if isinstance(texts, str) else list(texts)
        bench.texts += texts
        return bench.tokens_of(texts)

    def download(url: str, root: Any = None) -> str:
        """A file that is no JIT archive, and loads as a state dict: `build_model` makes the statement's own model of it."""
        path = bench.scratch / "stand-in.pt"
        if not path.exists():
            torch.save({"stand-in": torch.zeros(1)}, path)
        return str(path)

    def build_model(state_dict: Any = None) -> nn.Module:
        return bench.clip_model()

    functions: dict[str, Callable[..., Any]] = {
        "load": load,
        "tokenize": tokenize,
        "available_models": lambda: list(MODELS),
        "build_model": build_model,
        "_download": download,
        "_transform": preprocess,
    }
    models = {"_MODELS": {name: f"https://example.invalid/{name.replace('/', '-')}.pt" for name in MODELS}}
    classes = {"CLIP": OpenAICLIP, "VisionTransformer": VisionTransformer, "Transformer": Transformer}
    found = {
        "clip": _module("clip", {**functions, **models}),
        "clip.clip": _module("clip.clip", {**functions, **models}),
        "clip.model": _module(
            "clip.model",
            {
                "build_model": build_model,
                "convert_weights": lambda model: None,
                "ResidualAttentionBlock": Block,
                "LayerNorm": nn.LayerNorm,
                **classes,
            },
        ),
        "clip.simple_tokenizer": _module("clip.simple_tokenizer", {"SimpleTokenizer": SimpleTokenizer}),
    }
    package = found["clip"]
    package.__path__ = []
    for name, module in found.items():
        if name != "clip":
            setattr(package, name.rpartition(".")[2], module)
    return found


def preprocess(size: int) -> transforms.Compose:
    """OpenAI's preprocessing of pictures to a size in pixels."""
    return transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.Lambda(lambda picture: picture.convert("RGB")),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def _size_of(model: nn.Module) -> int:
    return model.visual.input_resolution if hasattr(model, "visual") else 224


def _module(name: str, content: dict[str, Any]) -> ModuleType:
    module = ModuleType(name, "A stand-in for OpenAI's package, around the model that a statement gives.")
    vars(module).update(content)
    return module
