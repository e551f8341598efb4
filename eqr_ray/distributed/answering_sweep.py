"""A sweep over ways to answer: depth, breadth, noise, policy and thresholds of a checkpoint.

The breadth engine runs the network once for every pair of noise and starts that is tried; all else is replayed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.data.puzzle_set import open_puzzle_set
from eqr_ray.distributed.recording import recorded
from eqr_ray.inference.replay import RecordedRun, check_answers
from eqr_ray.model.pretrained import load_model
from eqr_ray.search.answering_trial import (
    check_answering,
    recording_keys,
    recording_name,
    report_of,
    tried,
    values_of,
)
from eqr_ray.search.proposals import Queue, propose
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.sweep_config import SweepConfig
from eqr_ray.search.trial import Trial, ranked
from eqr_ray.search.trial_dirs import TRIALS, Plan, Trials, write_recipe
from eqr_ray.storage.run_log import RunLog

RECORDS, TEST = "records", "test"  # folders of recorded runs, in `out`
TESTED = ("puzzles", "exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean")


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
            name = recording_name(keys)
            if name not in self.runs:
                data = self.config.data_folder / "validation.arrow"
                self.runs[name] = self._recorded(keys, RECORDS, data, self.config.limit)
            point = tried(self.search, values, self.runs[name])
            trials.write_result(number, report_of(self.search, point))
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
            run = self._recorded(keys, TEST, self.config.test_split, None)
            point = tried(self.search, best[0].values, run)
            test = {name: getattr(point, name) for name in TESTED}
        comment = [f"Found by a sweep of {len(trials)} configurations on {self.task}: {goal}."]
        write_recipe(self.config.folder, values, comment)
        return {"winner": values, "objective": str(goal), "test": test}

    def _recorded(self, keys: Mapping[str, Any], place: str, data: Path, limit: int | None) -> RecordedRun:
        config = self.config
        where = {"checkpoint": config.checkpoint, "data": str(data), "limit": limit, "seed": config.seed}
        means = {name: getattr(config, name) for name in ("actors", "address", "device")}
        folder = config.folder / place / recording_name(keys)
        return recorded({**keys, **where, **means}, folder, lambda new: check_answers(new.puzzle_set, str(data)))
