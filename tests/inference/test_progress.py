"""The progress line, with a clock of our own."""

from __future__ import annotations

import pytest

from eqr_ray.inference.engine import Report
from eqr_ray.inference.progress import Progress
from eqr_ray.inference.scores import Scores
from eqr_ray.inference.units import Unit
from tests.inference.synthetic import labels, records


def test_speed_accuracy_and_time_left() -> None:
    now = [100.0]
    progress = Progress(10, Scores(depth=8, breadth=4), clock=lambda: now[0])
    assert progress.seconds_left() is None
    assert progress.line() == "0/10 puzzles  0.0 puzzles/s  0 row-segments/s"
    rows, answers = records(0, 4, 4, 8, early=False), labels(0, 10)
    now[0] += 2.0
    progress.report(Report(64, []), answers)
    assert progress.seconds_left() == pytest.approx((10 * 8 * 4 - 64) / 32)  # at most depth x breadth a puzzle
    now[0] += 2.0
    progress.report(Report(64, [(Unit(0, 4, 0, 4), rows)]), answers)
    assert progress.seconds_left() == pytest.approx((10 * 32 - 128) / 32)
    line = progress.line()
    assert line.startswith("4/10 puzzles  1.0 puzzles/s  32 row-segments/s  settled ")
    assert "exact " in line
    assert line.endswith("  0:06 left")


def test_the_first_to_end_early_tell_nothing_of_the_time_left() -> None:
    now = [0.0]
    progress = Progress(50, Scores(depth=8, breadth=4), clock=lambda: now[0])
    answers = labels(0, 50)
    for first, last, known in ((0, 2, False), (2, 6, True)):
        now[0] += 1.0
        progress.report(Report(64, [(Unit(first, last, 0, 4), records(first, last, 4, 8))]), answers)
        assert (progress.seconds_left() is not None) == known
        assert ("left" in progress.line()) == known


def test_earlier_sittings_count_for_accuracy_and_not_for_speed() -> None:
    now = [0.0]
    progress = Progress(10, Scores(depth=8, breadth=4), clock=lambda: now[0])
    rows = records(0, 4, 4, 8, early=False)
    progress.resume(rows, None)
    now[0] = 1.0
    progress.report(Report(96, []), None)
    assert progress.line().startswith("4/10 puzzles  0.0 puzzles/s  96 row-segments/s")
    assert "exact" not in progress.line()
    assert progress.seconds_left() == pytest.approx((6 * 32 - 96) / 96)


def test_divided_restarts_are_not_judged_alone() -> None:
    progress = Progress(1, Scores(depth=8, breadth=4))
    rows = records(0, 1, 4, 8)
    progress.report(Report(8, [(Unit(0, 1, 0, 2), rows.take(rows.restart < 2))]), labels(0, 1))
    assert progress.scores.puzzles == 0
