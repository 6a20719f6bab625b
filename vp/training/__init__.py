"""The one training loop, its schedules, and CUDA graphs."""

from vp.training.loop import Fit, TrainingDiverged, accumulate_gradient, fit, learnt_state, load_trained, trained_parameters
from vp.training.schedule import Recipe, learning_rate_at

__all__ = [
    "Fit",
    "Recipe",
    "TrainingDiverged",
    "accumulate_gradient",
    "fit",
    "learning_rate_at",
    "learnt_state",
    "load_trained",
    "trained_parameters",
]
