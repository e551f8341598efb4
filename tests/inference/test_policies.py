"""Policies and the division of work, without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.inference.engine import BreadthEngine, OpenUnit
from eqr_ray.inference.policies import POLICIES, Signals, Win
from eqr_ray.inference.settings import InferConfig, Settings
from eqr_ray.inference.units import UNIT_SEGMENTS, Unit, plan
from eqr_ray.model.pretrained import ModelCard
from eqr_ray.tasks.registry import task_named
from tests.inference.fake import FakeNetwork
from tests.inference.tiny import config

SIGNALS = Signals(
    logit_residual=torch.tensor([0.1, 0.1, 0.3, torch.inf]),
    latent_residual=torch.zeros(4),
    halt_logit=torch.tensor([-1.0, 2.0, 0.0, 1.0]),
    settled=torch.tensor([True, False, True, False]),
    inputs=torch.zeros(4, 5, dtype=torch.uint8),
    prediction=torch.zeros(4, 5, dtype=torch.uint8),
)


def schedule_of(policy: str, unit: Unit, **settings: Any) -> OpenUnit:
    made = Settings(policy=policy, depth=8, breadth=8, **settings)
    return OpenUnit(unit, np.ones((unit.puzzles, 1), np.uint8), made)


def taken(schedule: OpenUnit, ahead: bool = False) -> list[tuple[int, int, int]]:
    take = schedule.take_ahead if ahead else schedule.take
    return [(*trajectory, schedule.until(*trajectory)) for trajectory in iter(take, None)]


def test_what_stops_a_trajectory() -> None:
    assert POLICIES["full"].stop(SIGNALS, Settings()) is None
    settled, halted = [True, False, True, False], [False, True, False, True]
    for name in ("halt", "settle", "sequential", "race"):
        expected = halted if name == "halt" else settled
        stop = POLICIES[name].stop(SIGNALS, Settings(policy=name))
        assert stop is not None
        assert stop.tolist() == expected, name


def test_verify_asks_the_rules_of_the_task() -> None:
    task = task_named("sudoku4")
    puzzles = task.generate(4, 0)
    assert puzzles.labels is not None
    inputs, prediction = puzzles.inputs.copy(), puzzles.labels.copy()
    prediction[1, 0] = 5 - prediction[1, 0] + 2  # another digit
    prediction[2] = 0
    inputs[3] = 0  # an idle slot
    signals = SIGNALS._replace(inputs=torch.from_numpy(inputs), prediction=torch.from_numpy(prediction))
    stop = POLICIES["verify"].stop(signals, Settings(policy="verify", verifier="sudoku4"))
    assert stop is not None
    assert stop.tolist() == [True, False, False, False]
    with pytest.raises(UserError, match="policy=verify needs a task"):
        InferConfig(checkpoint="x", data="x", policy="verify").settings(ModelCard(task="", config=config(), step=0))


def test_an_unknown_policy_names_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"policy=.setle. is not allowed: should be 'full', 'halt', .*'settle'"):
        Settings(policy="setle")


def test_all_restarts_go_puzzle_by_puzzle() -> None:
    schedule = schedule_of("full", Unit(4, 6, 2, 4))
    assert taken(schedule) == [(4, 2, 8), (4, 3, 8), (5, 2, 8), (5, 3, 8)]
    for puzzle, restart in ((5, 2), (4, 2), (4, 3), (5, 3)):
        assert not schedule.finished
        schedule.ended(puzzle, restart, 8, stopped=True)
    assert schedule.finished


def test_sequential_starts_a_restart_only_when_the_one_before_has_not_settled() -> None:
    schedule = schedule_of("sequential", Unit(0, 2, 0, 3))
    assert taken(schedule) == [(0, 0, 8), (1, 0, 8)]
    schedule.ended(0, 0, 8, stopped=False)
    assert taken(schedule) == [(0, 1, 8)]
    schedule.ended(1, 0, 8, stopped=True)
    assert taken(schedule) == []
    schedule.ended(0, 1, 8, stopped=False)
    assert taken(schedule) == [(0, 2, 8)]
    assert not schedule.finished
    schedule.ended(0, 2, 8, stopped=False)  # breadth is used up
    assert taken(schedule) == []
    assert schedule.finished


def test_a_restart_that_ran_ahead_in_vain_ends() -> None:
    schedule = schedule_of("sequential", Unit(0, 1, 0, 4))
    assert taken(schedule) == [(0, 0, 8)]
    assert taken(schedule, ahead=True) == [(0, 1, 8), (0, 2, 8), (0, 3, 8)]
    assert schedule.ended(0, 2, 5, stopped=True)
    assert [schedule.until(0, restart) for restart in (0, 1, 3)] == [8, 8, 1]
    assert schedule.ended(0, 0, 4, stopped=True)
    assert [schedule.until(0, restart) for restart in (1, 3)] == [1, 1]
    for restart in (1, 3):
        assert not schedule.finished
        schedule.ended(0, restart, 6, stopped=False)
    assert schedule.finished


def test_a_budget_cuts_the_last_restart_short() -> None:
    schedule = schedule_of("sequential", Unit(0, 1, 0, 8), budget=19)
    for restart, until in enumerate((8, 8, 3)):
        assert taken(schedule) == [(0, restart, until)]
        assert not schedule.ended(0, restart, until, stopped=False)
    assert schedule.finished


def test_a_race_is_won_by_segments_then_by_number() -> None:
    schedule = schedule_of("race", Unit(0, 1, 0, 4))
    assert len(taken(schedule)) == 4
    assert schedule.ended(0, 1, 5, stopped=True)
    assert [schedule.until(0, restart) for restart in (0, 2, 3)] == [5, 4, 4]  # restart 0 may still tie, and would win
    assert not schedule.ended(0, 3, 4, stopped=False)
    assert schedule.ended(0, 0, 4, stopped=True)
    assert schedule.until(0, 2) == 3
    assert not schedule.finished
    schedule.ended(0, 2, 3, stopped=False)
    assert schedule.finished


def test_a_race_that_is_beaten_before_it_begins_is_short() -> None:
    schedule = schedule_of("race", Unit(3, 5, 4, 6))
    schedule.beaten(4, Win(segments=3, restart=1))
    assert taken(schedule) == [(3, 4, 8), (3, 5, 8), (4, 4, 2), (4, 5, 2)]
    assert schedule.beaten(3, Win(segments=1, restart=5))
    assert [schedule.until(3, restart) for restart in (4, 5)] == [1, 1]
    assert not schedule.beaten(3, Win(segments=1, restart=6))


@hypothesis_settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 200), st.sampled_from([1, 16, 1024]), st.booleans())
def test_units_cover_every_trajectory_once(puzzles: int, breadth: int, depth: int, whole: bool) -> None:
    units = plan(puzzles, breadth, depth, whole=whole)
    seen = [(p, r) for u in units for p in range(u.first, u.last) for r in range(u.restart_first, u.restart_last)]
    assert len(seen) == puzzles * breadth
    assert set(seen) == {(p, r) for p in range(puzzles) for r in range(breadth)}
    assert units == sorted(units, key=lambda unit: unit.name)
    for unit in units:
        assert not whole or (unit.restart_first, unit.restart_last) == (0, breadth)
        # a unit is small, but for one that cannot be divided further
        assert unit.rows * depth <= UNIT_SEGMENTS or unit.rows == 1 or (whole and unit.puzzles == 1)


def test_small_jobs_are_divided_too() -> None:
    assert len(plan(16, 8, 16, whole=False)) == 16
    assert len(plan(1, 128, 64, whole=False)) == 16  # one puzzle: its restarts are shared
    assert len(plan(1, 128, 64, whole=True)) == 1


@pytest.mark.parametrize(
    ("policy", "units", "slots", "enough"),
    [("full", 2, 32, True), ("full", 2, 33, False), ("full", 1, 1, False), ("sequential", 2, 32, False)],
)
def test_enough_ahead_counts_what_can_start_now(policy: str, units: int, slots: int, enough: bool) -> None:
    engine = BreadthEngine(FakeNetwork(), Settings(policy=policy), slots)
    for number in range(units):
        engine.add(Unit(4 * number, 4 * number + 4, 0, 8), np.ones((4, 5), np.uint8))
    assert engine.has_enough == enough


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 0}, "depth=0 is not allowed: should be greater than or equal to 1"),
        ({"breadth": -1}, "breadth=-1 is not allowed"),
        ({"seed": -1}, "seed=-1"),
        ({"budget": 0, "policy": "sequential"}, "budget=0 is not allowed: should be greater than or equal to 1"),
        ({"budget": 9}, "budget=9 goes with policy=sequential or verify, not full"),
        ({"policy": "race", "snapshots": (1,)}, "snapshots= do not go with policy=race"),
        ({"settle_below": float("nan")}, "settle_below=NaN"),
        ({"depth": 8, "snapshots": (4, 9)}, "snapshots=9 is not allowed: 1 .. depth=8"),
    ],
)
def test_settings_are_checked(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(**wrong)
