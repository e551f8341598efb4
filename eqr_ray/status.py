"""The door `status`: a run's folder in, one screen about it out.

    python -m eqr_ray.status runs/sudoku9

What is told is read from the folder alone, so that it works while the run goes on elsewhere, and long after. Whether a
driver lives is known on its own machine only; from another one the time since its last word is told.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any, NoReturn

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.inference.run import status_of_inference
from eqr_ray.inference.settings import InferConfig
from eqr_ray.search.trial_dirs import status_of_search
from eqr_ray.storage.progress import duration
from eqr_ray.storage.run_dir import CONFIG, KINDS, LOCK, LOG, MANIFEST, SUMMARY, RunDir, driver_of, how_to_tell
from eqr_ray.storage.run_log import read_log
from eqr_ray.storage.status import RunStatus, warned
from eqr_ray.training.experiment import Experiment
from eqr_ray.training.status import status_of_training

COLUMN = 13


class StatusOptions(Options):
    """Tells in one screen what a run is, what it does, how far it is, what it lost and what it needs, from its folder
    alone. Nothing is written there, and nothing is asked of the process that has the run.

    Example: python -m eqr_ray.status runs/sudoku9
    """

    run: str = option(..., "folder of a run of train, infer or sweep")


def main(options: StatusOptions, typed: frozenset[str] = frozenset()) -> None:
    """Print what the folder tells."""
    for label, words in report(Path(options.run)):
        print(f"{label:<{COLUMN}}{printable(words)}")


def printable(words: str) -> str:
    """A folder may come from anywhere: what it says must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def report(path: Path) -> list[tuple[str, str]]:
    """(label, words) line by line. UserError: no run is there, or its files are damaged."""
    _check(path)
    summary = _object(path / SUMMARY) if (path / SUMMARY).is_file() else None
    manifest = _object(path / MANIFEST) if (path / MANIFEST).is_file() else {}
    if manifest.get("kind") == "train":
        experiment = _configuration(Experiment, path)
        what, status = _training(experiment), status_of_training(path, experiment, summary)
        command = _command("train", resume=str(path))
    elif manifest.get("kind") == "infer":
        config = _configuration(InferConfig, path)
        what, status = _inference(config, path), status_of_inference(path, summary)
        command = _same_command(config, path)
    elif manifest.get("kind") == "sweep":
        what, status = status_of_search(path, summary)
        command = _command("sweep", resume=str(path))
    elif manifest.get("kind") in ("calibrate", "frontier"):
        what = f"{KINDS[manifest['kind']]} of records"
        status, command = RunStatus({}, warned(read_log(path / LOG).entries), goes_on=False), ""
    else:
        what, status, command = "a run that has not begun: it makes its data, or starts Ray", RunStatus({}), ""
    lines = [("run", str(path.resolve())), ("is", what), ("does", _does(path, summary is not None))]
    lines += status.facts.items()
    lines += [("lost", words) for words in status.lost] or [("lost", "nothing")]
    return lines + [("needs", words) for words in _needs(path, status, command)]


def _check(path: Path) -> None:
    """UserError where no run is."""
    if not path.is_dir():
        raise UserError(f"run={path} is {'a file, not a folder' if path.exists() else 'not there'}")
    if any((path / name).is_file() for name in (MANIFEST, LOCK)):
        return
    runs = sorted(inner.name for inner in path.iterdir() if (inner / MANIFEST).is_file())
    hint = f"; it holds {len(runs)} folders that do: {', '.join(runs[:5])}{', ...' if runs[5:] else ''}" if runs else ""
    raise UserError(f"run={path} holds no run (no {MANIFEST}){hint}")


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file} is missing: the run was killed while it began; begin it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return found


def _configuration(kind: Any, path: Path) -> Any:
    try:
        return kind.parse(_object(path / CONFIG))
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(f"{path / CONFIG} is not that of a run of train or infer ({error})") from error


def _training(experiment: Experiment) -> str:
    on = f"{experiment.workers} Ray workers, ZeRO {experiment.zero}" if experiment.workers else "one process"
    model, config = experiment.model, experiment
    shape = f"width {model.width}, {model.layers} layers, batch {config.batch}"
    return f"training, {experiment.task}: {shape}, {on}, data {experiment.data}"


def _inference(config: InferConfig, path: Path) -> str:
    puzzles = RunDir(path, "infer").identity().get("puzzles")
    shape = f"depth {config.depth}, breadth {config.breadth}, policy {config.policy}"
    return f"inference, {puzzles} puzzles: {shape}, {config.checkpoint} on {config.data}"


def _does(path: Path, finished: bool) -> str:
    driver = driver_of(path)
    who = "" if driver is None else f"process {driver.pid} on {driver.host}"
    log = path / LOG
    silent = f", its last word {duration(max(0.0, time.time() - log.stat().st_mtime))} ago" if log.is_file() else ""
    if driver is None:
        return "nothing: it is finished" if finished else f"nothing: it was stopped{silent}"
    if driver.alive is None:
        return f"perhaps it runs: {who}, {how_to_tell(path)}"
    return f"it runs: {who}{silent}" if driver.alive else f"nothing: {who} died{silent}"


def _needs(path: Path, status: RunStatus, command: str) -> list[str]:
    driver = driver_of(path)
    needs = list(status.needs)
    if status.goes_on and command and (driver is None or not driver.alive):
        if driver is not None and driver.alive is None:
            needs.append(f"if that process is dead: rm {shlex.quote(str(path / LOCK))}")
        needs.append(command)
    return needs or ["nothing"]


def _same_command(config: InferConfig, path: Path) -> str:
    """What began the run, with the keys that are not at their defaults; the folder may have been moved since."""
    given = {**config.to_dict(), "out": str(path.resolve())}
    needed = {key: given[key] for key in ("checkpoint", "data", "out")}
    defaults = InferConfig(checkpoint="x", data="x").to_dict()
    changed = {key: value for key, value in given.items() if key not in needed and value != defaults[key]}
    return _command("infer", **needed, **changed)


def _command(door: str, **keys: Any) -> str:
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()]
    return shlex.join(["python", "-m", f"eqr_ray.{door}", *words])


def cli() -> NoReturn:
    """`python -m eqr_ray.status`, `eqr-status`."""
    run_command("status", StatusOptions, main, positional="run")


if __name__ == "__main__":
    cli()
