"""What counts as better: goals of trainings, bounds of answering."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.search.trial import AnswerGoal, Goal, Report, Trial, goal_of, ranked, score

ACCURACY, FLOPS = st.floats(0, 1), st.floats(1e3, 1e15)


@given(ACCURACY, FLOPS, ACCURACY, FLOPS)
def test_what_meets_the_bound_is_better_than_what_does_not(a: float, cost: float, b: float, other: float) -> None:
    for goal in (AnswerGoal(accuracy=0.5), AnswerGoal(flops=1e9)):
        one, two = goal.meets(a, cost), goal.meets(b, other)
        if one and not two:
            assert goal.score(a, cost) > goal.score(b, other)
        if one and two and goal.accuracy and cost < other * 0.999:
            assert goal.score(a, cost) > goal.score(b, other)
        if one and two and goal.flops and a > b + 1e-4:
            assert goal.score(a, cost) > goal.score(b, other)
        if not one and not two and goal.accuracy and a > b:
            assert goal.score(a, cost) >= goal.score(b, other)


def test_exactly_one_bound() -> None:
    for wrong, words in (
        ({}, "objective: either accuracy: .* or flops:"),
        ({"accuracy": 0.5, "flops": 1.0}, "objective: either accuracy: .* or flops:"),
        ({"accuracy": 1.5}, "accuracy=1.5 is not allowed"),
        ({"flops": math.inf}, "flops=inf is not allowed"),
    ):
        with pytest.raises(UserError, match=words):
            AnswerGoal(**wrong)


def test_goals_are_words() -> None:
    assert goal_of("lowest token_loss") == Goal("token_loss", highest=False)
    assert goal_of("highest validation_exact") == Goal("validation_exact")
    for text in ("validation_exact", "best validation_exact", "highest a b"):
        with pytest.raises(UserError, match="highest METRIC or lowest METRIC"):
            goal_of(text)


def trial(number: int, *values: float, status: str = "finished") -> Trial:
    reports = tuple(Report(step, step, {"right": value}) for step, value in enumerate(values))
    return Trial(number, {}, status, reports=reports)  # type: ignore[arg-type]


def test_the_last_report_of_a_finished_trial_counts() -> None:
    trials = [
        trial(0, 0.9, 0.5),
        trial(1, 0.6),
        trial(2, 0.6),
        trial(3, 1.0, status="stopped"),
        trial(4, 1.0, status="collapsed"),
        trial(5, math.nan),
        trial(6),
    ]
    assert [one.number for one in ranked(trials, Goal("right"))] == [1, 2, 0, 5]
    assert [one.number for one in ranked(trials, Goal("right", highest=False))] == [0, 1, 2, 5]
    assert [score(one, Goal("right")) for one in trials] == [0.5, 0.6, 0.6, 1.0, -math.inf, -math.inf, -math.inf]
