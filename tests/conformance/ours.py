"""The public names as vp has them: those that are called otherwise there take an adapter of a few lines, like any solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize

from vp.data import GaussianNoise, ImageSet, Preprocess, split_indices
from vp.data import union as union_of_sets
from vp.evaluation import paired_test, per_image_correctness, wilson_interval
from vp.experiments import Run, VisualPrompt
from vp.experiments.store import result_path, run_key
from vp.graphs import (
    adjacency_matrix,
    attention_matrix,
    count_walks,
    degree_matrix,
    graph_convolution,
    graph_convolution_by_messages,
    graph_convolution_by_node,
    max_aggregate,
    mean_aggregate,
    message_passing,
    self_attention,
    sum_aggregate,
)
from vp.models import FineTunedNetwork, FrozenCLIP, PretrainedNetwork, cosine_logits, fill_template
from vp.prompts import DeepPrompt, FixedPatch, Padding, RandomPatch
from vp.prompts import DeepPromptedCLIP as DeepPromptedClassifier
from vp.prompts import PromptedCLIP as PromptedClassifier
from vp.training import Recipe, load_trained
from vp.training import fit as fit_batches
from vp.training import learning_rate_at as rate_of_recipe

__all__ = [
    "DeepPromptedCLIP",
    "FixedPatch",
    "Padding",
    "PromptedCLIP",
    "RandomPatch",
    "accuracy",
    "adjacency_matrix",
    "attention_matrix",
    "checkpoint_name",
    "count_walks",
    "degree_matrix",
    "fill_template",
    "fit",
    "gaussian_noise",
    "graph_convolution",
    "graph_convolution_by_messages",
    "graph_convolution_by_node",
    "learning_rate_at",
    "max_aggregate",
    "mean_aggregate",
    "message_passing",
    "new_head",
    "paired_p_value",
    "self_attention",
    "split",
    "sum_aggregate",
    "text_features",
    "train_and_evaluate",
    "union",
    "wilson_interval",
    "zero_shot_logits",
]

Images = tuple[Tensor, Tensor, Sequence[str]]  # pixels uint8 (N, 3, H, W), labels (N,), class names


def _frozen(model: CLIP, tokenizer: SimpleTokenizer) -> FrozenCLIP:
    size = model.visual.image_size
    return FrozenCLIP("given", model, tokenizer, Preprocess(size if isinstance(size, int) else size[0]))


class _Examples:
    """Inputs and labels by index."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.labels[indices]


def new_head(network: nn.Module, classes: int) -> nn.Module:
    return FineTunedNetwork(PretrainedNetwork("given", network, Preprocess(8)), classes)


def text_features(model: CLIP, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    return _frozen(model, tokenizer).encode_text(texts)


def zero_shot_logits(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    return cosine_logits(normalize(image_features, dim=-1), normalize(text_features, dim=-1), logit_scale.exp())


def PromptedCLIP(model: CLIP, tokenizer: SimpleTokenizer, class_names: Sequence[str], prompt: nn.Module | None) -> nn.Module:
    return PromptedClassifier(_frozen(model, tokenizer), class_names, prompt=prompt)


def DeepPromptedCLIP(model, tokenizer, class_names, n, block, position, readout) -> nn.Module:
    prompt = DeepPrompt(n, model.visual.transformer.width, block, position, readout)
    return DeepPromptedClassifier(_frozen(model, tokenizer), class_names, prompt=prompt)


def gaussian_noise(images: Tensor, std: float, seed: int) -> Tensor:
    return GaussianNoise(std, seed=seed)(images, torch.arange(len(images)))


def union(first: Images, second: Images) -> Images:
    sets = [
        ImageSet(name, "test", pixels, labels, tuple(names))
        for name, (pixels, labels, names) in zip("ab", (first, second), strict=True)
    ]
    both = union_of_sets(*sets)
    return both.pixels, both.labels, both.class_names


def split(count: int, validation_share: float, seed: int) -> tuple[Tensor, Tensor]:
    return split_indices(count, seed, validation_share)


def accuracy(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return per_image_correctness(model, _Examples(inputs, labels), len(batches[0][1])).double().mean().item()


def learning_rate_at(step: int, total_steps: int, learning_rate: float, warmup_steps: int) -> float:
    return rate_of_recipe(step, total_steps, Recipe(learning_rate=learning_rate, warmup_steps=warmup_steps))


def fit(model, train, validation, learning_rate, momentum, warmup_steps, epochs, batch_size):
    recipe = Recipe("sgd", learning_rate, momentum, warmup_steps, "cosine", epochs, batch_size)
    fitted = fit_batches(model, _Examples(*train), _Examples(*validation), recipe, progress=False)
    return fitted.last, fitted.best, fitted.best_epoch


def train_and_evaluate(model, train, validation, test, tested, *recipe) -> float:
    last, best, _ = fit(model, train, validation, *recipe)
    load_trained(model, {"last": last, "best": best}[tested])
    return accuracy(model, [test])


def paired_p_value(first: Tensor, second: Tensor) -> float:
    return paired_test(first, second).p_value


def checkpoint_name(settings: Mapping[str, Any]) -> str:
    recipe = Recipe(learning_rate=settings["learning_rate"])
    prompt = VisualPrompt(settings["method"], settings["prompt_size"])
    run = Run(settings["method"], "table_2", "mini", settings["dataset"], "test", "mini-clip", prompt, recipe)
    return result_path(run, run_key(run, settings["seed"], "cpu")).name
