"""The folder of a sweep: what is searched, and one folder per trial that says by itself what has become of it.

Why here: there is no other memory. Whoever is killed when, the next sitting reads the same trials; a figure counts only
as far as a checkpoint holds the weights that it is of.

    out/manifest.json           what is searched, its content hash, how many trials
    out/trials/00007/           the folder of a run, as `train` leaves it, and
        trial.json              the values, written before the trial begins
        result.json             the figures of an inference trial
        end.json                why it ended before its end: stopped, diverged, collapsed, failed
    out/finals/00701/           trial 7 again with the first fresh seed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import content_hash, read_json
from eqr_ray.search.outcome import Report, Status, Trial
from eqr_ray.search.space import Values
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.run_dir import CHECKPOINTS, LOCK, LOG, SUMMARY
from eqr_ray.storage.run_log import ABOUT, read_log
from eqr_ray.training.checkpoint import complete_checkpoints

MANIFEST, TRIALS, FINALS = "manifest.json", "trials", "finals"
PLAN, RESULT, END = "trial.json", "result.json", "end.json"
T = TypeVar("T")
BEFORE_MANIFEST = {LOCK, "ray"}  # what a driver that ended at once may have left


@dataclass(frozen=True)
class Plan:
    """What a trial is, before it begins. `experiment`: of a training, as its config.json will have it; `parent`: the
    trial whose last checkpoint it goes on from, at step `begin`."""

    number: int
    values: Values
    experiment: dict[str, Any] | None = None
    parent: int | None = None
    begin: int = 0


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
        """The trial is over after `step` steps; what it may do after that is not looked at."""
        write_json(self.folder(number) / END, {"status": status, "reason": reason, "step": step})

    def read(self, number: int) -> Trial:
        """What has become of a trial that has been begun."""
        folder, plan = self.folder(number), self.plan(number)
        status, reason, last = _ending(folder)
        reports = tuple(one for one in reports_of(folder) if last is None or one.step <= last)
        return Trial(number, plan.values, status, reason, reports, plan.parent, plan.begin)

    def all(self) -> dict[int, Trial]:
        return {number: self.read(number) for number in self.numbers()}


def _ending(folder: Path) -> tuple[Status, str, int | None]:
    """(status, reason, step after which nothing counts)."""
    if (folder / END).is_file():
        end = _read(folder / END, _End)
        return end.status, end.reason, end.step
    over = (folder / SUMMARY).is_file() or (folder / RESULT).is_file()
    return "finished" if over else "running", "", None


def reports_of(folder: Path) -> list[Report]:
    """The reports of a trial up to its newest checkpoint, in order. A step that was run twice counts as it was run
    last, with the time of its first report: that is when others were compared with it."""
    if (folder / RESULT).is_file():
        return [_read(folder / RESULT, Report)]
    kept = complete_checkpoints(folder / CHECKPOINTS)
    newest = int(kept[-1].name) if kept else 0
    figures: dict[int, dict[str, float]] = {}
    times: dict[int, float] = {}
    validated = set()
    for entry in read_log(folder / LOG).of("train", "validation"):
        numbers = {name: value for name, value in entry.items() if name not in ABOUT}
        figures.setdefault(entry["step"], {}).update(numbers)
        if entry["event"] == "validation":
            validated.add(entry["step"])
            times.setdefault(entry["step"], entry["time"])
    return [Report(step, times[step], figures[step]) for step in sorted(validated) if step <= newest]


def begin(path: Path, identity: Mapping[str, Any], trials: int) -> None:
    """Make the folder, or go on in it with as many trials or more. UserError: it belongs to something else, and what
    differs."""
    check(path, identity)
    before = stored(path)
    most = max(trials, before["trials"] if before else 0)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / MANIFEST, {"hash": content_hash(identity), "trials": most, "identity": dict(identity)})


def check(path: Path, identity: Mapping[str, Any]) -> None:
    """UserError where `path` holds something else than this sweep."""
    if path.is_file():
        raise UserError(f"out={path} is a file, not a folder")
    before = stored(path)
    if before is not None:
        different = difference(before["identity"], json.loads(json.dumps(identity)))
        if different:
            raise UserError(f"out={path} holds another sweep: {different}; choose another folder")
    elif path.is_dir() and any(e.name not in BEFORE_MANIFEST and e.name[0] != "." for e in path.iterdir()):
        raise UserError(f"out={path} is not empty and holds no sweep; choose another folder")


def stored(path: Path) -> dict[str, Any] | None:
    """The manifest in this folder; None where there is none. UserError: damaged."""
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
        if content_hash(found["identity"]) != found["hash"] or type(found["trials"]) is not int:
            raise ValueError("its content has another hash")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return dict(found)


def difference(there: Any, here: Any, path: str = "") -> str | None:
    """The first key in which two trees differ, with both values; None where they do not."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*here, *there)):
            name = f"{path}.{key}" if path else str(key)
            if key not in there or key not in here:
                place, value = ("here", here[key]) if key in here else ("there", there[key])
                return f"{name}={json.dumps(value)} is {place} only"
            if found := difference(there[key], here[key], name):
                return found
        return None
    return None if there == here else f"{path} is {json.dumps(there)} there and {json.dumps(here)} here"


def _read(path: Path, kind: type[T]) -> T:
    content = read_json(path)
    try:
        return kind(**content)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
