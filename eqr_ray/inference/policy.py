"""Policies: when a trajectory stops, and which trajectory starts next.

Why here: plain classes, tested without a network. A policy answers two questions.

- `stop(signals)`: which slots are done before `depth`? On tensors over all slots at once, on their device; None means
  "none, ever", and spares the engine a read-back per segment.
- `jobs(unit)`: the trajectories of a unit, one by one, as a `Jobs` object that hears of every end. So a policy may
  start further restarts only where they are needed.

A record must not depend on timing: what `jobs` offers may depend on the ends of *the same puzzle's* trajectories only.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from torch import Tensor

from eqr_ray.errors import UserError
from eqr_ray.inference.work import Unit


class Signals(NamedTuple):
    """What every slot shows after a segment, each (S,): segments done int64, the two residuals float32 (`inf`: none
    yet), the halting logit float32, settled bool. Idle slots hold arbitrary values."""

    segments: Tensor
    logit_residual: Tensor
    latent_residual: Tensor
    halt_logit: Tensor
    settled: Tensor


class Job(NamedTuple):
    """One trajectory: row number of the puzzle, number of the restart."""

    puzzle: int
    restart: int


class Jobs(Protocol):
    """The trajectories of one unit."""

    def take(self) -> Job | None:
        """The next to start; None when there is none now (`ended` may bring more)."""

    def ended(self, job: Job, settled: bool) -> None:
        """A trajectory has come to its end."""

    @property
    def finished(self) -> bool:
        """True when all that were taken have ended and no more will come."""


class Policy(Protocol):
    """See the module's text. `status` is written for trajectories that `stop` ended; `whole`: a puzzle's restarts
    depend on each other and must be in one unit."""

    name: str
    status: str
    whole: bool

    def stop(self, signals: Signals) -> Tensor | None: ...

    def jobs(self, unit: Unit) -> Jobs: ...


class AllRestarts:
    """Every restart of every puzzle, puzzle by puzzle."""

    def __init__(self, unit: Unit) -> None:
        self._unit, self._taken, self._ended = unit, 0, 0

    def take(self) -> Job | None:
        unit = self._unit
        if self._taken == unit.rows:
            return None
        puzzle, restart = divmod(self._taken, unit.restart_last - unit.restart_first)
        self._taken += 1
        return Job(unit.first + puzzle, unit.restart_first + restart)

    def ended(self, job: Job, settled: bool) -> None:
        self._ended += 1

    @property
    def finished(self) -> bool:
        return self._ended == self._unit.rows


class OneByOne:
    """Restart r of a puzzle starts when restart r-1 has ended without settling; puzzles run side by side."""

    def __init__(self, unit: Unit) -> None:
        self._ready = deque(Job(puzzle, unit.restart_first) for puzzle in range(unit.first, unit.last))
        self._breadth, self._running = unit.restart_last, 0

    def take(self) -> Job | None:
        if not self._ready:
            return None
        self._running += 1
        return self._ready.popleft()

    def ended(self, job: Job, settled: bool) -> None:
        self._running -= 1
        if not settled and job.restart + 1 < self._breadth:
            self._ready.append(Job(job.puzzle, job.restart + 1))

    @property
    def finished(self) -> bool:
        return not self._ready and self._running == 0


class Full:
    """The paper's protocol: every trajectory runs `depth` segments, every restart is run."""

    name, status, whole = "full", "depth", False

    def stop(self, signals: Signals) -> Tensor | None:
        return None

    def jobs(self, unit: Unit) -> Jobs:
        return AllRestarts(unit)


class Halt:
    """A trajectory stops when its halting logit is positive, as rows do in training."""

    name, status, whole = "halt", "halted", False

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.halt_logit > 0

    def jobs(self, unit: Unit) -> Jobs:
        return AllRestarts(unit)


class Settle:
    """A trajectory stops when it has settled."""

    name, status, whole = "settle", "settled", False

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.settled

    def jobs(self, unit: Unit) -> Jobs:
        return AllRestarts(unit)


class Sequential:
    """A trajectory stops when it has settled; a further restart starts only while none of its puzzle has."""

    name, status, whole = "sequential", "settled", True

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.settled

    def jobs(self, unit: Unit) -> Jobs:
        return OneByOne(unit)


POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in (Full, Halt, Settle, Sequential)}


def policy_named(name: str) -> Policy:
    """The policy of this name. UserError otherwise."""
    if name not in POLICIES:
        raise UserError(f"policy={name} is not allowed: {', '.join(POLICIES)}")
    return POLICIES[name]()
