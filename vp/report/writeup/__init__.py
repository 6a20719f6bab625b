"""Tables and figures of the HTML report, and the same content for machines."""

from vp.report.writeup.content import Sources, build, find_code, label_of
from vp.report.writeup.cost_figures import Panel, against_time, gradient_memory, gradient_times
from vp.report.writeup.figures import learnt_prompt, noise_curve, prediction_bars, to_svg
from vp.report.writeup.page import folder_between, render

__all__ = [
    "Panel",
    "Sources",
    "against_time",
    "build",
    "find_code",
    "folder_between",
    "gradient_memory",
    "gradient_times",
    "label_of",
    "learnt_prompt",
    "noise_curve",
    "prediction_bars",
    "render",
    "to_svg",
]
