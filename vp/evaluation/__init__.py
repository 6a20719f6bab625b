"""Per-image correctness, and what it proves: intervals and paired tests."""

from vp.evaluation.accuracy import in_mode, per_image_correctness, predict
from vp.evaluation.batches import Batches, FeatureBatches, FlippedAtRandom, ImageBatches, PrefixBatches, Subset
from vp.evaluation.cost import saved_bytes, time_each
from vp.evaluation.statistics import ContrastTest, PairedTest, contrast_test, paired_test, prediction_half_width, wilson_interval

__all__ = [
    "Batches",
    "ContrastTest",
    "FeatureBatches",
    "FlippedAtRandom",
    "ImageBatches",
    "PairedTest",
    "PrefixBatches",
    "Subset",
    "contrast_test",
    "in_mode",
    "paired_test",
    "per_image_correctness",
    "predict",
    "prediction_half_width",
    "saved_bytes",
    "time_each",
    "wilson_interval",
]
