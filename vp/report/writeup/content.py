"""The writeup's content, as plain values in the order of the report: for readers as a page, for machines as JSON (--results).

Tests record plain dictionaries ("entries"), which travel from xdist workers to the controller; here they become one results
chapter: counts of verdicts, then the claims, tables and figures of each section, then the tests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from inspect import getsourcelines
from pathlib import Path
from typing import Any

from vp.evaluation import seed_spread
from vp.experiments import DeepTokens, NewHead, Run, VisualPrompt
from vp.machine.errors import VpError
from vp.report.claims import Claim, Entry, Judgement, Kind, Link
from vp.report.expectations import Expectation, Published, Verdict
from vp.report.fidelity import Contrast, Judged, judge, table_of_fidelity
from vp.report.measured import MeasuredGpu, table_of_gpus
from vp.report.writeup.chapters import CAPTIONS, CHAPTERS, TITLES, Section
from vp.report.writeup.findings import findings

PACKAGE = Path(__file__).parents[2]
SHORT = 24  # characters of what the report prints
BRIEF = 72  # characters of evidence that are seen without unfolding
DIFFERENCE = re.compile(r"[+-]\d+\.\d+ points|ahead in \d+ of \d+ cells")  # in the evidence of an ordering
PASSED = re.compile(r"^(proved|confirmed) by .*")  # how many tests is told behind
Content = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """The sources of the writeup besides the entries: runs and numbers of a scale, and a description of this run."""

    runs: Mapping[str, Run]
    report: Mapping[str, Expectation] = field(default_factory=dict)  # the report's own values by run
    published: Mapping[str, Sequence[Published]] = field(default_factory=dict)
    gpus: Sequence[MeasuredGpu] = ()
    contrasts: Sequence[Contrast] = ()  # differences between runs that are known at full scale
    about: Mapping[str, str] = field(default_factory=dict)  # scale, seeds, provenance in words


def build(
    entries: Iterable[Entry], judgements: Sequence[Judgement], tests: Sequence[Entry], sources: Sources, problem: str = ""
) -> Content:
    """All that the writeup says. `problem`: which of its files cannot be read; without the ledger there are no judgements."""
    known = list(entries)
    numbers = _numbers(known, sources)
    chapters: list[Content] = []
    listed = [section for sections in CHAPTERS.values() for section in sections]
    for title, sections in CHAPTERS.items():
        parts = [_section(section, known, judgements, numbers, sources) for section in sections]
        chapters.append({"title": title, "sections": parts})
    if left := _left_over(known, listed, judgements):
        chapters.append({"title": "Also recorded", "sections": [_section(left, known, judgements, numbers, sources)]})
    claims = [judgement for judgement in judgements if judgement.verdict]
    decided = [claim for chapter in chapters for section in chapter["sections"] for claim in section["claims"]]
    contrasts = judge(sources.contrasts, _measured(numbers))
    return {
        "about": dict(sources.about),
        "problem": problem,
        "findings": findings(numbers, decided, sources.about.get("numbers held to") == "the miniature"),
        "statements": _count(Verdict(judgement.verdict) for judgement in claims if judgement.verdict),
        "numbers": _count(Verdict(number["verdict"]) for number in numbers.values()),
        "argued": len(judgements) - len(claims),
        "chapters": chapters,
        "gpus": table_of_gpus(sources.gpus),
        "fidelity": table_of_fidelity(contrasts) | {"points": [_point(one) for one in contrasts if one.own is not None]},
        "tests": [dict(test) for test in tests],
    }


def _count(verdicts: Iterable[Verdict]) -> dict[str, int]:
    counts = Counter(verdicts)
    return {str(verdict): counts[verdict] for verdict in Verdict}


def _left_over(known: Sequence[Entry], listed: Sequence[Section], judgements: Sequence[Judgement]) -> Section | None:
    """What no section lists still has its place: figures and tables that tests recorded, claims of a section not foreseen."""
    recorded = [(entry["kind"], entry["id"]) for entry in known if entry["kind"] in ("figure", "table")]
    tables = [name for kind, name in recorded if kind == "table" and not any(name in section.tables for section in listed)]
    figures = [name for kind, name in recorded if kind == "figure" and not any(name in section.figures for section in listed)]
    strays = {judgement.claim.section for judgement in judgements} - {section.number for section in listed}
    if not (tables or figures or strays):
        return None
    words = "What tests recorded for no section above."
    return Section(", ".join(sorted(strays)), "", words, tuple(dict.fromkeys(tables)), tuple(dict.fromkeys(figures)))


def _section(
    section: Section,
    known: Sequence[Entry],
    judgements: Sequence[Judgement],
    numbers: Mapping[str, Content],
    sources: Sources,
) -> Content:
    own = [judgement for judgement in judgements if judgement.claim.section in section.number.split(", ")]
    tables = []
    for name in section.tables:
        rows = [numbers[run.name] for run in sources.runs.values() if run.table == name]
        if rows:
            tables.append({"id": name, "caption": CAPTIONS.get(name, name), "numbers": rows})
        else:
            tables.append(_recorded_table(name, [e for e in known if e["kind"] == "table" and e["id"] == name]))
    return {
        "number": section.number,
        "title": section.title,
        "introduction": section.introduction,
        "claims": [_claim(judgement, numbers, sources) for judgement in own],
        "tables": tables,
        "figures": [_figure(name, [e for e in known if e["kind"] == "figure" and e["id"] == name]) for name in section.figures],
    }


def title_of(name: str) -> str:
    """A table's or figure's id in words: `figure-5` is Figure 5."""
    return TITLES.get(name) or re.sub(r"[-_]", " ", name).capitalize()


def _figure(name: str, entries: Sequence[Entry]) -> Content:
    if not entries:
        return {"id": name, "title": title_of(name), "caption": "Not drawn in this run.", "svg": ""}
    entry = entries[-1]
    return {"id": name, "title": entry.get("title", title_of(name)), "caption": entry["caption"], "svg": entry["svg"]}


def _recorded_table(name: str, entries: Sequence[Entry]) -> Content:
    """A table as tests recorded it, rows of several tests under one head."""
    if not entries:
        return {"id": name, "caption": f"{title_of(name)}: not measured in this run.", "head": [], "rows": []}
    rows = sorted(row for entry in entries for row in entry["rows"]) if len(entries) > 1 else entries[0]["rows"]
    return {"id": name, "caption": entries[0]["caption"], "head": list(entries[0]["head"]), "rows": [list(row) for row in rows]}


# -- numbers ---------------------------------------------------------------------------------------------------------------


def _numbers(known: Sequence[Entry], sources: Sources) -> dict[str, Content]:
    """One number for each run, those not run included."""
    cells = {entry["run"]: entry for entry in known if entry["kind"] == "cell"}
    excused = {name: entry for entry in known if entry["kind"] == "not run" for name in entry["runs"]}
    found = {}
    for name, run in sources.runs.items():
        excuse = excused.get(name, {"reason": "its test was not part of this run, or did not finish"})
        cell = cells.get(name, {"test": excuse.get("test"), "verdict": str(Verdict.NOT_RUN), "reason": excuse["reason"]})
        tokens = run.method if isinstance(run.method, DeepTokens) else None
        found[name] = {
            "run": name,
            "table": run.table,
            "test": cell.get("test") or "",
            "dataset": run.dataset,
            "what": _what(run, sources.runs),
            "label": label_of(run, sources.runs),
            "block": tokens.block if tokens else None,
            "n": tokens.n if tokens else None,
            "report": _printed(name, sources.report),
            "published": [{"value": one.value, "what": one.what} for one in sources.published.get(name, ())],
            "value": cell.get("value"),
            "interval": list(cell["interval"]) if "interval" in cell else None,
            "seeds": list(cell.get("seeds", ())),
            "std": seed_spread(cell["seeds"]).std if len(cell.get("seeds", ())) > 1 else None,
            "expected": cell.get("expected"),
            "tolerance": cell.get("tolerance"),
            "verdict": str(cell["verdict"]),
            "reason": cell.get("reason") or "",
        }
    return found


def _measured(numbers: Mapping[str, Content]) -> dict[str, float]:
    """Top-1 in percent by run, of those that this run measured; a rehearsal measures none."""
    some = {name: number["value"] for name, number in numbers.items() if number["verdict"] != Verdict.REHEARSAL}
    return {name: value for name, value in some.items() if value is not None}


def _point(one: Judged) -> Content:
    """A difference at full scale and here, for the figure of what carries over."""
    return {"name": one.contrast.name, "full": one.contrast.real, "here": one.own, "agrees": one.sign}


def _printed(name: str, report: Mapping[str, Expectation]) -> float | None:
    """The value that the report itself prints for a run; replications are no part of this column."""
    return report[name].value if name in report and report[name].source.startswith("report") else None


def _what(run: Run, runs: Mapping[str, Run]) -> str:
    """What a run evaluates, in words."""
    words = [f"fine-tuned residual network: {run.method}" if isinstance(run.method, NewHead) else str(run.method)]
    if run.table == "table_1":
        words.append(run.split)
    if run.weights_from and (trained_on := runs[run.weights_from].dataset) != run.dataset:
        words.append(f"trained on {trained_on}")
    if run.noise:
        words.append(f"noise std {run.noise.std:g}" + (", clamped to [0, 1]" if run.noise.clamp else ""))
    return "; ".join(words)


def label_of(run: Run, runs: Mapping[str, Run]) -> str:
    """A run in a few words, for a figure; the readouts of a deep prompt share one."""
    method = run.method
    words = str(method)
    if isinstance(method, DeepTokens):
        words = f"block {method.block}, {method.n} token{'s' if method.n > 1 else ''}"
    elif isinstance(method, VisualPrompt):
        words = method.kind.replace("-", " ")
    elif isinstance(method, NewHead):
        others = ["frozen"] * (method.statistics == "frozen") + ["flips"] * bool(method.flip)
        words = ", ".join([" and ".join(("head", *method.stages)), *others])
    if run.table == "why" and run.recipe:
        words += f", {run.recipe.epochs} epochs"
    if run.split == "train":
        words += ", training images"
    if run.weights_from and (trained_on := runs[run.weights_from].dataset) != run.dataset:
        words += f", trained on {trained_on}"
    if run.noise:
        words += f", noise {run.noise.std:g}{', clamped' if run.noise.clamp else ''}"
    return words


# -- claims ----------------------------------------------------------------------------------------------------------------


def _claim(judgement: Judgement, numbers: Mapping[str, Content], sources: Sources) -> Content:
    claim = judgement.claim
    own = [numbers[name] for name in judgement.runs if name in numbers]
    tables = dict.fromkeys(sources.runs[name].table for name in judgement.runs if name in sources.runs)
    return {
        "id": claim.id,
        "kind": str(claim.kind),
        "sentence": claim.sentence,
        "corrected": claim.corrected,
        "added": claim.added,
        "printed": claim.printed or _range([number["report"] for number in own]),
        "runs": [number["run"] for number in own],
        "brief": _brief(claim, own, judgement),
        "evidence": [*_values(own), *judgement.evidence],
        "verdict": str(judgement.verdict) if judgement.verdict else str(Kind.ARGUED),
        "reason": claim.reason if claim.kind is Kind.ARGUED else judgement.reason,
        "tests": [{"name": link.test.split("::")[-1], **_location(link)} for link in judgement.tests],
        "code": [_code(name) for name in claim.code],
        "shown_in": [*tables, *claim.shown_in] or ([claim.family] if claim.family else []),
    }


def _brief(claim: Claim, numbers: Sequence[Content], judgement: Judgement) -> str:
    """What a claim's verdict rests on, in a few words: the difference, the values, the number of tests, or why there is none."""
    if claim.kind is Kind.ARGUED:
        return ""
    told = []
    here = _range([round(number["value"], 2) for number in numbers if number["value"] is not None])
    printed = claim.printed or _range([number["report"] for number in numbers])
    if len(printed) > SHORT and (here or judgement.evidence):
        printed = ""
    if here and printed:
        told.append(f"here {here}, report {printed}")
    elif here or printed:
        told.append(f"here {here}" if here else f"report {printed}")
    for evidence in judgement.evidence[:1]:
        found = DIFFERENCE.findall(evidence)
        told.append(", ".join(found[:2]) if found else _shortened(PASSED.sub(r"\1", evidence)))
    if judgement.reason and not here:
        told.append(_shortened(judgement.reason))
    return "; ".join(dict.fromkeys(told))


