"""The two kinds of sweep: over trainings, which Ray runs, and over ways to answer with a checkpoint.

Of ways to answer, the network must run anew for its noise and its starts: once for every pair of them that is tried,
with all segments recorded. Depth, breadth, policy and thresholds are replayed over those records.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eqr_ray.config.cli import as_typed, parse_arguments
from eqr_ray.config.errors import UserError, extra
from eqr_ray.config.schema import content_hash
from eqr_ray.data.sources import open_puzzle_set
from eqr_ray.distributed.answering import recorded
from eqr_ray.evaluation.frontier import Point, measured
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.replay import RecordedRun, check_answers
from eqr_ray.inference.settings import BUDGETED, InferConfig
from eqr_ray.model.pretrained import load_model
from eqr_ray.search.decisions import EarlyStopping, propose
from eqr_ray.search.results import Finalist, compared, final_numbers, finalists_of, of_trial, tested, write_recipe
from eqr_ray.search.space import Value, Values
from eqr_ray.search.study import SearchConfig, SweepConfig, keys_of
from eqr_ray.search.trials import FINALS, TRIALS, Plan, Queue, Report, Trial, Trials, ranked
from eqr_ray.storage.run_log import RunLog
from eqr_ray.training.experiment import KNOBS, Experiment, TrainOptions, describe_data, experiment_of

Runner = Callable[[Queue, EarlyStopping], None]  # runs all trials of a queue


class TrainingSweep:
    """Every end of the space makes a training. UserError: a key that train does not have, a value that it refuses, no
    data, no place for a trial. A Ray that is started ends with `stack`."""

    def __init__(self, search: SearchConfig, config: SweepConfig, stack: ExitStack) -> None:
        self.search, self.config = search, config
        search.check_names(keys_of(TrainOptions), KNOBS)
        self._task, self._data_hash = describe_data(config.data_folder, None)
        self.content = {"task": self._task.name, "data_hash": self._data_hash}  # what a resume must find again
        search.check_values(lambda values: self._experiment(values, config.seed))
        self._run = ray_runner(config, stack)

    def _experiment(self, values: Values, seed: int) -> Experiment:
        """The training with these values."""
        every = self.search.report_every
        own: dict[str, Any] = {"log_every": every, **self.search.keys, **values, "seed": seed, **self.config.shared}
        own |= {"checkpoint_every": every, "validate_every": every, "keep_checkpoints": 1}
        if every % own["log_every"]:
            raise UserError(f"log_every={own['log_every']} must divide report_every={every}")
        options, _ = parse_arguments(TrainOptions, [f"{key}={as_typed(value)}" for key, value in own.items()])
        return experiment_of(options, self._task, self.config.data_folder, self._data_hash)

    def run(self, count: int, log: RunLog) -> dict[int, Trial]:
        """All trials of the search, whatever of them is left to do."""

        def plan(number: int, history: Mapping[int, Trial]) -> Plan:
            values = propose(self.search, self.config.seed, number, history)
            return Plan(number, values, self._experiment(values, self.config.seed).to_dict())

        queue = Queue(Trials(self.config.folder / TRIALS), range(count), plan, log)
        self._run(queue, EarlyStopping.of(self.search, queue.history.values()))
        return queue.history

    def conclude(self, trials: Mapping[int, Trial], log: RunLog) -> dict[str, Any]:
        """The winner of the finals, or where there were none the best of the search, also as a recipe."""
        best = ranked(trials.values(), self.search.goal)
        if not best:
            return {"winner": None, "finalists": []}
        finalists = self._finals(trials, log)
        if finalists:
            first, values = finalists[0], finalists[0].values
            words = f"Trial {first.trial}, mean {first.mean_score:.4g} over {self.config.seeds} fresh seeds."
        else:
            values = best[0].values
            words = f"Trial {best[0].number}, the best of the search on its own puzzles: partly luck."
        comment = [f"Found by a sweep of {len(trials)} configurations on {self._task.name}.", words]
        write_recipe(self.config.folder, {**self.search.keys, **values}, comment)
        return {"winner": values, "seeds": self.config.seeds, "finalists": [one.summary() for one in finalists]}

    def _finals(self, trials: Mapping[int, Trial], log: RunLog) -> list[Finalist]:
        """The finalists, best first, with what the test puzzles say of their networks."""
        config, finals = self.config, Trials(self.config.folder / FINALS)
        chosen = finalists_of(self.search, list(trials.values()), config.finalists)
        if not chosen:
            return []

        def plan(number: int, history: Mapping[int, Trial]) -> Plan:
            trial, k = of_trial(number)
            values = trials[trial].values
            return Plan(number, values, self._experiment(values, config.seed + k).to_dict())

        queue = Queue(finals, final_numbers(chosen, config.seeds), plan, log)
        self._run(queue, EarlyStopping(None, self.search.collapse))
        finalists = compared(chosen, finals, config.seeds, self.search.goal)
        if config.test_split is None:
            return finalists
        depth = self._experiment(chosen[0].values, config.seed).validate_depth
        return [tested(one, finals, config.seeds, config.test_split, depth, config.device) for one in finalists]


def ray_runner(config: SweepConfig, stack: ExitStack) -> Runner:
    """Runs trials on Ray. UserError: it is not installed, or a trial is too large for the machine."""
    with extra("cluster", "a sweep of trainings"):
        # lazy: Ray is an optional part, and Tune takes seconds to import: a mistake shall be answered at once
        from eqr_ray.distributed.trials import TrialRunner  # noqa: PLC0415
    return TrialRunner(config, stack)


RECORDS, TEST = "records", "test"  # folders of recorded runs, in `out`
RUN_ANEW = ("noise_scale", "init_std", "dtype")  # what shapes a trajectory
REPLAYED = ("depth", "breadth", "policy", "settle_below", "settle_for", "budget")
DEFAULTS: dict[str, Value] = {"depth": 16, "breadth": 8, "policy": "full", "select": "logit_residual"}
TESTED = ("puzzles", "exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean")


class AnsweringSweep:
    """Settings of a checkpoint, compared on the same puzzles. UserError: no checkpoint, a key that trials of infer do
    not have, a value that it refuses."""

    def __init__(self, search: SearchConfig, config: SweepConfig) -> None:
        if config.checkpoint is None:
            raise UserError("checkpoint= must be given: the search is over the keys of infer")
        self.search, self.config = search, config
        search.check_names(dict.fromkeys((*RUN_ANEW, *REPLAYED, "select"), True), {})
        source = {"checkpoint": config.checkpoint, "data": str(config.data_folder / "validation.arrow")}
        search.check_values(lambda values: InferConfig.parse({**self._keys(values), **source}).settings())
        _, card = load_model(config.checkpoint)
        puzzle_set = open_puzzle_set(source["data"], card.task, config.limit)
        check_answers(puzzle_set, source["data"])
        self.content = {"task": puzzle_set.task.name, "data_hash": puzzle_set.data_hash, "checkpoint_hash": card.hash}

    def run(self, count: int, log: RunLog) -> dict[int, Trial]:
        """All trials, one after the other."""
        trials, runs = Trials(self.config.folder / TRIALS), dict[str, RecordedRun]()

        def plan(number: int, history: Mapping[int, Trial]) -> Plan:
            return Plan(number, propose(self.search, self.config.seed, number, history))

        queue = Queue(trials, range(count), plan, log)
        while (number := queue.next()) is not None:
            values = queue.history[number].values
            keys = self._recording_keys(values)
            name = content_hash(keys)
            if name not in runs:
                data = self.config.data_folder / "validation.arrow"
                runs[name] = self._recorded(keys, RECORDS, data, self.config.limit)
            point = self._replayed(values, runs[name])
            metrics = {name: float(getattr(point, name)) for name in (*TESTED, "settled_share")}
            metrics["score"] = self.search.answer_goal.score(point.exact_accuracy, point.flops_mean)
            trials.write_result(number, Report(0, time.time(), metrics))
            queue.over(number)
            words = f"{point.exact_accuracy:.2%} right, {point.flops_mean:.3g} FLOPs a puzzle"
            print(f"trial {number} of {count}: {words}", file=sys.stderr, flush=True)
        return queue.history

    def conclude(self, trials: Mapping[int, Trial], log: RunLog) -> dict[str, Any]:
        """The best way to answer, also as a recipe, and what it does on the test puzzles."""
        goal, test = self.search.answer_goal, None
        best = ranked(trials.values(), self.search.goal)
        if not best or not goal.meets(best[0].metrics["exact_accuracy"], best[0].metrics["flops_mean"]):
            return {"winner": None, "objective": str(goal)}
        values = self._keys(best[0].values)
        if self.config.test_split is not None:
            keys = self._recording_keys(best[0].values) | {name: values[name] for name in ("depth", "breadth")}
            point = self._replayed(best[0].values, self._recorded(keys, TEST, self.config.test_split, None))
            test = {name: getattr(point, name) for name in TESTED}
        comment = [f"Found by a sweep of {len(trials)} configurations on {self.content['task']}: {goal}."]
        write_recipe(self.config.folder, values, comment)
        return {"winner": values, "objective": str(goal), "test": test}

    def _keys(self, values: Mapping[str, Value]) -> Values:
        """All keys of a trial: its own, the file's, the defaults. A budget goes with policies that have one."""
        whole: Values = {**DEFAULTS, **self.search.keys, **values}
        if whole["policy"] not in BUDGETED:
            whole.pop("budget", None)
        return whole

    def _recording_keys(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """What a recording for this trial is made with: depth and breadth are the greatest that any trial asks for."""
        whole, space = self._keys(values), self.search.space
        keys: dict[str, Any] = {name: whole[name] for name in RUN_ANEW if name in whole}
        for name in ("depth", "breadth"):
            every: list[Any] = space[name].ends() if name in space.names else [whole[name]]
            keys[name] = max(every)
        return keys

    def _recorded(self, keys: Mapping[str, Any], place: str, data: Path, limit: int | None) -> RecordedRun:
        config = self.config
        where = {"checkpoint": config.checkpoint, "data": str(data), "limit": limit, "seed": config.seed}
        means = {name: getattr(config, name) for name in ("actors", "gpus_each", "address", "device")}
        folder = config.folder / place / content_hash(keys)[:12]
        return recorded({**keys, **where, **means}, folder, lambda new: check_answers(new.puzzle_set, str(data)))

    def _replayed(self, values: Mapping[str, Value], run: RecordedRun) -> Point:
        """Accuracy and cost of the trial on a recorded run."""
        whole = self._keys(values)
        changes: dict[str, Any] = {"snapshots": (), **{k: whole[k] for k in REPLAYED if whole.get(k) is not None}}
        if POLICIES[str(whole["policy"])].verifies:
            changes["verifier"] = run.puzzle_set.task.name
        (point,) = measured(run, [run.settings.replace(**changes)], str(whole["select"]))
        return point
