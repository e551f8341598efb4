"""What is tried next: the same for the same question, whenever it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.search.optuna_study import importances
from eqr_ray.search.proposals import most_trials, propose
from eqr_ray.search.study import SearchConfig, check_names, keys_of, search_of, written
from eqr_ray.search.trial import Goal, Report, Trial
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


def ended(number: int, values: dict, score: float, status: str = "finished") -> Trial:
    return Trial(number, values, status, reports=(Report(40, number, {"validation_exact": score}),))  # type: ignore[arg-type]


def tried(search: SearchConfig, seed: int, count: int, score: Any) -> dict[int, Trial]:
    """Trials one after the other, each worth `score(values)`."""
    history: dict[int, Trial] = {}
    for number in range(count):
        values = propose(search, seed, number, history)
        history[number] = ended(number, values, score(values))
    return history


def near(values: dict) -> float:
    """Best at damping 0.1 and noise 0.02."""
    return 1 - abs(values["damping"] - 0.1) - abs(np.log10(values["noise_scale"] / 0.02)) / 3


@given(st.integers(0, 2**31), st.integers(0, 100))
def test_random_trials_do_not_look_at_others(seed: int, number: int) -> None:
    search = config(first=[KNOWN])
    alone = propose(search, seed, number, {})
    assert alone == propose(search, seed, number, {0: ended(0, KNOWN, 0.5)})
    assert search.space.check(alone, "") == alone
    assert (alone == KNOWN) == (number == 0)
    assert alone != propose(search, seed, number + 1, {})


def test_a_grid_begins_with_what_is_known_and_repeats_nothing() -> None:
    search = config(algorithm={"name": "grid"}, first=[{**KNOWN, "damping": 0.5, "noise_scale": 1.0}])
    count = most_trials(search)
    assert count == 2 * 3 * 2
    found = [propose(search, 0, number, {}) for number in range(count)]
    assert found[0]["damping"] == 0.5
    assert len({str(values) for values in found}) == count


def test_tpe_is_a_function_of_what_is_known() -> None:
    search = config(algorithm={"name": "tpe", "startup": 4})
    one, two = tried(search, 3, 12, near), tried(search, 3, 12, near)
    assert one == two
    running = {**one, 12: Trial(12, KNOWN)}
    lost = {**one, 12: ended(12, KNOWN, 0.0, status="diverged")}
    for history in (one, running, lost):
        values = propose(search, 3, 13, history)
        assert search.space.check(values, "") == values


def test_tpe_finds_what_random_draws_miss() -> None:
    best = {}
    for name in ("tpe", "random"):
        search = config(algorithm={"name": name, "startup": 8})
        found = [max(near(t.values) for t in tried(search, seed, 40, near).values()) for seed in range(4)]
        best[name] = np.mean(found)
    assert best["tpe"] > best["random"]


def test_what_matters_is_found() -> None:
    search = config()
    history = list(tried(search, 0, 30, lambda values: -abs(np.log10(values["noise_scale"] / 0.02))).values())
    shares = importances(search.space, Goal("validation_exact"), history)
    assert next(iter(shares)) == "noise_scale"
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importances(search.space, Goal("validation_exact"), history[:2]) == {}


def test_a_file_and_its_defaults_are_the_same_search() -> None:
    assert search_of(written(config())) == config()
    answers = {"command": "infer", "space": {"depth": {"integer": [1, 8]}}, "objective": {"accuracy": 0.9}, "trials": 3}
    assert search_of(written(search_of(answers))) == search_of(answers)


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
        check_names(config(**changes), keys_of(TrainOptions), KNOBS)
    assert words in str(error.value)
