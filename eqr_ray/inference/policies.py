"""Policies: what stops a trajectory, and which restarts of a puzzle run, for how long, and are kept.

A record must not depend on timing. So what is needed of a puzzle depends on the ends of its own restarts only, not on
their order; what idle slots ran ahead of that is left out of the records afterwards (`Restarts.resolve`).

    S slots, N rows, L tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eqr_ray.inference.records import ACCEPTED, CANCELLED, DEPTH, HALTED, SETTLED, Records
from eqr_ray.inference.settings import Settings
from eqr_ray.tasks.registry import task_named


class Win(NamedTuple):
    """After how many segments which restart has settled. The least of a puzzle's wins counts."""

    segments: int
    restart: int


class Restarts:
    """The restarts `numbers` of one puzzle, started in order: all of them, each to the full depth.

    `whole`: they depend on each other and must be in one unit; `in_turn`: they follow each other; `widens`: further
    ones may be added to a finished run.
    """

    whole, in_turn, widens = False, False, True

    def __init__(self, numbers: range, settings: Settings) -> None:
        self._first, self._next, self._end = numbers.start, numbers.start, numbers.stop
        self._depth = settings.depth
        self._running: set[int] = set()

    @property
    def left(self) -> bool:
        """Whether there is a further restart, which may be run ahead."""
        return self._next < self._end

    @property
    def needed(self) -> bool:
        """Whether the next restart has to be run."""
        return self.left

    @property
    def finished(self) -> bool:
        return not self._running and not self.needed

    def start(self) -> int:
        """Take the next restart."""
        self._running.add(self._next)
        self._next += 1
        return self._next - 1

    def until(self, restart: int) -> int:
        """After how many segments a restart ends, by what is known now."""
        return self._depth

    def ended(self, restart: int, segments: int, stopped: bool) -> bool:
        """A restart has ended, `stopped` by the policy or not. Returns whether others shall now end sooner."""
        self._running.remove(restart)
        return False

    @staticmethod
    def resolve(rows: Records, stop_status: int) -> Records:
        """Which of a unit's ordered rows are kept, and as what."""
        return rows


class OneByOne(Restarts):
    """Restart r is needed when all before it have failed to stop, and while the puzzle's budget lasts."""

    whole, in_turn = True, True

    def __init__(self, numbers: range, settings: Settings) -> None:
        super().__init__(numbers, settings)
        self._budget = settings.budget or len(numbers) * self._depth
        self._end = min(self._end, self._first + -(-self._budget // self._depth))

    @property
    def needed(self) -> bool:
        return self.left and not self._running

    def until(self, restart: int) -> int:
        if restart > self._end:  # one before it has stopped
            return 1
        # All restarts before it took the full depth, or it is not needed.
        return min(self._depth, self._budget - (restart - self._first) * self._depth)

    def ended(self, restart: int, segments: int, stopped: bool) -> bool:
        self._running.remove(restart)
        if stopped:
            self._end = min(self._end, restart)
        return stopped

    @staticmethod
    def resolve(rows: Records, stop_status: int) -> Records:
        first = _first_of_its_puzzle(rows, np.flatnonzero(rows.status == stop_status))
        return rows.take((first < 0) | (rows.restart <= rows.restart[first]))


class Race(Restarts):
    """All restarts side by side. The first to stop, by its own segments and then by number, ends the others, which are
    recorded as cancelled after as many segments: for few puzzles and little patience."""

    whole, widens = True, False

    def __init__(self, numbers: range, settings: Settings) -> None:
        super().__init__(numbers, settings)
        self._best = Win(settings.depth + 1, numbers.stop)

    def until(self, restart: int) -> int:
        last = self._best.segments if restart < self._best.restart else self._best.segments - 1
        return max(1, min(self._depth, last))

    def ended(self, restart: int, segments: int, stopped: bool) -> bool:
        self._running.remove(restart)
        return stopped and self.beaten(Win(segments, restart))

    def beaten(self, win: Win) -> bool:
        """A restart has settled, here or elsewhere: one that can no longer win ends. Returns whether that is news."""
        is_news = win < self._best
        self._best = min(win, self._best)
        return is_news

    @staticmethod
    def resolve(rows: Records, stop_status: int) -> Records:
        stopped = np.flatnonzero(rows.status == stop_status)
        stopped = stopped[np.lexsort((rows.segments[stopped], rows.puzzle[stopped]))]  # among equals in their order
        first = _first_of_its_puzzle(rows, stopped)
        cancelled = (first >= 0) & (first != np.arange(len(rows)))
        none = np.float32(np.inf)
        return dataclasses.replace(
            rows,
            segments=np.where(cancelled, rows.segments[first], rows.segments),
            settled=rows.settled & ~cancelled,
            logit_residual=np.where(cancelled, none, rows.logit_residual),
            latent_residual=np.where(cancelled, none, rows.latent_residual),
            halt_logit=np.where(cancelled, -none, rows.halt_logit),
            prediction=np.where(cancelled[:, None], np.uint8(0), rows.prediction),
            status=np.where(cancelled, np.uint8(CANCELLED), rows.status),
        )


def _first_of_its_puzzle(rows: Records, some: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """(N,) of every row, which one comes first among `some` of its puzzle (row numbers, by puzzle); -1: none does."""
    puzzles, at = np.unique(rows.puzzle[some], return_index=True)
    first, known = np.full(len(rows), -1), np.isin(rows.puzzle, puzzles)
    first[known] = some[at][np.searchsorted(puzzles, rows.puzzle[known])]
    return first


class Signals(NamedTuple):
    """What every slot shows after a segment, each (S,): the two residuals float32 (`inf`: none yet), the halting logit
    float32, settled bool; and the puzzle and its answer so far, both (S, L) uint8. Idle slots hold arbitrary values."""

    logit_residual: Tensor
    latent_residual: Tensor
    halt_logit: Tensor
    settled: Tensor
    inputs: Tensor
    prediction: Tensor


class Policy(NamedTuple):
    """`stop`: (S,) bool, which slots stop now; None: none, ever, which spares the engine a read-back per segment.
    `stop_status` is written for trajectories that it ended. `verifies`: the task's rules check answers, which the
    method does without."""

    stop: Callable[[Signals, Settings], Tensor | None]
    stop_status: int
    restarts: type[Restarts] = Restarts
    verifies: bool = False


def _accepted(signals: Signals, settings: Settings) -> Tensor:
    inputs, prediction = signals.inputs.cpu().numpy(), signals.prediction.cpu().numpy()
    running = (inputs != 0).any(axis=1)  # idle slots may hold padding
    accepted = np.zeros_like(running)
    accepted[running] = ~task_named(settings.verifier).suspects(inputs[running], prediction[running])
    return torch.from_numpy(accepted)


POLICIES = {
    "full": Policy(lambda signals, settings: None, DEPTH),  # the paper's protocol
    "halt": Policy(lambda signals, settings: signals.halt_logit > 0, HALTED),  # as rows do in training
    "settle": Policy(lambda signals, settings: signals.settled, SETTLED),
    "sequential": Policy(lambda signals, settings: signals.settled, SETTLED, OneByOne),
    "race": Policy(lambda signals, settings: signals.settled, SETTLED, Race),
    "verify": Policy(_accepted, ACCEPTED, OneByOne, verifies=True),
}