def _shortened(words: str) -> str:
    return words if len(words) <= BRIEF else f"{words[:BRIEF].rpartition(' ')[0]} …"


def _code(name: str) -> dict[str, Any]:
    try:
        return {"name": name, **find_code(name)}
    except VpError:
        return {"name": name}  # a test says so; the writeup is written all the same


def _location(link: Link) -> dict[str, Any]:
    return {"file": link.test.split("::")[0], "line": link.line}


def _range(values: Sequence[float | None]) -> str:
    """Up to two values as they are, more of them by their smallest and largest; nothing where the report prints none."""
    some = [value for value in values if value is not None]
    if len(some) > 2:
        return f"{min(some):g} to {max(some):g}"
    return ", ".join(f"{value:g}" for value in some)


def _values(numbers: Sequence[Content]) -> list[str]:
    """What this run measured for a claim's numbers: each of a few with its interval, many in short."""
    measured = [number for number in numbers if number["value"] is not None]
    if len(measured) > 4:
        agree = sum(number["verdict"] == Verdict.REPRODUCED for number in measured)
        values = _range([round(number["value"], 2) for number in measured])
        return [f"{len(measured)} numbers, {values}; {agree} within their tolerance of what is expected at this scale"]
    return [
        f"{number['run']} {number['value']:.2f} ({number['interval'][0]:.1f} to {number['interval'][1]:.1f})" for number in measured
    ]


@cache
def find_code(name: str) -> dict[str, Any]:
    """Where a module, class or function of vp stands: {"file", "line"}. Raises VpError when there is none of this name."""
    parts = name.split(".")
    ours = parts[0] == PACKAGE.name and all(part.isidentifier() for part in parts)
    for cut in range(len(parts), 0, -1) if ours else ():
        try:
            found: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[cut:]:
                found = getattr(found, part)
        except AttributeError:
            break
        line = getsourcelines(found)[1] if parts[cut:] else 1
        module = import_module(found.__module__) if parts[cut:] else found
        file = Path(str(module.__file__)).relative_to(PACKAGE.parent)
        return {"file": file.as_posix(), "line": line}
    raise VpError(f"claims.toml names {name!r} as code, but there is no such module, class or function in {PACKAGE.name}")
