"""Policies: when a trajectory stops, which restarts of a puzzle run, and which of their rows are kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.inference.records import Records, first_to_settle, up_to_first
from eqr_ray.inference.schedule import OneByOne, Race, Restarts
from eqr_ray.inference.settings import Settings
from eqr_ray.tasks.registry import task_named


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
    """`stop` ends trajectories, `restarts` says which are run, `resolve` which rows are kept.

    `stop_status` is written for trajectories that `stop` ended; `whole`: a puzzle's restarts depend on each other and
    must be in one unit; `in_turn`: they follow each other; `widens`: further restarts may be added later; `verifies`:
    the task's rules check answers, which the method does without.
    """

    name: str
    stop_status = "settled"
    whole, in_turn, widens, verifies = False, False, True, False
    restarts: type[Restarts] = Restarts

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def stop(self, signals: Signals) -> Tensor | None:
        """(S,) bool: which slots stop now. None: none, ever, which spares the engine a read-back per segment."""
        return signals.settled

    def resolve(self, rows: Records) -> Records:
        """The rows that are kept of a unit's ordered rows."""
        return rows


class Full(Policy):
    """The paper's protocol: every trajectory runs `depth` segments, every restart is run."""

    name, stop_status = "full", "depth"

    def stop(self, signals: Signals) -> Tensor | None:
        return None


class Halt(Policy):
    """A trajectory stops when its halting logit is positive, as rows do in training."""

    name, stop_status = "halt", "halted"

    def stop(self, signals: Signals) -> Tensor | None:
        return signals.halt_logit > 0


class Settle(Policy):
    """A trajectory stops when it has settled."""

    name = "settle"


class Sequential(Policy):
    """A further restart counts only while none of its puzzle has settled and the puzzle's budget lasts."""

    name, whole, in_turn, restarts = "sequential", True, True, OneByOne

    def resolve(self, rows: Records) -> Records:
        return up_to_first(rows, self.stop_status)


class FirstToSettle(Policy):
    """All restarts of a puzzle side by side until one has settled: for few puzzles and little patience."""

    name, whole, widens, restarts = "race", True, False, Race

    def resolve(self, rows: Records) -> Records:
        return first_to_settle(rows)


class Verify(Sequential):
    """Sequential, but a trajectory stops when the task's own rules accept its answer."""

    name, stop_status, verifies = "verify", "accepted", True

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


KINDS: tuple[type[Policy], ...] = (Full, Halt, Settle, Sequential, FirstToSettle, Verify)
POLICIES = {kind.name: kind for kind in KINDS}
REMOVED = "policy=halving was removed: it lost to full and sequential in every measurement (docs/log.md)"


def policy_named(name: str) -> type[Policy]:
    """The kind of policy of this name. UserError otherwise."""
    if name == "halving":
        raise UserError(REMOVED)
    if name not in POLICIES:
        raise UserError(f"policy={name} is not allowed: {', '.join(POLICIES)}{nearest(name, POLICIES)}")
    return POLICIES[name]


def make_policy(settings: Settings) -> Policy:
    """The policy of a run. UserError: unknown, or not possible with these settings."""
    return policy_named(settings.policy)(settings)
