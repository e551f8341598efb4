"""Which trials end early: those that others leave behind, and those that have lost what they had learnt.

Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): at `first` steps, and at every `factor` times as
many, a trial goes on if it is among the best 1/`factor` of those that have come so far.

Why not Tune's: it draws brackets from numpy's global generator, ends trials at their last step before their model is
written, and cannot learn what an earlier run of the sweep has seen. Here the same reports in the same order give the
same decisions, however often the sweep was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from eqr_ray.search.trial import Goal, Report, Status, Trial

LOSS, ACCURACY = "token_loss", "validation_exact"
LEARNT = 0.1  # accuracy that can be lost
COLLAPSED = 0.1  # of the best accuracy: what is less has collapsed


class SuccessiveHalving:
    """Compares trials at `rungs`: steps before the last one, where nothing is left to be saved."""

    def __init__(self, first: int, factor: float, steps: int, goal: Goal) -> None:
        self.rungs: list[float] = []
        rung: float = first
        while rung < steps:
            self.rungs.append(rung)
            rung *= factor
        self._factor, self._steps, self._goal = factor, steps, goal
        self._scores: dict[float, dict[int, float]] = {}  # rung -> trial -> its score there
        self._decisions: dict[tuple[int, float], str | None] = {}

    def hear(self, trial: int, report: Report) -> str | None:
        """The reason to end the trial here, or None. A repeated report gets the same answer again."""
        passed = [rung for rung in self.rungs if rung <= report.step]
        if not passed or report.step >= self._steps:
            return None
        rung = passed[-1]
        if (trial, rung) not in self._decisions:
            scores = self._scores.setdefault(rung, {})
            scores[trial] = self._goal.score(report.metrics)
            self._decisions[trial, rung] = self._compared(scores, scores[trial], rung)
        return self._decisions[trial, rung]

    def _compared(self, scores: Mapping[int, float], own: float, rung: float) -> str | None:
        better = sum(score > own for score in scores.values())
        places = max(1, int(len(scores) / self._factor))
        if better < places:
            return None
        return f"{better} of {len(scores)} trials were better after {rung:g} steps, {places} of them go on"

    def recall(self, trials: Iterable[Trial]) -> None:
        """Hear what was reported before the sweep was interrupted, in the order of that time."""
        past = [(report.time, trial.number, report) for trial in trials for report in trial.reports]
        for _, number, report in sorted(past, key=lambda one: one[:2]):
            self.hear(number, report)


class EarlyStopping:
    """Hears the reports of all trials as they come, some of them twice, and says which trial ends."""

    def __init__(self, halving: SuccessiveHalving | None, collapse_factor: float | None) -> None:
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
    first, last = reports[0].metrics, reports[-1].metrics
    if LOSS in first and last.get(LOSS, 0.0) > factor * first[LOSS]:
        return f"the loss rose from {first[LOSS]:g} to {last[LOSS]:g}"
    best = max((r.metrics[ACCURACY] for r in reports if ACCURACY in r.metrics), default=0.0)
    if best >= LEARNT and last.get(ACCURACY, best) < COLLAPSED * best:
        return f"{ACCURACY} fell from {best:.2%} to {last[ACCURACY]:.2%}"
    return None
