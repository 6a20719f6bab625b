"""The miniature CLIP: open_clip's own `CLIP` class at a size that pre-trains on a laptop, and its pre-training.

12 vision blocks of width 64 on a 7 x 7 grid, as ViT-B/32's, of 6-px patches (42 px); two text layers. Pre-training draws scenes of
the embedded world and lets each image choose its true caption in every family of captions (silhouette; colour and silhouette;
background; kind), one softmax per family.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, SimpleTokenizer
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from vp.data.preprocess import Preprocess
from vp.data.world import CAPTIONS, training_scenes, vocabulary
from vp.machine import artifacts
from vp.machine.errors import VpError
from vp.machine.runtime import own_random_stream
from vp.models.clip import FrozenCLIP, cosine_logits
from vp.models.pretraining import IMAGE_PX, Pretraining, draw_partly_degraded, pretrain_model
from vp.models.weights import RANDOM

CONTEXT_LENGTH = 20
WEIGHTS = Path(str(files("vp.models"))) / "mini_clip.safetensors"
SETTINGS = Pretraining(steps=4000)
MAX_LOGIT_SCALE = math.log(100)


@cache
def mini_tokenizer() -> SimpleTokenizer:
    """open_clip's byte-pair tokenizer with a short context; one for all, for it takes a third of a second to build."""
    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


@cache
def _shown_tokens() -> tuple[int, ...]:
    return tuple(sorted(mini_tokenizer()(vocabulary()).unique().tolist()))


def known_tokens() -> list[int]:
    """Token ids that pre-training can show, in ascending order."""
    return [*_shown_tokens()]


def new_mini_clip(seed: int = 0) -> CLIP:
    """The architecture with random weights. Words that pre-training never shows have a zero embedding: no information."""
    vision = CLIPVisionCfg(layers=12, width=64, head_width=16, patch_size=6, image_size=IMAGE_PX, mlp_ratio=2)
    text = CLIPTextCfg(context_length=CONTEXT_LENGTH, width=64, heads=4, layers=2)
    with own_random_stream(seed):
        model = CLIP(64, vision, text, quick_gelu=True)
    unseen = torch.ones(text.vocab_size, dtype=torch.bool)
    unseen[known_tokens()] = False
    model.token_embedding.weight.data[unseen] = 0
    return model


def random_mini_clip() -> FrozenCLIP:
    """The miniature CLIP before its pre-training, for work that does not depend on weights."""
    return FrozenCLIP(f"mini-clip/{RANDOM}", new_mini_clip(), mini_tokenizer(), Preprocess(IMAGE_PX), known_tokens())


def load_mini_clip(path: Path = WEIGHTS) -> FrozenCLIP:
    """The pre-trained miniature CLIP from the package. Raises VpError when the file is missing or damaged."""
    model = new_mini_clip()
    try:
        tensors, _ = artifacts.load(path)
        tokens = tensors.pop("known_tokens").tolist()
        model.token_embedding.weight.data[tokens] = tensors.pop("token_embedding.known")
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        if unexpected or set(missing) - {"token_embedding.weight", "attn_mask"}:
            raise ValueError("its weights are others")
    except FileNotFoundError:
        raise VpError(f"the miniature CLIP's weights are missing ({path}): run `python -m vp pretrain`") from None
    except (artifacts.CorruptArtifact, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise VpError(f"{path} is damaged or not of this version's miniature CLIP: run `python -m vp pretrain`") from error
    return FrozenCLIP("mini-clip", model, mini_tokenizer(), Preprocess(IMAGE_PX), tokens)


def save_mini_clip(model: CLIP, path: Path, note: dict[str, Any]) -> None:
    """Write the weights without the embeddings of words that were never seen (zeros)."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in ("token_embedding.weight", "attn_mask")}
    tokens = known_tokens()
    tensors["token_embedding.known"] = model.token_embedding.weight[tokens]
    artifacts.save(path, {**tensors, "known_tokens": torch.tensor(tokens)}, note)


def training_batch(batch_size: int, step: int, seed: int) -> tuple[Tensor, dict[str, Tensor], dict[str, list[str]]]:
    """Pixels (B, 3, 42, 42), and per family of captions the true index of each image (B,) and the captions to choose from."""
    scenes, generator = training_scenes(batch_size, step, seed)
    pixels = draw_partly_degraded(scenes, generator)
    return pixels, {f.name: f.truth(scenes) for f in CAPTIONS}, {f.name: f.captions(generator) for f in CAPTIONS}


def pretraining_loss(model: CLIP, preprocess: Preprocess, tokenizer: SimpleTokenizer, batch: Any, device: torch.device) -> Tensor:
    """Mean over the families of the cross-entropy of choosing the true caption."""
    pixels, truth, captions = batch
    images = normalize(model.encode_image(preprocess(pixels.to(device))), dim=-1)
    tokens = tokenizer([caption for family in captions.values() for caption in family]).to(device)
    texts = normalize(model.encode_text(tokens), dim=-1).split([len(family) for family in captions.values()])
    scale = model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
    losses = [
        cross_entropy(cosine_logits(images, family, scale), true.to(device))
        for family, true in zip(texts, truth.values(), strict=True)
    ]
    return torch.stack(losses).mean()


def pretrain(
    output: Path,
    checkpoint: Path,
    settings: Pretraining = SETTINGS,
    *,
    save_every: int = 200,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Pre-train, save to `output`, return the note saved with the weights. `checkpoint`: see `pretrain_model`."""
    device = torch.device(device)
    model, tokenizer, preprocess = new_mini_clip(settings.seed).to(device), mini_tokenizer(), Preprocess(IMAGE_PX)

    def loss_of_step(step: int) -> Tensor:
        batch = training_batch(settings.batch_size, step, settings.seed)
        return pretraining_loss(model, preprocess, tokenizer, batch, device)

    note = pretrain_model(model, loss_of_step, settings, checkpoint, save_every=save_every, progress=progress)
    note["source"] = "vp.models.mini_clip.pretrain"
    save_mini_clip(model, output, note)
    checkpoint.unlink(missing_ok=True)
    return note
