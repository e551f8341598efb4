"""The answering half of the door `sweep`: depth, breadth, noise, policy and thresholds of a checkpoint.

The breadth engine runs the network once for every pair of noise and starts that is tried; all else is replayed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eqr_ray.config.door import door_config, flat
from eqr_ray.config.errors import UserError
from eqr_ray.data.puzzle_set import open_puzzle_set
from eqr_ray.distributed.recording import recorded
from eqr_ray.evaluation.frontier import Point
from eqr_ray.inference.recorded_run import RecordedRun, check_answers
from eqr_ray.model.pretrained import load_model
from eqr_ray.search.answering_objective import (
    check_answering,
    recording_keys,
    recording_name,
    report_of,
    tried,
    values_of,
)
from eqr_ray.search.outcome import Trial
from eqr_ray.search.proposals import propose
from eqr_ray.search.queue import Queue
from eqr_ray.search.study import SearchConfig, check_names
from eqr_ray.search.sweep_config import SweepConfig
from eqr_ray.search.trial_dirs import TRIALS, Plan, Trials

RECORDS, TEST = "records", "test"  # folders of recorded runs, in `out`


@dataclass
class AnsweringSweep:
    """A checkpoint and the puzzles that its settings are compared on."""

    search: SearchConfig
    config: SweepConfig
    task: str
    data_hash: str
    checkpoint_hash: str
    runs: dict[str, RecordedRun] = field(default_factory=dict)

    @staticmethod
    def of(search: SearchConfig, config: SweepConfig) -> AnsweringSweep:
        """UserError: no checkpoint, a key that infer does not have, a value that it refuses."""
        if config.checkpoint is None:
            raise UserError("checkpoint= must be given: the search is over the keys of infer")
        known = flat(door_config("infer", [f"checkpoint={config.checkpoint}", f"data={config.data}"]))
        check_names(search, known, {})
        check_answering(search)
        validation = str(config.data_folder / "validation.arrow")
        _, card = load_model(config.checkpoint)
        puzzle_set = open_puzzle_set(validation, card.task, config.limit)
        check_answers(puzzle_set, validation)
        return AnsweringSweep(search, config, puzzle_set.task.name, puzzle_set.data_hash, card.hash)

    def run(self, count: int) -> dict[int, Trial]:
        """All trials, one after the other."""
        trials = Trials(self.config.folder / TRIALS)
        queue = Queue(trials, range(count), self._plan)
        while (number := queue.next()) is not None:
            point = self._try(queue.known[number].values)
            trials.write_result(number, report_of(self.search, point))
            queue.over(number)
            words = f"{point.exact_accuracy:.2%} right, {point.flops_mean:.3g} FLOPs a puzzle"
            print(f"trial {number} of {count}: {words}", file=sys.stderr, flush=True)
        return trials.all()

    def test(self, winner: Trial) -> Point | None:
        """The winner on the test puzzles; None where there are none."""
        if self.config.test_split is None:
            return None
        whole = values_of(self.search, winner.values)
        keys = recording_keys(self.search, winner.values) | {name: whole[name] for name in ("depth", "breadth")}
        return tried(self.search, winner.values, self._recorded(keys, TEST, self.config.test_split, None))

    def _plan(self, number: int, known: Mapping[int, Trial]) -> Plan | None:
        proposal = propose(self.search, self.config.seed, number, known)
        return None if proposal is None else Plan(number, proposal.values)

    def _try(self, values: Mapping[str, Any]) -> Point:
        keys = recording_keys(self.search, values)
        name = recording_name(keys)
        if name not in self.runs:
            data = self.config.data_folder / "validation.arrow"
            self.runs[name] = self._recorded(keys, RECORDS, data, self.config.limit)
        return tried(self.search, values, self.runs[name])

    def _recorded(self, keys: Mapping[str, Any], room: str, data: Path, limit: int | None) -> RecordedRun:
        config = self.config
        where = {"checkpoint": config.checkpoint, "data": str(data), "limit": limit, "seed": config.seed}
        means = {name: getattr(config, name) for name in ("actors", "address", "device")}
        folder = config.folder / room / recording_name(keys)
        return recorded({**keys, **where, **means}, folder, lambda new: check_answers(new.puzzle_set, str(data)))
