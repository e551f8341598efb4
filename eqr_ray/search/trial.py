"""What has become of a trial, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.search.space import Values

# running: begun, and to be continued; stopped: given up for better trials; diverged: the loss is no number; collapsed:
# it had learnt something, and lost it; failed: a fault of ours or of the machine
Status = Literal["running", "finished", "stopped", "diverged", "collapsed", "failed"]
LOST: tuple[Status, ...] = ("diverged", "collapsed", "failed")
OUT_OF_REACH = 100.0  # below every score of what meets the bound: no puzzle costs 10^100 operations
TIE = 1e-6  # of equally accurate settings the cheaper one: per power of ten


@dataclass(frozen=True)
class Report:
    """Metrics of a trial after `step` steps of it (an answering trial has one); `time`: seconds since 1970."""

    step: int
    time: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One configuration that is or has been tried."""

    number: int
    values: Values
    status: Status = "running"
    reason: str = ""
    reports: tuple[Report, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.status != "running"


@dataclass(frozen=True)
class Goal:
    """One metric of the reports, and whether much or little of it is wanted."""

    metric: str
    highest: bool = True

    def score(self, metrics: dict[str, float]) -> float:
        """More is better; a metric that is missing or NaN is the worst there is."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return -math.inf
        return value if self.highest else -value


def goal_of(text: str) -> Goal:
    """`highest METRIC` or `lowest METRIC`. UserError otherwise."""
    word, _, metric = text.partition(" ")
    if word not in ("highest", "lowest") or not metric.isidentifier():
        raise UserError(f"objective='{text}' is not allowed: highest METRIC or lowest METRIC, e.g. 'lowest token_loss'")
    return Goal(metric, word == "highest")


class AnswerGoal(Options):
    """Of a search over answers, exactly one bound: an `accuracy` (share of 1) to be reached at the least cost, or the
    mean `flops` per puzzle that may be spent for the best accuracy."""

    accuracy: float | None = option(None, "least FLOPs at it", gt=0, le=1)
    flops: float | None = option(None, "best accuracy at it", gt=0)

    @model_validator(mode="after")
    def _check(self) -> AnswerGoal:
        if (self.accuracy is None) == (self.flops is None):
            raise UserError("objective: either accuracy: (least FLOPs at it) or flops: (best accuracy at it)")
        return self

    def meets(self, accuracy: float, flops: float) -> bool:
        """Whether the bound is kept."""
        return accuracy >= self.accuracy if self.accuracy is not None else flops <= float(self.flops or 0)

    def score(self, accuracy: float, flops: float) -> float:
        """More is better. What misses the bound is below all that meets it, and better the less it misses."""
        cost = math.log10(flops)
        if self.accuracy is not None:
            return -cost if self.meets(accuracy, flops) else accuracy - 1 - OUT_OF_REACH
        if self.meets(accuracy, flops):
            return accuracy - TIE * cost
        return math.log10(float(self.flops or 0)) - cost - OUT_OF_REACH

    def __str__(self) -> str:
        if self.accuracy is not None:
            return f"least FLOPs at {self.accuracy:.2%} or more"
        return f"best accuracy at {self.flops:.3g} FLOPs a puzzle or fewer"


def score(trial: Trial, goal: Goal) -> float:
    """Of the last report; more is better. A trial that was lost is worth nothing, whatever it once was."""
    if not trial.reports or trial.status in LOST:
        return -math.inf
    return goal.score(trial.reports[-1].metrics)


def ranked(trials: Sequence[Trial], goal: Goal) -> list[Trial]:
    """Finished trials with a report, best first; of equals the earlier one."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.reports]
    return sorted(finished, key=lambda trial: (-score(trial, goal), trial.number))
