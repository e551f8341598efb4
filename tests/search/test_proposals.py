"""What is tried next: the same for the same question, whenever it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.search.outcome import Goal, Report, Trial
from eqr_ray.search.proposals import explored, most_trials, propose
from eqr_ray.search.study import SearchConfig, check_names, search_of, written
from eqr_ray.search.tpe import importances

SPACE = {
    "damping": {"uniform": [0.0, 0.5], "points": 2},
    "noise_scale": {"log": [1e-3, 1.0], "points": 3},
    "halting": {"choice": ["learned", "fixed"]},
}
FILE: dict[str, Any] = {
    "door": "train",
    "space": SPACE,
    "keys": {"steps": 40},
    "objective": ["highest validation_exact"],
    "trials": 12,
    "report_every": 10,
}
KNOWN = {"damping": 0.1, "noise_scale": 0.01, "halting": "learned"}


def config(**changes: Any) -> SearchConfig:
    return search_of({**FILE, **changes})


def ended(number: int, values: dict, score: float, status: str = "finished", **more: Any) -> Trial:
    return Trial(number, values, status, reports=(Report(40, number, {"validation_exact": score}),), **more)  # type: ignore[arg-type]


def tried(search: SearchConfig, seed: int, count: int, score: Any) -> dict[int, Trial]:
    """Trials one after the other, each worth `score(values)`."""
    history: dict[int, Trial] = {}
    for number in range(count):
        proposal = propose(search, seed, number, history)
        assert proposal is not None
        more = {"parent": proposal.parent, "begin": proposal.begin}
        history[number] = ended(number, proposal.values, score(proposal.values), **more)
    return history


def near(values: dict) -> float:
    """Best at damping 0.1 and noise 0.02."""
    return 1 - abs(values["damping"] - 0.1) - abs(np.log10(values["noise_scale"] / 0.02)) / 3


@given(st.integers(0, 2**31), st.integers(0, 100))
def test_random_trials_do_not_look_at_others(seed: int, number: int) -> None:
    search = config(first=[KNOWN])
    alone = propose(search, seed, number, {})
    assert alone == propose(search, seed, number, {0: ended(0, KNOWN, 0.5)})
    assert alone is not None
    assert search.space.check(alone.values, "") == alone.values
    assert (alone.values == KNOWN) == (number == 0)
    assert alone.values != propose(search, seed, number + 1, {}).values  # type: ignore[union-attr]


def test_a_grid_begins_with_what_is_known_and_repeats_nothing() -> None:
    search = config(algorithm={"name": "grid"}, first=[{**KNOWN, "damping": 0.5, "noise_scale": 1.0}])
    count = most_trials(search)
    assert count == 2 * 3 * 2
    found = [propose(search, 0, number, {}).values for number in range(count)]  # type: ignore[union-attr]
    assert found[0]["damping"] == 0.5
    assert len({str(values) for values in found}) == count


def test_tpe_is_a_function_of_what_is_known() -> None:
    search = config(algorithm={"name": "tpe", "startup": 4})
    one, two = tried(search, 3, 12, near), tried(search, 3, 12, near)
    assert one == two
    running = {**one, 12: Trial(12, KNOWN)}
    lost = {**one, 12: ended(12, KNOWN, 0.0, status="diverged")}
    for history in (one, running, lost):
        proposal = propose(search, 3, 13, history)
        assert proposal is not None
        assert search.space.check(proposal.values, "") == proposal.values


def test_tpe_finds_what_random_draws_miss() -> None:
    best = {}
    for name in ("tpe", "random"):
        search = config(algorithm={"name": name, "startup": 8})
        found = [max(near(t.values) for t in tried(search, seed, 40, near).values()) for seed in range(4)]
        best[name] = np.mean(found)
    assert best["tpe"] > best["random"]


def test_tpe_with_two_goals() -> None:
    search = config(algorithm={"name": "tpe", "startup": 2}, objective=["highest validation_exact", "lowest mean_age"])
    history = tried(search, 0, 6, near)
    assert propose(search, 0, 6, history) is not None


POPULATION = config(algorithm={"name": "population", "members": 4, "generations": 4}, trials=16)


def test_a_population_waits_for_its_generation() -> None:
    history = tried(POPULATION, 0, 4, near)
    for number in (4, 7):
        assert propose(POPULATION, 0, number, {**history, 2: Trial(2, history[2].values)}) is None
        assert propose(POPULATION, 0, number, {n: t for n, t in history.items() if n != 2}) is None
    legs = [propose(POPULATION, 0, number, history) for number in range(4, 8)]
    order = sorted(history.values(), key=lambda trial: -near(trial.values))
    for member, leg in enumerate(legs):
        assert leg is not None
        assert (leg.begin, leg.end) == (10, 20)
        if member == order[-1].number:  # the worst quarter: one of four
            assert leg.parent == order[0].number
            assert leg.values != history[member].values
        else:
            assert (leg.parent, leg.values) == (member, history[member].values)


def test_a_population_leaves_the_lost_behind() -> None:
    history = tried(POPULATION, 0, 4, near)
    lost = {n: ended(n, t.values, 1.0, status="diverged") if n in (0, 1, 2) else t for n, t in history.items()}
    assert [propose(POPULATION, 0, n, lost).parent for n in range(4, 8)] == [3, 3, 3, 3]  # type: ignore[union-attr]
    all_lost = {n: ended(n, t.values, 1.0, status="diverged") for n, t in history.items()}
    anew = propose(POPULATION, 0, 5, all_lost)
    assert anew is not None
    assert (anew.parent, anew.begin, anew.end) == (None, 0, 20)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_exploration_stays_in_the_space(seed: int) -> None:
    values = explored(POPULATION, KNOWN, np.random.default_rng(seed))
    assert POPULATION.space.check(values, "") == values


def test_a_population_comes_nearer() -> None:
    search = config(algorithm={"name": "population", "members": 8, "generations": 4}, trials=32)
    history = tried(search, 0, 32, near)
    first, last = (np.mean([near(history[n].values) for n in range(at, at + 8)]) for at in (0, 24))
    assert last > first


def test_what_matters_is_found() -> None:
    search = config()
    history = list(tried(search, 0, 30, lambda values: -abs(np.log10(values["noise_scale"] / 0.02))).values())
    shares = importances(search.space, Goal("validation_exact"), history)
    assert next(iter(shares)) == "noise_scale"
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importances(search.space, Goal("validation_exact"), history[:2]) == {}


def test_a_file_and_its_defaults_are_the_same_search() -> None:
    assert search_of(written(config())) == config()
    answers = {"door": "infer", "space": {"depth": {"integer": [1, 8]}}, "objective": {"accuracy": 0.9}, "trials": 3}
    assert search_of(written(search_of(answers))) == search_of(answers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spaec": {}}, "unknown key 'spaec'"),
        ({"space": 3}, "space=3: expected a group of keys"),
        ({"space": {}}, "space is empty"),
        ({"trials": 0}, "trials=0 is not allowed"),
        ({"collapse": 0.5}, "collapse=0.5"),
        ({"keys": {}}, "keys.steps must be given"),
        ({"report_every": 41}, "report_every=41 is not allowed: 1 .. steps=40"),
        ({"objective": {"accuracy": 0.9}}, "objective: expected a list"),
        ({"objective": ["validation_exact"]}, "highest FIGURE or lowest FIGURE"),
        ({"objective": ["highest validation_exakt"]}, "did you mean 'validation_exact'?"),
        ({"algorithm": {"name": "population"}, "keys": {"steps": 40, "cooldown": 0.3}}, "keys.cooldown=0.3"),
        ({"first": [{"damping": 2.0}]}, "first[0]: damping=2.0: expected 0 .. 0.5"),
        ({"scheduler": {"name": "asha", "first": 40}}, "scheduler.first=40 is not allowed"),
        ({"scheduler": {"name": "ahsa"}}, "did you mean 'asha'?"),
        ({"algorithm": {"name": "population", "generations": 3}}, "must be a multiple of algorithm.generations=3"),
        ({"algorithm": {"name": "population", "generations": 8}}, "their quotient one of report_every=10"),
        (
            {"algorithm": {"name": "population", "generations": 4}, "space": {"batch": {"integer": [1, 2]}}},
            "space.batch cannot change in the midst of a training",
        ),
        (
            {"algorithm": {"name": "population", "generations": 4}, "scheduler": {"name": "asha"}},
            "does not go with a population",
        ),
        ({"algorithm": {"name": "grid"}, "space": {"damping": {"uniform": [0, 1]}}}, "space.damping has no points"),
        ({"door": "infer"}, "objective: expected {accuracy: X}"),
        ({"door": "infer", "objective": {"accuracy": 0.9}, "scheduler": {"name": "asha"}}, "are for trainings"),
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
            "space: eqr_ray.train has no key 'dampnig'; did you mean 'damping'?",
        ),
        ({"keys": {"steps": 40, "bacth": 1}}, "keys: eqr_ray.train has no key 'bacth'"),
        ({"space": {"seed": {"integer": [0, 9]}}}, "space.seed belongs to the sweep"),
        ({"keys": {"steps": 40, "damping": 0.1}}, "keys.damping is fixed, and space.damping varies"),
        ({"keys": {"steps": 40, "model.damping": 0.1}}, "damping sets model.damping too"),
    ],
)
def test_keys_are_those_of_the_door(changes: dict, words: str) -> None:
    known = dict.fromkeys(("damping", "model.damping", "noise_scale", "halting", "steps", "batch", "seed"))
    with pytest.raises(UserError) as error:
        check_names(config(**changes), known, {"damping": ("model.damping",)})
    assert words in str(error.value)
