"""What an inference run tells of itself, with a clock of our own."""

from __future__ import annotations

import pytest

from eqr_ray.inference.engine import EngineReport
from eqr_ray.inference.scores import LiveScores, Scores
from eqr_ray.inference.units import Unit
from tests.inference.synthetic import labels, records


def test_speed_accuracy_and_time_left() -> None:
    now = [100.0]
    live = LiveScores(10, Scores(depth=8, breadth=4), clock=lambda: now[0])
    assert live.seconds_left() is None
    assert live.words() == "0.0 puzzles/s  0 row-segments/s"
    rows, answers = records(0, 4, 4, 8, early=False), labels(0, 10)
    now[0] += 2.0
    live.report(EngineReport(64, []), answers)
    assert live.seconds_left() == pytest.approx((10 * 8 * 4 - 64) / 32)  # at most depth x breadth a puzzle
    now[0] += 2.0
    live.report(EngineReport(64, [(Unit(0, 4, 0, 4), rows)]), answers)
    assert live.seconds_left() == pytest.approx((10 * 32 - 128) / 32)
    assert live.answered == 4
    assert live.words().startswith("1.0 puzzles/s  32 row-segments/s  settled ")
    assert "exact " in live.words()
    assert live.metrics()["row_segments_per_s"] == pytest.approx(32)


def test_a_slow_start_does_not_lengthen_the_time_left() -> None:
    now = [0.0]
    live = LiveScores(1000, Scores(depth=8, breadth=4), clock=lambda: now[0])
    now[0] += 120.0  # compilation
    for _ in range(40):
        live.report(EngineReport(32, []), None)
        now[0] += 1.0
    live.report(EngineReport(32, []), None)
    assert live.seconds_left() == pytest.approx((1000 * 32 - 41 * 32) / 32)


def test_the_first_to_end_early_tell_nothing_of_the_time_left() -> None:
    now = [0.0]
    live = LiveScores(50, Scores(depth=8, breadth=4), clock=lambda: now[0])
    answers = labels(0, 50)
    for first, last, known in ((0, 2, False), (2, 6, True)):
        now[0] += 1.0
        live.report(EngineReport(64, [(Unit(first, last, 0, 4), records(first, last, 4, 8))]), answers)
        assert (live.seconds_left() is not None) == known


def test_earlier_sittings_count_for_accuracy_and_not_for_speed() -> None:
    now = [0.0]
    live = LiveScores(10, Scores(depth=8, breadth=4), clock=lambda: now[0])
    live.resume(records(0, 4, 4, 8, early=False), None)
    now[0] = 1.0
    live.report(EngineReport(96, []), None)
    assert live.answered == 4
    assert live.seconds_left() == pytest.approx((6 * 32 - 96) / 96)
    assert "exact" not in live.words()


def test_divided_restarts_are_not_judged_alone() -> None:
    live = LiveScores(1, Scores(depth=8, breadth=4))
    rows = records(0, 1, 4, 8)
    live.report(EngineReport(8, [(Unit(0, 1, 0, 2), rows.take(rows.restart < 2))]), labels(0, 1))
    assert (live.scores.puzzles, live.answered) == (0, 0)
    live.report(EngineReport(8, [(Unit(0, 1, 2, 4), rows.take(rows.restart >= 2))]), labels(0, 1))
    assert live.answered == 1


def test_a_puzzle_counts_when_it_is_answered_and_once() -> None:
    live = LiveScores(10, Scores(depth=8, breadth=4))
    first, second = Unit(0, 5, 0, 4), Unit(5, 10, 0, 4)
    counts = []
    for report in (
        EngineReport(4, [], {first: 2}),
        EngineReport(4, [], {first: 1, second: 3}),  # a copy on another actor is behind
        EngineReport(4, [(first, records(0, 5, 4, 8))], {second: 3}),
        EngineReport(4, [(second, records(5, 10, 4, 8))]),
    ):
        live.report(report, None)
        counts.append(live.answered)
    assert counts == [2, 5, 8, 10]


def test_shards_of_a_unit_count_with_it() -> None:
    live = LiveScores(1, Scores(depth=8, breadth=4))
    live.report(EngineReport(4, [], {Unit(0, 1, 0, 2): 1}), None)
    assert live.answered == 0
    live.report(EngineReport(4, [(Unit(0, 1, 0, 4), records(0, 1, 4, 8))]), None)
    assert live.answered == 1
