"""Points of a frontier equal direct runs of the engine, and the front is what its name says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eqr_ray.data.sources import PuzzleSet
from eqr_ray.evaluation.frontier import (
    Point,
    distribution,
    grid,
    measured,
    on_front,
    recommended,
    with_front,
)
from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.records import Records, concatenate
from eqr_ray.inference.replay import RecordedRun, every_segment
from eqr_ray.inference.scores import powers_of_two
from eqr_ray.inference.selection import choose
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit
from eqr_ray.tasks.registry import task_named
from tests.inference import naive
from tests.inference.fake import FakeNetwork, puzzles

INPUTS = puzzles(9)
WHOLE = Settings(depth=6, breadth=3, seed=2, settle_below=0.1)
POLICIES = ("full", "halt", "settle", "sequential", "race", "verify")


@pytest.fixture(autouse=True)
def a_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eqr_ray.inference.policies.task_named", lambda name: naive.FirstToken())


def run(settings: Settings) -> Records:
    engine = BreadthEngine(FakeNetwork(), settings, 16)
    units = [Unit(0, len(INPUTS), 0, settings.breadth)]
    return concatenate([rows for report in run_units(engine, units, INPUTS) for _, rows in report.finished])


def point(**changes: object) -> Point:
    values = {
        **{"run": "", "policy": "full", "depth": 4, "breadth": 2, "settle_below": 1.0, "settle_for": 2, "budget": None},
        **{"verified": False, "puzzles": 100, "answered": 100, "exact_low": 0.4, "exact_high": 0.6, "segments_sd": 1.0},
        **{"exact_accuracy": 0.5, "segments_mean": 8.0, "segments_median": 8, "segments_p99": 8, "flops_mean": 80.0},
        **{"seconds_mean": None, "settled_share": 0.5, "settled_accuracy": None},
    }
    return Point(**(values | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class InBlocks(RecordedRun):
    """A run with its records in memory."""

    planted: list[Records] = field(default_factory=list)

    def blocks(self) -> Iterator[Records]:
        return iter(self.planted)


def test_points_are_what_the_engine_would_have_done() -> None:
    recorded = run(every_segment(WHOLE))
    best = recorded.take(recorded.last_at(WHOLE.depth, 1))
    labels = best.prediction.copy()  # what the first restart answers is right, but for every third puzzle
    labels[::3, 1] = 0
    labels[::3, 2] ^= 1
    candidates = grid(WHOLE, POLICIES, [0.05, 0.2], [5], "fake")
    puzzle_set = PuzzleSet(task_named("sudoku4"), INPUTS, labels, np.arange(9), [], "hash")
    blocks = [recorded.take((recorded.puzzle >= first) & (recorded.puzzle < last)) for first, last in ((0, 4), (4, 9))]
    whole, seen = InBlocks(Path(), {}, WHOLE, puzzle_set, 10.0, 50.0, planted=blocks), []
    points = measured(whole, candidates, "logit_residual", show=seen.append)
    assert seen == [4, 9]
    assert len(points) == len(candidates) == 12 + 3 + 6 + 2 * (3 + 3 + 1) + 6 + 6
    for own, settings in zip(points, candidates, strict=True):
        rows = run(settings)
        chosen = rows.take(choose("logit_residual", rows))
        right = ((chosen.prediction == labels) | (labels == 0)).all(axis=1)
        spent = np.array([rows.segments[rows.puzzle == puzzle].sum() for puzzle in range(len(INPUTS))])
        assert (own.policy, own.depth, own.breadth) == (settings.policy, settings.depth, settings.breadth)
        assert own.verified == (settings.policy == "verify")
        assert own.exact_accuracy == right.mean()
        assert own.segments_mean == pytest.approx(spent.mean())
        assert own.segments_sd == pytest.approx(spent.std())
        assert own.segments_median == np.quantile(spent, 0.5, method="inverted_cdf")
        assert own.flops_mean == pytest.approx(10 * spent.mean())
        assert own.seconds_mean == pytest.approx(spent.mean() / 50)
        assert own.settled_share == chosen.settled.mean()
    assert len({own.exact_accuracy for own in points}) > 2


@hypothesis_settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 40))
def test_a_grid_has_every_setting_once(depth: int, breadth: int) -> None:
    most = Settings(depth=depth, breadth=breadth, snapshots=(1,))
    settings = grid(most, POLICIES, [0.5, 1.0], None, "sudoku4")
    assert len(set(settings)) == len(settings)
    full = {(one.depth, one.breadth) for one in settings if one.policy == "full"}
    assert full == {(d, b) for d in powers_of_two(depth) for b in powers_of_two(breadth)}
    assert all(one.depth <= depth and one.breadth <= breadth and not one.snapshots for one in settings)
    assert {one.policy for one in settings} == set(POLICIES)
    assert {one.policy for one in settings if one.budget} <= {"sequential"}
    assert all(one.budget < depth * breadth for one in settings if one.budget)
    assert {one.policy for one in settings if one.verifier} == {"verify"}


Numbers = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=12)


@hypothesis_settings(deadline=None)
@given(Numbers)
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    expected = [not any(beats(other, own) for other in pairs) for own in pairs]
    assert on_front([cost for cost, _ in pairs], [accuracy for _, accuracy in pairs]) == expected


def test_what_verifies_has_a_front_of_its_own() -> None:
    points = [
        point(exact_accuracy=0.5, flops_mean=8.0),
        point(exact_accuracy=0.4, flops_mean=9.0),
        point(exact_accuracy=0.9, flops_mean=7.0, verified=True),
        point(exact_accuracy=0.9, flops_mean=8.0, verified=True),
    ]
    assert [one.on_front for one in with_front(points)] == [True, False, True, False]


def test_recommended_is_as_good_as_everything_for_the_least() -> None:
    points = [
        point(segments_mean=8.0, exact_accuracy=0.5),
        point(segments_mean=4.0, exact_accuracy=0.6),  # luck does not raise the goal
        point(policy="settle", segments_mean=3.0, exact_accuracy=0.5),
        point(policy="settle", segments_mean=5.0, exact_accuracy=0.7),
        point(policy="halt", segments_mean=2.0, exact_accuracy=0.4),
        point(policy="halt", segments_mean=1.0, exact_accuracy=0.4),
        point(policy="halt", run="other", segments_mean=1.0, exact_accuracy=0.9),
    ]
    chosen = [(one.policy, one.segments_mean) for one in recommended(points)]
    assert chosen == [("full", 4.0), ("settle", 3.0), ("halt", 1.0), ("halt", 1.0)]


@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_counts_tell_the_distribution(spent: list[int]) -> None:
    found = distribution(np.bincount(spent, minlength=21))
    assert found["segments_mean"] == pytest.approx(np.mean(spent))
    assert found["segments_sd"] == pytest.approx(np.std(spent), abs=1e-6)
    for name, share in (("segments_median", 0.5), ("segments_p99", 0.99)):
        assert found[name] == np.quantile(spent, share, method="inverted_cdf")
