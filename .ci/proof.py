"""The steps of `.ci/gpu`: each has its own time limit, and later steps run although earlier ones failed.

Writes proof.json and proof.txt. `--keep` puts a proof.json into expectations/full/measured.toml.
"""

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
# No other plugins than the tests need: one that a machine has beside them may warn, and a warning is an error.
PLUGINS = ("xdist.plugin", "pytest_html.plugin", "pytest_metadata.plugin", "_hypothesis_pytestplugin")
# At reduced length: one cell of each table, under names that must be there.
FEW_CELLS = (
    "tests/test_1_2_fine_tuning.py::test_accuracy_of_fine_tuning[residual-100]",
    "tests/test_2_1_zero_shot.py::test_table_1_zero_shot_accuracy[zero-shot-10-test]",
    "tests/test_2_2_visual_prompts.py::test_table_2_visual_prompt_accuracy[padding-100]",
    "tests/test_2_3_deep_prompts.py::test_table_3_deep_prompt_accuracy[deep-100-block6-n8-back]",
    "tests/test_2_4_noise.py::test_table_5_accuracy_under_noise[padding-100-noise]",
    "tests/test_2_5_union.py::test_table_6_accuracy_on_110_classes[padding-100-on-110]",
)
FEW_OF_MINIATURE = FEW_CELLS[1:2]


def steps(device: str, short: bool, scratch: str) -> dict[str, tuple[list[str], float]]:
    """Command and time limit in seconds of each step, in their order; `short`: the same at reduced length."""
    python = sys.executable
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, f"--device={device}"]

    def outcomes(step: str) -> str:
        return f"--junitxml={scratch}/{step}.xml"

    found = {
        "laws": ([*pytest, "-m", "gpu and not reproduces", "-n0", outcomes("laws")], 60.0),
        "bench": ([python, "-m", "vp", "bench", f"--device={device}", "--json"], 100.0),
        "costs": ([*pytest, "--scale=mini", "-n0", "-k", "test_what_the_seven_networks_cost", outcomes("costs")], 35.0),
        "miniature": ([*pytest, "--scale=mini", "-n4", f"--results={scratch}/mini.json", outcomes("miniature")], 180.0),
        "rehearsal": ([*pytest, "-m", "gpu and reproduces", "--rehearse", "-n4", outcomes("rehearsal")], 105.0),
    }
    if short:  # the costs of section 1.1 are no shorter on a few networks: the miniature report measures them
        del found["costs"]
        more = {
            "bench": ("--scale=mini", "--images=8", "--batch=4"),
            "miniature": ("-n1", *FEW_OF_MINIATURE),
            "rehearsal": ("-n2", *FEW_CELLS),
        }
        found = {name: ([*command, *more.get(name, ())], 4 * limit_s) for name, (command, limit_s) in found.items()}
    return found


def perform(command: Sequence[str], output: Path, log: Path, limit_s: float, environment: dict[str, str]) -> dict[str, Any]:
    """Runs a step; at its limit ends it, with all that it started."""
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
    """Outcome of each test of a pytest run: `passed`, or what it says instead."""
    if not junit.is_file():
        return {}
    found = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        troubles = [(child.tag, str(child.get("message", ""))[:300]) for child in case if child.tag != "properties"]
        troubles = [(tag, told) for tag, told in troubles if tag in ("failure", "error", "skipped")]
        found[name] = "; ".join(told if tag == "skipped" else f"{tag}: {told}" for tag, told in troubles) or "passed"
    return found


