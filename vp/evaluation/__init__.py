"""Per-image correctness and what it proves; what a network costs in time and memory."""

from vp.evaluation.accuracy import per_image_correctness, predict
from vp.evaluation.batches import Batches, ImageBatches, PrefixBatches, Subset
from vp.evaluation.cost import (
    NetworkCost,
    Timing,
    back_off,
    multiply_adds,
    network_cost,
    network_saved_bytes,
    peak_mib,
    quartiles,
    saved_bytes,
    time_each,
    time_without_and_with_gradients,
)
from vp.evaluation.statistics import (
    ContrastTest,
    Correlation,
    PairedTest,
    above_trend,
    contrast_test,
    correlation,
    paired_test,
    prediction_half_width,
    signed_rank_test,
    wilson_interval,
)

__all__ = [
    "Batches",
    "ContrastTest",
    "Correlation",
    "ImageBatches",
    "NetworkCost",
    "PairedTest",
    "PrefixBatches",
    "Subset",
    "Timing",
    "above_trend",
    "back_off",
    "contrast_test",
    "correlation",
    "multiply_adds",
    "network_cost",
    "network_saved_bytes",
    "paired_test",
    "peak_mib",
    "per_image_correctness",
    "predict",
    "prediction_half_width",
    "quartiles",
    "saved_bytes",
    "signed_rank_test",
    "time_each",
    "time_without_and_with_gradients",
    "wilson_interval",
]
