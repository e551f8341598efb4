"""What a file under tune/ says: the space, how it is searched, what counts, and what every trial shares.

`door` names the keys that may vary: `train` (each trial is a training) or `infer` (each is one way to answer with a
given checkpoint).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.strict import from_dict, to_dict
from eqr_ray.search.answer_goal import AnswerGoal
from eqr_ray.search.early_stopping import Rungs
from eqr_ray.search.outcome import Goal, goal_of
from eqr_ray.search.space import Space, Values, space_of

# Keys of the doors that belong to the sweep itself, to its own keys or to the finals.
SWEEPS_OWN = {
    "train": (
        *("out", "resume", "recipe", "task", "data", "seed", "minutes", "workers", "device", "address", "wandb"),
        *("checkpoint_every", "validate_every", "keep_checkpoints"),
    ),
    "infer": (
        *("out", "checkpoint", "data", "calibration", "snapshots", "seed", "limit", "slots", "actors"),
        *("gpus_each", "address", "device", "compile"),
    ),
}
# What trainings report.
FIGURES = (
    *("loss", "token_loss", "halt_loss", "exact_accuracy", "token_accuracy", "halted_share", "halted_exact"),
    *("mean_age", "validation_exact", "validation_token_accuracy", "validation_halted_share"),
    "validation_halted_exact",
)
# What a network may change in the midst of its training.
IN_MIDST = (
    *("damping", "noise_scale", "init_std", "model.damping", "model.noise_scale", "model.init_std_H"),
    *("model.init_std_L", "learning_rate", "weight_decay", "exploration", "gradient_clipping", "ema", "halting"),
)


@dataclass(frozen=True)
class Algorithm:
    """How the next configuration is chosen.

    random, grid; tpe: Optuna's tree-structured Parzen estimator, after `startup` random ones; population: `members`
    train side by side for `generations`, after each of which the worst `quantile` go on from the best ones' weights
    with values that are redrawn with probability `resample`, else times or by `factor` (Jaderberg et al. 2017, arXiv
    1711.09846).
    """

    name: Literal["random", "grid", "tpe", "population"] = "random"
    startup: int = 10
    members: int = 8
    generations: int = 5
    quantile: float = 0.25
    resample: float = 0.25
    factor: float = 1.25

    def __post_init__(self) -> None:
        for name, least in (("startup", 1), ("members", 2), ("generations", 1)):
            if getattr(self, name) < least:
                raise UserError(f"algorithm.{name}={getattr(self, name)} is not allowed: at least {least}")
        if not 0 < self.quantile <= 0.5:
            raise UserError(f"algorithm.quantile={self.quantile:g} is not allowed: above 0, at most 0.5")
        if not 0 <= self.resample <= 1:
            raise UserError(f"algorithm.resample={self.resample:g} is not allowed: 0..1")
        if not self.factor > 1:
            raise UserError(f"algorithm.factor={self.factor:g} is not allowed: more than 1")


@dataclass(frozen=True)
class Scheduler:
    """Which trainings end early: none; asha, from `first` steps on the best 1/`factor` of each rung go on; hyperband,
    the same in `brackets`."""

    name: Literal["none", "asha", "hyperband"] = "none"
    first: int = 1
    factor: float = 3.0
    brackets: int = 3


@dataclass(frozen=True)
class SearchConfig:
    """A file under tune/, checked. `space_` and `first` as written; `space` and `points` are what they mean."""

    door: Literal["train", "infer"]
    space_: Mapping[str, Any]
    objective: tuple[str, ...] | Mapping[str, float]
    trials: int
    keys: Mapping[str, Any] = field(default_factory=dict)
    first: tuple[Mapping[str, Any], ...] = ()
    algorithm: Algorithm = field(default_factory=Algorithm)
    scheduler: Scheduler = field(default_factory=Scheduler)
    report_every: int = 0  # steps between the reports of a training
    collapse: float | None = (
        2.0  # a trial whose loss is so many times its first report's is lost; None: never looked at
    )

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"trials={self.trials} is not allowed: at least 1")
        if self.collapse is not None and not self.collapse > 1:
            raise UserError(f"collapse={self.collapse:g} is not allowed: more than 1, or null")
        space = self.space
        for number, values in enumerate(self.first):
            space.check(values, f"first[{number}]")
        if self.door == "train":
            self._check_training()
        else:
            self._check_inference()
        if self.algorithm.name == "grid":
            space.grid()

    @property
    def space(self) -> Space:
        return space_of(self.space_)

    @property
    def points(self) -> list[Values]:
        """What is tried before anything is drawn."""
        return [self.space.check(values, f"first[{number}]") for number, values in enumerate(self.first)]

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Of trials; the score of an inference trial is worked out beforehand (objective.py)."""
        return (Goal("score"),) if isinstance(self.objective, Mapping) else tuple(map(goal_of, self.objective))

    @property
    def answer_goal(self) -> AnswerGoal:
        assert isinstance(self.objective, Mapping)
        return from_dict(AnswerGoal, self.objective, "objective")

    @property
    def steps(self) -> int:
        """Of a whole training."""
        return int(self.keys["steps"])

    @property
    def rungs(self) -> Rungs | None:
        chosen = self.scheduler
        if chosen.name == "none":
            return None
        return Rungs(chosen.first, chosen.factor, self.steps, chosen.brackets if chosen.name == "hyperband" else 1)

    def _check_training(self) -> None:
        if isinstance(self.objective, Mapping) or not self.goals:
            raise UserError("objective: expected a list such as [highest validation_exact] for trainings")
        for goal in self.goals:
            if goal.figure not in FIGURES:
                raise UserError(f"objective: trainings report no '{goal.figure}'{nearest(goal.figure, FIGURES)}")
        steps = self.keys.get("steps")
        if type(steps) is not int or steps < 1:
            raise UserError("keys.steps must be given: a whole number, the length of a whole training")
        if not 1 <= self.report_every <= steps:
            raise UserError(f"report_every={self.report_every} is not allowed: 1 .. steps={steps}")
        _ = self.rungs  # its own checks
        if self.algorithm.name != "population":
            return
        if self.scheduler.name != "none":
            raise UserError(f"scheduler.name={self.scheduler.name} does not go with a population, which has its own")
        if self.keys.get("cooldown"):
            raise UserError(
                f"keys.cooldown={self.keys['cooldown']} does not go with a population, which trains in legs"
            )
        leg, rest = divmod(steps, self.algorithm.generations)
        if rest or leg % self.report_every:
            raise UserError(
                f"steps={steps} must be a multiple of algorithm.generations={self.algorithm.generations}, and their "
                f"quotient one of report_every={self.report_every}"
            )
        for name in self.space.names:
            if name not in IN_MIDST:
                raise UserError(f"space.{name} cannot change in the midst of a training; can: {', '.join(IN_MIDST)}")

    def _check_inference(self) -> None:
        if not isinstance(self.objective, Mapping):
            raise UserError("objective: expected {accuracy: X} (least FLOPs) or {flops: X} (best accuracy) for infer")
        from_dict(AnswerGoal, self.objective, "objective")
        if self.scheduler.name != "none" or self.algorithm.name == "population":
            raise UserError("scheduler and algorithm.name=population are for trainings: answering has no middle")


