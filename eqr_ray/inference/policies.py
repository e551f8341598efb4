"""Policies: which restarts of a puzzle run and for how long, what stops a trajectory, which rows are kept.

A record must not depend on timing. So what is needed of a puzzle depends on the ends of its own restarts only, not on
their order; what idle slots ran ahead of that is left out of the records afterwards (`Policy.resolve`).

    S slots, N rows, L tokens
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eqr_ray.config.errors import UserError
from eqr_ray.inference.records import ACCEPTED, CANCELLED, DEPTH, HALTED, SETTLED, Records
from eqr_ray.inference.settings import Settings
from eqr_ray.tasks.registry import task_named


class Win(NamedTuple):
    """After how many segments which restart has settled. The least of a puzzle's wins counts."""

    segments: int
    restart: int


class Restarts:
    """The restarts `numbers` of one puzzle, started in order: all of them, each to the full depth."""

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


class OneByOne(Restarts):
    """Restart r is needed when all before it have failed to stop, and while the puzzle's budget lasts."""

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


class Race(Restarts):
    """All restarts side by side; the first to stop, by its own segments and then by number, ends the others."""

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


class Signals(NamedTuple):
    """What every slot shows after a segment, each (S,): the two residuals float32 (`inf`: none yet), the halting logit
    float32, settled bool; and the puzzle and its answer so far, both (S, L) uint8. Idle slots hold arbitrary values."""

    logit_residual: Tensor
    latent_residual: Tensor
    halt_logit: Tensor
    settled: Tensor
    inputs: Tensor
    prediction: Tensor


class Policy:
    """Every restart is run, and stops when it has settled.

    `stop_status` is written for trajectories that `stop` ended; `whole`: a puzzle's restarts depend on each other and
    must be in one unit; `in_turn`: they follow each other; `widens`: further restarts may be added later; `verifies`:
    the task's rules check answers, which the method does without.
    """

    stop_status = SETTLED
    whole, in_turn, widens, verifies = False, False, True, False
    restarts: type[Restarts] = Restarts

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def stop(self, signals: Signals) -> Tensor | None:
        """(S,) bool: which slots stop now. None: none, ever, which spares the engine a read-back per segment."""
        return signals.settled

    def resolve(self, rows: Records) -> Records:
        """Which of a unit's ordered rows are kept, and as what."""
        return rows


class Full(Policy):
    """The paper's protocol: every trajectory runs `depth` segments."""

    stop_status = DEPTH

    def stop(self, signals: Signals) -> Tensor | None:
        return None


class Halt(Policy):
    """A trajectory stops when its halting logit is positive, as rows do in training."""

    stop_status = HALTED

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.halt_logit > 0


class Sequential(Policy):
    """A further restart counts only while none of its puzzle has settled and the puzzle's budget lasts."""

    whole, in_turn, restarts = True, True, OneByOne

    def resolve(self, rows: Records) -> Records:
        first = _first_of_its_puzzle(rows, np.flatnonzero(rows.status == self.stop_status))
        return rows.take((first < 0) | (rows.restart <= rows.restart[first]))


class FirstToSettle(Policy):
    """All restarts of a puzzle side by side until one has settled: for few puzzles and little patience. The winner has
    the fewest segments, then the least number; the others are cancelled after as many segments."""

    whole, widens, restarts = True, False, Race

    def resolve(self, rows: Records) -> Records:
        settled = np.flatnonzero(rows.status == SETTLED)
        settled = settled[np.lexsort((rows.segments[settled], rows.puzzle[settled]))]  # among equals in their order
        first = _first_of_its_puzzle(rows, settled)
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


class Verify(Sequential):
    """Sequential, but a trajectory stops when the task's own rules accept its answer."""

    stop_status, verifies = ACCEPTED, True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if not settings.verifier:
            raise UserError("policy=verify needs a task whose rules can check an answer; this model names none")
        self._task = task_named(settings.verifier)

    def stop(self, signals: Signals) -> Tensor | None:
        inputs, prediction = signals.inputs.cpu().numpy(), signals.prediction.cpu().numpy()
        running = (inputs != 0).any(axis=1)  # idle slots may hold padding
        accepted = np.zeros_like(running)
        accepted[running] = ~self._task.suspects(inputs[running], prediction[running])
        return torch.from_numpy(accepted)


def _first_of_its_puzzle(rows: Records, some: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """(N,) of every row, which one comes first among `some` of its puzzle (row numbers, by puzzle); -1: none does."""
    puzzles, at = np.unique(rows.puzzle[some], return_index=True)
    first, known = np.full(len(rows), -1), np.isin(rows.puzzle, puzzles)
    first[known] = some[at][np.searchsorted(puzzles, rows.puzzle[known])]
    return first


POLICIES: dict[str, type[Policy]] = {"full": Full, "halt": Halt, "settle": Policy}
POLICIES |= {"sequential": Sequential, "race": FirstToSettle, "verify": Verify}


def make_policy(settings: Settings) -> Policy:
    """The policy of a run. UserError: not possible with these settings."""
    return POLICIES[settings.policy](settings)
