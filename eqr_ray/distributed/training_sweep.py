"""The training half of the door `sweep`: trials and finals on Ray, from a search to its finalists."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqr_ray.config.door import as_typed, door_config, flat
from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import to_dict
from eqr_ray.distributed.cluster import nodes, start_ray
from eqr_ray.distributed.resources import Node, ResourceRequest, this_machine
from eqr_ray.search.early_stopping import Halving, Judge
from eqr_ray.search.finals import Finalist, check_finals, final_numbers, finalists_of, judged, of_trial, tested
from eqr_ray.search.outcome import Trial
from eqr_ray.search.proposals import propose
from eqr_ray.search.queue import Planner, Queue
from eqr_ray.search.space import Value
from eqr_ray.search.study import SearchConfig, check_names
from eqr_ray.search.sweep_config import SweepConfig
from eqr_ray.search.trial_dirs import FINALS, TRIALS, Plan, Trials
from eqr_ray.storage.run_log import GROUP_FILE
from eqr_ray.tasks import Task
from eqr_ray.training.experiment import KNOBS, Experiment, describe_data, experiment_of


@dataclass(frozen=True)
class TrainingSweep:
    """What the trials of a sweep have in common, checked: every end of the space makes a training."""

    search: SearchConfig
    config: SweepConfig
    task: Task
    data_hash: str

    @staticmethod
    def of(search: SearchConfig, config: SweepConfig) -> TrainingSweep:
        """UserError: a key that train does not have, a value that it refuses, no data."""
        model = search.keys.get("model", "eqr")
        known = {**flat(door_config("train", [f"model={model}"])), "model": model}
        check_names(search, known, {knob: tuple(f"model.{part}" for part in parts) for knob, parts in KNOBS.items()})
        check_finals(search, config.finalists, config.seeds)
        task, data_hash = describe_data(config.data_folder, None)
        sweep = TrainingSweep(search, config, task, data_hash)
        sweep.check()
        return sweep

    def check(self) -> None:
        """Make the training of every corner of the space and of every known point."""
        points = [(f"first[{number}]", values) for number, values in enumerate(self.search.points)]
        for name, values in [*((f"space.{name}", values) for name, values in self.search.space.corners()), *points]:
            try:
                self.experiment(values, self.config.seed, self.search.steps)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error

    def experiment(self, values: Mapping[str, Value], seed: int, steps: int) -> Experiment:
        """The training with these values."""
        every = self.search.report_every
        own: dict[str, Any] = {
            **{"log_every": every, **self.search.keys, **values, "seed": seed, "steps": steps},
            **{"checkpoint_every": every, "validate_every": every, "keep_checkpoints": 1},
            **{name: getattr(self.config, name) for name in ("workers", "device", "wandb", "max_failures")},
        }
        if every % own["log_every"]:
            raise UserError(f"log_every={own['log_every']} must divide report_every={every}")
        typed = [f"{key}={as_typed(value)}" for key, value in own.items()]
        keys = {key: value for key, value in door_config("train", typed).items() if key not in ("out", "resume")}
        return experiment_of(keys, self.task, self.config.data_folder, self.data_hash)

    def planned(self, trials: Trials) -> Planner:
        """What the search tries as trial `number`."""

        def plan(number: int, known: Mapping[int, Trial]) -> Plan | None:
            proposal = propose(self.search, self.config.seed, number, known)
            if proposal is None:
                return None
            experiment = to_dict(self.experiment(proposal.values, self.config.seed, proposal.end))
            self._group(trials.folder(number))
            return Plan(number, proposal.values, experiment, proposal.parent, proposal.begin)

        return plan

    def repeated(self, finals: Trials, search_trials: Mapping[int, Trial]) -> Planner:
        """A final: a trial again, with a fresh seed."""

        def plan(number: int, known: Mapping[int, Trial]) -> Plan:
            trial, k = of_trial(number)
            values = search_trials[trial].values
            self._group(finals.folder(number))
            experiment = self.experiment(values, self.config.seed + k, self.search.steps)
            return Plan(number, values, to_dict(experiment))

        return plan

    def _group(self, folder: Path) -> None:
        if self.config.wandb != "disabled":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / GROUP_FILE).write_text(self.config.folder.name)


class Machine:
    """Ray and its nodes: joined at once where there is a cluster to join, else started when it is first needed."""

    def __init__(self, config: SweepConfig, stack: ExitStack) -> None:
        self._stack, self._config = stack, config
        self._address = config.address or os.environ.get("RAY_ADDRESS")
        self._running = False
        if self._address:
            self.start()

    def there(self) -> list[Node]:
        return nodes() if self._running else this_machine()

    def start(self) -> None:
        if not self._running:
            here = this_machine()[0]
            cpus, gpus = (None, None) if self._address else (int(here["CPU"]), int(here["GPU"]))
            ray = start_ray(self._address, num_cpus=cpus, num_gpus=gpus, log_to_driver=False)
            self._stack.enter_context(ray)
            self._running = True


Runner = Callable[[Queue, Judge], None]


def runner(config: SweepConfig, machine: Machine) -> Runner:
    """Who runs a queue of trials. UserError: a trial is too large for the machine; said before anything is made."""
    # lazy: Tune takes seconds to import, and a mistake shall be answered at once
    from eqr_ray.distributed.trials import run_trials, team_of_trial, trials_at_once  # noqa: PLC0415

    there = machine.there()
    team: ResourceRequest = team_of_trial(config.workers, config.cpus_each, config.gpus_each, config.device, there)
    at_once = trials_at_once(team, config.at_once, there)

    def run(queue: Queue, judge: Judge) -> None:
        if queue.is_empty:
            return
        machine.start()
        run_trials(
            queue,
            judge,
            team,
            workers=config.workers,
            at_once=at_once,
            max_failures=config.max_failures,
            free={
                "data": str(config.data_folder.resolve()),
                **{name: getattr(config, name) for name in ("workers", "device", "wandb", "max_failures")},
            },
            scratch=config.folder / "ray",
            show=shown(queue),
        )

    return run


def shown(queue: Queue) -> Callable[[Trial], None]:
    """A line for every trial that is over."""

    def show(trial: Trial) -> None:
        over = sum(one.is_over for one in queue.known.values())
        words = f": {trial.reason}" if trial.reason else ""
        figures = trial.reports[-1].figures if trial.reports else {}
        exact = f", validation_exact {figures['validation_exact']:.2%}" if "validation_exact" in figures else ""
        step = trial.reports[-1].step if trial.reports else 0
        print(f"{over} over; {trial.number} {trial.status} at step {step:,}{exact}{words}", file=sys.stderr, flush=True)

    return show


def search(sweep: TrainingSweep, count: int, run: Runner) -> dict[int, Trial]:
    """All trials of the search, whatever of them is left to do."""
    trials = Trials(sweep.config.folder / TRIALS)
    queue = Queue(trials, range(count), sweep.planned(trials))
    rungs = sweep.search.rungs
    halving = None if rungs is None else Halving(rungs, sweep.search.goals)
    if halving is not None:
        halving.recall(queue.known.values())
    run(queue, Judge(halving, sweep.search.collapse))
    return trials.all()


def finals(sweep: TrainingSweep, known: Mapping[int, Trial], run: Runner) -> list[Finalist]:
    """The finalists, best first, with what the test puzzles say of their networks."""
    search_config, config = sweep.search, sweep.config
    chosen = finalists_of(search_config, list(known.values()), config.finalists)
    if not chosen:
        return []
    again = Trials(config.folder / FINALS)
    numbers: Iterable[int] = final_numbers(chosen, config.seeds)
    run(Queue(again, numbers, sweep.repeated(again, known)), Judge(None, search_config.collapse))
    found = judged(chosen, again, config.seeds, search_config.goals[0])
    if config.test_split is None:
        return found
    depth = sweep.experiment(chosen[0].values, config.seed, search_config.steps).training.validate_depth
    return [tested(one, again, config.seeds, config.test_split, depth, config.device) for one in found]
