"""A sweep over ways to answer: depth, breadth, noise, policy and thresholds of a checkpoint.

What the network must run anew is its noise and its starts: it is run once for every pair of them that is tried, with
all segments recorded. Depth, breadth, policy and thresholds are replayed over those records.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import content_hash
from eqr_ray.data.sources import open_puzzle_set
from eqr_ray.distributed.answering import recorded
from eqr_ray.evaluation.frontier import Point, measured
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.replay import RecordedRun, check_answers
from eqr_ray.inference.settings import BUDGETED, AnsweringOptions, Settings
from eqr_ray.model.pretrained import load_model
from eqr_ray.search.proposals import Queue, propose
from eqr_ray.search.space import Value, Values
from eqr_ray.search.study import SearchConfig, check_names
from eqr_ray.search.sweep_config import SweepConfig
from eqr_ray.search.trial import Report, Trial, ranked
from eqr_ray.search.trial_dirs import TRIALS, Plan, Trials, write_recipe
from eqr_ray.storage.run_log import RunLog

RECORDS, TEST = "records", "test"  # folders of recorded runs, in `out`
RUN_ANEW = ("noise_scale", "init_std", "dtype")  # what shapes a trajectory
REPLAYED = ("depth", "breadth", "policy", "settle_below", "settle_for", "budget")
DEFAULTS: dict[str, Value] = {"depth": 16, "breadth": 8, "policy": "full", "select": "logit_residual"}
TESTED = ("puzzles", "exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean")
REPORTED = (*TESTED, "settled_share")


@dataclass(frozen=True)
class AnsweringSweep:
    """A checkpoint and the puzzles that its settings are compared on. `runs`: the recorded ones, by name."""

    search: SearchConfig
    config: SweepConfig
    task: str
    data_hash: str
    checkpoint_hash: str
    runs: dict[str, RecordedRun] = field(default_factory=dict)

    @staticmethod
    def of(search: SearchConfig, config: SweepConfig) -> AnsweringSweep:
        """UserError: no checkpoint, a key that trials of infer do not have, a value that it refuses."""
        if config.checkpoint is None:
            raise UserError("checkpoint= must be given: the search is over the keys of infer")
        check_answering(search)
        validation = str(config.data_folder / "validation.arrow")
        _, card = load_model(config.checkpoint)
        puzzle_set = open_puzzle_set(validation, card.task, config.limit)
        check_answers(puzzle_set, validation)
        return AnsweringSweep(search, config, puzzle_set.task.name, puzzle_set.data_hash, card.hash)

    @property
    def content(self) -> dict[str, str]:
        """What a resume must find again, besides the search."""
        return {"task": self.task, "data_hash": self.data_hash, "checkpoint_hash": self.checkpoint_hash}

    def run(self, count: int, log: RunLog) -> dict[int, Trial]:
        """All trials, one after the other."""
        trials = Trials(self.config.folder / TRIALS)

        def plan(number: int, history: Mapping[int, Trial]) -> Plan:
            return Plan(number, propose(self.search, self.config.seed, number, history))

        queue = Queue(trials, range(count), plan, log)
        while (number := queue.next()) is not None:
            values = queue.history[number].values
            keys = recording_keys(self.search, values)
            name = content_hash(keys)
            if name not in self.runs:
                data = self.config.data_folder / "validation.arrow"
                self.runs[name] = self._recorded(keys, RECORDS, data, self.config.limit)
            point = tried(self.search, values, self.runs[name])
            metrics = {name: float(getattr(point, name)) for name in REPORTED}
            metrics["score"] = self.search.answer_goal.score(point.exact_accuracy, point.flops_mean)
            trials.write_result(number, Report(0, time.time(), metrics))
            queue.over(number)
            words = f"{point.exact_accuracy:.2%} right, {point.flops_mean:.3g} FLOPs a puzzle"
            print(f"trial {number} of {count}: {words}", file=sys.stderr, flush=True)
        return trials.all()

    def conclude(self, trials: Mapping[int, Trial], log: RunLog) -> dict[str, Any]:
        """The best way to answer, also as a recipe, and what it does on the test puzzles."""
        goal = self.search.answer_goal
        best = ranked(list(trials.values()), self.search.goal)
        metrics = best[0].reports[-1].metrics if best else {}
        if not best or not goal.meets(metrics["exact_accuracy"], metrics["flops_mean"]):
            return {"winner": None, "objective": str(goal)}
        values, test = values_of(self.search, best[0].values), None
        if self.config.test_split is not None:
            keys = recording_keys(self.search, best[0].values) | {name: values[name] for name in ("depth", "breadth")}
            point = tried(self.search, best[0].values, self._recorded(keys, TEST, self.config.test_split, None))
            test = {name: getattr(point, name) for name in TESTED}
        comment = [f"Found by a sweep of {len(trials)} configurations on {self.task}: {goal}."]
        write_recipe(self.config.folder, values, comment)
        return {"winner": values, "objective": str(goal), "test": test}

    def _recorded(self, keys: Mapping[str, Any], place: str, data: Path, limit: int | None) -> RecordedRun:
        config = self.config
        where = {"checkpoint": config.checkpoint, "data": str(data), "limit": limit, "seed": config.seed}
        means = {name: getattr(config, name) for name in ("actors", "address", "device")}
        folder = config.folder / place / content_hash(keys)[:12]
        return recorded({**keys, **where, **means}, folder, lambda new: check_answers(new.puzzle_set, str(data)))


def check_answering(config: SearchConfig) -> None:
    """UserError: a key that no answering trial reads, or a value that is not allowed."""
    check_names(config, dict.fromkeys((*RUN_ANEW, *REPLAYED, "select"), True), {})
    for name in ("depth", "breadth"):
        most(config, name)
    for name, values in (*config.space.corners(), *(("first", point) for point in config.points)):
        whole = values_of(config, values)
        try:
            AnsweringOptions.parse({"select": whole["select"]})
            Settings(**_replayed(whole))
        except (UserError, TypeError) as error:
            raise UserError(f"space.{name}: {error} (policy={whole['policy']})") from error


def values_of(config: SearchConfig, values: Mapping[str, Value]) -> Values:
    """All keys of a trial: its own, the file's, the defaults. A budget goes with policies that have one."""
    whole: Values = {**DEFAULTS, **config.keys, **values}
    if whole["policy"] not in BUDGETED:
        whole.pop("budget", None)
    return whole


