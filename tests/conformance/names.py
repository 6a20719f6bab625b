"""The public names that the specification can be asked of: how it calls them, and what it expects back.

A solution has any subset of these names, as functions or classes, with arguments in the order given here. Letters in shapes are
those of vp/__init__.py; `model` and `tokenizer` are an open_clip CLIP (in evaluation mode) and its tokenizer; a `module` is a
torch.nn.Module. Tensors come in float32, those of graphs in float64, and the CPU is where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what judges a call imports them where it does: pytest's controller and `vp check` know the names without torch
    from torch import Tensor

Check = Callable[..., str]  # (what came back, *arguments) -> what is wrong with it, in words; "" if nothing is


@dataclass(frozen=True)
class Name:
    """One public name."""

    section: str  # of the report
    call: str  # its arguments, in order
    gives: str  # in words
    check: Check  # of what a call gives back: kind, shape, finite numbers
    forward: Check | None = None  # of what the module that it gives back gives back


def _numbers(*shape: int | None) -> Callable[[Any], str]:
    """Finite numbers of a shape, in which None is any length."""

    def check(found: Any) -> str:
        import numpy as np
        import torch
        from torch import Tensor

        if isinstance(found, np.ndarray):
            found = torch.as_tensor(found.astype(np.float64))
        if not isinstance(found, Tensor):
            return f"gave {described(found)}: expected a tensor"
        found = found.detach()
        if found.device.type != "cpu":
            return f"gave {described(found)} on {found.device}: expected it where its input is, on the CPU"
        if found.layout != torch.strided:
            found = found.to_dense()
        if found.ndim != len(shape) or any(
            want is not None and have != want for have, want in zip(found.shape, shape, strict=True)
        ):
            return f"gave {described(found)}: expected shape {_in_words(shape)}"
        if found.is_complex() or found.dtype == torch.bool:
            return f"gave {described(found)}: expected real numbers"
        if not found.double().isfinite().all():
            return f"gave {described(found)} with NaN or infinite entries: expected finite numbers"
        return ""

    return check


def _in_words(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if one is None else str(one) for one in shape)}{',' if len(shape) == 1 else ''})"


def described(value: Any) -> str:
    """A value in a few words: what a tensor or a module is, not what it holds."""
    import networkx as nx
    import numpy as np
    from torch import Tensor, nn

    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, nx.Graph):
        edges = ", ".join(f"{u}->{v}" for u, v in value.edges())
        return f"a {'directed ' if value.is_directed() else ''}graph of {len(value)} nodes{f' and edges {edges}' if edges else ''}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(value) if isinstance(value, bool | int | float | str | None) else f"{type(value).__name__} {value!r}"
    text = " ".join(text.split())  # in a line
    return text if len(text) <= 60 else f"{text[:60]}…"


def _module(found: Any, *_: Any) -> str:
    from torch import nn

    return "" if isinstance(found, nn.Module) else f"gave {described(found)}: expected a torch.nn.Module"


def _like(position: int) -> Check:
    return lambda found, *given: _numbers(*given[position].shape)(found)


def _per_node(found: Any, A: Tensor, H: Tensor, *_: Any) -> str:
    return _numbers(*H.shape)(found)


def _layer(found: Any, A: Tensor, H: Tensor, W: Tensor, *_: Any) -> str:
    return _numbers(len(H), len(W))(found)


def _texts(found: Any, template: str, class_names: Sequence[str]) -> str:
    good = isinstance(found, list | tuple) and len(found) == len(class_names) and all(isinstance(one, str) for one in found)
    return "" if good else f"gave {described(found)}: expected a list of {len(class_names)} sentences"


def _number(found: Any, *_: Any) -> str:
    try:
        value = float(found)
    except (TypeError, ValueError):
        return f"gave {described(found)}: expected a number"
    return "" if math.isfinite(value) else f"gave {value}: expected a finite number"


def _tuple(length: int, parts: str) -> Check:
    def check(found: Any, *_: Any) -> str:
        good = isinstance(found, list | tuple) and len(found) == length
        return "" if good else f"gave {described(found)}: expected {parts}"

    return check


def _text(found: Any, *_: Any) -> str:
    return "" if isinstance(found, str) and found else f"gave {described(found)}: expected a name of at least one letter"


_SIZES = "(size, image_size)"
_PROMPTED = "a module: images (B, 3, I, I) to new images of the same shape, which have added to them, in any mode, a learnt"
_CONVOLUTION = ("3.2", "(A, H, W, B, activation)", "sigma(D^-1 A H W^T + H B^T) (N, d_out)", _layer)

NAMES: dict[str, Name] = {
    # 1.2
    "new_head": Name(
        "1.2",
        "(network, classes)",
        "`network`, whose last linear layer is its `fc`, with a new one for that many classes, which alone requires a gradient: "
        "weights N(0, 0.01^2) at first, biases 0",
        _module,
        lambda found, images: _numbers(len(images), None)(found),
    ),
    # 2.1
    "fill_template": Name(
        "2.1", "(template, class_names)", "a sentence for each class, its name in place of {}, with spaces for underscores", _texts
    ),
    "text_features": Name(
        "2.1",
        "(model, tokenizer, texts)",
        "unit features (K, D); the model is left as it was",
        lambda found, model, tokenizer, texts: _numbers(len(texts), None)(found),
    ),
    "zero_shot_logits": Name(
        "2.1",
        "(image_features, text_features, logit_scale)",
        "logits (B, K) from features (B, D) and (K, D) of any length; logit_scale is a tensor (), the logarithm of the scale",
        lambda found, images, texts, scale: _numbers(len(images), len(texts))(found),
    ),
    "PromptedCLIP": Name(
        "2.1",
        "(model, tokenizer, class_names, prompt)",
        "a module: normalised images (B, 3, S, S) to logits (B, K) of texts of the template This is a photo of a {}, with spaces "
        "for underscores; prompt is a module, images to images, or None for zero-shot CLIP",
        _module,
        lambda found, images: _numbers(len(images), None)(found),
    ),
    # 2.2
    "FixedPatch": Name(
        "2.2", _SIZES, f"{_PROMPTED} patch of p x p pixels at the top left: 3 p^2 parameters, N(0, 1) at first", _module, _like(0)
    ),
    "RandomPatch": Name(
        "2.2",
        _SIZES,
        f"{_PROMPTED} patch of p x p pixels, at a place drawn anew for each image at each call: 3 p^2 parameters, N(0, 1) at first",
        _module,
        _like(0),
    ),
    "Padding": Name(
        "2.2",
        _SIZES,
        f"{_PROMPTED} frame p pixels wide, each of its pixels a parameter of its own: 12 p (I - p) of them, N(0, 1) at first",
        _module,
        _like(0),
    ),
    # 2.3
    "DeepPromptedCLIP": Name(
        "2.3",
        "(model, tokenizer, class_names, n, block, position, readout)",
        "a module: as PromptedCLIP; n tokens, N(0, 1) at first and its only trainable parameters, join the sequence before block "
        "`block` (0-based) and stay to the end; position front, after_class or back; readout class (token) or first (token of the "
        "sequence)",
        _module,
        lambda found, images: _numbers(len(images), None)(found),
    ),
    # 2.4
    "gaussian_noise": Name(
        "2.4",
        "(images, std, seed)",
        "normalised images with noise of every pixel and channel by itself, the same for the same seed; nothing is clamped",
        _like(0),
    ),
    # 2.5 and what all sections share
    "union": Name(
        "2.5",
        "(first, second)",
        "one image set (pixels, labels, class_names) of two, the first set's images and names before the second's",
        _tuple(3, "pixels, labels and class names"),
    ),
    "split": Name(
        "2.2",
        "(count, validation_share, seed)",
        "indices of training and of validation images, drawn by the seed; the share is rounded to the nearest whole image",
        _tuple(2, "two lists of indices"),
    ),
    "accuracy": Name(
        "2.1",
        "(model, batches)",
        "the share of right answers in evaluation mode, each module left in the mode it was in; batches is a list of (images, "
        "labels)",
        _number,
    ),
    "learning_rate_at": Name(
        "2.2",
        "(step, total_steps, learning_rate, warmup_steps)",
        "the rate of a 0-based step: linear warm-up to the full rate, then half a cosine to 0",
        _number,
    ),
    "fit": Name(
        "2.2",
        "(model, train, validation, learning_rate, momentum, warmup_steps, epochs, batch_size)",
        "(last, best, best_epoch): what was learnt, tensors by parameter name, after the last epoch and the best, the earliest one "
        "of highest validation accuracy, counted from 1; by SGD on each batch's mean cross-entropy, at the rates of "
        "learning_rate_at, each example once an epoch, in any order; train and validation are (inputs, labels)",
        _tuple(3, "(last, best, best_epoch)"),
    ),
    "train_and_evaluate": Name(
        "2.2",
        "(model, train, validation, test, tested, learning_rate, momentum, warmup_steps, epochs, batch_size)",
        "the share of right answers on test of a model trained as by fit, with the weights of its last or its best epoch (tested: "
        "last or best); the model sees each test example once, after training",
        _number,
    ),
    "checkpoint_name": Name(
        "2.2",
        "(settings)",
        "a file name for the settings of a run: a dict of dataset, method, prompt_size, seed and learning_rate",
        _text,
    ),
    "wilson_interval": Name("2.1", "(correct, total)", "the 95% interval of a share, (low, high)", _tuple(2, "(low, high)")),
    "paired_p_value": Name("1.2", "(first, second)", "exact McNemar p of two classifiers' correctness (N,), two-sided", _number),
    # 3
    "adjacency_matrix": Name(
        "3.1",
        "(graph, nodelist)",
        "A (N, N) of a networkx graph: A[u, v] is the number (or total weight) of edges from u to v, rows in the order of nodelist",
        lambda found, graph, nodes: _numbers(len(nodes), len(nodes))(found),
    ),
    "degree_matrix": Name("3.1", "(A)", "D (N, N), the row sums of A on its diagonal", _like(0)),
    "count_walks": Name(
        "3.1",
        "(A, n)",
        "walks of n edges from u to v (N, N), exact: integers of a tensor or, as they grow, of an array of Python's",
        _like(0),
    ),
    "sum_aggregate": Name("3.3", "(A, H)", "A H (N, d): the sum over the neighbours u of v, those with A[v, u] not 0", _per_node),
    "mean_aggregate": Name("3.3", "(A, H)", "D^-1 A H (N, d), zeros where a node has no neighbours", _per_node),
    "max_aggregate": Name("3.3", "(A, H)", "the largest value among the neighbours (N, d), zeros where there are none", _per_node),
    "graph_convolution": Name(*_CONVOLUTION),
    "graph_convolution_by_node": Name(*_CONVOLUTION),
    "graph_convolution_by_messages": Name(*_CONVOLUTION),
    "message_passing": Name(
        "3.2",
        "(A, H, message, update, aggregate)",
        "update(h_v, m_v) (N, d_out); m_v is the sum of A[v, u] message(h_v, h_u), that sum over deg(v) (mean), or the max of the "
        "messages; both functions take rows or single nodes",
        lambda found, A, *_: _numbers(len(A), None)(found),
    ),
    "attention_matrix": Name(
        "3.5",
        "(Q, K, mask)",
        "A (N, N), rows of softmax(Q K^T / sqrt(d)); mask[v, u] (booleans, or None) says whether v may attend to u; zeros for a "
        "v that may attend to nobody",
        lambda found, Q, *_: _numbers(len(Q), len(Q))(found),
    ),
    "self_attention": Name(
        "3.5",
        "(H, W_q, W_k, W_v, mask)",
        "A H W_v^T (N, d_v), A the attention matrix of H W_q^T and H W_k^T under the mask",
        lambda found, H, W_q, W_k, W_v, *_: _numbers(len(H), len(W_v))(found),
    ),
}
