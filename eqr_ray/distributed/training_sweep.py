"""A sweep of trainings: which trials there are, who runs them on Ray, and the finals of the best."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from eqr_ray.config.cli import as_typed, parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.distributed.cluster import nodes, start_ray
from eqr_ray.distributed.resources import this_machine
from eqr_ray.search.early_stopping import EarlyStopping
from eqr_ray.search.finals import (
    Finalist,
    compared,
    final_numbers,
    finalists_of,
    of_trial,
    tested,
)
from eqr_ray.search.proposals import Queue, propose
from eqr_ray.search.space import Values
from eqr_ray.search.study import SearchConfig, check_names, keys_of
from eqr_ray.search.sweep_config import SweepConfig
from eqr_ray.search.trial import Trial, ranked
from eqr_ray.search.trial_dirs import FINALS, TRIALS, Plan, Trials, write_recipe
from eqr_ray.storage.run_log import GROUP_FILE, RunLog
from eqr_ray.tasks import Task
from eqr_ray.training.experiment import KNOBS, Experiment, TrainOptions, describe_data, experiment_of

Runner = Callable[[Queue, EarlyStopping], None]  # runs all trials of a queue
# Keys of the sweep that its trials take over, and that a resume may change.
SHARED = ("workers", "device", "wandb", "max_failures")


@dataclass
class TrainingSweep:
    """What the trials of a sweep have in common, checked: every end of the space makes a training."""

    search: SearchConfig
    config: SweepConfig
    task: Task
    data_hash: str
    runner: Runner = field(init=False)

    @staticmethod
    def of(search: SearchConfig, config: SweepConfig, stack: ExitStack) -> TrainingSweep:
        """UserError: a key that train does not have, a value that it refuses, no data, no place for a trial. A Ray
        that is started ends with `stack`."""
        check_names(search, keys_of(TrainOptions), KNOBS)
        task, data_hash = describe_data(config.data_folder, None)
        sweep = TrainingSweep(search, config, task, data_hash)
        corners = [(f"space.{name}", values) for name, values in search.space.corners()]
        for name, values in (*corners, *((f"first[{n}]", values) for n, values in enumerate(search.points))):
            try:
                sweep.experiment(values, config.seed)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        sweep.runner = ray_runner(config, stack)
        return sweep

    @property
    def content(self) -> dict[str, str]:
        """What a resume must find again, besides the search."""
        return {"task": self.task.name, "data_hash": self.data_hash}

    def experiment(self, values: Values, seed: int) -> Experiment:
        """The training with these values."""
        every = self.search.report_every
        own: dict[str, Any] = {
            **{"log_every": every, **self.search.keys, **values, "seed": seed},
            **{"checkpoint_every": every, "validate_every": every, "keep_checkpoints": 1},
            **{name: getattr(self.config, name) for name in SHARED},
        }
        if every % own["log_every"]:
            raise UserError(f"log_every={own['log_every']} must divide report_every={every}")
        options, _ = parse_arguments(TrainOptions, [f"{key}={as_typed(value)}" for key, value in own.items()])
        return experiment_of(options, self.task, self.config.data_folder, self.data_hash)

    def run(self, count: int, log: RunLog) -> dict[int, Trial]:
        """All trials of the search, whatever of them is left to do."""
        trials = Trials(self.config.folder / TRIALS)

        def plan(number: int, history: Mapping[int, Trial]) -> Plan:
            values = propose(self.search, self.config.seed, number, history)
            return self._plan(trials, number, values, self.config.seed)

        queue = Queue(trials, range(count), plan, log)
        halving = self.search.halving()
        if halving is not None:
            halving.recall(queue.history.values())
        self.runner(queue, EarlyStopping(halving, self.search.collapse))
        return trials.all()

    def conclude(self, trials: Mapping[int, Trial], log: RunLog) -> dict[str, Any]:
        """The winner of the finals, or where there were none the best of the search, also as a recipe."""
        best = ranked(list(trials.values()), self.search.goal)
        if not best:
            return {"winner": None, "finalists": []}
        finalists = self._finals(trials, log)
        values = finalists[0].values if finalists else best[0].values
        comment = [f"Found by a sweep of {len(trials)} configurations on {self.task.name}."]
        if finalists:
            first = finalists[0]
            comment.append(f"Trial {first.trial}, mean {first.mean_score:.4g} over {self.config.seeds} fresh seeds.")
        else:
            comment.append(f"Trial {best[0].number}, the best of the search on its own puzzles: partly luck.")
        write_recipe(self.config.folder, {**self.search.keys, **values}, comment)
        return {"winner": values, "seeds": self.config.seeds, "finalists": [one.summary() for one in finalists]}

    def _finals(self, trials: Mapping[int, Trial], log: RunLog) -> list[Finalist]:
        """The finalists, best first, with what the test puzzles say of their networks."""
        config = self.config
        chosen = finalists_of(self.search, list(trials.values()), config.finalists)
        if not chosen:
            return []
        finals = Trials(config.folder / FINALS)

        def plan(number: int, history: Mapping[int, Trial]) -> Plan:
            trial, k = of_trial(number)
            return self._plan(finals, number, trials[trial].values, config.seed + k)

        queue = Queue(finals, final_numbers(chosen, config.seeds), plan, log)
        self.runner(queue, EarlyStopping(None, self.search.collapse))
        finalists = compared(chosen, finals, config.seeds, self.search.goal)
        if config.test_split is None:
            return finalists
        depth = self.experiment(chosen[0].values, config.seed).validate_depth
        return [tested(one, finals, config.seeds, config.test_split, depth, config.device) for one in finalists]

    def _plan(self, trials: Trials, number: int, values: Values, seed: int) -> Plan:
        if self.config.wandb != "disabled":
            folder = trials.folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / GROUP_FILE).write_text(self.config.folder.name)
        return Plan(number, values, self.experiment(values, seed).to_dict())


def ray_runner(config: SweepConfig, stack: ExitStack) -> Runner:
    """Runs trials on Ray: on a cluster that is joined at once, else on a Ray that is started here when it is first
    needed and ends with `stack`. UserError: a trial is too large for the machine; said before anything is made."""
    # lazy: Tune takes seconds to import, and a mistake shall be answered at once
    from eqr_ray.distributed.trials import request_of_trial, run_trials, trials_at_once  # noqa: PLC0415

    address = config.address or os.environ.get("RAY_ADDRESS")
    if address:
        stack.enter_context(start_ray(address, num_cpus=None, num_gpus=None, log_to_driver=False))
    here = nodes() if address else this_machine()
    each = request_of_trial(config.workers, config.cpus_each, config.gpus_each, config.device, here)
    at_once = trials_at_once(each, config.at_once, here)
    running = bool(address)

    def run(queue: Queue, early_stopping: EarlyStopping) -> None:
        nonlocal running
        if queue.is_empty:
            return
        if not running:
            cpus, gpus = int(here[0]["CPU"]), int(here[0]["GPU"])
            stack.enter_context(start_ray(None, num_cpus=cpus, num_gpus=gpus, log_to_driver=False))
            running = True
        run_trials(
            queue,
            early_stopping,
            each,
            workers=config.workers,
            at_once=at_once,
            max_failures=config.max_failures,
            free={"data": str(config.data_folder.resolve()), **{name: getattr(config, name) for name in SHARED}},
            scratch=config.folder / "ray",
            show=lambda trial: print(_line(queue, trial), file=sys.stderr, flush=True),
        )

    return run


def _line(queue: Queue, trial: Trial) -> str:
    """Of a trial that is over."""
    over = sum(one.is_over for one in queue.history.values())
    words = f": {trial.reason}" if trial.reason else ""
    metrics = trial.reports[-1].metrics if trial.reports else {}
    exact = f", validation_exact {metrics['validation_exact']:.2%}" if "validation_exact" in metrics else ""
    step = trial.reports[-1].step if trial.reports else 0
    return f"{over} over; {trial.number} {trial.status} at step {step:,}{exact}{words}"
