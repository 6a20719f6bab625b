"""Wrong ways to give points to statements. Each breaks one rule of scores.py and must be rejected by the test named."""

from __future__ import annotations

from tests.conformance import table
from tests.conformance.scores import Scores, award


def sections_alone(content: table.Content, scores: Scores) -> list[str]:
    """Knows of sections only: test_a_statement_takes_its_points_from_the_most_particular_entry."""
    return award(content, Scores(sections=scores.sections))


def every_entry_pays(content: table.Content, scores: Scores) -> list[str]:
    """A statement is paid by its test, name and section: test_a_statement_takes_its_points_from_the_most_particular_entry."""
    paid: dict[tuple[int, int], tuple[float, float]] = {}
    for part in (Scores(sections=scores.sections), Scores(names=scores.names), Scores(statements=scores.statements)):
        if not part.points:
            continue
        award(content, part)
        for nth, one in enumerate(content):
            for place, statement in enumerate(one["statements"]):
                got, of = paid.get((nth, place), (0.0, 0.0))
                paid[nth, place] = got + statement["points"], of + statement["of"]
    for nth, one in enumerate(content):
        for place, statement in enumerate(one["statements"]):
            statement["points"], statement["of"] = paid[nth, place]
        one["points"] = sum(statement["points"] for statement in one["statements"])
        one["of"] = sum(statement["of"] for statement in one["statements"])
    return []


def only_failures_cost(content: table.Content, scores: Scores) -> list[str]:
    """What is not claimed earns its points, too: test_a_statement_takes_its_points_from_the_most_particular_entry."""
    notes = award(content, scores)
    for one in content:
        for statement in one["statements"]:
            if statement["verdict"] == table.NOT_CLAIMED:
                statement["points"] = statement["of"]
        one["points"] = round(sum(statement["points"] for statement in one["statements"]), 4)
    return notes


def shares_of_what_is_claimed(content: table.Content, scores: Scores) -> list[str]:
    """All points for the one name that a solution has: test_a_statement_takes_its_points_from_the_most_particular_entry."""
    for one in content:
        one["statements"] = [statement for statement in one["statements"] if statement["verdict"] != table.NOT_CLAIMED]
    return award(content, scores)


def narrowed_fails(content: table.Content, scores: Scores) -> list[str]:
    """Gives nothing for what was asked of some settings: test_a_statement_takes_its_points_from_the_most_particular_entry."""
    for one in content:
        for statement in one["statements"]:
            statement["verdict"] = table.FAIL if statement["narrowed"] else statement["verdict"]
    return award(content, scores)


def rounded_before_they_are_added(content: table.Content, scores: Scores) -> list[str]:
    """Three thirds of ten are 9.99: test_shares_add_up_to_what_was_given."""
    notes = award(content, scores)
    for one in content:
        one["points"] = round(sum(round(statement["points"], 2) for statement in one["statements"]), 4)
    return notes


def broken_solutions_keep_what_they_have(content: table.Content, scores: Scores) -> list[str]:
    """A solution that does not import gets all points: test_a_solution_that_cannot_be_asked_has_no_points."""
    notes = award(content, scores)
    for one in content:
        one["points"] = one["of"] if not one["failed"] else one["points"]
    return notes
