"""Policies and the division of work, without a network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.errors import UserError
from eqr_ray.inference.policy import Job, Signals, policy_named
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.work import UNIT_SEGMENTS, Unit, enough_ahead, plan

SIGNALS = Signals(
    segments=torch.tensor([3, 3, 3, 3]),
    logit_residual=torch.tensor([0.1, 0.1, 0.3, torch.inf]),
    latent_residual=torch.zeros(4),
    halt_logit=torch.tensor([-1.0, 2.0, 0.0, 1.0]),
    settled=torch.tensor([True, False, True, False]),
)


def test_what_stops_a_trajectory() -> None:
    assert policy_named("full").stop(SIGNALS) is None
    for name, expected in {
        "halt": [False, True, False, True],
        "settle": [True, False, True, False],
        "sequential": [True, False, True, False],
    }.items():
        stop = policy_named(name).stop(SIGNALS)
        assert stop is not None
        assert stop.tolist() == expected, name


def test_an_unknown_policy_names_the_allowed_ones() -> None:
    with pytest.raises(UserError, match="policy=halving is not allowed: full, halt, settle, sequential"):
        policy_named("halving")


def test_all_restarts_go_puzzle_by_puzzle() -> None:
    jobs = policy_named("full").jobs(Unit(4, 6, 2, 4))
    taken = []
    while (job := jobs.take()) is not None:
        taken.append(job)
    assert taken == [(4, 2), (4, 3), (5, 2), (5, 3)]
    for job in taken:
        assert not jobs.finished
        jobs.ended(job, True)
    assert jobs.finished


def test_sequential_starts_a_restart_only_when_the_one_before_has_not_settled() -> None:
    jobs = policy_named("sequential").jobs(Unit(0, 2, 0, 3))
    assert [jobs.take(), jobs.take(), jobs.take()] == [(0, 0), (1, 0), None]
    jobs.ended(Job(0, 0), settled=False)
    assert [jobs.take(), jobs.take()] == [(0, 1), None]
    jobs.ended(Job(1, 0), settled=True)
    assert jobs.take() is None
    jobs.ended(Job(0, 1), settled=False)
    assert jobs.take() == (0, 2)
    assert not jobs.finished
    jobs.ended(Job(0, 2), settled=False)  # breadth is used up
    assert jobs.take() is None
    assert jobs.finished


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


def test_enough_ahead_counts_what_can_start_now() -> None:
    units = [Unit(0, 4, 0, 8), Unit(4, 8, 0, 8)]
    assert enough_ahead(units, 32, whole=False)
    assert not enough_ahead(units, 33, whole=False)
    assert not enough_ahead(units[:1], 1, whole=False)
    assert not enough_ahead(units, 32, whole=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 0}, "depth=0 is not allowed: at least 1"),
        ({"breadth": -1}, "breadth=-1 is not allowed"),
        ({"seed": -1}, "seed=-1"),
        ({"settle_below": float("nan")}, "settle_below=nan"),
        ({"depth": 8, "snapshots": (4, 9)}, "snapshots=9 is not allowed: 1 .. depth=8"),
    ],
)
def test_settings_are_checked(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(**wrong)
