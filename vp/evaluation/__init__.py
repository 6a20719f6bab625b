"""Per-image correctness, and what it proves: intervals and paired tests."""

from vp.evaluation.accuracy import per_image_correctness, predict
from vp.evaluation.batches import Batches, ImageBatches, PrefixBatches, Subset
from vp.evaluation.cost import saved_bytes, time_each
from vp.evaluation.statistics import (
    ContrastTest,
    PairedTest,
    SeedSpread,
    contrast_test,
    holm_adjusted,
    paired_test,
    prediction_half_width,
    seed_spread,
    wilson_interval,
)

__all__ = [
    "Batches",
    "ContrastTest",
    "ImageBatches",
    "PairedTest",
    "PrefixBatches",
    "SeedSpread",
    "Subset",
    "contrast_test",
    "holm_adjusted",
    "paired_test",
    "per_image_correctness",
    "predict",
    "prediction_half_width",
    "saved_bytes",
    "seed_spread",
    "time_each",
    "wilson_interval",
]
