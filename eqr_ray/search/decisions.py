"""What is tried next, and which trials end early: decisions that follow from the search, a seed and the trials so far.

Nothing else is kept: a sweep that was killed, or is extended by more trials, goes on as it would have gone.

Early stopping is asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): at `first` steps, and at every
`factor` times as many, a trial goes on if it is among the best 1/`factor` of those that have come so far. Tune's own
draws brackets from numpy's global generator, ends trials at their last step before their model is written, and cannot
learn what an earlier run of the sweep has seen. Here the same reports in the same order give the same decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from eqr_ray.search.space import Space, Values
from eqr_ray.search.study import MetricGoal, SearchConfig
from eqr_ray.search.trials import Report, Status, Trial

LOSS, ACCURACY = "token_loss", "validation_exact"
LEARNT = 0.1  # accuracy that can be lost
COLLAPSED = 0.1  # of the best accuracy: what is less has collapsed


def most_trials(config: SearchConfig) -> int | None:
    """How many trials there can be at all; None: as many as are wanted."""
    return len(_grid(config)) if config.algorithm.name == "grid" else None


def propose(config: SearchConfig, seed: int, number: int, history: Mapping[int, Trial]) -> Values:
    """The values of trial `number`. `history`: the trials so far, by number; only `tpe` looks at them."""
    if config.algorithm.name == "grid":
        return _grid(config)[number]
    if number < len(config.points):
        return config.points[number]
    if config.algorithm.name == "tpe" and number >= config.algorithm.startup:
        # lazy: Optuna is an optional part, without which no sweep begins
        from eqr_ray.search.optuna_study import suggest  # noqa: PLC0415

        return suggest(config.space, config.goal, seed, number, list(history.values()))
    return drawn(config.space, seed, number)


def drawn(space: Space, seed: int, *key: int) -> Values:
    """A random point of the space, keyed by (seed, key)."""
    return space.at(np.random.default_rng([seed, *key]).random(len(space.names)).tolist())


def _grid(config: SearchConfig) -> list[Values]:
    """`first`, then all the rest of the grid."""
    return [*config.points, *(values for values in config.space.grid() if values not in config.points)]


class SuccessiveHalving:
    """Compares trials at `rungs`: steps before the last one, where nothing is left to be saved."""

    def __init__(self, first: int, factor: float, steps: int, goal: MetricGoal) -> None:
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
        at = trial, passed[-1]
        if at not in self._decisions:
            scores = self._scores.setdefault(passed[-1], {})
            scores[trial] = self._goal.score(report.metrics)
            places = max(1, int(len(scores) / self._factor))
            better = sum(one > scores[trial] for one in scores.values())
            words = f"{better} of {len(scores)} trials were better after {passed[-1]:g} steps, {places} of them go on"
            self._decisions[at] = None if better < places else words
        return self._decisions[at]

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

    @staticmethod
    def of(search: SearchConfig, history: Iterable[Trial]) -> EarlyStopping:
        """As the search says, after the trials of `history`."""
        if search.scheduler.name == "none":
            return EarlyStopping(None, search.collapse)
        halving = SuccessiveHalving(search.scheduler.first, search.scheduler.factor, search.keys["steps"], search.goal)
        halving.recall(history)
        return EarlyStopping(halving, search.collapse)

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
