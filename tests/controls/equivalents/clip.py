"""Sections 2.1 to 2.3 done correctly, and otherwise than vp does: all of it must pass.

Loops, einsum, float64 inside, masks in place of pads; backbones that are copied and frozen there; deep prompts without a hook, the
sequence before the batch. `by_hooks` and `by_weights` are further ways: `--impl=tests.controls.equivalents:by_hooks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from types import SimpleNamespace

import torch
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import gelu, layer_norm, multi_head_attention_forward


def fill_template(template: str, class_names: Sequence[str]) -> tuple[str, ...]:
    before, _, after = template.partition("{}")
    return tuple(before + " ".join(name.split("_")) + after for name in class_names)


def text_features(model: CLIP, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """One text at a time."""
    rows = []
    for text in texts:
        row = model.encode_text(tokenizer(text)).double()[0]
        rows.append(row / torch.einsum("d,d->", row, row).sqrt())
    return torch.stack(rows).detach()


def zero_shot_logits(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    images, texts = image_features.double(), text_features.double()
    products = torch.einsum("bd,kd->bk", images, texts)
    lengths = (images**2).sum(1).sqrt()[:, None] * (texts**2).sum(1).sqrt()[None, :]
    return (products / lengths * math.exp(float(logit_scale))).float()


# -- visual prompts --------------------------------------------------------------------------------------------------------


class FixedPatch(nn.Module):
    """A picture of zeros in which a mask says where the learnt values go, one channel after the other."""

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(3 * size * size))
        where = torch.zeros(3, image_size, image_size, dtype=torch.bool)
        where[:, :size, :size] = True
        self.register_buffer("where", where)

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.zeros(self.where.shape).masked_scatter(self.where, self.values)


class RandomPatch(nn.Module):
    """Image by image; the patch is moved there by two matrices of zeros and ones."""

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__()
        self.size, self.places = size, image_size - size + 1
        self.patch = nn.Parameter(torch.randn(size, size, 3))

    def forward(self, images: Tensor) -> Tensor:
        prompted = []
        for image in images:
            row, column = torch.randint(self.places, (2,)).tolist()
            down, right = (torch.eye(image.shape[-1])[at : at + self.size] for at in (row, column))
            prompted.append(image + torch.einsum("ijc,iy,jx->cyx", self.patch, down, right))
        return torch.stack(prompted)


class Padding(nn.Module):
    """All pixels of the frame in one long row, put where the frame is by index."""

    def __init__(self, size: int, image_size: int) -> None:
        super().__init__()
        inner = range(size, image_size - size)
        frame = [(y, x) for y in range(image_size) for x in range(image_size) if not (y in inner and x in inner)]
        self.register_buffer("frame", torch.tensor(frame).T)
        self.values = nn.Parameter(torch.randn(len(frame), 3))

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = self.frame
        last = images.permute(0, 2, 3, 1)
        values = last[:, rows, columns] + self.values
        index = (torch.arange(len(images))[:, None], rows[None], columns[None])
        return last.index_put(index, values).permute(0, 3, 1, 2)


class PromptedCLIP(nn.Module):
    """A frozen copy of the backbone, in float64."""

    def __init__(self, model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None) -> None:
        super().__init__()
        self.prompt = prompt
        self.backbone = deepcopy(model).double().requires_grad_(False)
        self.texts = text_features(self.backbone, tokenizer, fill_template("This is a photo of a {}", class_names))

    def forward(self, images: Tensor) -> Tensor:
        prompted = images if self.prompt is None else self.prompt(images)
        features = torch.cat([self.backbone.encode_image(image[None].double()) for image in prompted])
        return zero_shot_logits(features, self.texts, self.backbone.logit_scale)


# -- deep prompts ----------------------------------------------------------------------------------------------------------


class DeepPromptedCLIP(nn.Module):
    """The blocks of a copy, run one after the other on a sequence (L, B, D); attention by einsum, and no hook."""

    def __init__(
        self,
        model: CLIP,
        tokenizer: SimpleTokenizer,
        class_names: Sequence[str],
        n: int,
        block: int,
        position: str,
        readout: str,
    ) -> None:
        super().__init__()
        self.n, self.block, self.position, self.readout = n, block, position, readout
        self.backbone = deepcopy(model)
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False
        self.prompt = nn.Parameter(torch.empty(n, 1, len(model.visual.class_embedding)).normal_())
        self.texts = text_features(self.backbone, tokenizer, fill_template("This is a photo of a {}", class_names))

    def forward(self, images: Tensor) -> Tensor:
        visual = self.backbone.visual
        patches = visual.conv1(images).flatten(2).permute(2, 0, 1)
        cls = visual.class_embedding.expand(1, len(images), -1)
        x = visual.ln_pre(torch.cat([cls, patches]) + visual.positional_embedding[:, None])
        at = {"front": 0, "after_class": 1, "back": len(x)}[self.position]
        for index, block in enumerate(visual.transformer.resblocks):
            if index == self.block:
                x = torch.cat([x[:at], self.prompt.repeat(1, len(images), 1), x[at:]])
            x = x + block.ls_1(self.attention(block.attn, block.ln_1(x)))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        read = self.n if (self.position, self.readout) == ("front", "class") else 0
        return zero_shot_logits(visual.ln_post(x[read]) @ visual.proj, self.texts, self.backbone.logit_scale)

    @staticmethod
    def attention(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (attn.num_heads, -1)) for part in (x @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, -1)
        )
        weights = (torch.einsum("lbhd,mbhd->bhlm", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        return torch.einsum("bhlm,mbhd->lbhd", weights, v).flatten(2) @ attn.out_proj.weight.T + attn.out_proj.bias


class DeepPromptedByHooks(nn.Module):
    """Hooks that stay, on a copy of the vision tower; tokens (1, n, D); what is read out is moved to the front of the sequence."""

    def __init__(self, model, tokenizer, class_names, n, block, position, readout) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(1, n, model.visual.transformer.width))
        self.backbone = deepcopy(model).requires_grad_(False)
        self.texts = text_features(model, tokenizer, fill_template("This is a photo of a {}", class_names))
        before = {"front": 0, "after_class": 1, "back": None}[position]

        def join(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            parts = torch.tensor_split(given[0], [given[0].shape[1] if before is None else before], dim=1)
            return torch.cat([parts[0], self.prompt.expand(len(parts[0]), -1, -1), parts[1]], 1), *given[1:]

        blocks = self.backbone.visual.transformer.resblocks
        blocks[block].register_forward_pre_hook(join)
        if readout == "class" and position == "front":
            blocks[-1].register_forward_hook(lambda _, __, found: found.roll(-n, 1))

    def forward(self, images: Tensor) -> Tensor:
        return zero_shot_logits(self.backbone.encode_image(images), self.texts, self.backbone.logit_scale)


class DeepPromptedByWeights(nn.Module):
    """No module of the backbone is kept, only its weights; tokens are a list of vectors; images one by one."""

    def __init__(self, model, tokenizer, class_names, n, block, position, readout) -> None:
        super().__init__()
        visual = model.visual
        self.block, self.blocks, self.heads = (
            block,
            len(visual.transformer.resblocks),
            visual.transformer.resblocks[0].attn.num_heads,
        )
        self.weights = {name: value.detach().clone() for name, value in visual.named_parameters()}
        self.stride, self.scale = visual.conv1.stride, model.logit_scale.item()
        self.order = (position, readout)
        self.tokens = nn.ParameterList([nn.Parameter(torch.randn(visual.transformer.width)) for _ in range(n)])
        self.texts = text_features(model, tokenizer, fill_template("This is a photo of a {}", class_names))

    def forward(self, images: Tensor) -> Tensor:
        return zero_shot_logits(torch.stack([self.feature(image) for image in images]), self.texts, torch.tensor(self.scale))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def feature(self, image: Tensor) -> Tensor:
        w = self.weights
        patches = torch.conv2d(image[None], w["conv1.weight"], stride=self.stride)[0].flatten(1).T
        cls, *rest = self.norm("ln_pre", torch.cat([w["class_embedding"][None], patches]) + w["positional_embedding"])
        for index in range(self.blocks):
            if index == self.block:  # a block does not see in which order its tokens stand
                rest = [*rest, *self.tokens]
            x, name = torch.stack([cls, *rest]), f"transformer.resblocks.{index}"
            normed = self.norm(f"{name}.ln_1", x)
            projections = (w[f"{name}.attn.in_proj_weight"], w[f"{name}.attn.in_proj_bias"], None, None, False, 0.0)
            out = (w[f"{name}.attn.out_proj.weight"], w[f"{name}.attn.out_proj.bias"])
            attended, _ = multi_head_attention_forward(
                normed, normed, normed, x.shape[-1], self.heads, *projections, *out, need_weights=False
            )
            x = x + attended
            hidden = gelu(self.norm(f"{name}.ln_2", x) @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"])
            cls, *rest = x + hidden @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]
        read = rest[-len(self.tokens)] if self.order == ("front", "first") and len(self.tokens) else cls
        return self.norm("ln_post", read) @ w["proj"]


class PromptedByDetachedWeights(nn.Module):
    """The backbone given, run with weights that are cut from the graph."""

    def __init__(self, model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None) -> None:
        super().__init__()
        self.prompt = nn.Identity() if prompt is None else prompt
        self.visual, self.scale = [model.visual], model.logit_scale.item()
        self.weights = {name: value.detach() for name, value in model.visual.named_parameters()}
        self.texts = text_features(model, tokenizer, fill_template("This is a photo of a {}", class_names))

    def forward(self, images: Tensor) -> Tensor:
        features = functional_call(self.visual[0], self.weights, (self.prompt(images),))
        return zero_shot_logits(features, self.texts, torch.tensor(self.scale))


by_hooks = SimpleNamespace(DeepPromptedCLIP=DeepPromptedByHooks)
by_weights = SimpleNamespace(DeepPromptedCLIP=DeepPromptedByWeights, PromptedCLIP=PromptedByDetachedWeights)
