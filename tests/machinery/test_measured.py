"""vp.report.measured: what GPUs showed, kept as they measured it; what is wrong with a malformed file; and where it is shown."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.support.reporting import EXPECTATIONS, ROOT
from vp.experiments import runs
from vp.machine.errors import VpError
from vp.models import NETWORKS
from vp.report.expectations import MEASURED, load_expectations
from vp.report.measured import MeasuredGpu, keep_measured, load_measured, table_of_gpus

NETWORK = {"ms_without": 1.5, "ms_with": 2.0, "peak_mib_without": 300.0, "peak_mib_with": 900.0}


def entry(**changes: Any) -> dict[str, Any]:
    """A made-up device."""
    plain: dict[str, Any] = {"device": "A", "date": "2030-01-31", "commit": "abc", "versions": {"torch": "3.0"}}
    plain |= {"matrix_tflop_per_s": 500.0, "images_per_s": {"visual prompt": 8000}, "share_of_matrix_rate": {"visual prompt": 0.25}}
    plain |= {"seconds": {"table_1": 60.0, "why": 6.0}, "networks": {"vgg11": NETWORK}, "laws": {"a::b": "passed", "a::c": "no"}}
    return plain | {"steps": {"laws": "failed"}} | changes


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    (folder / "full").mkdir()
    (folder / "full" / MEASURED).write_text(tomli_w.dumps({"gpu": [*entries]}))
    return folder


def test_without_a_file_nothing_was_measured(tmp_path: Path) -> None:
    """No file is no device, and the writeup says NOT RUN."""
    assert load_measured(tmp_path) == []
    table = table_of_gpus([])
    assert table["rows"] == []
    assert "NOT RUN" in table["caption"]


def test_a_device_replaces_its_former_entry_alone(tmp_path: Path) -> None:
    """A new proof of a device takes the place of its old one, those of others stay, and all is read back as it was."""
    written(tmp_path, entry(), entry(device="B"))
    keep_measured(tmp_path, entry(date="2031-01-31"))
    assert [asdict(one) for one in load_measured(tmp_path)] == [entry(device="B"), entry(date="2031-01-31")]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"matrix_tflop_per_s": "fast"}, "matrix_tflop_per_s is 'fast', expected float"),
        ({"images_per_s": {"visual prompt": -1}}, "expected numbers above 0"),
        ({"networks": {"vgg11": {"ms_without": 1.0}}}, "networks: "),
        ({"colour": "blue"}, "has or lacks colour"),
        ({"laws": {}}, "laws is {}"),
    ],
)
def test_a_malformed_entry_is_named_and_never_kept(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    """File, device and field are named; what is malformed does not replace what is there."""
    written(tmp_path, entry())
    with pytest.raises(VpError, match=re.escape(complaint)):
        keep_measured(tmp_path, entry(**changes))
    assert [asdict(one) for one in load_measured(tmp_path)] == [entry()]
    (tmp_path / "full" / MEASURED).write_text(tomli_w.dumps({"gpu": [entry(), entry() | changes]}))
    with pytest.raises(VpError, match=rf"full/{MEASURED}:\d+: .*{re.escape(complaint)}"):
        load_measured(tmp_path)


def test_the_table_has_a_column_a_device(tmp_path: Path) -> None:
    """Rates, projected times, and laws that did not hold stand in the table by device; the total counts the tables alone."""
    devices = [
        MeasuredGpu(**entry()),
        MeasuredGpu(**entry(device="B", images_per_s={"deep": 5}, share_of_matrix_rate={"deep": 0.5})),
    ]
    table = table_of_gpus(devices)
    rows = {row[0]: row[1:] for row in table["rows"]}
    assert table["head"] == ["", "A", "B"]
    assert rows["visual prompt"] == ["8,000 images/s (25% of that rate)", ""]
    assert rows["laws that hold"] == ["1 of 2; c: no"] * 2
    assert rows["the report's tables, one process, one seed"] == ["1 min"] * 2


def test_what_is_committed_speaks_of_all_that_runs() -> None:
    """Each committed device has every network, every table, and every law's outcome; nothing is held to it."""
    for gpu in load_measured(EXPECTATIONS):
        assert {*gpu.networks} == {*NETWORKS}
        assert {*gpu.seconds} == {run.table for run in runs("full").values()}
        assert {*gpu.images_per_s} == {*gpu.share_of_matrix_rate}
        assert {*gpu.steps} == {"laws", "bench", "costs", "miniature", "rehearsal"}
        assert all(outcome == "passed" or outcome.startswith("NOT RUN: ") for outcome in gpu.laws.values())
    assert {*load_expectations(EXPECTATIONS, "full")} <= {*runs("full")}


def test_readme_says_what_was_measured() -> None:
    """README names each measured device with its date, rates and projected time; without any it says NOT RUN."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    measured = load_measured(EXPECTATIONS)
    assert ("NOT RUN on a GPU" in text) == (not measured)
    for gpu in measured:
        assert f"{gpu.device}, {gpu.date}" in text
        assert f"{gpu.images_per_s['visual prompt']:,.0f} images/s" in text
        assert f"{gpu.total_seconds / 60:.0f} minutes" in text
