"""A whole miniature run, planted: the committed numbers, every test passed, every ordering decided; nothing is trained.

For what must be seen on a full page: the benchmark of the writeup and the tests in a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import torch

from tests.support.reporting import EXPECTATIONS, NUMBERS_ELSEWHERE, ROOT, SCALE_IN_WORDS
from vp.evaluation import wilson_interval
from vp.experiments import runs
from vp.report.claims import Kind, Link, find_links, judge_claims, load_claims
from vp.report.expectations import Verdict, load_expectations, load_known_failures, load_published
from vp.report.fidelity import load_fidelity
from vp.report.measured import load_measured
from vp.report.writeup import Sources, build, noise_curve, prediction_bars, to_svg
from vp.report.writeup.graph_figures import graphs_with_matrices

IMAGES = 2000  # of a test set of the miniature
ABOUT = {"scale": SCALE_IN_WORDS["mini"], "provenance": "Planted: nothing was computed.", "numbers held to": "the miniature"}
EVIDENCE = "{}: {:+.2f} points against others, ahead in {} of 6 cells; 300 images better, 120 worse, p = 2.3e-20"


def links() -> list[Link]:
    """Which tests decide which claims."""
    return find_links(ROOT / "tests")


def entries(known_links: Sequence[Link]) -> list[dict[str, Any]]:
    """What the tests of a miniature run record when all numbers are those committed and known failures fail."""
    known, expected, failures = runs("mini"), load_expectations(EXPECTATIONS, "mini"), load_known_failures(EXPECTATIONS, "mini")
    claims, found = load_claims(EXPECTATIONS), []
    for name in known:
        if name in expected:
            one = expected[name]
            low, high = wilson_interval(round(one.value * IMAGES / 100), IMAGES)
            values = {"value": one.value, "interval": (100 * low, 100 * high), "seeds": [one.value], "expected": one.value}
            verdict = {"tolerance": one.tolerance, "reason": None, "verdict": str(Verdict.REPRODUCED)}
            found.append(
                {"kind": "cell", "run": name, "test": f"tests/test_2_2_visual_prompts.py::test_it[{name}]", **values, **verdict}
            )
    for link in known_links:
        ended = {"outcome": "passed", "refuted": False, "reason": "", "cases": [link.test]}
        for name in link.claims:
            if name not in claims:
                continue
            found.append({"kind": "test", "claim": name, "test": link.test, **ended})
            if claims[name].kind in (Kind.ORDERING, Kind.COST):
                holds = name not in failures
                words = EVIDENCE.format(name, *((3.21, 6) if holds else (-1.2, 2)))
                words = words if claims[name].kind is Kind.ORDERING else "counted here: 69,840 and 3"
                verdict = {
                    "verdict": str(Verdict.REPRODUCED if holds else Verdict.CONTRADICTED),
                    "known_failure": failures.get(name, ""),
                }
                others = {"paired": None, "contrast": None, "or_equal": False, "reason": ""}
                found.append({"kind": "judged", "claim": name, "test": link.test, "evidence": words, **verdict, **others})
    return found


def figures() -> list[dict[str, Any]]:
    """A figure of each sort: pictures with bars, graphs, a curve."""
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, 32, 32, generator=generator) for _ in range(8)]
    probabilities = torch.rand(8, 3, generator=generator).softmax(1)
    bars = prediction_bars(pictures, probabilities, ("red", "green", "blue"), [f"picture {i}" for i in range(8)])
    graphs = graphs_with_matrices({"star": nx.star_graph(5), "path": nx.path_graph(6), "cycle": nx.cycle_graph(6)})
    curve = noise_curve((0, 0.5), {"padding": [(90, (88, 92)), (30, (28, 32))], "zero-shot": [(80, (78, 82)), (40, (38, 42))]})
    drawn = {"figure-5": bars, "figure-6": bars, "the-three-graphs": graphs, "noise-curve": curve}
    return [
        {"kind": "figure", "id": name, "svg": to_svg(figure, name), "caption": f"A planted {name}."}
        for name, figure in drawn.items()
    ]


def content() -> dict[str, Any]:
    """The content of the planted run's writeup."""
    known = links()
    found = [*entries(known), *figures()]
    judgements = judge_claims(load_claims(EXPECTATIONS), found, known, runs("mini"), NUMBERS_ELSEWHERE)
    return build(found, judgements, tests(known), sources())


def tests(known: Sequence[Link]) -> list[dict[str, Any]]:
    """Eight cases of each test that decides a claim, all passed."""
    ended = {"outcome": "passed", "reason": "", "seconds": 0.1}
    return [{"test": f"{link.test}[{i}]", "sentence": link.test, **ended} for link in known for i in range(8)]


def sources() -> Sources:
    """All of the repository's own files."""
    return Sources(
        runs("mini"),
        load_expectations(EXPECTATIONS, "full"),
        load_published(EXPECTATIONS),
        load_measured(EXPECTATIONS),
        load_fidelity(EXPECTATIONS),
        ABOUT,
    )
