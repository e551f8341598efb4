"""Policies: how far trajectories run, and which of them are run at all.

Why here: plain classes, tested without a network. A policy answers three questions.

- `stop(signals)`: which slots are done before their time? On tensors over all slots at once, on their device; None
  means "none, ever", and spares the engine a read-back per segment.
- `jobs(unit, puzzles)`: the trajectories of a unit, one by one, as a `Jobs` object that hears of every end (jobs.py).
- `resolve(rows)`: the rows that are kept of a unit's trajectories, where timing has left more than one possible set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.inference.records import Records, first_to_settle, up_to_first
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.trajectories import AllRestarts, ByPlan, Halving, Jobs, OneByOne, Races
from eqr_ray.inference.units import Unit
from eqr_ray.tasks.registry import task_named


class Signals(NamedTuple):
    """What every slot shows after a segment, each (S,): segments done int64, the two residuals float32 (`inf`: none
    yet), the halting logit float32, settled bool; and the puzzle and its answer so far, both (S, L) uint8. Idle slots
    hold arbitrary values."""

    segments: Tensor
    logit_residual: Tensor
    latent_residual: Tensor
    halt_logit: Tensor
    settled: Tensor
    inputs: Tensor
    prediction: Tensor


class Policy(Protocol):
    """See the module's text. `status` is written for trajectories that `stop` ended; `whole`: a puzzle's restarts
    depend on each other and must be in one unit; `in_turn`: they follow each other; `widens`: further restarts may be
    added later; `verifies`: answers are checked by the task's rules, which the method does without."""

    name: str
    status: str
    whole: bool
    in_turn: bool
    widens: bool
    verifies: bool

    def stop(self, signals: Signals) -> Tensor | None: ...
    def jobs(self, unit: Unit, puzzles: Sequence[int]) -> Jobs: ...
    def resolve(self, rows: Records) -> Records: ...


class Full:
    """The paper's protocol: every trajectory runs `depth` segments, every restart is run."""

    name, status, whole, in_turn, widens, verifies = "full", "depth", False, False, True, False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def stop(self, signals: Signals) -> Tensor | None:
        return None

    def jobs(self, unit: Unit, puzzles: Sequence[int]) -> Jobs:
        return AllRestarts(unit, puzzles, self.settings.depth)

    def resolve(self, rows: Records) -> Records:
        return rows


class Halt(Full):
    """A trajectory stops when its halting logit is positive, as rows do in training."""

    name, status = "halt", "halted"

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.halt_logit > 0


class Settle(Full):
    """A trajectory stops when it has settled."""

    name, status = "settle", "settled"

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.settled


class Sequential(Settle):
    """A further restart counts only while none of its puzzle has settled and the puzzle's budget lasts."""

    name, whole, in_turn = "sequential", True, True

    def jobs(self, unit: Unit, puzzles: Sequence[int]) -> Jobs:
        return ByPlan(puzzles, partial(OneByOne, unit=unit, settings=self.settings))

    def resolve(self, rows: Records) -> Records:
        return up_to_first(rows, self.status)


class SuccessiveHalving(Settle):
    """All restarts run to `halving_from` segments; there and at every doubling the better half by residual goes on."""

    name, whole, widens = "halving", True, False

    def jobs(self, unit: Unit, puzzles: Sequence[int]) -> Jobs:
        return ByPlan(puzzles, partial(Halving, unit=unit, settings=self.settings))


class FirstToSettle(Settle):
    """All restarts of a puzzle side by side until one has settled: for few puzzles and little patience."""

    name, whole, widens = "race", True, False

    def jobs(self, unit: Unit, puzzles: Sequence[int]) -> Jobs:
        return Races(puzzles, unit, self.settings)

    def resolve(self, rows: Records) -> Records:
        return first_to_settle(rows)


class Verify(Sequential):
    """Sequential, but a trajectory stops when the task's own rules accept its answer."""

    name, status, verifies = "verify", "accepted", True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if not settings.verifier:
            raise UserError("policy=verify needs a task whose rules can check an answer; this model names none")
        self._task = task_named(settings.verifier)

    def stop(self, signals: Signals) -> Tensor | None:
        inputs, prediction = signals.inputs.cpu().numpy(), signals.prediction.cpu().numpy()
        running = (inputs != 0).any(axis=1)  # idle slots may hold padding
        accepted = np.zeros(len(inputs), dtype=np.bool_)
        accepted[running] = ~self._task.suspects(inputs[running], prediction[running])
        return torch.from_numpy(accepted)


KINDS: tuple[type[Full], ...] = (Full, Halt, Settle, Sequential, SuccessiveHalving, FirstToSettle, Verify)
POLICIES = {kind.name: kind for kind in KINDS}


def policy_named(name: str) -> type[Full]:
    """The kind of policy of this name. UserError otherwise."""
    if name not in POLICIES:
        raise UserError(f"policy={name} is not allowed: {', '.join(POLICIES)}{nearest(name, POLICIES)}")
    return POLICIES[name]


def make_policy(settings: Settings) -> Policy:
    """The policy of a run. UserError: unknown, or not possible with these settings."""
    return policy_named(settings.policy)(settings)
