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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlparse

import torch

from tests.support.buckets import environment
from vp.experiments import Result
from vp.experiments.store import save_result
from vp.machine.provenance import provenance

RESULTS = 100_000
LISTED = """
import time
from pathlib import Path
from vp.experiments.store import stored_results
def mib(what):
    return int(Path("/proc/self/status").read_text().partition(what)[2].split()[0]) / 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before, started, used = mib("VmRSS:"), time.perf_counter(), time.process_time()
found = [*stored_results(summaries={summaries})]
print(f"{{len(found):,}} listed in {{time.perf_counter() - started:.2f}} s, {{time.process_time() - used:.2f}} s of a core; "
      f"{{mib('VmHWM:') - before:.0f}} MiB more when all are kept, {{mib('VmHWM:'):.0f}} MiB with torch and all")
"""


def listed(words: str, place: str, summaries: bool = False, **variables: str) -> None:
    """List in a process of its own, and print what that took."""
    command = [sys.executable, "-c", LISTED.format(summaries=summaries)]
    done = subprocess.run(command, env=os.environ | {"VP_STORE": place} | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"{words}: {done.stdout.strip()}")


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
        listed(words, str(folder), summaries)


class Pages(BaseHTTPRequestHandler):
    """S3's answers to LIST, of 1,000 objects each, as text made beforehand: what is timed is the client."""

    protocol_version = "HTTP/1.1"
    objects = "".join(
        f"<Contents><Key>prefix/deep-100-block0-n4-back-{number:024x}.safetensors</Key><LastModified>2026-01-01T00:00:00.000Z"
        f"</LastModified><ETag>&quot;{number:032x}&quot;</ETag><Size>4212</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for number in range(1000)
    )

    def do_GET(self) -> None:
        page = int(parse_qs(urlparse(self.path).query).get("continuation-token", ["0"])[0]) + 1
        more = page * 1000 < RESULTS
        told = f"<IsTruncated>{str(more).lower()}</IsTruncated>" + f"<NextContinuationToken>{page}</NextContinuationToken>" * more
        text = f"<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{told}{self.objects}"
        # No two pages are of the same objects.
        body = f"{text}</ListBucketResult>".replace("block0-n4-back-0000", f"block0-n4-back-{page:04x}").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_what_listing_a_bucket_costs() -> None:
    """Prints what the client's side takes of listing a bucket, from a server that answers at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=server.serve_forever, daemon=True).start()
    print()
    listed("names of a bucket", "s3://bucket/prefix", **environment(server.server_port))
    server.shutdown()
    server.server_close()
