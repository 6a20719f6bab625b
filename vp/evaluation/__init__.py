"""Per-image correctness, and what it proves: intervals and paired tests."""

from vp.evaluation.accuracy import Batches, ImageBatches, per_image_correctness, predict
from vp.evaluation.statistics import PairedTest, paired_test, prediction_half_width, wilson_interval

__all__ = [
    "Batches",
    "ImageBatches",
    "PairedTest",
    "paired_test",
    "per_image_correctness",
    "predict",
    "prediction_half_width",
    "wilson_interval",
]
