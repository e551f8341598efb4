"""How far a run is: throughput, share settled, live accuracy with its interval, time left.

Why here: plain numbers and one line of text; whoever shows it (a door, a log) brings the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.engine import Report
from eqr_ray.inference.records import Records
from eqr_ray.inference.scores import Scores

Clock = Callable[[], float]
FEW = 0.1  # of all puzzles


class Progress:
    """Counts reports. `puzzles` in all; `scores` judges finished units (each with all restarts of its puzzles)."""

    def __init__(self, puzzles: int, scores: Scores, clock: Clock = time.monotonic) -> None:
        self.puzzles, self.scores, self._clock = puzzles, scores, clock
        self.row_segments = 0
        self._started_s, self._puzzles_before = clock(), 0

    def resume(self, block: Records, labels_NL: npt.NDArray[np.uint8] | None) -> None:
        """Count a part of an earlier sitting: towards the accuracy, not towards the speed."""
        self.scores.add(block, labels_NL)
        self._puzzles_before = self.scores.puzzles

    def report(self, report: Report, labels_NL: npt.NDArray[np.uint8] | None) -> None:
        """Count a report; `labels_NL` is indexed by row number of the data."""
        self.row_segments += report.row_segments
        for unit, rows in report.finished:
            if (unit.restart_first, unit.restart_last) == (0, self.scores.breadth):
                self.scores.add(rows, None if labels_NL is None else labels_NL[rows.puzzle])

    @property
    def seconds(self) -> float:
        return self._clock() - self._started_s

    def seconds_left(self) -> float | None:
        """From the segments that a puzzle has taken so far, at most depth x breadth. None before the first step; and
        where puzzles take less than that, while only a few are done (the easy ones end first) and after more segments
        than were expected (some may have been run ahead in vain)."""
        scores, spent_s = self.scores, self.seconds
        if not self.row_segments or spent_s <= 0:
            return None
        most = float(scores.depth * scores.breadth)
        per_puzzle = scores.segments / scores.puzzles if scores.puzzles else most
        if per_puzzle < most and scores.puzzles < FEW * self.puzzles:
            return None
        left = per_puzzle * (self.puzzles - self._puzzles_before) - self.row_segments
        if left <= 0 and scores.puzzles < self.puzzles:
            return None
        return max(0.0, left) * spent_s / self.row_segments

    def figures(self) -> dict[str, Any]:
        """What the log keeps: of all sittings, over the puzzles finished so far; but for the time left."""
        scores, accuracy, left_s = self.scores, self.scores.accuracy(), self.seconds_left()
        exact, low, high = accuracy or (None, None, None)
        return {
            "puzzles": scores.puzzles,
            "settled_share": scores.settled / scores.puzzles if scores.puzzles else None,
            "exact_accuracy": exact,
            "exact_low": low,
            "exact_high": high,
            "left_s": None if left_s is None else round(left_s, 1),
        }

    def measures(self) -> dict[str, Any]:
        """The figures, and the speed of this sitting."""
        return {**self.figures(), "row_segments_per_s": self.row_segments / max(self.seconds, 1e-9)}

    def line(self) -> str:
        """One line for people."""
        scores, spent_s = self.scores, max(self.seconds, 1e-9)
        parts = [
            f"{scores.puzzles:,}/{self.puzzles:,} puzzles",
            f"{(scores.puzzles - self._puzzles_before) / spent_s:,.1f} puzzles/s",
            f"{self.row_segments / spent_s:,.0f} row-segments/s",
        ]
        if scores.puzzles:
            parts.append(f"settled {scores.settled / scores.puzzles:.1%}")
        accuracy = scores.accuracy()
        if accuracy is not None:
            parts.append("exact {:.1%} [{:.1%}, {:.1%}]".format(*accuracy))
        left_s = self.seconds_left()
        if left_s is not None:
            parts.append(f"{_duration(left_s)} left")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
