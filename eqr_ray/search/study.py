"""What a sweep is asked for: a file under tune/ (which keys vary, how they are searched, what counts, what all trials
share) and the options of the command.

The file's `command` says whose keys they are: `train` (each trial is a training) or `infer` (each is one way to answer
with a given checkpoint).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.schema import Options, about, leaves, option, plain
from eqr_ray.inference.settings import ActorOptions
from eqr_ray.search.space import Space, Values, space_of
from eqr_ray.storage.run_log import WandbMode

# What trainings report.
METRICS = (
    *("loss", "token_loss", "halt_loss", "exact_accuracy", "token_accuracy", "halted_share", "halted_exact"),
    *("mean_age", "validation_exact", "validation_token_accuracy", "validation_halted_share"),
    "validation_halted_exact",
)
REMOVED = "no measurement supported it (docs/log.md)"
OUT_OF_REACH = 100.0  # below every score of what meets the bound: no puzzle costs 10^100 operations
TIE = 1e-6  # of equally accurate settings the cheaper one: per power of ten
MOST_SEEDS = 99  # of a final: folder 00701 is trial 7 with the first fresh seed


@dataclass(frozen=True)
class MetricGoal:
    """One metric of the reports, and whether much or little of it is wanted."""

    metric: str
    highest: bool = True

    def score(self, metrics: Mapping[str, float]) -> float:
        """More is better; a metric that is missing or NaN is the worst there is."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return -math.inf
        return value if self.highest else -value


def goal_of(text: str) -> MetricGoal:
    """`highest METRIC` or `lowest METRIC`. UserError otherwise."""
    word, _, metric = text.partition(" ")
    if word not in ("highest", "lowest") or not metric.isidentifier():
        raise UserError(f"objective='{text}' is not allowed: highest METRIC or lowest METRIC, e.g. 'lowest token_loss'")
    return MetricGoal(metric, word == "highest")


class AnswerGoal(Options):
    """Of a search over answers, exactly one bound: an `accuracy` (share of 1) to be reached at the least cost, or the
    mean `flops` per puzzle that may be spent for the best accuracy."""

    accuracy: float | None = option(None, "least FLOPs at it", gt=0, le=1)
    flops: float | None = option(None, "best accuracy at it", gt=0)

    @model_validator(mode="after")
    def _check(self) -> AnswerGoal:
        if (self.accuracy is None) == (self.flops is None):
            raise UserError("objective: either accuracy: (least FLOPs at it) or flops: (best accuracy at it)")
        return self

    def meets(self, accuracy: float, flops: float) -> bool:
        """Whether the bound is kept."""
        return accuracy >= self.accuracy if self.accuracy is not None else flops <= float(self.flops or 0)

    def score(self, accuracy: float, flops: float) -> float:
        """More is better. What misses the bound is below all that meets it, and better the less it misses."""
        cost = math.log10(flops)
        if self.accuracy is not None:
            return -cost if self.meets(accuracy, flops) else accuracy - 1 - OUT_OF_REACH
        if self.meets(accuracy, flops):
            return accuracy - TIE * cost
        return math.log10(float(self.flops or 0)) - cost - OUT_OF_REACH

    def __str__(self) -> str:
        if self.accuracy is not None:
            return f"least FLOPs at {self.accuracy:.2%} or more"
        return f"best accuracy at {self.flops:.3g} FLOPs a puzzle or fewer"


class Algorithm(Options):
    """How the next configuration is chosen: at random, from a grid, or by Optuna's tree-structured Parzen estimator
    after `startup` random ones."""

    name: Literal["random", "grid", "tpe"] = option("random", "random, grid or tpe", removed={"population": REMOVED})
    startup: int = option(10, "tpe: random ones before it", ge=1)


class Scheduler(Options):
    """Which trainings end early: none; asha: at `first` steps, and at every `factor` times as many, the best 1/`factor`
    go on."""

    name: Literal["none", "asha"] = option("none", "none or asha", removed={"hyperband": REMOVED})
    first: int = option(1, "asha: steps before the first comparison")
    factor: float = option(3.0, "asha: the best 1/factor go on", gt=1)


