"""The command `status`: a run's folder in, one screen about it out.

    python -m eqr_ray.status runs/sudoku9

Whether a driver lives is known on its own machine only; from another one the time since its last word is told.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option, read_json
from eqr_ray.evaluation.calibration import calibration_facts
from eqr_ray.evaluation.frontier import frontier_facts
from eqr_ray.inference.run import status_of_inference
from eqr_ray.inference.settings import InferConfig
from eqr_ray.search.results import status_of_search
from eqr_ray.storage.progress import duration
from eqr_ray.storage.run_dir import CONFIG, KINDS, LOCK, LOG, MANIFEST, SUMMARY, Driver, RunDir, driver_of, how_to_tell
from eqr_ray.storage.run_log import RunStatus, read_log
from eqr_ray.training.experiment import Experiment
from eqr_ray.training.status import status_of_training

O = TypeVar("O", bound=Options)  # noqa: E741


class StatusOptions(Options):
    """Tells in one screen what a run is, what it does, how far it is, what it lost and what it needs, from its folder
    alone. Nothing is written there, and nothing is asked of the process that has the run.

    Example: python -m eqr_ray.status runs/sudoku9
    """

    run: str = option(..., "folder of a run of train, infer, calibrate, frontier or sweep")


def main(options: StatusOptions, typed: frozenset[str] = frozenset()) -> None:
    """Print what the folder tells."""
    for label, words in report(Path(options.run)):
        print(f"{label:<13}{printable(words)}")


def printable(words: str) -> str:
    """A folder may come from anywhere: what it says must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def report(path: Path) -> list[tuple[str, str]]:
    """(label, words) line by line. UserError: no run is there, or its files are damaged."""
    if not path.is_dir():
        raise UserError(f"run={path} is {'a file, not a folder' if path.exists() else 'not there'}")
    if not any((path / name).is_file() for name in (MANIFEST, LOCK)):
        runs = sorted(inner.name for inner in path.iterdir() if (inner / MANIFEST).is_file())
        hint = f"; these folders in it do: {', '.join(runs[:5])}{', ...' if runs[5:] else ''}" if runs else ""
        raise UserError(f"run={path} holds no run (no {MANIFEST}){hint}")
    manifest, summary = (read_json(path / name) if (path / name).is_file() else None for name in (MANIFEST, SUMMARY))
    kind = manifest and manifest.get("kind")
    command = "" if kind not in ("train", "sweep") else _command(kind, resume=str(path))
    if kind == "train":
        experiment = _configuration(Experiment, path)
        what, status = _training(experiment), status_of_training(path, experiment, summary)
    elif kind == "infer":
        config = _configuration(InferConfig, path)
        what, status = _inference(config, path), status_of_inference(path, summary)
        command = _same_command(config, path)
    elif kind == "sweep":
        what, status = status_of_search(path, summary)
    elif kind in ("calibrate", "frontier"):
        facts = (calibration_facts if kind == "calibrate" else frontier_facts)(summary or {})
        again = [] if summary else ["the command that began it, typed again, goes on"]
        what, status = f"{KINDS[kind]} of records", RunStatus(facts, read_log(path / LOG).lost(), needs=again)
    else:
        what, status = "a run that has not begun: it makes its data, or starts Ray", RunStatus({})
    driver, needs = driver_of(path), list(status.needs)
    if command and status.goes_on and not (driver is not None and driver.alive):
        if driver is not None and driver.alive is None:
            needs.append(f"if that process is dead: rm {shlex.quote(str(path / LOCK))}")
        needs.append(command)
    does = _does(path, driver, summary is not None)
    lines = [("run", str(path.resolve())), ("is", what), ("does", does), *status.facts.items()]
    lines += [("lost", words) for words in status.lost or ["nothing"]]
    return lines + [("needs", words) for words in needs or ["nothing"]]


def _does(path: Path, driver: Driver | None, finished: bool) -> str:
    log = path / LOG
    silent = f", its last word {duration(max(0.0, time.time() - log.stat().st_mtime))} ago" if log.is_file() else ""
    if driver is None:
        return "nothing: it is finished" if finished else f"nothing: it was stopped{silent}"
    who = f"process {driver.pid} on {driver.host}"
    if driver.alive is None:
        return f"perhaps it runs: {who}, {how_to_tell(path)}"
    return f"it runs: {who}{silent}" if driver.alive else f"nothing: {who} died{silent}"


def _configuration(options_class: type[O], path: Path) -> O:
    if not (path / CONFIG).is_file():
        raise UserError(f"{path / CONFIG} is missing: the run was killed while it began; begin it again")
    try:
        return options_class.parse(read_json(path / CONFIG))
    except UserError as error:
        raise UserError(f"{path / CONFIG} cannot be read: {error}") from error


def _training(experiment: Experiment) -> str:
    on = f"{experiment.workers} Ray workers, ZeRO {experiment.zero}" if experiment.workers else "one process"
    shape = f"width {experiment.model.width}, {experiment.model.layers} layers, batch {experiment.batch}"
    return f"training, {experiment.task}: {shape}, {on}, data {experiment.data}"


def _inference(config: InferConfig, path: Path) -> str:
    shape = f"depth {config.depth}, breadth {config.breadth}, policy {config.policy}"
    puzzles = RunDir(path, "infer").identity().get("puzzles")
    return f"inference, {puzzles} puzzles: {shape}, {config.checkpoint} on {config.data}"


def _same_command(config: InferConfig, path: Path) -> str:
    """What began the run, with the keys that are not at their defaults; the folder may have been moved since."""
    needed = {"checkpoint": config.checkpoint, "data": config.data, "out": str(path.resolve())}
    defaults = InferConfig(checkpoint="x", data="x").to_dict()
    changed = {key: value for key, value in config.to_dict().items() if key not in needed and value != defaults[key]}
    return _command("infer", **needed, **changed)


def _command(name: str, **keys: Any) -> str:
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()]
    return shlex.join(["python", "-m", f"eqr_ray.{name}", *words])


def cli() -> NoReturn:
    """`python -m eqr_ray.status`, `eqr-status`."""
    run_command("status", StatusOptions, main, positional="run")


if __name__ == "__main__":
    cli()
