"""What Optuna does for a sweep: proposals by its tree-structured Parzen estimator, and the importance of parameters.

Optuna's storage does not carry the sweep: a sampler that goes on from it has another random state than the one that was
killed. So each question gets a new study, made from the folder's trials and a generator keyed by seed and number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from eqr_ray.search.space import Parameter, Space, Value, Values
from eqr_ray.search.study import MetricGoal
from eqr_ray.search.trials import Trial, score

FEWEST = 4  # finished trials with a parameter, before its importance is estimated
BEST = 0.3  # of the trials: a tenth of some dozens, Optuna's default, is too few to tell


def suggest(space: Space, goal: MetricGoal, seed: int, number: int, history: Sequence[Trial]) -> Values:
    """What the tree-structured Parzen estimator (Bergstra et al. 2011) tries after the trials of `history`; those that
    still run are taken for bad ones (constant liar)."""
    sampler = TPESampler(n_startup_trials=1, seed=(seed * 1_000_003 + number) % 2**32)
    asked = _study(space, goal, history, sampler).ask()
    values: Values = {}
    for one in space:
        if space.is_active(one, values):
            values[one.name] = _ask(asked, one)
    return values


def importances(space: Space, goal: MetricGoal, trials: Sequence[Trial]) -> dict[str, float]:
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


def _study(space: Space, goal: MetricGoal, history: Sequence[Trial], sampler: BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = optuna.create_study(direction="maximize", sampler=sampler)
    scores = [score(trial, goal) for trial in history if trial.is_over]
    worst = min((one for one in scores if math.isfinite(one)), default=0.0)  # what a lost trial counts as
    for trial in sorted(history, key=lambda trial: trial.number):
        study.add_trial(_frozen(space, trial, goal, worst))
    return study


def _frozen(space: Space, trial: Trial, goal: MetricGoal, worst: float) -> FrozenTrial:
    own = score(trial, goal)
    return create_trial(
        state=TrialState.COMPLETE if trial.is_over else TrialState.RUNNING,
        value=(own if math.isfinite(own) else worst) if trial.is_over else None,
        params=dict(trial.values),
        distributions={name: _distribution(space[name]) for name in trial.values},
    )


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
