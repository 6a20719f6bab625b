"""How fast the embedded world is drawn: `pytest tests/benchmarks/bench_world.py` prints images per second.

Pre-training draws each batch anew, so drawing must not hold up the training: the bar is 1,500 images/s at 40 px on two cores.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from vp.data.world import draw, training_scenes

BATCH = 96
IMAGE_PX = 40


def test_images_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the median speed of drawing batches as pre-training draws them."""
    seconds = []
    for step in range(40):
        started = time.perf_counter()
        scenes, generator = training_scenes(BATCH, step, seed=0)
        draw(scenes, IMAGE_PX, generator)
        seconds.append(time.perf_counter() - started)
    speed = BATCH / statistics.median(seconds)
    with capsys.disabled():
        print(f"\n{speed:,.0f} images/s at {IMAGE_PX} px, {torch.get_num_threads()} thread(s) (bar: 1,500 on two cores)")