def most(config: SearchConfig, name: str) -> int:
    """The greatest depth or breadth that any trial asks for: what is recorded. UserError: not a whole number."""
    fixed = {**DEFAULTS, **config.keys}.get(name)
    values = config.space[name].ends() if name in config.space.names else [fixed]
    whole = [value for value in values if type(value) is int and value >= 1]
    if len(whole) < len(values):
        raise UserError(f"{name}={values[0]} is not allowed: whole numbers, at least 1")
    return max(whole)


def recording_keys(config: SearchConfig, values: Mapping[str, Value]) -> dict[str, Any]:
    """What a recording for this trial is made with, depth and breadth at their most."""
    whole = values_of(config, values)
    own = {name: whole[name] for name in RUN_ANEW if name in whole}
    return {**own, **{name: most(config, name) for name in ("depth", "breadth")}}


def tried(config: SearchConfig, values: Mapping[str, Value], run: RecordedRun) -> Point:
    """Accuracy and cost of the trial on a recorded run."""
    whole, puzzle_set = values_of(config, values), run.puzzle_set
    changes: dict[str, Any] = {"snapshots": (), **_replayed(whole)}
    if POLICIES[str(whole["policy"])].verifies:
        changes["verifier"] = puzzle_set.task.name
    (point,) = measured(run, [run.settings.replace(**changes)], str(whole["select"]))
    return point


def _replayed(whole: Values) -> dict[str, Any]:
    return {name: whole[name] for name in REPLAYED if whole.get(name) is not None}
