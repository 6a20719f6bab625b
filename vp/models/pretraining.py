"""Pre-training of the miniature models on the embedded world: the images they see, and a loop that can be resumed.

Step s draws from a random stream of its own, so that a run stopped and resumed gives the same weights as one that ran through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vp.data.preprocess import resize
from vp.data.world import DRAWN_PX, Scenes, draw
from vp.machine import artifacts
from vp.machine.errors import VpError
from vp.machine.provenance import provenance

IMAGE_PX = DRAWN_PX
SHARE_DEGRADED = 0.3  # of the images of each batch, shrunk and enlarged: real models, too, have seen some blurred photographs
DEGRADED_PX = (14, 42)
WEIGHT_DECAY = 0.05


def draw_partly_degraded(scenes: Scenes, generator: torch.Generator) -> Tensor:
    """Pixels (B, 3, 42, 42) of scenes, the first of them shrunk to a random size and enlarged again."""
    degraded = int(len(scenes) * SHARE_DEGRADED)
    small = int(torch.randint(*DEGRADED_PX, (1,), generator=generator))
    drawn = draw(scenes, IMAGE_PX)
    return torch.cat([resize(resize(drawn[:degraded], small), IMAGE_PX), drawn[degraded:]])


@dataclass(frozen=True)
class Pretraining:
    """AdamW under a linear warm-up, then a cosine to 0; gradients are cut to norm 1; matrices decay, vectors do not."""

    steps: int
    batch_size: int = 96
    learning_rate: float = 1e-3
    warmup: int = 200
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        warm = (step + 1) / max(1, self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - self.warmup) / max(1, self.steps - self.warmup)))
        return self.learning_rate * min(warm, cosine)


def pretrain_model(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    settings: Pretraining,
    checkpoint: Path,
    *,
    save_every: int = 200,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `model` by `loss_of_step(step)`; returns what its weights are to say of themselves: settings, provenance and the
    seconds spent, those before an interruption included.

    `checkpoint` is written every `save_every` steps and taken up again if it belongs to the same settings; the caller deletes
    it once the weights are safe. Raises VpError when the loss is not finite.
    """
    parameters = list(model.parameters())
    decayed, plain = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, fused=True)
    first, seconds = _resume(model, optimiser, checkpoint, settings)
    started = time.perf_counter() - seconds
    steps = range(first, settings.steps)
    bar = tqdm(steps, initial=first, total=settings.steps, unit="step", disable=None if progress else True, desc="pretrain")
    model.train()
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step)
        loss = loss_of_step(step)
        if not torch.isfinite(loss):
            raise VpError(f"the loss is {loss.item()} at step {step}: give a smaller learning rate than {settings.learning_rate}")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % save_every == 0 and step + 1 < settings.steps:
            done: dict[str, Any] = {"step": step + 1, "seconds": time.perf_counter() - started}
            _save_checkpoint(model, optimiser, checkpoint, asdict(settings) | done)
    seconds = round(time.perf_counter() - started, 1)
    return {"settings": asdict(settings), "seconds": seconds, "provenance": provenance(parameters[0].device)}


def _save_checkpoint(model: nn.Module, optimiser: torch.optim.AdamW, path: Path, note: dict[str, Any]) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, p in model.named_parameters():
        tensors |= {f"{key}/{name}": value for key, value in optimiser.state[p].items()}
    artifacts.save(path, tensors, note)


def _resume(model: nn.Module, optimiser: torch.optim.AdamW, path: Path, settings: Pretraining) -> tuple[int, float]:
    """Take up a checkpoint of the same settings; returns the next step and the seconds already spent."""
    try:
        tensors, note = artifacts.load(path)
    except (FileNotFoundError, artifacts.CorruptArtifact):
        return 0, 0.0
    if any(note.get(key) != value for key, value in asdict(settings).items()):
        return 0, 0.0
    model.load_state_dict({name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")})
    for name, p in model.named_parameters():
        optimiser.state[p] = {key: tensors[f"{key}/{name}"].to(p.device) for key in ("step", "exp_avg", "exp_avg_sq")}
    return note["step"], note["seconds"]
