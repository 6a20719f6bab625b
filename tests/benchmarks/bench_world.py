"""How fast the embedded world is drawn: `pytest tests/benchmarks/bench_world.py` prints images per second.

Pre-training draws each batch anew, so drawing must not hold up the training: the bar is 1,500 images/s at 42 px on two cores.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from vp.data.world import DRAWN_PX, draw, training_scenes

BATCH = 96


def test_images_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the median speed of drawing batches as pre-training draws them."""
    seconds = []
    for step in range(40):
        started = time.perf_counter()
        draw(training_scenes(BATCH, step, seed=0)[0], DRAWN_PX)
        seconds.append(time.perf_counter() - started)
    speed = BATCH / statistics.median(seconds)
    with capsys.disabled():
        print(f"\n{speed:,.0f} images/s at {DRAWN_PX} px, {torch.get_num_threads()} thread(s) (bar: 1,500 on two cores)")
