"""The miniature CLIP: open_clip's own `CLIP` class at a size that pre-trains on a laptop, and its pre-training.

12 vision blocks of width 64 on a 5 x 5 grid of 8-px patches (40 px), two text layers. Pre-training draws scenes of the
embedded world and lets each image choose its true caption in every family of captions (silhouette; colour and silhouette;
background; kind), one softmax per family. Step s draws from a random stream of its own, so that a run stopped and resumed
gives the same weights as one that ran through.
"""

from __future__ import annotations

import math
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, SimpleTokenizer
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from vp import artifacts
from vp.data.preprocess import Preprocess, resize
from vp.data.world import CAPTIONS, draw, training_scenes, vocabulary
from vp.models.clip import FrozenCLIP, cosine_logits
from vp.runtime import VpError, own_random_stream, provenance

IMAGE_PX = 40
CONTEXT_LENGTH = 20
WEIGHTS = Path(str(files("vp.models"))) / "mini_clip.safetensors"
SHARE_DEGRADED = 0.25  # of the images of each batch, drawn small and enlarged: CLIP, too, has seen some blurred photographs
DEGRADED_PX = (24, 40)
STEPS = 3000
MAX_LOGIT_SCALE = math.log(100)


def mini_tokenizer() -> SimpleTokenizer:
    """open_clip's byte-pair tokenizer with a short context."""
    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def known_tokens() -> list[int]:
    """Token ids that pre-training can show, in ascending order."""
    return sorted(mini_tokenizer()(vocabulary()).unique().tolist())


def new_mini_clip(seed: int = 0) -> CLIP:
    """The architecture with random weights. Words that pre-training never shows have a zero embedding: no information."""
    vision = CLIPVisionCfg(layers=12, width=64, head_width=16, patch_size=8, image_size=IMAGE_PX)
    text = CLIPTextCfg(context_length=CONTEXT_LENGTH, width=64, heads=4, layers=2)
    with own_random_stream(seed):
        model = CLIP(64, vision, text, quick_gelu=True)
    unseen = torch.ones(text.vocab_size, dtype=torch.bool)
    unseen[known_tokens()] = False
    model.token_embedding.weight.data[unseen] = 0
    return model


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
    """Pixels (B, 3, 40, 40), and per family of captions the true index of each image (B,) and the captions to choose from."""
    scenes, generator = training_scenes(batch_size, step, seed)
    degraded = int(batch_size * SHARE_DEGRADED)
    small = int(torch.randint(*DEGRADED_PX, (1,), generator=generator))
    blurred = resize(draw(scenes[:degraded], small, generator), IMAGE_PX)
    pixels = torch.cat([blurred, draw(scenes[degraded:], IMAGE_PX, generator)])
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
    *,
    steps: int = STEPS,
    batch_size: int = 96,
    learning_rate: float = 1e-3,
    warmup: int = 200,
    seed: int = 0,
    device: torch.device | str = "cpu",
    save_every: int = 200,
    progress: bool = True,
) -> dict[str, Any]:
    """Pre-train with AdamW (linear warm-up, then cosine to 0), save to `output`, return the note saved with the weights.

    `checkpoint` is written every `save_every` steps and taken up again if it belongs to the same settings.
    """
    device = torch.device(device)
    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "warmup": warmup, "seed": seed}
    model, tokenizer, preprocess = new_mini_clip(seed).to(device), mini_tokenizer(), Preprocess(IMAGE_PX)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], fused=True)
    first, seconds = _resume(model, optimiser, checkpoint, settings)
    started = time.perf_counter() - seconds
    bar = tqdm(range(first, steps), initial=first, total=steps, unit="step", disable=None if progress else True, desc="pretrain")
    for step in bar:
        rate = learning_rate * min(
            (step + 1) / max(1, warmup), 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = pretraining_loss(model, preprocess, tokenizer, training_batch(batch_size, step, seed), device)
        if not torch.isfinite(loss):
            raise VpError(f"the loss is {loss.item()} at step {step}: give a smaller learning rate than {learning_rate}")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % save_every == 0 and step + 1 < steps:
            _save_checkpoint(model, optimiser, checkpoint, settings | {"step": step + 1, "seconds": time.perf_counter() - started})
    seconds = round(time.perf_counter() - started, 1)
    note = {"settings": settings, "seconds": seconds, "provenance": provenance(device), "source": "vp.models.mini_clip.pretrain"}
    save_mini_clip(model, output, note)
    checkpoint.unlink(missing_ok=True)
    return note


def _save_checkpoint(model: CLIP, optimiser: torch.optim.AdamW, path: Path, note: dict[str, Any]) -> None:
    tensors = {f"model/{name}": p for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        tensors |= {f"{key}/{name}": value for key, value in optimiser.state[p].items()}
    artifacts.save(path, tensors, note)


def _resume(model: CLIP, optimiser: torch.optim.AdamW, path: Path, settings: dict[str, Any]) -> tuple[int, float]:
    """Take up a checkpoint of the same settings; returns the next step and the seconds already spent."""
    try:
        tensors, note = artifacts.load(path)
    except (FileNotFoundError, artifacts.CorruptArtifact):
        return 0, 0.0
    if any(note.get(key) != value for key, value in settings.items()):
        return 0, 0.0
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"model/{name}"])
        optimiser.state[p] = {key: tensors[f"{key}/{name}"].to(p.device) for key in ("step", "exp_avg", "exp_avg_sq")}
    return note["step"], note["seconds"]
