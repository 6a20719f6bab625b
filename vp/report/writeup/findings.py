"""The findings in words, each computed from numbers of this run: how far one kind of run is ahead of another, and the report's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

from vp.report.expectations import Verdict

NEARLY_NOTHING = 0.05  # points: rounded to one decimal, it is nothing


@dataclass(frozen=True)
class Pair:
    """The runs of either side, as patterns of their names, and where the difference is, in words."""

    words: str  # {set10} and {set100} stand for the names of the two sets
    first: tuple[str, ...]
    second: tuple[str, ...]
    best: bool = False  # of the first side only the best run counts, not the mean


@dataclass(frozen=True)
class Comparison:
    """`first` against `second`, over some pairs, and the claims that decide whether the difference is significant."""

    section: str
    first: str
    second: str
    pairs: tuple[Pair, ...]
    claims: tuple[str, ...]
    ahead: str = "beats"
    behind: str = "falls behind"


def _deep(where: str, readout: str) -> tuple[str, ...]:
    return (f"deep-*-{where}-*-{readout}",)


SETS = ("10", "100")
BLOCKS = {"first": "block0", "middle": "block6", "last": "block11"}
COMPARISONS = (
    Comparison(
        "1.2.b",
        "Training on mirror images",
        "training without them",
        (Pair("on {set100}", ("residual-100-flip",), ("residual-100",)),),
        ("flip-improves",),
    ),
    Comparison(
        "1.2.c",
        "Fine-tuning the last stage",
        "fine-tuning the first",
        (Pair("on {set100}", ("residual-100-last",), ("residual-100-first",)),),
        ("last-layers-beat-first",),
    ),
    Comparison(
        "2.2",
        "A padding prompt",
        "zero-shot CLIP",
        tuple(Pair(f"on {{set{n}}}", (f"padding-{n}",), (f"zero-shot-{n}-test",)) for n in SETS),
        ("padding-beats-baseline-10", "padding-beats-baseline-100"),
    ),
    Comparison(
        "2.2",
        "Padding",
        "the one-pixel patch",
        tuple(Pair(f"on {{set{n}}}", (f"padding-{n}",), (f"fixed-patch-{n}",)) for n in SETS),
        ("padding-beats-patch-10", "padding-beats-patch-100"),
    ),
    Comparison(
        "2.3",
        "The best deep prompt",
        "padding",
        tuple(
            Pair(f"on {{set{n}}}", tuple(f"deep-{n}-block*-n?-{end}" for end in ("front", "back")), (f"padding-{n}",), best=True)
            for n in SETS
        ),
        ("deep-beats-visual-10", "deep-beats-visual-100"),
    ),
    Comparison(
        "2.3",
        "A deep prompt before the first block",
        "one before the last",
        (
            Pair("where the class token is read", _deep("block0", "back"), _deep("block11", "back")),
            Pair("where the first token is", _deep("block0", "front"), _deep("block11", "front")),
        ),
        ("early-beats-late-back", "early-beats-late-front"),
    ),
    Comparison(
        "2.3",
        "Reading the class token",
        "reading the first token (a prompt)",
        tuple(Pair(f"before the {name} block", _deep(block, "back"), _deep(block, "front")) for name, block in BLOCKS.items()),
        tuple(f"class-readout-beats-first-{name}" for name in BLOCKS),
    ),
    Comparison(
        "2.3",
        "A correct prompt of 4 or 8 tokens",
        "one scrambled over the batch",
        tuple(
            Pair(
                f"before the {name} block",
                tuple(f"deep-*-{block}-n{n}-back" for n in (4, 8)),
                tuple(f"deep-*-{block}-n{n}-scrambled" for n in (4, 8)),
            )
            for name, block in BLOCKS.items()
        ),
        tuple(f"scrambling-loses-{name}" for name in BLOCKS),
    ),
    Comparison(
        "2.4",
        "Accuracy without noise",
        "accuracy under noise of std 0.1",
        (
            Pair("for padding", ("padding-100",), ("padding-100-noise",)),
            Pair("for zero-shot CLIP", ("zero-shot-100-test",), ("zero-shot-100-noise",)),
            Pair("for the fine-tuned network", ("residual-100",), ("residual-100-noise",)),
        ),
        ("noise-lowers-padding", "noise-lowers-residual", "padding-loses-more-to-noise"),
        "exceeds",
        "is below",
    ),
    Comparison(
        "2.5",
        "The prompt of the 100-class set",
        "that of the 10-class set",
        (Pair("on all 110 classes", ("padding-100-on-110",), ("padding-10-on-110",)),),
        ("padding-100-better-on-110",),
    ),
)


def findings(
    numbers: Mapping[str, Mapping[str, Any]], claims: Iterable[Mapping[str, Any]], miniature: bool
) -> list[dict[str, Any]]:
    """Each comparison that this run measured in a sentence: {"section", "text", "report", "claims"}. A rehearsal measures none.

    numbers: by run, with value, report, verdict and dataset. `report`: the same differences between the report's own numbers.
    """
    known = {claim["id"]: claim["verdict"] for claim in claims}
    sets = {f"set{n}": next((number["dataset"] for name, number in numbers.items() if name == f"padding-{n}"), n) for n in SETS}
    found = []
    for one in COMPARISONS:
        own = [(pair.words.format_map(sets), _difference(pair, numbers, _measured)) for pair in one.pairs]
        if sentence := _in_words(one, [(words, value) for words, value in own if value is not None]):
            printed = [_difference(pair, numbers, lambda number: number["report"]) for pair in one.pairs]
            found.append(
                {
                    "section": one.section,
                    "text": sentence,
                    "report": _of_the_report(printed, miniature),
                    "claims": [{"id": name, "verdict": known[name]} for name in one.claims if name in known],
                }
            )
    return found


def _measured(number: Mapping[str, Any]) -> float | None:
    value: float | None = number["value"] if number["verdict"] != Verdict.REHEARSAL else None
    return value


def _difference(
    pair: Pair, numbers: Mapping[str, Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> float | None:
    """First minus second, in points; None unless every run of both sides has a value."""
    sides = []
    for patterns in (pair.first, pair.second):
        values = [value(number) for name, number in numbers.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
        some = [one for one in values if one is not None]
        if not some or len(some) < len(values):
            return None
        sides.append(some)
    return (max(sides[0]) if pair.best else fmean(sides[0])) - fmean(sides[1])


def _in_words(one: Comparison, differences: Sequence[tuple[str, float]]) -> str:
    """`Padding beats the one-pixel patch by 7.7 points on mini10 and 8.8 on mini100.`; empty without differences."""
    if not differences:
        return ""
    values = [value for _, value in differences]
    if all(abs(value) < NEARLY_NOTHING for value in values):
        return f"{one.first} is level with {one.second} {_and([words for words, _ in differences])}."
    one_way = all(value > -NEARLY_NOTHING for value in values) or all(value < NEARLY_NOTHING for value in values)
    numbers = [f"{abs(value):.1f}" if one_way else f"{value:+.1f}" for value in values]
    numbers[0] += " points"
    told = _and([f"{number} {words}" for number, (words, _) in zip(numbers, differences, strict=True)])
    verb = "against" if not one_way else one.ahead if max(values) > NEARLY_NOTHING else one.behind
    return f"{one.first} {verb} {one.second}{' by' if one_way else ':'} {told}."


def _of_the_report(values: Sequence[float | None], miniature: bool) -> str:
    """`Report, on CIFAR: +3.2 and +6.9`; a dash where it prints none, nothing where it prints none at all."""
    if all(value is None for value in values):
        return ""
    told = ["–" if value is None else f"{value:+.1f}" for value in values]
    return f"Report{', on CIFAR' if miniature else ''}: {_and(told)}"


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
