"""What has become of a trial: its reports, how it ended, and what that is worth.

Why here: proposals, early ends, winners, tables and figures all read these two records, wherever trials ran.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from eqr_ray.config.errors import UserError
from eqr_ray.search.space import Values

# running: begun, and to be continued; stopped: given up for better trials; diverged: the loss is no number; collapsed:
# it had learnt something, and lost it; failed: a fault of ours or of the machine
Status = Literal["running", "finished", "stopped", "diverged", "collapsed", "failed"]


@dataclass(frozen=True)
class Report:
    """Figures of a trial after `step` steps of it (an inference trial has one); `time`: seconds since 1970."""

    step: int
    time: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One configuration that is or has been tried. `parent`: the trial whose checkpoint it began with, and at which
    step (a population's; else None, 0)."""

    number: int
    values: Values
    status: Status = "running"
    reason: str = ""
    reports: tuple[Report, ...] = field(default=())
    parent: int | None = None
    begin: int = 0

    @property
    def is_over(self) -> bool:
        return self.status != "running"


@dataclass(frozen=True)
class Goal:
    """One figure of the reports, and whether much or little of it is wanted."""

    figure: str
    highest: bool = True

    def score(self, figures: dict[str, float]) -> float:
        """More is better; nothing and NaN are the worst there is."""
        value = figures.get(self.figure, math.nan)
        if not math.isfinite(value):
            return -math.inf
        return value if self.highest else -value

    def __str__(self) -> str:
        return f"{'highest' if self.highest else 'lowest'} {self.figure}"


def goal_of(text: str) -> Goal:
    """`highest FIGURE` or `lowest FIGURE`. UserError otherwise."""
    word, _, figure = text.partition(" ")
    if word not in ("highest", "lowest") or not figure.isidentifier():
        raise UserError(f"objective='{text}' is not allowed: highest FIGURE or lowest FIGURE, e.g. 'lowest token_loss'")
    return Goal(figure, word == "highest")


Scores = tuple[float, ...]


def scores(trial: Trial, goals: Sequence[Goal]) -> Scores:
    """Of the last report, by goal; more is better. A trial that was lost is worth nothing, whatever it once was."""
    if not trial.reports or trial.status in ("diverged", "collapsed", "failed"):
        return (-math.inf,) * len(goals)
    return tuple(goal.score(trial.reports[-1].figures) for goal in goals)


def ranked(trials: Sequence[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """Finished trials, best first: by the first goal, then by the next, then the earlier trial."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return sorted(finished, key=lambda trial: (*(-score for score in scores(trial, goals)), trial.number))


def front(trials: Sequence[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """Finished trials that no other one equals in all goals and beats in one, by number."""
    points = [(trial, scores(trial, goals)) for trial in trials if trial.status == "finished"]
    return [trial for trial, own in points if not any(_beats(other, own) for _, other in points)]


def _beats(one: Scores, other: Scores) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
