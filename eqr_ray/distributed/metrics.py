"""A run's metrics as Ray's own, which every node of a cluster offers to Prometheus.

Ray puts `ray_` before a name: `ray_eqr_rows_per_s{run="sudoku9"}`. What is no number, and what has no name here, is
left to log.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

TAG = ("run",)
GAUGES = {
    "loss": "Mean loss of the rows in training",
    "exact_accuracy": "Share of rows in training, or of puzzles answered, that are exactly right",
    "validation_exact": "Share of validation puzzles that are exactly right",
    "segments_per_s": "Training segments a second",
    "rows_per_s": "Rows a second in training",
    "row_segments_per_s": "Row-segments a second in inference",
    "puzzles": "Puzzles answered",
    "settled_share": "Share of answered puzzles with a settled trajectory",
    "left_s": "Seconds left, by our own estimate",
}
COUNTERS = {
    "restarts": "Times that a training began again from a checkpoint",
    "retries": "Units of inference that were run again because their actor died",
}


class RayMetrics:
    """The metrics of one run. Ray must have been started."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges = {name: Gauge(f"eqr_{name}", words, TAG) for name, words in GAUGES.items()}
        self._counters = {name: Counter(f"eqr_{name}", words, TAG) for name, words in COUNTERS.items()}

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Set the gauges of these metrics."""
        for name, value in metrics.items():
            if name in self._gauges and isinstance(value, int | float) and math.isfinite(value):
                self._gauges[name].set(float(value), self._tags)

    def count(self, name: str, times: int = 1) -> None:
        """Add to a counter; Ray refuses to add nothing."""
        if times:
            self._counters[name].inc(times, self._tags)
