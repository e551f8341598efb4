"""What is tried next: a function of the space, the seed, the trial's number and the trials so far.

Nothing else is kept: a sweep that was killed, or is extended by more trials, goes on as it would have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from eqr_ray.config.errors import extra
from eqr_ray.search.space import Space, Values
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.trial import Trial
from eqr_ray.search.trial_dirs import Plan, Trials
from eqr_ray.storage.run_log import RunLog


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
        with extra("search", "algorithm.name=tpe"):
            # lazy: Optuna is an optional part
            from eqr_ray.search.optuna_study import suggest  # noqa: PLC0415
        return suggest(config.space, config.goal, seed, number, list(history.values()))
    return drawn(config.space, seed, number)


def drawn(space: Space, seed: int, *key: int) -> Values:
    """A random point of the space, keyed by (seed, key)."""
    return space.at(np.random.default_rng([seed, *key]).random(len(space.names)).tolist())


def _grid(config: SearchConfig) -> list[Values]:
    """`first`, then all the rest of the grid."""
    return [*config.points, *(values for values in config.space.grid() if values not in config.points)]


class Queue:
    """Deals out the trials of `numbers` in order: those that are not over, then new ones, each begun by writing its
    `plan(number, history)`. `history`: the trials so far, by number."""

    def __init__(
        self,
        trials: Trials,
        numbers: Iterable[int],
        plan: Callable[[int, Mapping[int, Trial]], Plan],
        log: RunLog | None = None,
    ) -> None:
        self.trials, self.history, self._plan = trials, trials.all(), plan
        self._log = RunLog(None) if log is None else log
        self._left = [n for n in numbers if n not in self.history or not self.history[n].is_over]

    @property
    def is_empty(self) -> bool:
        return not self._left

    def next(self) -> int | None:
        """The number of the next trial, which is now begun; None: nothing is left."""
        if not self._left:
            return None
        number = self._left[0]
        if number not in self.history:
            self.trials.write_plan(self._plan(number, self.history))
            self.history[number] = self.trials.read(number)
        self._log.log("trial_begun", trial=self._name(number), values=self.history[number].values)
        return self._left.pop(0)

    def _name(self, number: int) -> str:
        return f"{self.trials.path.name}/{self.trials.folder(number).name}"

    def again(self, number: int) -> None:
        """A trial did not come to its end: it is the next."""
        self._left.insert(0, number)

    def over(self, number: int) -> Trial:
        """Look again at a trial that has ended."""
        trial = self.history[number] = self.trials.read(number)
        step, metrics = (trial.reports[-1].step, trial.reports[-1].metrics) if trial.reports else (None, {})
        about = {"trial": self._name(number), "status": trial.status, "reason": trial.reason}
        self._log.log("trial_over", step, **about, metrics=metrics)
        return trial
