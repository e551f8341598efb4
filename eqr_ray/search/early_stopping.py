"""Early ends: trials that others leave behind (successive halving), and trials that have lost what they had learnt.

Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): at `first` steps, and at every `factor` times as
many, a trial goes on if it is among the best 1/`factor` of those that have come so far. Hyperband (Li et al. 2017,
arXiv 1603.06560) hedges against late bloomers: trials take turns in brackets whose first rung lies higher.

Why not Tune's: its brackets are drawn from numpy's global generator, it ends trials at their last step too, before
their model is written, and what an earlier sitting has seen cannot be told to it. Here the same reports in the same
order give the same decisions, in one sitting or in ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eqr_ray.config.errors import UserError
from eqr_ray.search.outcome import Goal, Report, Scores, Status, Trial

LOSS = "token_loss"
ACCURACY = "validation_exact"
LEARNT = 0.1  # accuracy that can be lost
LOST = 0.1  # of the best accuracy: what is less has collapsed


@dataclass(frozen=True)
class Rungs:
    """The steps at which trials are compared. `brackets`: 1 is ASHA, more are Hyperband."""

    first: int
    factor: float
    steps: int  # of a whole trial
    brackets: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.first < self.steps:
            raise UserError(f"scheduler.first={self.first} is not allowed: 1 .. steps={self.steps} - 1")
        if not self.factor > 1:
            raise UserError(f"scheduler.factor={self.factor:g} is not allowed: more than 1")
        if self.brackets < 1 or not self.of(self.brackets - 1):
            raise UserError(
                f"scheduler.brackets={self.brackets} is not allowed: 1 or more, and the last one's first rung, "
                f"{self.first * self.factor ** (self.brackets - 1):g} steps, before steps={self.steps}"
            )

    def of(self, bracket: int) -> list[float]:
        """The rungs of a bracket, lowest first; none at the last step, where nothing is left to be saved."""
        rungs, at = [], self.first * self.factor**bracket
        while at < self.steps:
            rungs.append(at)
            at *= self.factor
        return rungs


class Halving:
    """Hears of every report and says which trial shall end."""

    def __init__(self, rungs: Rungs, goals: Sequence[Goal]) -> None:
        self._rungs, self._goals = rungs, goals
        # (bracket, rung) -> trial -> its scores: early on the first goal is 0 for all, and the next one tells
        self._seen: dict[tuple[int, float], dict[int, Scores]] = {}
        self._said: dict[tuple[int, float], str | None] = {}

    def hear(self, trial: int, report: Report) -> str | None:
        """The reason to end the trial here, or None. Who is heard again at a rung is told again what he was told."""
        bracket = trial % self._rungs.brackets
        passed = [rung for rung in self._rungs.of(bracket) if rung <= report.step]
        if not passed or report.step >= self._rungs.steps:
            return None
        rung = passed[-1]
        if (trial, rung) not in self._said:
            seen = self._seen.setdefault((bracket, rung), {})
            seen[trial] = tuple(goal.score(report.figures) for goal in self._goals)
            self._said[trial, rung] = self._compared(seen, seen[trial], rung)
        return self._said[trial, rung]

    def _compared(self, seen: Mapping[int, Scores], own: Scores, rung: float) -> str | None:
        better = sum(score > own for score in seen.values())
        places = max(1, int(len(seen) / self._rungs.factor))
        if better < places:
            return None
        return f"{better} of {len(seen)} trials were better after {rung:g} steps, {places} of them go on"

    def recall(self, trials: Iterable[Trial]) -> None:
        """Hear what earlier sittings have reported, in the order of that time."""
        past = [(report.time, trial.number, report) for trial in trials for report in trial.reports]
        for _, number, report in sorted(past, key=lambda one: one[:2]):
            self.hear(number, report)


class Judge:
    """Who ends early, and why: hears the reports of all trials as they come, some of them twice."""

    def __init__(self, halving: Halving | None, collapse_factor: float | None) -> None:
        self._halving, self._factor = halving, collapse_factor
        self._reports: dict[int, list[Report]] = {}

    def hear(self, trial: int, report: Report) -> tuple[Status, str] | None:
        """How the trial ends here, or None: it goes on."""
        reports = self._reports.setdefault(trial, [])
        if not reports or report.step > reports[-1].step:
            reports.append(report)
            reason = None if self._factor is None else collapse(reports, self._factor)
            if reason is not None:
                return "collapsed", reason
        reason = None if self._halving is None else self._halving.hear(trial, report)
        return None if reason is None else ("stopped", reason)


def collapse(reports: Sequence[Report], factor: float) -> str | None:
    """Why the last report is a collapse, or None: a loss `factor` times that of the first report, or nearly all
    accuracy gone. (Small losses jump about by such factors without harm: the best one is no measure.)"""
    first, last = reports[0].figures, reports[-1].figures
    if LOSS in first and last.get(LOSS, 0.0) > factor * first[LOSS]:
        return f"the loss rose from {first[LOSS]:g} to {last[LOSS]:g}"
    best = max((r.figures[ACCURACY] for r in reports if ACCURACY in r.figures), default=0.0)
    if best >= LEARNT and last.get(ACCURACY, best) < LOST * best:
        return f"{ACCURACY} fell from {best:.2%} to {last[ACCURACY]:.2%}"
    return None