def costs_of(home: Path) -> dict[str, dict[str, float | None]]:
    """Times and peaks of the seven networks, from the store."""
    from vp.experiments.store import load_cost

    found = {}
    for path in sorted((home / "results").glob("cost-*.safetensors")):
        cost = load_cost(path)
        ms = {"ms_without": cost.without.ms_per_batch, "ms_with": cost.with_gradients.ms_per_batch}
        peaks = {"peak_mib_without": cost.peak_mib_without, "peak_mib_with": cost.peak_mib_with}
        found[path.name.split("-")[1]] = ms | peaks
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog=".ci/gpu", description="Proof on a GPU; see the head of the file.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="the same steps at reduced length")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument(
        "--keep", type=Path, nargs="+", metavar="PROOF.JSON", help="write proofs into expectations/full/measured.toml"
    )
    given = parser.parse_args()

    from vp.machine.errors import VpError
    from vp.machine.provenance import provenance
    from vp.machine.runtime import pick_device

    try:
        if given.keep:
            return keep([json.loads(path.read_text()) for path in given.keep])
        where = provenance(pick_device(given.device))
    except VpError as error:
        print(f".ci/gpu: {error}", file=sys.stderr)
        return 2
    out = Path(os.environ.get("VP_GPU_OUT", ROOT / "gpu-proof")).absolute()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        environment = os.environ | {
            "VP_HOME": str(home),
            "VP_STORE": "",
            "PYTHONUNBUFFERED": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        proof: dict[str, Any] = {"date": date.today().isoformat(), "provenance": where, "rehearsed": given.rehearse, "steps": {}}
        for name, (command, limit_s) in steps(given.device, given.rehearse, scratch).items():
            if given.only and name not in given.only:
                continue
            print(f"{name}: at most {limit_s:.0f} s ...", flush=True)
            log, bench = out / "logs" / f"{name}.log", Path(scratch) / "bench.json"
            log.write_text("")
            step = perform(command, bench if name == "bench" else log, log, limit_s, environment)
            tests = tests_of(Path(scratch) / f"{name}.xml")
            step |= {"tests": len(tests), "passed": sum(told == "passed" for told in tests.values())}
            step["not_passed"] = {test: told for test, told in tests.items() if told != "passed"}
            if name == "laws":
                step["outcomes"] = tests
            proof["steps"][name] = step
            print(f"{name}: {step['outcome']} after {step['seconds']} s", flush=True)
            if name == "bench" and step["outcome"] == "passed":
                proof["bench"] = json.loads(bench.read_text())
            proof["networks"] = costs_of(home)
            (out / "proof.json").write_text(json.dumps(proof, indent=1) + "\n")  # after each step: a time limit loses no more
    text = in_words(proof, out)
    (out / "proof.txt").write_text(text)
    print(text)
    return 0 if all(step["outcome"] == "passed" for step in proof["steps"].values()) else 1


def in_words(proof: dict[str, Any], out: Path) -> str:
    """The page of text: provenance, then each step with what did not pass."""
    lines = [f"{key}: {value}" for key, value in proof["provenance"].items()]
    for name, step in proof["steps"].items():
        lines += ["", f"== {name}: {said(step)}"]
        lines += [f"   {test}: {told}" for test, told in step["not_passed"].items()]
        log = (out / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
        lines += log[-TAIL:] if step["outcome"] != "passed" or name == "bench" else log[-1:]
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines)) + "\n"


def said(step: dict[str, Any]) -> str:
    """What came out of a step, in a few words."""
    tests = f", {step['passed']} of {step['tests']} tests" if step.get("tests") else ""
    return f"{step['outcome']}{tests}, {step['seconds']:.0f} s"


def keep(proofs: list[dict[str, Any]]) -> int:
    """Write what proofs of one device measured into expectations/full/measured.toml; of a step in several, the last."""
    from vp.machine.errors import VpError
    from vp.report.measured import keep_measured

    if any(proof["rehearsed"] for proof in proofs) or len({proof["provenance"]["device"] for proof in proofs}) > 1:
        raise VpError("proofs to keep must be of one device and no rehearsals: give those of one machine")
    whole: dict[str, Any] = {"steps": {}, "laws": {}}
    for proof in proofs:
        where = proof["provenance"]
        for name, step in proof["steps"].items():
            whole["steps"][name] = f"{said(step)}; {proof['date']}, commit {where['commit'].rstrip('+')}"
        whole["laws"] |= proof["steps"].get("laws", {}).get("outcomes", {})
        if "bench" in proof:
            bench = proof["bench"]
            whole["matrix_tflop_per_s"] = round(bench["matrix_flop_per_s"] / 1e12, 1)
            whole["images_per_s"] = {name: round(speed["images_per_s"]) for name, speed in bench["speeds"].items()}
            whole["share_of_matrix_rate"] = {name: round(one["share_of_matrix_rate"], 4) for name, one in bench["speeds"].items()}
            whole["seconds"] = {name: round(value, 1) for name, value in bench["seconds"].items() if value}
        if proof["networks"]:
            whole["networks"] = {
                name: {key: round(value, 3) for key, value in one.items()} for name, one in proof["networks"].items()
            }
        whole |= {"device": where["device"], "date": proof["date"], "commit": where["commit"]}
        whole["versions"] = {name: where[name] for name in ("torch", "torchvision", "open_clip_torch", "python")}
    print(f"wrote {keep_measured(ROOT / 'expectations', whole)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
