"""A file under tune/: which keys vary, how they are searched, what counts, and what all trials share.

`command` names whose keys they are: `train` (each trial is a training) or `infer` (each is one way to answer with a
given checkpoint).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.schema import Options, about, leaves, option
from eqr_ray.search.early_stopping import SuccessiveHalving
from eqr_ray.search.space import Space, Values, space_of
from eqr_ray.search.trial import AnswerGoal, Goal, goal_of

# What trainings report.
METRICS = (
    *("loss", "token_loss", "halt_loss", "exact_accuracy", "token_accuracy", "halted_share", "halted_exact"),
    *("mean_age", "validation_exact", "validation_token_accuracy", "validation_halted_share"),
    "validation_halted_exact",
)
REMOVED = {"algorithm": "population", "scheduler": "hyperband"}


class Algorithm(Options):
    """How the next configuration is chosen: at random, from a grid, or by Optuna's tree-structured Parzen estimator
    after `startup` random ones."""

    name: Literal["random", "grid", "tpe"] = option("random", "random, grid or tpe")
    startup: int = option(10, "tpe: random ones before it", ge=1)


class Scheduler(Options):
    """Which trainings end early: none; asha: at `first` steps, and at every `factor` times as many, the best 1/`factor`
    go on."""

    name: Literal["none", "asha"] = option("none", "none or asha")
    first: int = option(1, "asha: steps before the first comparison")
    factor: float = option(3.0, "asha: the best 1/factor go on", gt=1)


class SearchConfig(Options):
    """A file under tune/, checked. `space_` and `first` as written; `space` and `points` are what they mean."""

    command: Literal["train", "infer"] = option(..., "whose keys vary")
    space_: Mapping[str, Any] = option(..., "the keys that vary")
    objective: str | Mapping[str, float] = option(..., "what counts")
    trials: int = option(..., "how many", ge=1)
    keys: Mapping[str, Any] = option({}, "what all trials share")
    first: tuple[Mapping[str, Any], ...] = option((), "what is tried before anything is drawn")
    algorithm: Algorithm = option(Algorithm(), "how the next one is chosen")
    scheduler: Scheduler = option(Scheduler(), "which trainings end early")
    report_every: int = option(0, "steps between the reports of a training")
    collapse: float | None = option(
        2.0, "a loss so many times that of the first report ends the trial; null: never", gt=1, inf=True
    )

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        _ = self.space, self.points  # their own checks
        if self.command == "train":
            self._check_training()
        elif not isinstance(self.objective, Mapping):
            raise UserError("objective: expected {accuracy: X} (least FLOPs) or {flops: X} (best accuracy) for infer")
        elif self.scheduler.name != "none":
            raise UserError(f"scheduler.name={self.scheduler.name} is for trainings: answering has no middle")
        else:
            _ = self.answer_goal
        if self.algorithm.name == "grid":
            self.space.grid()
        return self

    def _check_training(self) -> None:
        if not isinstance(self.objective, str):
            raise UserError("objective: expected words such as 'highest validation_exact' for trainings")
        if self.goal.metric not in METRICS:
            raise UserError(f"objective: trainings report no '{self.goal.metric}'{nearest(self.goal.metric, METRICS)}")
        steps = self.keys.get("steps")
        if type(steps) is not int or steps < 1:
            raise UserError("keys.steps must be given: a whole number, the length of a whole training")
        if not 1 <= self.report_every <= steps:
            raise UserError(f"report_every={self.report_every} is not allowed: 1 .. steps={steps}")
        if self.scheduler.name == "asha" and not 1 <= self.scheduler.first < steps:
            raise UserError(f"scheduler.first={self.scheduler.first} is not allowed: 1 .. steps={steps} - 1")

    @property
    def space(self) -> Space:
        return space_of(self.space_)

    @property
    def points(self) -> list[Values]:
        """What is tried before anything is drawn."""
        return [self.space.check(values, f"first[{number}]") for number, values in enumerate(self.first)]

    @property
    def goal(self) -> Goal:
        """Of trials; the score of an answering trial is worked out when it reports (answering_trial.py)."""
        return goal_of(self.objective) if isinstance(self.objective, str) else Goal("score")

    @property
    def answer_goal(self) -> AnswerGoal:
        assert isinstance(self.objective, Mapping)
        return AnswerGoal.parse(self.objective, "objective")

    @property
    def steps(self) -> int:
        """Of a whole training; 0 for answers."""
        return int(self.keys["steps"]) if self.command == "train" else 0

    def halving(self) -> SuccessiveHalving | None:
        """A new scheduler, which has heard nothing yet."""
        chosen = self.scheduler
        return SuccessiveHalving(chosen.first, chosen.factor, self.steps, self.goal) if chosen.name == "asha" else None


def search_of(raw: Mapping[str, Any]) -> SearchConfig:
    """From a file's content. UserError names what is wrong."""
    values = dict(raw)
    if "door" in values:
        raise UserError(f"door={values['door']}: the key is called command now")
    for group, word in REMOVED.items():
        if isinstance(values.get(group), Mapping) and values[group].get("name") == word:
            raise UserError(f"{group}.name={word} was removed: no measurement supported it (docs/log.md)")
    objective = values.get("objective")
    if isinstance(objective, list) and len(objective) == 1:
        values["objective"] = objective[0]
    elif isinstance(objective, list):
        raise UserError(
            f"objective={json.dumps(objective)}: several objectives at once were removed (docs/log.md): expected one, "
            "such as 'highest validation_exact'"
        )
    if not isinstance(values.get("space"), Mapping):
        words = "the keys that vary, e.g. {damping: {uniform: [0.0, 0.5]}}"
        raise UserError(f"space={json.dumps(values.get('space'))}: expected {words}")
    space = values.pop("space")
    return SearchConfig.parse({**values, "space_": space})


def written(config: SearchConfig) -> dict[str, Any]:
    """The file again, with every default."""
    values = config.to_dict()
    return {"command": values.pop("command"), "space": values.pop("space_"), **values}


def keys_of(options: type[Options]) -> dict[str, bool]:
    """The keys of a command, and whether a search may name them."""
    return {key: about(field)["sweep"] for key, field in (*leaves(options), *options.model_fields.items())}


def check_names(config: SearchConfig, known: Mapping[str, bool], groups: Mapping[str, tuple[str, ...]]) -> None:
    """UserError: a key that no trial has, that the sweep sets itself, that is fixed and varied, or that sets another
    one. `known`: the keys of trials, and whether a search may name them; `groups`: knob -> what it sets."""
    space = config.space.names
    for where, names in (("space", space), ("keys", config.keys)):
        for name in names:
            if name not in known:
                raise UserError(f"{where}: trials of {config.command} have no key '{name}'{nearest(name, known)}")
            if not known[name]:
                raise UserError(f"{where}.{name} belongs to the sweep and not to its trials")
    both = [name for name in space if name in config.keys]
    if both:
        raise UserError(f"keys.{both[0]} is fixed, and space.{both[0]} varies")
    for knob, parts in groups.items():
        clash = [name for name in parts if name in space or name in config.keys]
        if clash and (knob in space or knob in config.keys):
            raise UserError(f"{knob} sets {clash[0]} too: one of them only")
