"""What a file under tune/ may say, and what counts as better: goals of trainings, bounds of answering."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.search.study import AnswerGoal, MetricGoal, SearchConfig, goal_of, keys_of, search_of
from eqr_ray.training.experiment import KNOBS, TrainOptions

SPACE = {
    "damping": {"uniform": [0.0, 0.5], "points": 2},
    "noise_scale": {"log": [1e-3, 1.0], "points": 3},
    "halting": {"choice": ["learned", "fixed"]},
}
FILE: dict[str, Any] = {
    "command": "train",
    "space": SPACE,
    "keys": {"steps": 40},
    "objective": "highest validation_exact",
    "trials": 12,
    "report_every": 10,
}
KNOWN = {"damping": 0.1, "noise_scale": 0.01, "halting": "learned"}


def config(**changes: Any) -> SearchConfig:
    return search_of({**FILE, **changes})


def test_a_file_and_its_defaults_are_the_same_search() -> None:
    assert search_of(config().to_dict()) == config()
    answers = {"command": "infer", "space": {"depth": {"integer": [1, 8]}}, "objective": {"accuracy": 0.9}, "trials": 3}
    assert search_of(search_of(answers).to_dict()) == search_of(answers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": {"name": "population", "members": 4}}, "algorithm.name=population was removed"),
        ({"scheduler": {"name": "hyperband", "brackets": 2}}, "scheduler.name=hyperband was removed"),
        ({"objective": ["highest validation_exact", "lowest loss"]}, "several objectives at once were removed"),
        ({"door": "train"}, "door=train: the key is called command now"),
    ],
)
def test_what_was_removed_or_renamed_is_said_in_one_line(changes: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        config(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_one_objective_may_stand_in_a_list() -> None:
    assert config(objective=["highest validation_exact"]) == config()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spaec": {}}, "unknown key 'spaec'"),
        ({"space": 3}, "space=3: expected the keys that vary"),
        ({"space": {}}, "space is empty"),
        ({"trials": 0}, "trials=0 is not allowed"),
        ({"collapse": 0.5}, "collapse=0.5"),
        ({"keys": {}}, "keys.steps must be given"),
        ({"report_every": 41}, "report_every=41 is not allowed: 1 .. steps=40"),
        ({"objective": {"accuracy": 0.9}}, "objective: expected words such as"),
        ({"objective": "validation_exact"}, "highest METRIC or lowest METRIC"),
        ({"objective": "highest validation_exakt"}, "did you mean 'validation_exact'?"),
        ({"first": [{"damping": 2.0}]}, "first[0]: damping=2.0: expected 0 .. 0.5"),
        ({"scheduler": {"name": "asha", "first": 40}}, "scheduler.first=40 is not allowed"),
        ({"scheduler": {"name": "ahsa"}}, "scheduler.name=\"ahsa\" is not allowed: should be 'none' or 'asha'"),
        ({"scheduler": {"name": "asha", "first": 1, "factor": 1}}, "scheduler.factor=1 is not allowed"),
        ({"algorithm": {"name": "grid"}, "space": {"damping": {"uniform": [0, 1]}}}, "space.damping has no points"),
        ({"command": "infer"}, "objective: expected {accuracy: X}"),
        (
            {"command": "infer", "objective": {"accuracy": 0.9}, "scheduler": {"name": "asha"}},
            "scheduler.name=asha is for trainings",
        ),
    ],
)
def test_mistakes_in_a_file_are_named(changes: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        config(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"space": {"dampnig": {"uniform": [0, 1]}}},
            "space: trials of train have no key 'dampnig'; did you mean 'damping'?",
        ),
        ({"keys": {"steps": 40, "bacth": 1}}, "keys: trials of train have no key 'bacth'"),
        ({"space": {"seed": {"integer": [0, 9]}}}, "space.seed belongs to the sweep"),
        ({"keys": {"steps": 40, "damping": 0.1}}, "keys.damping is fixed, and space.damping varies"),
        ({"keys": {"steps": 40, "model.damping": 0.1}}, "damping sets model.damping too"),
    ],
)
def test_keys_are_those_of_the_command(changes: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        config(**changes).check_names(keys_of(TrainOptions), KNOBS)
    assert words in str(error.value)


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
        ({"flops": math.inf}, "flops=Infinity is not allowed"),
    ):
        with pytest.raises(UserError, match=words):
            AnswerGoal(**wrong)


def test_goals_are_words() -> None:
    assert goal_of("lowest token_loss") == MetricGoal("token_loss", highest=False)
    assert goal_of("highest validation_exact") == MetricGoal("validation_exact")
    for text in ("validation_exact", "best validation_exact", "highest a b"):
        with pytest.raises(UserError, match="highest METRIC or lowest METRIC"):
            goal_of(text)
