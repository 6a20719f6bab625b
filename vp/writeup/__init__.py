"""Tables and figures of the HTML report."""

from vp.writeup.figures import learnt_prompt, noise_curve, prediction_bars, to_svg
from vp.writeup.page import render

__all__ = ["learnt_prompt", "noise_curve", "prediction_bars", "render", "to_svg"]
