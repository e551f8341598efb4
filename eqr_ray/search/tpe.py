"""The tree-structured Parzen estimator (Bergstra et al. 2011), and which parameter matters: both Optuna's. The
only file that knows it.

A study is made anew for every question, from the trials that are there, so that an answer depends on them, the seed
and the number of the trial alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from eqr_ray.search.outcome import Goal, Trial, scores
from eqr_ray.search.space import Parameter, Space, Value, Values

FEWEST = 4  # finished trials with a parameter, before one may ask what it matters
BEST = 0.3  # of the trials: a tenth of some dozens, Optuna's default, is too few to tell


def suggest(space: Space, goals: Sequence[Goal], seed: int, number: int, history: Sequence[Trial]) -> Values:
    """What to try after the trials of `history`, of which those that run are taken for bad ones (constant liar)."""
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=(seed * 1_000_003 + number) % 2**32)
    study = _study(space, goals, history, sampler)
    asked = study.ask()
    values: Values = {}
    for one in space:
        if not space.is_active(one, values):
            continue
        value = _ask(asked, one)
        values[one.name] = value if one.kind in ("choice", "integer") else one.moved(value, 1.0)
    return values


def importances(space: Space, goal: Goal, history: Sequence[Trial]) -> dict[str, float]:
    """Share of 1 of every parameter in what tells the best trials from the others (PED-ANOVA, Watanabe et al. 2023,
    arXiv 2304.10255), greatest first; without parameters of which too few trials are known."""
    finished = [trial for trial in history if trial.status == "finished"]
    known = [name for name in space.names if sum(name in trial.values for trial in finished) >= FEWEST]
    varied = [name for name in known if len({str(trial.values.get(name)) for trial in finished}) > 1]
    rated = {scores(trial, [goal]) for trial in finished}
    if not varied or len(rated) < 2:
        return {}
    whole = [trial for trial in finished if all(name in trial.values for name in varied)]
    if len(whole) < FEWEST:
        return {}
    study = _study(space, [goal], whole, optuna.samplers.RandomSampler(seed=0))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied))


def _study(
    space: Space, goals: Sequence[Goal], history: Sequence[Trial], sampler: optuna.samplers.BaseSampler
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = optuna.create_study(directions=["maximize"] * len(goals), sampler=sampler)
    worst = _worst(goals, history)
    for trial in sorted(history, key=lambda trial: trial.number):
        study.add_trial(_told(space, trial, goals, worst))
    return study


def _worst(goals: Sequence[Goal], history: Sequence[Trial]) -> list[float]:
    """By goal, what a lost trial is told as: no better than the worst that is known."""
    known = [scores(trial, goals) for trial in history if trial.is_over]
    return [min((one[at] for one in known if math.isfinite(one[at])), default=0.0) for at in range(len(goals))]


def _told(space: Space, trial: Trial, goals: Sequence[Goal], worst: Sequence[float]) -> FrozenTrial:
    parts: Mapping[str, Any] = {
        "params": dict(trial.values),
        "distributions": {name: _distribution(space[name]) for name in trial.values},
    }
    if not trial.is_over:
        return create_trial(state=TrialState.RUNNING, **parts)
    own = scores(trial, goals)
    return create_trial(values=[s if math.isfinite(s) else w for s, w in zip(own, worst, strict=True)], **parts)


def _distribution(one: Parameter) -> BaseDistribution:
    if one.kind == "choice":
        return CategoricalDistribution(one.choices)
    if one.kind == "integer":
        return IntDistribution(int(one.low), int(one.high))
    return FloatDistribution(one.low, one.high, log=one.kind == "log")


def _ask(asked: optuna.Trial, one: Parameter) -> Value:
    value: Value
    if one.kind == "choice":
        value = asked.suggest_categorical(one.name, one.choices)
    elif one.kind == "integer":
        value = asked.suggest_int(one.name, int(one.low), int(one.high))
    else:
        value = asked.suggest_float(one.name, one.low, one.high, log=one.kind == "log")
    return value
