"""The folder of a training run: what it is (config.json), whether it is finished (summary.json), who is at it (lock).

A run has one driver at a time. The lock names it by host, process number and start time of the process, so that the
lock of a driver that died is recognised, even when its number has been given to another process since.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import from_dict, read_json
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.progress import duration

CONFIG, SUMMARY, LOG, LOCK = "config.json", "summary.json", "log.jsonl", "lock.json"
CHECKPOINTS = "checkpoints"
BEFORE_CONFIG = {LOCK, LOG, "data", "ray"}  # what a driver that ended before training began may have left


def check_new(path: Path) -> None:
    """UserError where `path` is not free for a new run."""
    if (path / CONFIG).exists():
        raise UserError(f"out={path} holds a run: resume={path} continues it, another out= starts a new one")
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path} is a file")
    if path.is_dir() and any(entry.name not in BEFORE_CONFIG and entry.name[0] != "." for entry in path.iterdir()):
        raise UserError(f"out={path} is not empty and holds no run; choose another folder")


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a run. UserError: there is no run, or the file is damaged."""
    try:
        config = json.loads((path / CONFIG).read_text())
    except FileNotFoundError:
        raise UserError(f"resume={path}: no training run there (no {CONFIG})") from None
    except ValueError as error:
        raise UserError(f"{path / CONFIG} is damaged: {error}") from error
    if not isinstance(config, dict) or "training" not in config:
        raise UserError(f"resume={path}: {CONFIG} is not that of a training run")
    return config


def read_summary(path: Path) -> dict[str, Any] | None:
    """summary.json of a finished run, else None. UserError: it is damaged."""
    try:
        summary = read_json(path / SUMMARY)
    except FileNotFoundError:
        return None
    for key in ("step", "seconds"):
        if not isinstance(summary.get(key), int | float):
            raise UserError(f"{path / SUMMARY} is damaged: {key} is no number")
    return summary


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Say what the run is, and that it is not finished. Written when training begins, not before: a run that was
    finished stays so when Ray does not start."""
    (path / SUMMARY).unlink(missing_ok=True)
    write_json(path / CONFIG, config)


@dataclass(frozen=True)
class Driver:
    """The process that has, or had, a run: its host, its number there, and when it started (seconds since 1970)."""

    host: str
    pid: int
    started: float

    @property
    def alive(self) -> bool | None:
        """None: it is on another machine, which cannot be seen from here."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            dead = process.status() == psutil.STATUS_ZOMBIE  # its parent, as in many containers, does not look after it
            return bool(process.create_time() == self.started) and not dead
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            return False


def driver_of(path: Path) -> Driver | None:
    """Who is at the run in `path`, by its lock; None where there is no lock, or one that a death cut short."""
    try:
        lock = json.loads((path / LOCK).read_text())
        return from_dict(Driver, {key: lock[key] for key in ("host", "pid", "started")})
    except (FileNotFoundError, ValueError, KeyError, TypeError, UserError):
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only driver of the run in `path` (made where it is missing). UserError: another one is at it."""
    path.mkdir(parents=True, exist_ok=True)
    _take(path / LOCK, Driver(socket.gethostname(), os.getpid(), psutil.Process().create_time()))
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)


def _take(file: Path, mine: Driver) -> None:
    # Two drivers that come at once meet at the flock; the loser then reads the winner's name.
    with (file.parent / f".{LOCK}").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        holder = driver_of(file.parent)
        if holder is not None and holder.alive is not False:
            whose = f"{file.parent} is being trained by process {holder.pid} on {holder.host}"
            raise UserError(whose if holder.alive else f"{whose}, {how_to_tell(file.parent)}")
        write_json(file, asdict(mine))


def how_to_tell(path: Path) -> str:
    """A lock of another machine is never taken away silently; the user learns what there is to know about it."""
    log = path / LOG
    silent = f"; its {LOG} was written {duration(time.time() - log.stat().st_mtime)} ago" if log.exists() else ""
    here, lock = socket.gethostname(), path / LOCK
    return f"which cannot be seen from {here}{silent}. If it is dead (a pod that was replaced): rm {lock}"
