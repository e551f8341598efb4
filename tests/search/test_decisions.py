"""Early ends: successive halving against a plain twin, and collapses. Proposals: the same for the same question."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.search.decisions import EarlyStopping, SuccessiveHalving, collapse, most_trials, propose
from eqr_ray.search.optuna_study import importances
from eqr_ray.search.study import MetricGoal, SearchConfig
from eqr_ray.search.trials import Report, Trial
from tests.search.test_study import KNOWN, config

GOAL = MetricGoal("validation_exact")


def report(step: int, score: float, time: float = 0.0, **more: float) -> Report:
    return Report(step, time, {"validation_exact": score, **more})


def test_rungs_lie_before_the_end() -> None:
    assert SuccessiveHalving(10, 3, 91, GOAL).rungs == [10, 30, 90]
    assert SuccessiveHalving(10, 3, 90, GOAL).rungs == [10, 30]


ARRIVALS = st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=30)


@given(ARRIVALS, st.sampled_from([2.0, 3.0, 4.0]))
def test_the_best_part_of_those_that_have_come_goes_on(arriving: list[float], factor: float) -> None:
    halving, seen = SuccessiveHalving(5, factor, 6, GOAL), []
    for number, score in enumerate(arriving):
        seen.append(-math.inf if math.isnan(score) else score)
        places = max(1, int(len(seen) / factor))
        twin = sorted(seen, reverse=True)[places - 1]  # whoever is as good as the last place goes on
        assert (halving.hear(number, report(5, score)) is None) == (seen[-1] >= twin)


def test_no_trial_ends_before_the_first_rung_or_at_the_end() -> None:
    halving = SuccessiveHalving(5, 2, 8, GOAL)
    assert halving.hear(0, report(5, 1.0)) is None
    assert halving.hear(1, report(4, 0.0)) is None
    assert halving.hear(1, report(8, 0.0)) is None
    assert halving.hear(2, report(7, 0.5)) == "1 of 2 trials were better after 5 steps, 1 of them go on"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.data())
def test_a_resumed_sweep_decides_as_an_uninterrupted_one_would(arriving: list[float], data: st.DataObject) -> None:
    """Trials one after the other; the driver dies in one of them, and the next one recalls what is in the folder."""

    def trial_of(number: int, halving: SuccessiveHalving) -> tuple[Trial, list[str | None]]:
        reports, said = [], []
        for step in range(1, 8):
            reports.append(report(step, arriving[number] * step, time=100 * number + step))
            said.append(halving.hear(number, reports[-1]))
            if said[-1]:
                break
        return Trial(number, {}, "stopped" if said[-1] else "finished", reports=tuple(reports)), said

    whole = SuccessiveHalving(1, 2, 8, GOAL)
    expected = [trial_of(number, whole) for number in range(len(arriving))]
    killed = data.draw(st.integers(0, len(arriving) - 1))
    again = SuccessiveHalving(1, 2, 8, GOAL)
    again.recall([trial for trial, _ in expected[:killed]])
    assert [trial_of(number, again) for number in range(killed, len(arriving))] == expected[killed:]


def test_a_repeated_report_gets_the_same_decision() -> None:
    halving = SuccessiveHalving(2, 2, 8, GOAL)
    assert halving.hear(0, report(2, 0.5)) is None
    assert halving.hear(1, report(2, 0.4)) is not None
    assert halving.hear(2, report(2, 0.9)) is None
    assert halving.hear(0, report(2, 0.5)) is None  # though a better one has come
    assert halving.hear(1, report(3, 0.4)) is not None


def test_early_stopping_says_how_a_trial_ends() -> None:
    early_stopping = EarlyStopping(SuccessiveHalving(2, 2, 8, GOAL), 2.0)
    assert early_stopping.hear(0, report(1, 0.5, token_loss=1.0)) is None
    assert early_stopping.hear(0, report(2, 0.6, token_loss=0.5)) is None
    assert early_stopping.hear(0, report(1, 0.5, token_loss=1.0)) is None  # told again after a restart
    assert early_stopping.hear(1, report(2, 0.5)) == (
        "stopped",
        "1 of 2 trials were better after 2 steps, 1 of them go on",
    )
    assert early_stopping.hear(0, report(3, 0.6, token_loss=2.5)) == ("collapsed", "the loss rose from 1 to 2.5")
    assert EarlyStopping(None, None).hear(0, report(1, 0.0)) is None


def test_collapses_have_their_reason() -> None:
    steady = [report(1, 0.0, token_loss=1.5), report(2, 0.8, token_loss=0.1), report(3, 0.7, token_loss=0.4)]
    assert collapse(steady, 2.0) is None
    assert collapse([*steady, report(4, 0.7, token_loss=3.1)], 2.0) == "the loss rose from 1.5 to 3.1"
    assert collapse([*steady, report(4, 0.0)], 2.0) == "validation_exact fell from 80.00% to 0.00%"
    assert collapse([report(1, 0.05), report(2, 0.0)], 2.0) is None


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
    shares = importances(search.space, GOAL, history)
    assert next(iter(shares)) == "noise_scale"
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importances(search.space, GOAL, history[:2]) == {}