class SearchConfig(Options):
    """A file under tune/, checked."""

    command: Literal["train", "infer"] = option(..., "whose keys vary")
    space: Space = option(..., "the keys that vary")
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

    @field_validator("space", mode="plain")
    @classmethod
    def _space(cls, raw: Any) -> Space:
        return space_of(raw)

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        _ = self.points  # their own check
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

    def to_dict(self) -> dict[str, Any]:
        """The file again, with every default."""
        return {**super().to_dict(), "space": plain(self.space.as_written)}

    @property
    def points(self) -> list[Values]:
        """What is tried before anything is drawn."""
        return [self.space.check(values, f"first[{number}]") for number, values in enumerate(self.first)]

    @property
    def goal(self) -> MetricGoal:
        """Of trials; the score of an answering trial is worked out when it reports."""
        return goal_of(self.objective) if isinstance(self.objective, str) else MetricGoal("score")

    @property
    def answer_goal(self) -> AnswerGoal:
        assert isinstance(self.objective, Mapping)
        return AnswerGoal.parse(self.objective, "objective")

    def check_values(self, make: Callable[[Values], object]) -> None:
        """`make` a trial of every end of every parameter and of every known point. UserError names the one that it
        refuses."""
        corners = [(f"space.{name}", values) for name, values in self.space.corners()]
        for where, values in (*corners, *((f"first[{number}]", point) for number, point in enumerate(self.points))):
            try:
                make(values)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error

    def check_names(self, known: Mapping[str, bool], groups: Mapping[str, tuple[str, ...]]) -> None:
        """UserError: a key that no trial has, that the sweep sets itself, that is fixed and varied, or that sets
        another one. `known`: the keys of trials, and whether a search may name them; `groups`: knob -> what it sets."""
        space = self.space.names
        for where, names in (("space", space), ("keys", self.keys)):
            for name in names:
                if name not in known:
                    raise UserError(f"{where}: trials of {self.command} have no key '{name}'{nearest(name, known)}")
                if not known[name]:
                    raise UserError(f"{where}.{name} belongs to the sweep and not to its trials")
        for name in space:
            if name in self.keys:
                raise UserError(f"keys.{name} is fixed, and space.{name} varies")
        for knob, parts in groups.items():
            clash = [name for name in parts if name in space or name in self.keys]
            if clash and (knob in space or knob in self.keys):
                raise UserError(f"{knob} sets {clash[0]} too: one of them only")


def search_of(raw: Mapping[str, Any]) -> SearchConfig:
    """From a file's content. UserError names what is wrong."""
    values, objective = dict(raw), raw.get("objective")
    if "door" in values:
        raise UserError(f"door={values['door']}: the key is called command now")
    if isinstance(objective, list):
        if len(objective) != 1:
            words = "several objectives at once were removed (docs/log.md): expected one"
            raise UserError(f"objective={json.dumps(objective)}: {words}, such as 'highest validation_exact'")
        values["objective"] = objective[0]
    return SearchConfig.parse(values)


def keys_of(options: type[Options]) -> dict[str, bool]:
    """The keys of a command, and whether a search may name them."""
    return {key: about(field)["sweep"] for key, field in (*leaves(options), *options.model_fields.items())}


class SweepConfig(ActorOptions):
    """Searches the keys of train (or of infer, for a given checkpoint) over the space in a YAML file. Trials are
    compared on validation puzzles; the best train again with fresh seeds, and only their networks see the test puzzles,
    once. A sweep that was interrupted or killed goes on with resume=, and with more trials= it is extended.

    Example: python -m eqr_ray.sweep space=tune/smoke.yaml data=data/sudoku4 out=runs/smoke
             python -m eqr_ray.sweep resume=runs/smoke trials=20
             python -m eqr_ray.train recipe=runs/smoke/best.yaml data=data/sudoku4
    """

    space: str | None = option(
        None, "FILE.yaml: what varies, how it is searched, what counts (docs/guide/search.md)", resume=True
    )
    data: str | None = option(
        None, "a folder that prepare made: its train, validation and, for the finals, test split", resume=True
    )
    checkpoint: str | None = option(
        None, "of a search over answers: a run's folder, one with model.safetensors, FILE.pth, zoo:NAME", resume=True
    )
    out: str | None = option(None, "folder of results; null: runs/sweep-NAME, named after the file")
    resume: str | None = option(
        None, "a sweep's folder: go on there; trials=, finals and machines may change, the search may not"
    )
    mirror: str | None = option(
        None, "s3://bucket/path, gs://...: holds a copy of the folder, for other machines", resume=True
    )
    trials: int | None = option(None, "how many in all; null: as the file says", ge=1, resume=True)
    finalists: int = option(3, "so many of the best train again; 0: none", ge=0, resume=True)
    seeds: int = option(3, "with so many fresh seeds each", ge=1, le=MOST_SEEDS, resume=True)
    workers: int = option(
        0, "Ray Train workers of a trial; 0: it trains in its own process, which the next takes over", ge=0, resume=True
    )
    cpus_each: int = option(1, "CPUs of a worker, or of the trial with workers=0", ge=1, resume=True)
    at_once: int | None = option(None, "trials side by side; null: as many as there is room for", ge=1, resume=True)
    max_failures: int = option(3, "new starts of a trial whose process died", ge=0, resume=True)
    wandb: WandbMode = option(
        "disabled", "Weights & Biases: disabled, offline, online; one run per trial, grouped by the sweep", resume=True
    )

    @model_validator(mode="after")
    def _check(self) -> SweepConfig:
        if self.mirror is not None and self.out is None and self.resume is None:
            raise UserError("mirror= needs out=: the folder that is copied")
        return self

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.resume or self.out or f"runs/sweep-{Path(self.space or '').stem}")

    @property
    def shared(self) -> dict[str, Any]:
        """What trainings take over, and a resume may change."""
        return {name: getattr(self, name) for name in ("workers", "device", "wandb", "max_failures")}

    @property
    def data_folder(self) -> Path:
        """UserError: it is not given, or has no validation split."""
        if self.data is None:
            raise UserError("data= must be given: a folder that eqr_ray.prepare made")
        folder = Path(self.data)
        if not (folder / "validation.arrow").is_file():
            raise UserError(f"data={folder}: no validation.arrow there; a sweep needs a folder that prepare made")
        return folder

    @property
    def test_split(self) -> Path | None:
        """The test puzzles, if there are any."""
        path = self.data_folder / "test.arrow"
        return path if path.is_file() else None
