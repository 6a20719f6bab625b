"""The writeup: from what the tests recorded to the HTML that opens the pytest-html report.

Tests record plain dictionaries ("entries"), which travel from xdist workers to the controller; this module turns them into a
results chapter in the order of the report. Everything that comes from outside is escaped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vp.expectations import Expectation, Verdict
from vp.experiments import DeepTokens, Run

Entry = Mapping[str, Any]

STYLE = """
<style>
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --quiet: #5c5c5c; --line: #c9c9c9; --raised: #f4f4f2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --paper: #16181a; --quiet: #a9a9a9; --line: #474b4f; --raised: #212427; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); min-width: 0; max-width: 60rem;
  margin: 0 auto; padding: 1rem; display: flex; flex-direction: column; }
body > * { order: 3; } body > h1 { order: 0; font-size: 1.7rem; color: var(--ink); margin: .3rem 0; }
body > p { order: 1; color: var(--quiet); margin: 0; } body > .summary { order: 2; display: block; }
.summary__data > h2 { display: none; } .summary__spacer { display: none; } .summary__data { flex: none; }
#results-table, #environment { color: var(--ink); font-size: .8rem; width: 100%; max-width: 100%; overflow-wrap: anywhere; }
#results-table td, #results-table th, #environment td { color: inherit; border-color: var(--line); overflow-wrap: anywhere; }
#environment tr:nth-child(odd), .log { background: var(--raised); color: var(--ink); }
.run-count { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.run-count::before { content: "The tests behind this writeup. "; font-weight: 600; }
.vp h2 { font-size: 1.3rem; margin: 2.2rem 0 .4rem; } .vp h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
.vp p { max-width: 46rem; } .vp .lead { font-size: 1.08rem; }
.vp .wide { overflow-x: auto; }
.vp table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; font-size: .92rem; }
.vp caption, .vp figcaption { text-align: left; color: var(--quiet); font-size: .88rem; padding: .2rem 0; max-width: 46rem; }
.vp th { text-align: left; border-bottom: 2px solid var(--ink); padding: .3rem .8rem .3rem 0; vertical-align: bottom; }
.vp td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; vertical-align: top; }
.vp .evidence { overflow-wrap: anywhere; min-width: 10rem; }
.vp figure { margin: 1rem 0; } .vp figure svg { max-width: 100%; height: auto; color: var(--ink); }
.vp .verdict { white-space: nowrap; font-weight: 600; } .vp .quiet { color: var(--quiet); font-size: .88rem; }
.vp .reproduced::before { content: "\\2713\\00a0"; color: #009e73; }
.vp .within-noise::before { content: "\\2248\\00a0"; color: #0072b2; }
.vp .contradicted::before { content: "\\2717\\00a0"; color: #d55e00; }
.vp .corrected::before { content: "\\270e\\00a0"; color: #cc79a7; }
.vp .not-run::before, .vp .rehearsal::before { content: "\\25cb\\00a0"; }
</style>
"""

MEANING = {
    Verdict.REPRODUCED: "the number lies within its stated tolerance, or the ordering is significant",
    Verdict.WITHIN_NOISE: "the images are too few to tell",
    Verdict.CONTRADICTED: "significantly different from what is claimed",
    Verdict.CORRECTED: "true in the corrected form given",
    Verdict.NOT_RUN: "not computed here, for the reason given",
    Verdict.REHEARSAL: "run with random weights and generated images: that it runs, not what comes out",
}


@dataclass(frozen=True)
class Section:
    """One section of the report: a word to the reader, then its tables, statements and figures."""

    number: str
    title: str
    introduction: str = ""
    tables: tuple[str, ...] = ()  # of runs (names of vp.experiments) or recorded by tests
    figures: tuple[str, ...] = ()


CHAPTERS: dict[str, tuple[Section, ...]] = {
    "1 Transfer learning": (
        Section(
            "1.1",
            "Comparing networks",
            "Seven networks for classifying photographs, built by the libraries that ship them, with random weights: what a "
            "network costs does not depend on them. Nothing here is trained. Accuracies are the libraries' own; operations and "
            "the memory kept for a backward pass are counted exactly; time is measured on this machine, which does nothing else "
            "meanwhile, and so differs from the report's device. Times are given twice, for a batch of 8 images and for one "
            "image: what the report calls “per image” is the former.",
            tables=("networks",),
        ),
        Section(
            "1.1.a",
            "Accuracy, parameters and time",
            "Does a network that knows more take longer? The report's “inference speed” is a time: more is slower. Each figure "
            "has this machine on the left and the report's device on the right.",
            figures=("figure-1", "figure-2"),
        ),
        Section(
            "1.1.b",
            "Time with and without gradients",
            "Under torch.no_grad() a network computes its output and keeps nothing for a backward pass. The two ways are timed in "
            "turn, pair by pair, so that a machine that slows down meets both.",
            figures=("figure-3",),
        ),
        Section(
            "1.1.c",
            "Memory with and without gradients",
            "What a backward pass needs is kept from the forward pass on: the inputs of layers, the places of maxima. Under "
            "torch.no_grad() none of it is.",
            figures=("figure-4",),
        ),
        Section(
            "1.2.a",
            "Retraining the last layer",
            "A residual network that was pre-trained on other images gets a new last layer for the 100-class set; only that "
            "layer trains, and the epoch that does best on validation images is tested. “Drifting statistics” is the report's "
            "way: the running means and variances of BatchNorm follow the new images. With “frozen statistics” they stay, so "
            "that training needs the network's features only once. Whether whole stages should train, too, is asked in 1.2.c.",
            tables=("table_1_2",),
        ),
        Section("1.2.b", "Mirror images as augmentation"),
        Section(
            "1.2.c",
            "Last against first layers",
            "The report argues in words that the last layers are the ones to fine-tune. Here both are trained with a new head, "
            "from the same network, by the same recipe; the last stage has many more weights than the first.",
        ),
    ),
    "2 Visual prompting": (
        Section(
            "2.1.a",
            "Zero-shot CLIP",
            "CLIP is asked, without any training, which of the class names fits an image best: “This is a photo of a …”.",
            tables=("table_1",),
        ),
        Section("2.1.b", "Prompting CLIP for a new task", figures=("figure-5", "figure-6")),
        Section(
            "2.2",
            "Visual prompts",
            "A few pixels are learnt and added to every image; CLIP itself stays frozen.",
            tables=("table_2",),
            figures=("figure-7", "figure-8"),
        ),
        Section(
            "2.3",
            "Deep prompts",
            "Tokens are learnt and put into the sequence of CLIP's vision transformer before one of its blocks. Where "
            "they stand among the other tokens cannot matter, by a theorem proved below; which token is read out at "
            "the end does. So table 3 names its columns by the readout: the report's “front” read the first token, "
            "which then is a prompt, and its “back” with 4 and 8 tokens matches only a prompt scrambled over the "
            "batch, kept here as a control. Read late, the first token has few blocks left in which to gather what the"
            " class token gathered in twelve; the rows below table 3 measure how far longer training or more tokens "
            "make up for that.",
            tables=("table_3", "why", "table-4"),
        ),
        Section(
            "2.4",
            "Robustness to noise",
            "Gaussian noise is added to test images after normalisation. The report adds it to a prompted CLIP and a "
            "fine-tuned network only; zero-shot CLIP under the same noise tells whether the prompt is what makes CLIP "
            "robust.",
            tables=("table_5", "noise_curve"),
            figures=("noise-curve",),
        ),
        Section(
            "2.5",
            "Prompts on 110 classes",
            "The test sets and class names of both sets are pooled. “…-on-110” is a prompt trained on one set, evaluated on "
            "both. In the miniature world an image of the 10-class set, say a blue house, is drawn to the coloured names of "
            "the 100-class set, say “blue chair”: the second table shows what that costs.",
            tables=("table_6", "table-6-parts"),
        ),
        Section("2.6", "What prompting costs", tables=("costs",)),
    ),
    "3 Graph neural networks": (
        Section(
            "3.1.a",
            "Adjacency matrices",
            "A[u, v] is the number of edges from u to v, and row v names the neighbours N(v) of node v. The statements of "
            "this chapter are theorems: tested without any training, by literal examples and by properties of random graphs.",
            figures=("the-three-graphs",),
        ),
        Section("3.1.b", "The square of the third graph's matrix"),
        Section("3.1.c", "What powers of the matrix count", figures=("walks-on-the-cycle",)),
        Section(
            "3.2.a",
            "Where the structure of the graph appears",
            "One layer of the graph convolution, node by node: h'_v = σ(W Σ_{u ∈ N(v)} h_u / |N(v)| + B h_v).",
        ),
        Section("3.2.b", "Graph convolution and message passing"),
        Section("3.3.a", "The graph convolution in matrix form"),
        Section("3.3.b", "How it aggregates over neighbours"),
        Section("3.3.c", "Which aggregations have a matrix form"),
        Section(
            "3.4",
            "Why not a feed-forward network?",
            "A feed-forward network could be given the adjacency matrix and the features, [A | H], as one long vector.",
        ),
        Section("3.5.a", "A transformer as a graph neural network", figures=("attention-as-a-graph",)),
        Section("3.5.b", "How order enters"),
    ),
}

CAPTIONS = {
    "table_1_2": "Section 1.2. Top-1 accuracy (%) of a fine-tuned residual network on the 100-class test set.",
    "table_1": "Table 1. Zero-shot top-1 accuracy (%) on training and test images.",
    "table_2": "Table 2. Top-1 accuracy (%) on test images with a learnt prompt.",
    "table_3": "Table 3. Top-1 accuracy (%) on test images with n deep prompts put in before block k.",
    "why": "Why the first token, read at the last block, falls behind: ten times the training, three times the tokens.",
    "table_5": "Table 5. Top-1 accuracy (%) on the 100-class test set under Gaussian noise of std 0.1.",
    "noise_curve": "The same under stronger noise.",
    "table_6": "Table 6. Top-1 accuracy (%) on the 110 classes of both test sets.",
}


def render(entries: Iterable[Entry], runs: Mapping[str, Run], report: Mapping[str, Expectation], about: Mapping[str, str]) -> str:
    """The whole writeup. `report` holds the report's own values; `about` says scale, seeds, provenance in words."""
    known = list(entries)
    cells = {entry["run"]: entry for entry in known if entry["kind"] == "cell"}
    excused = {name: entry["reason"] for entry in known if entry["kind"] == "not run" for name in entry["runs"]}
    for name in runs:
        reason = excused.get(name, "no test of this run was selected, or it did not finish")
        cells.setdefault(name, {"run": name, "verdict": Verdict.NOT_RUN, "reason": reason})
    statements = _merged([entry for entry in known if entry["kind"] == "statement"])
    figures = {entry["id"]: entry for entry in known if entry["kind"] == "figure"}
    parts = [STYLE, '<div class="vp">', _opening([*cells.values(), *statements], about)]
    for chapter, sections in CHAPTERS.items():
        parts.append(f"<h2>{escape(chapter)}</h2>")
        for section in sections:
            parts.append(f"<h3 id='section-{section.number}'>{escape(section.number)} {escape(section.title)}</h3>")
            parts.append(f"<p>{escape(section.introduction)}</p>" if section.introduction else "")
            for table in section.tables:
                of_runs = [cells[name] for name, run in runs.items() if run.table == table]
                if of_runs:
                    draw = _table_3 if table == "table_3" else _table
                    parts.append(draw(CAPTIONS[table], of_runs, runs, report))
                else:
                    parts.append(_recorded_table([e for e in known if e["kind"] == "table" and e["id"] == table]))
            parts.append(_statements(section.number, statements))
            parts.extend(_figure(figures, key) for key in section.figures)
    return "\n".join([*parts, "</div>"])


def _opening(judged: Sequence[Entry], about: Mapping[str, str]) -> str:
    counts = Counter(Verdict(entry["verdict"]) for entry in judged)
    rows = [
        f"<tr><td>{_mark(verdict)}</td><td>{counts[verdict]}</td><td class='quiet'>{MEANING[verdict]}</td></tr>"
        for verdict in Verdict
        if verdict is not Verdict.REHEARSAL or counts[verdict]
    ]
    ran = len(judged) - counts[Verdict.NOT_RUN] - counts[Verdict.REHEARSAL]
    rehearsed = f" {counts[Verdict.REHEARSAL]} were only rehearsed." if counts[Verdict.REHEARSAL] else ""
    return (
        f"<p class='lead'>Of {len(judged)} numbers and statements of the report, {ran} were put to the test in this run: "
        f"{counts[Verdict.REPRODUCED]} reproduced, {counts[Verdict.WITHIN_NOISE]} within noise, "
        f"{counts[Verdict.CONTRADICTED]} contradicted, {counts[Verdict.CORRECTED]} corrected; "
        f"{counts[Verdict.NOT_RUN]} not run.{rehearsed}</p>"
        f"<p>{escape(about['scale'])}</p>"
        + _html_table("Verdicts of this run", ("Verdict", "Count", "Meaning"), rows)
        + f"<p class='quiet'>{escape(about['provenance'])}</p>"
    )


def _table(caption: str, cells: Sequence[Entry], runs: Mapping[str, Run], report: Mapping[str, Expectation]) -> str:
    titles = ("Dataset", "What", "Report", "This run (95% interval)", "Expected here", "Verdict")
    rows = []
    for cell in cells:
        run = runs[cell["run"]]
        printed = _printed(run.name, report)
        value, expected = "–", "–"
        if "value" in cell:
            low, high = cell["interval"]
            value = f"{cell['value']:.2f} <span class='quiet'>({low:.1f} to {high:.1f})</span>"
        if cell.get("expected") is not None:
            expected = f"{cell['expected']:.2f} ± {cell['tolerance']:.2f}"
        why = f"<br><span class='quiet'>{escape(str(cell['reason']))}</span>" if cell.get("reason") else ""
        what = _what(run, runs)
        rows.append(
            f"<tr id='{escape(run.name)}'><td>{escape(run.dataset)}</td><td>{escape(what)}</td><td>{printed}</td><td>{value}</td>"
            f"<td>{expected}</td><td>{_mark(cell['verdict'])}{why}</td></tr>"
        )
    return _html_table(caption, titles, rows)


def _printed(name: str, report: Mapping[str, Expectation]) -> str:
    """The value that the report itself prints for a run; replications are no part of this column."""
    return f"{report[name].value:g}" if name in report and report[name].source.startswith("report") else "–"


def _what(run: Run, runs: Mapping[str, Run]) -> str:
    """What a run evaluates, in words."""
    words = [f"fine-tuned residual network: {run.head}" if run.head else str(run.prompt or "zero-shot")]
    if run.table == "table_1":
        words.append(run.split)
    if run.weights_from and (trained_on := runs[run.weights_from].dataset) != run.dataset:
        words.append(f"trained on {trained_on}")
    if run.noise:
        words.append(f"noise std {run.noise.std:g}" + (", clamped to [0, 1]" if run.noise.clamp else ""))
    return "; ".join(words)


def _statements(section: str, statements: Sequence[Entry]) -> str:
    rows = [
        f"<tr><td>{_sentence(entry)}</td><td class='evidence'>{escape(entry['evidence'])}</td>"
        f"<td>{_mark(entry['verdict'])}</td></tr>"
        for entry in statements
        if entry["section"] == section
    ]
    if not rows:
        return ""
    return _html_table("", ("Statement", "This run", "Verdict"), sorted(rows))


def _table_3(caption: str, cells: Sequence[Entry], runs: Mapping[str, Run], report: Mapping[str, Expectation]) -> str:
    """Rows (dataset, block, n) by columns (report's front and back, then this run's readouts and the scrambled control)."""
    rows: dict[tuple[str, int, int], dict[str, Entry]] = {}
    for cell in cells:
        prompt = runs[cell["run"]].prompt
        assert isinstance(prompt, DeepTokens)
        rows.setdefault((runs[cell["run"]].dataset, prompt.block, prompt.n), {})[cell["run"].rsplit("-", 1)[1]] = cell
    titles = [
        "Dataset",
        "Block",
        "n",
        "Report: front",
        "Report: back",
        "First token read (prompts in front)",
        "Class token read (any position)",
        "Scrambled control",
    ]
    body = []
    for (dataset, block, n), columns in rows.items():
        printed = [_printed(columns[c]["run"], report) for c in ("front", "scrambled")]
        texts = [escape(dataset), str(block), str(n), *printed]
        texts += [_value_and_verdict(columns[c]) for c in ("front", "back", "scrambled")]
        body.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return _html_table(caption, titles, body)


def _html_table(caption: str, titles: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls by itself on a narrow screen; rows are HTML, caption and titles are text."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<div class='wide'><table>{title}<tr>{head}</tr>{''.join(rows)}</table></div>"


def _value_and_verdict(cell: Entry) -> str:
    """A cell in one table field: value with its interval, and the verdict's mark; the verdict in words as a tooltip."""
    if "value" not in cell:
        return f"{_mark(cell['verdict'])}<br><span class='quiet'>{escape(str(cell['reason']))}</span>"
    low, high = cell["interval"]
    mark = f"<span class='verdict {_style_of(cell['verdict'])}' title='{escape(str(cell['verdict']))}'></span>"
    return f"<span id='{escape(cell['run'])}'>{mark}{cell['value']:.2f} <span class='quiet'>({low:.1f} to {high:.1f})</span></span>"


def _recorded_table(entries: Sequence[Entry]) -> str:
    """A table as tests recorded it, rows of several tests under one head."""
    if not entries:
        return ""
    rows = sorted(row for entry in entries for row in entry["rows"]) if len(entries) > 1 else entries[0]["rows"]
    body = ["<tr>" + "".join(f"<td>{escape(str(text))}</td>" for text in row) + "</tr>" for row in rows]
    return _html_table(entries[0]["caption"], entries[0]["head"], body)


def _merged(statements: Sequence[Entry]) -> list[Entry]:
    """One entry a sentence and evidence: the cases of a parametrised proof count once, with the worst of their verdicts."""
    worst_first = [
        Verdict.REHEARSAL,
        Verdict.CONTRADICTED,
        Verdict.NOT_RUN,
        Verdict.WITHIN_NOISE,
        Verdict.CORRECTED,
        Verdict.REPRODUCED,
    ]
    kept: dict[tuple[str, ...], Entry] = {}
    for entry in sorted(statements, key=lambda entry: worst_first.index(Verdict(entry["verdict"]))):
        proof = re.sub(r"^(proved by|refuted by|skipped:) |\[.*", "", entry["evidence"])
        kept.setdefault((entry["section"], entry["sentence"], proof), entry)
    return list(kept.values())


def _sentence(entry: Entry) -> str:
    """The statement tested; where it corrects the report, the report's own words below it."""
    told = f"<br><span class='quiet'>The report says: {escape(entry['corrects'])}</span>" if entry.get("corrects") else ""
    return escape(entry["sentence"]) + told


def _figure(figures: Mapping[str, Entry], key: str) -> str:
    title = key.replace("-", " ").capitalize()
    if key not in figures:
        return f"<p class='quiet'>{title}: not drawn in this run.</p>"
    entry = figures[key]
    return f"<figure>{entry['svg']}<figcaption>{title}. {escape(entry['caption'])}</figcaption></figure>"


def _mark(verdict: str) -> str:
    return f"<span class='verdict {_style_of(verdict)}'>{escape(str(verdict))}</span>"


def _style_of(verdict: str) -> str:
    """The CSS class of a verdict: its words joined by hyphens."""
    return escape(str(verdict).lower().replace(" ", "-"))
