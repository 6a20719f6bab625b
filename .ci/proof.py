"""The steps of `.ci/gpu`, each with its own time limit; later steps run although earlier ones failed. Writes proof.json, proof.txt."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TAIL = 60  # lines of a failed step's output that the text keeps
# One cell of each kind, where a rehearsal on a CPU has no time for all.
FEW = "residual-100] or zero-shot-10-test] or padding-100] or block6-n8-back] or padding-100-noise]"


def run(command: Sequence[str], output: Path, log: Path, limit_s: float, environment: dict[str, str]) -> dict[str, Any]:
    """Runs a step; ends it, with all that it started, at its limit."""
    started = time.monotonic()
    with output.open("w") as said, log.open("a") as told:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=told, env=environment, start_new_session=True)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    seconds = round(time.monotonic() - started, 1)
    outcome = "passed" if code == 0 else f"ended at its limit of {limit_s:.0f} s" if code is None else f"failed, exit {code}"
    return {"outcome": outcome, "seconds": seconds, "limit_s": limit_s, "command": " ".join(command)}


def tests_of(junit: Path) -> dict[str, str]:
    """Outcome of each test of a pytest run: passed, or failed or NOT RUN with the reason."""
    if not junit.is_file():
        return {}
    found = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        troubles = {child.tag: str(child.get("message", ""))[:300] for child in case if child.tag in ("failure", "error", "skipped")}
        found[name] = "passed" if not troubles else "; ".join(f"{kind}: {told}" for kind, told in troubles.items())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="the same steps at reduced length")
    given = parser.parse_args()
    out = Path(os.environ.get("VP_GPU_OUT", ROOT / "gpu-proof")).absolute()
    (out / "logs").mkdir(parents=True, exist_ok=True)

    from vp.runtime import VpError, pick_device, provenance

    try:
        where = provenance(pick_device(given.device))
    except VpError as error:
        print(f".ci/gpu: {error}", file=sys.stderr)
        return 2

    python, short = sys.executable, given.rehearse
    # No other plugins than the tests need: one that this machine has beside them may warn, and a warning is an error.
    plugins = [word for name in ("xdist.plugin", "pytest_html.plugin", "pytest_metadata.plugin", "_hypothesis_pytestplugin") for word in ("-p", name)]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, f"--device={given.device}"]
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"VP_HOME": f"{scratch}/home", "PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        few = ["-k", FEW] if short else []
        steps: dict[str, tuple[list[str], float]] = {
            "laws": ([*pytest, "-m", "gpu and not reproduces", f"--junitxml={scratch}/laws.xml"], 90),
            "bench": ([python, "-m", "vp", "bench", f"--device={given.device}", "--json"], 120),
            "miniature": (
                [*pytest, "--scale=mini", "-n2", f"--results={out}/miniature.json", f"--junitxml={scratch}/miniature.xml"], 240
            ),
            "rehearsal": ([*pytest, "-m", "gpu and reproduces", "--rehearse", "-n4", f"--junitxml={scratch}/rehearsal.xml", *few], 180),
        }  # fmt: skip
        proof: dict[str, Any] = {"date": date.today().isoformat(), "provenance": where, "rehearsed": short, "steps": {}}
        for name, (command, limit_s) in steps.items():
            print(f"{name}: at most {limit_s:.0f} s ...", flush=True)
            log = out / "logs" / f"{name}.log"
            log.write_text("")
            step = run(command, out / "bench.json" if name == "bench" else log, log, limit_s, environment)
            tests = tests_of(Path(scratch) / f"{name}.xml")
            if tests:
                step["tests"] = len(tests)
                step["not_passed"] = {test: told for test, told in tests.items() if told != "passed"}
            if name == "laws":
                step["outcomes"] = tests
            proof["steps"][name] = step
            print(f"{name}: {step['outcome']} after {step['seconds']} s", flush=True)
    if proof["steps"]["bench"]["outcome"] == "passed":
        proof["bench"] = json.loads((out / "bench.json").read_text())
    (out / "proof.json").write_text(json.dumps(proof, indent=1) + "\n")
    text = in_words(proof, out)
    (out / "proof.txt").write_text(text)
    print(text)
    return 0 if all(step["outcome"] == "passed" for step in proof["steps"].values()) else 1


def in_words(proof: dict[str, Any], out: Path) -> str:
    lines = [f"{key}: {value}" for key, value in proof["provenance"].items()]
    for name, step in proof["steps"].items():
        lines += ["", f"== {name}: {step['outcome']}, {step['seconds']} s; {step.get('tests', 0)} tests"]
        lines += [f"   {test}: {told}" for test, told in step.get("not_passed", {}).items()]
        log = (out / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
        lines += log[-TAIL:] if step["outcome"] != "passed" else log[-1:]
        if name == "bench" and "bench" in proof:
            lines += [json.dumps({key: value}) for key, value in proof["bench"].items() if key != "provenance"]
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines)) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
