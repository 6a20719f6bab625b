"""Tables and figures of the HTML report."""

from vp.writeup.cost_figures import Panel, against_time, gradient_memory, gradient_times
from vp.writeup.figures import learnt_prompt, noise_curve, prediction_bars, to_svg
from vp.writeup.page import render

__all__ = [
    "Panel",
    "against_time",
    "gradient_memory",
    "gradient_times",
    "learnt_prompt",
    "noise_curve",
    "prediction_bars",
    "render",
    "to_svg",
]
