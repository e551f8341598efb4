"""Replay: what another policy would have done, from the records of a full run, without the network.

Why here: a run of the policy `full` with a snapshot at every segment holds all that any policy, threshold, smaller
depth or breadth asks for. Its records take the network's place under the same engine and policies, so that calibration
and frontiers cost seconds, and equal bit for bit what a run would have recorded.

    N recorded rows, P puzzles, R restarts, K segments, L tokens
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.inference.engine import BreadthEngine
from eqr_ray.inference.policies import Signals
from eqr_ray.inference.records import Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit

REPLAY_SLOTS = 1024


class Trace:
    """The records of all segments of consecutive puzzles: columns (P, R, K). `rows` in order, complete, of `full`."""

    def __init__(self, rows: Records) -> None:
        self.first, last = int(rows.puzzle[0]), int(rows.puzzle[-1]) + 1
        self.puzzles, self.breadth = last - self.first, int(rows.restart.max()) + 1
        self.depth = int(rows.segments.max())
        shape = (self.puzzles, self.breadth, self.depth)
        if len(rows) != np.prod(shape):
            raise UserError(
                f"these records have {len(rows):,} rows where {self.puzzles} puzzles x {self.breadth} restarts x "
                f"{self.depth} segments have {np.prod(shape):,}: "
                "record with policy=full and a snapshot at every segment"
            )
        self.columns = rows

    def at(
        self, puzzle: npt.NDArray[np.int64], restart: npt.NDArray[np.int64], segments: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Row numbers of trajectories (S,) after so many segments (S,), 1 at least."""
        return np.asarray(((puzzle - self.first) * self.breadth + restart) * self.depth + segments - 1)


class Playback:
    """Slots that show what a trace recorded (a `slots.SlotsLike`)."""

    def __init__(self, trace: Trace, count: int, settings: Settings) -> None:
        self._trace, self._settings = trace, settings
        self._puzzle = np.full(count, trace.first, dtype=np.int64)
        self._restart, self._segments, self._settled_streak = (np.zeros(count, dtype=np.int64) for _ in range(3))
        self._inputs = np.zeros((count, trace.columns.prediction.shape[1]), dtype=np.uint8)

    def fill(
        self,
        slots: npt.NDArray[np.int64],
        puzzles: npt.NDArray[np.int64],
        restarts: npt.NDArray[np.int64],
        inputs_FL: npt.NDArray[np.uint8],
    ) -> None:
        """See `Slots.fill`."""
        self._puzzle[slots], self._restart[slots], self._inputs[slots] = puzzles, restarts, inputs_FL
        self._segments[slots] = self._settled_streak[slots] = 0

    def advance(self) -> Signals:
        """One segment of every slot; idle ones stay at the last."""
        trace, settings = self._trace, self._settings
        self._segments = np.minimum(self._segments + 1, trace.depth)
        rows = trace.columns.take(trace.at(self._puzzle, self._restart, self._segments))
        self._settled_streak = np.where(rows.logit_residual <= settings.settle_below, self._settled_streak + 1, 0)
        settled = self._settled_streak >= settings.settle_for
        columns = (rows.logit_residual, rows.latent_residual, rows.halt_logit, settled, self._inputs, rows.prediction)
        return Signals(*(torch.from_numpy(column) for column in columns))


def replay(trace: Trace, settings: Settings, inputs_PL: npt.NDArray[np.uint8] | None = None) -> Records:
    """The ordered records that a run with `settings` would have left of the trace's puzzles. `inputs_PL`: theirs, for
    a policy that verifies. UserError: deeper or wider than what was recorded."""
    for name, recorded in (("depth", trace.depth), ("breadth", trace.breadth)):
        if getattr(settings, name) > recorded:
            raise UserError(f"{name}={getattr(settings, name)} is more than the {recorded} that were recorded")
    if inputs_PL is None:
        inputs_PL = np.ones((trace.puzzles, trace.columns.prediction.shape[1]), dtype=np.uint8)  # nobody reads them
    rows = trace.puzzles * settings.breadth
    engine = BreadthEngine(trace, settings, min(REPLAY_SLOTS, rows), make=Playback)
    engine.add(Unit(trace.first, trace.first + trace.puzzles, 0, settings.breadth), inputs_PL)
    parts: list[Records] = []
    while not engine.idle:
        parts += [part for _, part in engine.step()]
    return concatenate(parts)


def every_segment(settings: Settings) -> Settings:
    """The settings of a run that can be replayed: everything is run, every segment is recorded."""
    return dataclasses.replace(settings, policy="full", snapshots=tuple(range(1, settings.depth + 1)), budget=None)
