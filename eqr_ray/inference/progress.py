"""How far an inference run is: puzzles answered, throughput, share settled, live accuracy, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.engine import Report
from eqr_ray.inference.records import Records
from eqr_ray.inference.scores import Scores
from eqr_ray.inference.units import Unit
from eqr_ray.storage.progress import Rate

FEW = 0.1  # of all puzzles


class LiveScores:
    """Counts reports. `puzzles` in all; `scores` judges finished units (each with all restarts of its puzzles)."""

    def __init__(self, puzzles: int, scores: Scores, clock: Callable[[], float] = time.monotonic) -> None:
        self.puzzles, self.scores = puzzles, scores
        self.row_segments = 0
        self._before, self._restarts = 0, 0  # puzzles of earlier sittings; restarts of answered puzzles in this one
        self._open: dict[Unit, int] = {}  # puzzles that are answered in units that are not finished
        self._segment_rate, self._puzzle_rate = Rate(clock=clock), Rate(clock=clock)
        self._count()

    def resume(self, block: Records, labels_NL: npt.NDArray[np.uint8] | None) -> None:
        """Count a part of an earlier sitting: towards the accuracy, not towards the speed."""
        self.scores.add(block, labels_NL)
        self._before = self.scores.puzzles

    def report(self, report: Report, labels_NL: npt.NDArray[np.uint8] | None) -> None:
        """Count a report; `labels_NL` is indexed by row number of the data."""
        self.row_segments += report.row_segments
        for unit, answered in report.answered.items():
            self._open[unit] = max(answered, self._open.get(unit, 0))
        for unit, rows in report.finished:
            self._open = {part: answered for part, answered in self._open.items() if not part.is_in(unit)}
            self._restarts += unit.puzzles * unit.restarts
            if (unit.restart_first, unit.restart_last) == (0, self.scores.breadth):
                self.scores.add(rows, None if labels_NL is None else labels_NL[rows.puzzle])
        self._count()

    def _count(self) -> None:
        self._segment_rate.add(self.row_segments)
        self._puzzle_rate.add(self.answered)

    @property
    def answered(self) -> int:
        """Puzzles with all their restarts done, of all sittings, whether or not their unit is finished."""
        restarts = self._restarts + sum(answered * unit.restarts for unit, answered in self._open.items())
        return min(self.puzzles, self._before + restarts // self.scores.breadth)

    def seconds_left(self) -> float | None:
        """From the segments that a puzzle has taken so far, at most depth x breadth. None before the first step; and
        where puzzles take less than that, while only a few are done (the easy ones end first) and after more segments
        than were expected (some may have been run ahead in vain)."""
        scores, rate = self.scores, self._segment_rate.per_s()
        if rate is None:
            return None
        most = float(scores.depth * scores.breadth)
        per_puzzle = scores.segments / scores.puzzles if scores.puzzles else most
        if per_puzzle < most and scores.puzzles < FEW * self.puzzles:
            return None
        left = per_puzzle * (self.puzzles - self._before) - self.row_segments
        if left <= 0 and scores.puzzles < self.puzzles:
            return None
        return max(0.0, left) / rate

    def metrics(self) -> dict[str, Any]:
        """What the log keeps: of all sittings, over the puzzles of finished units; but for the time left."""
        scores, accuracy, left_s = self.scores, self.scores.accuracy(), self.seconds_left()
        exact, low, high = accuracy or (None, None, None)
        return {
            "puzzles": scores.puzzles,
            "settled_share": scores.settled / scores.puzzles if scores.puzzles else None,
            "exact_accuracy": exact,
            "exact_low": low,
            "exact_high": high,
            "row_segments_per_s": self._segment_rate.per_s(),
            "left_s": None if left_s is None else round(left_s, 1),
        }

    def words(self) -> str:
        """For people, behind the number of puzzles."""
        scores, accuracy = self.scores, self.scores.accuracy()
        parts = [
            f"{self._puzzle_rate.per_s() or 0:,.1f} puzzles/s",
            f"{self._segment_rate.per_s() or 0:,.0f} row-segments/s",
        ]
        if scores.puzzles:
            parts.append(f"settled {scores.settled / scores.puzzles:.1%}")
        if accuracy is not None:
            parts.append("exact {:.1%} [{:.1%}, {:.1%}]".format(*accuracy))
        return "  ".join(parts)
