"""The folder of a sweep: what is searched, and one folder per trial that says by itself what has become of it.

There is no other memory: whoever is killed when, the next run of the sweep reads the same trials. A metric counts only
as far as a checkpoint holds the weights that it is of.

    out/manifest.json           what is searched, and how many trials
    out/trials/00007/           the folder of a run, as `train` leaves it, and
        trial.json              the values, written before the trial begins
        result.json             the metrics of an answering trial
        end.json                why it ended before its end: stopped, diverged, collapsed, failed
    out/finals/00701/           trial 7 again with the first fresh seed
    out/trials.parquet          a row per trial and report, a column per parameter and metric
    out/best.yaml               the winner, for `recipe=` of train or infer
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import read_json
from eqr_ray.inference.records import growing_table
from eqr_ray.search.space import Parameter, Space, Values
from eqr_ray.search.study import SearchConfig, search_of
from eqr_ray.search.trial import Report, Status, Trial, ranked
from eqr_ray.storage.atomic import write_bytes, write_json
from eqr_ray.storage.run_dir import CHECKPOINTS, LOG, MANIFEST, SUMMARY, RunDir
from eqr_ray.storage.run_log import ABOUT, RunStatus, read_log
from eqr_ray.training.checkpoint import complete_checkpoints

TRIALS, FINALS = "trials", "finals"
TABLE, BEST = "trials.parquet", "best.yaml"
PLAN, RESULT, END = "trial.json", "result.json", "end.json"
VALUE = "space."  # before the names of parameters in the table, apart from the metrics
FAILURES_SHOWN = 3  # the newest
MOST_SEEDS = 99  # of a final: folder 00701 is trial 7 with the first fresh seed
T = TypeVar("T")


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

    def numbers(self) -> list[int]:
        """Those that have been begun."""
        return sorted(int(plan.parent.name) for plan in self.path.glob(f"*/{PLAN}"))

    def write_plan(self, plan: Plan) -> None:
        self.folder(plan.number).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(plan.number) / PLAN, vars(plan))

    def plan(self, number: int) -> Plan:
        return _read(self.folder(number) / PLAN, Plan)

    def write_result(self, number: int, report: Report) -> None:
        write_json(self.folder(number) / RESULT, vars(report))

    def write_end(self, number: int, status: Status, reason: str, step: int) -> None:
        """The trial is over after `step` steps; what it may report after that is not looked at."""
        write_json(self.folder(number) / END, {"status": status, "reason": reason, "step": step})

    def read(self, number: int) -> Trial:
        """What has become of a trial that has been begun. UserError: a file of it is damaged."""
        folder, plan = self.folder(number), self.plan(number)
        reports = tuple(reports_of(folder))
        if (folder / END).is_file():
            end = _read(folder / END, _End)
            reports = tuple(one for one in reports if one.step <= end.step)
            return Trial(number, plan.values, end.status, end.reason, reports)
        over = (folder / SUMMARY).is_file() or (folder / RESULT).is_file()
        return Trial(number, plan.values, "finished" if over else "running", "", reports)

    def all(self) -> dict[int, Trial]:
        return {number: self.read(number) for number in self.numbers()}


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


def write_trials(path: Path, space: Space, trials: Iterable[Trial]) -> None:
    """The table of all trials. A trial without reports is a row without metrics."""
    rows: list[dict[str, Any]] = []
    metrics: set[str] = set()
    for trial in trials:
        about: dict[str, Any] = {"trial": trial.number, "status": trial.status, "reason": trial.reason}
        for one in space:
            value = trial.values.get(one.name)
            is_text = value is not None and _column(one) == "string"
            about[VALUE + one.name] = str(value) if is_text else value
        for report in trial.reports:
            metrics |= report.metrics.keys()
            last = report is trial.reports[-1]
            rows.append({**about, "step": report.step, "time": report.time, "is_last": last, **report.metrics})
        if not trial.reports:
            rows.append({**about, "is_last": True})
    schema = {"trial": "int64", "status": "string", "reason": "string", "step": "int64", "time": "double"}
    schema |= {"is_last": "bool", **{VALUE + one.name: _column(one) for one in space}}
    schema |= dict.fromkeys(sorted(metrics), "double")
    with growing_table(path, schema) as write:
        write(rows)


def write_recipe(out: Path, keys: Mapping[str, Any], comment: Iterable[str]) -> None:
    """best.yaml: the winner as keys that `recipe=` of train or infer takes."""
    lines = [*(f"# {line}" for line in comment), *(f"{key}: {json.dumps(value)}" for key, value in keys.items())]
    write_bytes(out / BEST, ("\n".join(lines) + "\n").encode())


def _column(one: Parameter) -> str:
    """The Arrow type of a parameter."""
    if one.kind == "choice":
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in one.choices)
        return "double" if numbers else "string"
    return "int64" if one.kind == "integer" else "double"


def status_of_search(path: Path, summary: Mapping[str, Any] | None) -> tuple[str, RunStatus]:
    """What is searched, and how far it is, from the folder alone. `summary`: of a finished sweep. UserError: the
    manifest is damaged."""
    search = stored_search(path)
    trials, damaged = _readable(Trials(path / TRIALS))
    finals, damaged_finals = _readable(Trials(path / FINALS))
    over = sum(trial.is_over for trial in trials)
    facts = {"how far": f"{over} of {search.trials} trials are over, {len(trials) - over} begun"}
    if finals:
        facts["finals"] = f"{sum(trial.is_over for trial in finals)} of {len(finals)} begun are over"
    ends = Counter(trial.status for trial in trials)
    facts["ends"] = ", ".join(f"{count} {status}" for status, count in ends.most_common()) or "none yet"
    for best in ranked(trials, search.goal)[:1]:
        metric, last = search.goal.metric, best.reports[-1]
        values = ", ".join(f"{name}={value}" for name, value in best.values.items())
        facts["best"] = f"trial {best.number}, {metric} {last.metrics.get(metric)} at step {last.step}: {values}"
    failed = [trial for trial in (*trials, *finals) if trial.status == "failed"]
    lost = [f"trial {trial.number} failed: {trial.reason}" for trial in failed[-FAILURES_SHOWN:]]
    lost += [f"damaged: {folder}" for folder in (*damaged, *damaged_finals)]
    what = f"sweep of {search.command}: {', '.join(search.space.names)}; {search.algorithm.name}"
    return what, RunStatus(facts, lost, goes_on=summary is None)


def _readable(trials: Trials) -> tuple[list[Trial], list[Path]]:
    """(those that can be read, the folders of the others)."""
    readable, damaged = [], []
    for number in trials.numbers():
        try:
            readable.append(trials.read(number))
        except (UserError, OSError, ValueError, KeyError, TypeError, AssertionError):
            damaged.append(trials.folder(number))
    return readable, damaged


def stored_search(path: Path) -> SearchConfig:
    """What the sweep in this folder searches, with as many trials as it shall have. UserError: no sweep is there, or
    its manifest is damaged."""
    manifest = RunDir(path, "sweep").manifest()
    try:
        return search_of({**manifest["identity"]["search"], "trials": manifest["trials"]})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / MANIFEST} is damaged: it holds no search") from error


def _read(path: Path, kind: type[T]) -> T:
    content = read_json(path)
    try:
        return kind(**content)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