def search_of(raw: Mapping[str, Any]) -> SearchConfig:
    """From a file's content. UserError names what is wrong."""
    if "space" not in raw:
        raise UserError("space is missing: the keys that vary, e.g. damping: {uniform: [0.0, 0.5]}")
    if not isinstance(raw["space"], Mapping):
        raise UserError(f"space={json.dumps(raw['space'])}: expected a group of keys")
    return from_dict(
        SearchConfig, {**{key: value for key, value in raw.items() if key != "space"}, "space_": raw["space"]}
    )


def written(config: SearchConfig) -> dict[str, Any]:
    """The file again, with every default."""
    values = to_dict(config)
    return {"door": values.pop("door"), "space": values.pop("space_"), **values}


def check_names(config: SearchConfig, known: Mapping[str, Any], groups: Mapping[str, tuple[str, ...]]) -> None:
    """UserError: a key that the door does not have, that the sweep sets itself, that is fixed and varied, or that sets
    another one. `known`: the door's keys; `groups`: knob -> the keys that it sets too."""
    own, space = SWEEPS_OWN[config.door], config.space.names
    for where, names in (("space", space), ("keys", config.keys)):
        for name in names:
            if name in own:
                raise UserError(f"{where}.{name} belongs to the sweep and not to its trials")
            if name not in known:
                raise UserError(f"{where}: eqr_ray.{config.door} has no key '{name}'{nearest(name, known)}")
    both = [name for name in space if name in config.keys]
    if both:
        raise UserError(f"keys.{both[0]} is fixed, and space.{both[0]} varies")
    for knob, parts in groups.items():
        clash = [name for name in parts if name in space or name in config.keys]
        if clash and (knob in space or knob in config.keys):
            raise UserError(f"{knob} sets {clash[0]} too: one of them only")
