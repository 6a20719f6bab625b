"""Every number of the report as one frozen Run: scales, methods, runs; performing them; and the store of what came out.

`vp.experiments.perform` and `vp.experiments.store` are imported by name: they need every room below.
"""

from vp.experiments.methods import ZERO_SHOT, DeepTokens, LinearProbing, Method, NewHead, VisualPrompt, ZeroShot
from vp.experiments.run import (
    CLASSES,
    COLUMNS,
    CURVE_STDS,
    HEADS,
    TOKEN_COUNTS,
    Result,
    Run,
    deep_name,
    find_run,
    own_runs,
    runs,
    source_of,
    vary,
)
from vp.experiments.scales import SCALES, Scale, ScaleName

__all__ = [
    "CLASSES",
    "COLUMNS",
    "CURVE_STDS",
    "HEADS",
    "SCALES",
    "TOKEN_COUNTS",
    "ZERO_SHOT",
    "DeepTokens",
    "LinearProbing",
    "Method",
    "NewHead",
    "Result",
    "Run",
    "Scale",
    "ScaleName",
    "VisualPrompt",
    "ZeroShot",
    "deep_name",
    "find_run",
    "own_runs",
    "runs",
    "source_of",
    "vary",
]
