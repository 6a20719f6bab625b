"""What it costs to list 100,000 results: `pytest -s tests/benchmarks/bench_store.py` prints it, in two minutes.

Planted are as many files as a sweep of the miniature leaves: ten epochs of history, 500 images, a deep prompt. They are listed in a
process of their own, whose peak memory is told: names alone, then what each says of itself. The bar is 5 s and 1 GiB for names.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from vp.experiments import Result
from vp.experiments.store import save_result
from vp.machine.provenance import provenance

RESULTS = 100_000
LISTED = """
import resource, time
from vp.experiments.store import stored_results
kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, seconds = kib(), []
for _ in range(2):
    started = time.perf_counter()
    found = sum(1 for _ in stored_results(summaries={summaries}))
    seconds.append(time.perf_counter() - started)
print(f"{{found:,}} listed in {{seconds[0]:.2f}} s, again in {{seconds[1]:.2f}} s; {{(kib() - before) / 1024:.0f}} MiB more, "
      f"{{kib() / 1024:.0f}} MiB with torch and all")
"""


def test_what_listing_costs(tmp_path: Path) -> None:
    """Prints seconds and memory of listing."""
    history = [{"epoch": float(epoch), "loss": 0.1 + epoch, "validation_accuracy": 0.5} for epoch in range(10)]
    weights = {f"{which}/prompt.tokens": torch.zeros(4, 64) for which in ("last", "best")}
    correct = torch.arange(500) % 3 == 0
    result = Result("deep", "mini", "mini100", "mini-clip", 0, correct, weights, history, 9, 256, 12.5, provenance())
    folder = tmp_path / "results"
    save_result(tmp_path / "one.safetensors", result, "0" * 64)
    content = (tmp_path / "one.safetensors").read_bytes()
    folder.mkdir()
    started = time.perf_counter()
    for number in range(RESULTS):
        key = hashlib.sha256(str(number).encode()).hexdigest()[:24]
        (folder / f"deep-100-block{number % 12}-n4-back-{key}.safetensors").write_bytes(content)
    print(f"\n{RESULTS:,} files of {len(content):,} bytes planted in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    count = sum(1 for _ in os.scandir(folder))
    print(f"the folder alone: {count:,} entries in {time.perf_counter() - started:.2f} s")
    for words, summaries in (("names", False), ("summaries", True)):
        command = [sys.executable, "-c", LISTED.format(summaries=summaries)]
        done = subprocess.run(command, env=os.environ | {"VP_STORE": str(folder)}, capture_output=True, text=True, check=True)
        print(f"{words}: {done.stdout.strip()}")
