"""The trials of a sweep: one folder each, which says by itself what has become of it, and the queue of those to come.

There is no other memory: whoever is killed when, the next run of the sweep reads the same trials. A metric counts only
as far as a checkpoint holds the weights that it is of.

    out/trials/00007/           the folder of a run, as `train` leaves it, and
        trial.json              the values, written before the trial begins
        result.json             the metrics of an answering trial
        end.json                why it ended before its end: stopped, diverged, collapsed, failed
    out/finals/00701/           trial 7 again with the first fresh seed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import read_json
from eqr_ray.search.space import Values
from eqr_ray.search.study import MetricGoal
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.run_dir import CHECKPOINTS, LOG, SUMMARY
from eqr_ray.storage.run_log import ABOUT, RunLog, read_log
from eqr_ray.training.checkpoint import complete_checkpoints

# running: begun, and to be continued; stopped: given up for better trials; diverged: the loss is no number; collapsed:
# it had learnt something, and lost it; failed: a fault of ours or of the machine
Status = Literal["running", "finished", "stopped", "diverged", "collapsed", "failed"]
LOST: tuple[Status, ...] = ("diverged", "collapsed", "failed")
TRIALS, FINALS = "trials", "finals"
PLAN, RESULT, END = "trial.json", "result.json", "end.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """Metrics of a trial after `step` steps of it (an answering trial has one); `time`: seconds since 1970."""

    step: int
    time: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One configuration that is or has been tried."""

    number: int
    values: Values
    status: Status = "running"
    reason: str = ""
    reports: tuple[Report, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.status != "running"

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last report."""
        return self.reports[-1].metrics if self.reports else {}

    @property
    def step(self) -> int:
        """Of the last report, 0 before there is one."""
        return self.reports[-1].step if self.reports else 0


def score(trial: Trial, goal: MetricGoal) -> float:
    """Of the last report; more is better. A trial that was lost is worth nothing, whatever it once was."""
    return -math.inf if trial.status in LOST else goal.score(trial.metrics)


def ranked(trials: Iterable[Trial], goal: MetricGoal) -> list[Trial]:
    """Finished trials with a report, best first; of equals the earlier one."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.reports]
    return sorted(finished, key=lambda trial: (-score(trial, goal), trial.number))


@dataclass(frozen=True)
class Plan:
    """What a trial is, before it begins. `experiment`: of a training, as its config.json will have it."""

    number: int
    values: Values
    experiment: dict[str, Any] | None = None


@dataclass(frozen=True)
class _End:
    status: Status
    reason: str
    step: int


class Trials:
    """The trials in the folder `path`, by number."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, number: int) -> Path:
        return self.path / f"{number:05d}"

    def write_plan(self, plan: Plan) -> None:
        self.folder(plan.number).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(plan.number) / PLAN, vars(plan))

    def plan(self, number: int) -> Plan:
        return _read(self.folder(number) / PLAN, Plan)

    def write_result(self, number: int, report: Report) -> None:
        write_json(self.folder(number) / RESULT, vars(report))

    def write_end(self, number: int, status: Status, reason: str, step: int | None = None) -> None:
        """The trial is over after `step` steps (None: those of its last report); what it may report after that is not
        looked at."""
        folder = self.folder(number)
        last = max((one.step for one in reports_of(folder)), default=0) if step is None else step
        write_json(folder / END, vars(_End(status, reason, last)))

    def read(self, number: int) -> Trial:
        """What has become of a trial that has been begun. UserError: a file of it is damaged."""
        folder, values = self.folder(number), self.plan(number).values
        reports = tuple(reports_of(folder))
        if (folder / END).is_file():
            end = _read(folder / END, _End)
            return Trial(number, values, end.status, end.reason, tuple(one for one in reports if one.step <= end.step))
        is_over = (folder / SUMMARY).is_file() or (folder / RESULT).is_file()
        return Trial(number, values, "finished" if is_over else "running", reports=reports)

    def numbers(self) -> list[int]:
        """Of the trials that have been begun."""
        return sorted(int(plan.parent.name) for plan in self.path.glob(f"*/{PLAN}"))

    def all(self) -> dict[int, Trial]:
        return {number: self.read(number) for number in self.numbers()}

    def readable(self) -> tuple[list[Trial], list[Path]]:
        """(the trials that can be read, the folders of the others)."""
        readable, damaged = [], []
        for number in self.numbers():
            try:
                readable.append(self.read(number))
            except (UserError, OSError, ValueError, KeyError, TypeError, AssertionError):
                damaged.append(self.folder(number))
        return readable, damaged


def reports_of(folder: Path) -> list[Report]:
    """The reports of a trial up to its newest checkpoint, in order. A step that was run twice counts as it was run
    last, with the time of its first report: that is when others were compared with it."""
    if (folder / RESULT).is_file():
        return [_read(folder / RESULT, Report)]
    checkpoints = complete_checkpoints(folder / CHECKPOINTS)
    newest = int(checkpoints[-1].name) if checkpoints else 0
    metrics: dict[int, dict[str, float]] = {}
    times: dict[int, float] = {}
    for entry in read_log(folder / LOG).of("train", "validation"):
        numbers = {k: v for k, v in entry.items() if k not in ABOUT and isinstance(v, int | float)}
        metrics.setdefault(entry["step"], {}).update(numbers)
        if entry["event"] == "validation":
            times.setdefault(entry["step"], entry["time"])
    return [Report(step, times[step], metrics[step]) for step in sorted(times) if step <= newest]


def _read(path: Path, kind: type[T]) -> T:
    content = read_json(path)
    try:
        return kind(**content)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error


Planner = Callable[[int, Mapping[int, Trial]], Plan]


class Queue:
    """Deals out the trials of `numbers` in order: those that are not over, then new ones, each begun by writing its
    `plan(number, history)`. `history`: the trials so far, by number."""

    def __init__(self, trials: Trials, numbers: Iterable[int], plan: Planner, log: RunLog | None = None) -> None:
        self.trials, self.history, self._plan = trials, trials.all(), plan
        self._log = RunLog(None) if log is None else log
        self._left = [n for n in numbers if n not in self.history or not self.history[n].is_over]

    @property
    def is_empty(self) -> bool:
        return not self._left

    def next(self) -> int | None:
        """The number of the next trial, which is now begun; None: nothing is left."""
        if not self._left:
            return None
        number = self._left[0]
        if number not in self.history:
            self.trials.write_plan(self._plan(number, self.history))
            self.history[number] = self.trials.read(number)
        self._log.log("trial_begun", trial=self._name(number), values=self.history[number].values)
        return self._left.pop(0)

    def again(self, number: int) -> None:
        """A trial did not come to its end: it is the next."""
        self._left.insert(0, number)

    def over(self, number: int) -> Trial:
        """Look again at a trial that has ended."""
        trial = self.history[number] = self.trials.read(number)
        about = {"trial": self._name(number), "status": trial.status, "reason": trial.reason}
        self._log.log("trial_over", trial.step if trial.reports else None, **about, metrics=trial.metrics)
        return trial

    def _name(self, number: int) -> str:
        return f"{self.trials.path.name}/{self.trials.folder(number).name}"
