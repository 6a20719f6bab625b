"""Positive controls: a complete, correct solution, written otherwise than vp, that the specification must accept.

Loops, einsum, hooks, other precisions and memory layouts: `pytest --impl=tests.controls.equivalents` passes. What fails here is
held to vp's way, not to the specification.
"""

from tests.controls.equivalents.clip import (
    DeepPromptedCLIP,
    FixedPatch,
    Padding,
    PromptedCLIP,
    RandomPatch,
    by_hooks,
    by_weights,
    fill_template,
    text_features,
    zero_shot_logits,
)
from tests.controls.equivalents.graphs import (
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
from tests.controls.equivalents.training import (
    accuracy,
    checkpoint_name,
    fit,
    gaussian_noise,
    learning_rate_at,
    new_head,
    paired_p_value,
    split,
    union,
    wilson_interval,
)

__all__ = [
    "DeepPromptedCLIP",
    "FixedPatch",
    "Padding",
    "PromptedCLIP",
    "RandomPatch",
    "accuracy",
    "adjacency_matrix",
    "attention_matrix",
    "by_hooks",
    "by_weights",
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
    "union",
    "wilson_interval",
    "zero_shot_logits",
]
