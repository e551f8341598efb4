"""What is tried next: a function of the space, the seed, the trial's number and the trials so far. The only file that
knows Optuna.

Nothing else is kept: a sweep that was killed, or is extended by more trials, goes on as it would have gone. That is why
Optuna's storage does not carry the sweep: a sampler that goes on from it has another random state than the one that was
killed. So each question gets a new study, made from the folder's trials and a generator keyed by seed and number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from eqr_ray.search.space import Parameter, Space, Value, Values
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.trial import Goal, Trial, score
from eqr_ray.search.trial_dirs import Plan, Trials
from eqr_ray.storage.run_log import RunLog

FEWEST = 4  # finished trials with a parameter, before its importance is estimated
BEST = 0.3  # of the trials: a tenth of some dozens, Optuna's default, is too few to tell


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


def suggest(space: Space, goal: Goal, seed: int, number: int, history: Sequence[Trial]) -> Values:
    """What the tree-structured Parzen estimator (Bergstra et al. 2011) tries after the trials of `history`; those that
    still run are taken for bad ones (constant liar)."""
    sampler = TPESampler(n_startup_trials=1, seed=(seed * 1_000_003 + number) % 2**32)
    asked = _study(space, goal, history, sampler).ask()
    values: Values = {}
    for one in space:
        if space.is_active(one, values):
            values[one.name] = _ask(asked, one)
    return values


def importances(space: Space, goal: Goal, trials: Sequence[Trial]) -> dict[str, float]:
    """Share of 1 of every parameter in what tells the best trials from the others (PED-ANOVA, Watanabe et al. 2023,
    arXiv 2304.10255), greatest first; without parameters that too few finished trials have."""
    finished = [trial for trial in trials if trial.status == "finished"]
    often = [name for name in space.names if sum(name in trial.values for trial in finished) >= FEWEST]
    varied = [name for name in often if len({str(trial.values.get(name)) for trial in finished}) > 1]
    whole = [trial for trial in finished if all(name in trial.values for name in varied)]
    if not varied or len({score(trial, goal) for trial in finished}) < 2 or len(whole) < FEWEST:
        return {}
    study = _study(space, goal, whole, RandomSampler(seed=0))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied))


def _study(space: Space, goal: Goal, history: Sequence[Trial], sampler: BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = optuna.create_study(direction="maximize", sampler=sampler)
    scores = [score(trial, goal) for trial in history if trial.is_over]
    worst = min((one for one in scores if math.isfinite(one)), default=0.0)  # what a lost trial counts as
    for trial in sorted(history, key=lambda trial: trial.number):
        study.add_trial(_frozen(space, trial, goal, worst))
    return study


def _frozen(space: Space, trial: Trial, goal: Goal, worst: float) -> FrozenTrial:
    params = dict(trial.values)
    distributions = {name: _distribution(space[name]) for name in trial.values}
    if not trial.is_over:
        return create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
    own = score(trial, goal)
    return create_trial(value=own if math.isfinite(own) else worst, params=params, distributions=distributions)


def _distribution(one: Parameter) -> BaseDistribution:
    if one.kind == "choice":
        return CategoricalDistribution(one.choices)
    if one.kind == "integer":
        return IntDistribution(int(one.low), int(one.high))
    return FloatDistribution(one.low, one.high, log=one.kind == "log")


def _ask(asked: optuna.Trial, one: Parameter) -> Value:
    if one.kind == "choice":
        value: Value = asked.suggest_categorical(one.name, one.choices)
        return value
    if one.kind == "integer":
        return asked.suggest_int(one.name, int(one.low), int(one.high))
    return one.rounded(asked.suggest_float(one.name, one.low, one.high, log=one.kind == "log"))
