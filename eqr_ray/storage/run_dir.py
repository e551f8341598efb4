"""The folder of a run, the same for every command: what the run is, whether it is finished, who is working in it.

    manifest.json   kind, identity (values in which another run would differ) and its hash
    config.json     the configuration; written last when a run begins: without it there is no run
    log.jsonl       what happened; summary.json: of a finished run; lock.json: while a process works here

The lock names a process by host, number and start time: a number may have been given to another process since.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import psutil  # type: ignore[import-untyped]

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import content_hash, flat, plain, read_json
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.progress import duration

MANIFEST, CONFIG, SUMMARY, LOG, LOCK = "manifest.json", "config.json", "summary.json", "log.jsonl", "lock.json"
CHECKPOINTS = "checkpoints"
KINDS = {"train": "training run", "infer": "inference run", "calibrate": "calibration"}
KINDS |= {"frontier": "frontier", "sweep": "sweep"}
# What a run may leave that was killed before it had begun: generated data, Ray's files, records to evaluate.
BEFORE_CONFIG = frozenset({MANIFEST, LOG, LOCK, "data", "ray", "run"})


class RunDir:
    """The folder `path` for a run of this `kind`. Nothing is written before `create`."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind

    @property
    def has_run(self) -> bool:
        """Whether a run of any kind has begun here."""
        return (self.path / CONFIG).is_file() and (self.path / MANIFEST).is_file()

    def manifest(self) -> dict[str, Any]:
        """Empty where no run has begun. UserError: it is damaged, or that of another kind of run."""
        file = self.path / MANIFEST
        if not file.is_file():
            return {}
        found = read_json(file)
        kind, identity = found.get("kind"), found.get("identity")
        if not isinstance(kind, str) or not isinstance(identity, dict) or content_hash(identity) != found.get("hash"):
            raise UserError(f"{file} is damaged: its content has another hash")
        if kind != self.kind:
            has = KINDS.get(kind, kind)
            raise UserError(f"{self.path} holds a {has}, not a {KINDS[self.kind]}; choose another folder")
        return found if self.has_run else {}

    def identity(self) -> dict[str, Any]:
        """What the run here is; empty where none has begun. UserError as `manifest`."""
        return cast(dict[str, Any], self.manifest().get("identity", {}))

    def check(self, identity: Mapping[str, Any] | None = None, grows: Collection[str] = ()) -> None:
        """UserError: the folder holds something else, or another run than that of `identity` (None: any of this kind).
        Numbers named in `grows` may be greater than they were."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"out={self.path} is a file, not a folder")
        if before := self.manifest():
            if identity is not None and (words := difference(before["identity"], identity, grows)):
                raise UserError(f"out={self.path} holds another {KINDS[self.kind]}: {words}; choose another folder")
        elif self.path.is_dir() and any(e.name not in BEFORE_CONFIG and e.name[0] != "." for e in self.path.iterdir()):
            raise UserError(f"out={self.path} is not empty and holds no {KINDS[self.kind]}; choose another folder")

    def create(
        self, identity: Mapping[str, Any], config: Mapping[str, Any], grows: Collection[str] = (), **more: Any
    ) -> None:
        """Begin the run or go on with it; it is not finished from now on. For the process that has the lock.

        `more` is kept in the manifest beside the identity. UserError: another run has begun here since."""
        if self.has_run:
            self.check(identity, grows)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / SUMMARY).unlink(missing_ok=True)
        hashed = content_hash(identity)
        write_json(self.path / MANIFEST, {"kind": self.kind, "hash": hashed, **more, "identity": dict(identity)})
        write_json(self.path / CONFIG, config)

    def config(self) -> dict[str, Any]:
        """The configuration of the run. UserError: no run of this kind is here, or the file is damaged."""
        if not self.manifest():
            raise UserError(f"resume={self.path}: no {KINDS[self.kind]} there (no {CONFIG})")
        return read_json(self.path / CONFIG)

    def summary(self) -> dict[str, Any] | None:
        """None: the run is not finished. UserError: the file is damaged."""
        return read_json(self.path / SUMMARY) if (self.path / SUMMARY).is_file() else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Say that the run is finished, with its metrics."""
        write_json(self.path / SUMMARY, summary)


def difference(before: Mapping[str, Any], now: Mapping[str, Any], grows: Collection[str] = ()) -> str:
    """In which key two identities differ, with both values; the keys of further differences. Empty: in none."""
    there, here = flat(before), flat(plain(now))
    both = here.keys() & there.keys()
    keys = [key for key in {**here, **there} if key not in both or there[key] != here[key]]
    keys = [key for key in keys if not (key in grows and key in there and there[key] < here[key])]
    if not keys:
        return ""
    words = f"{keys[0]} is {_shown(there, keys[0])} there and {_shown(here, keys[0])} here"
    return f"{words} (and {', '.join(keys[1:])})" if keys[1:] else words


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "not set"


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
        lock = read_json(path / LOCK)
        host, pid, started = lock["host"], lock["pid"], float(lock["started"])
    except (FileNotFoundError, KeyError, TypeError, ValueError, OverflowError, UserError):
        return None
    return Driver(host, pid, started) if isinstance(host, str) and type(pid) is int else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that works in the folder `path`, which is made. UserError: another one does."""
    path.mkdir(parents=True, exist_ok=True)
    mine = Driver(socket.gethostname(), os.getpid(), psutil.Process().create_time())
    # Two processes that come at once meet at the flock; the loser then reads the winner's name.
    with (path / f".{LOCK}").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        holder = driver_of(path)
        if holder is not None and holder.alive is not False:
            whose = f"process {holder.pid} on {holder.host} is at work in {path}"
            raise UserError(whose if holder.alive else f"{whose}, {how_to_tell(path)}")
        write_json(path / LOCK, asdict(mine))
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)


def how_to_tell(path: Path) -> str:
    """A lock of another machine is never taken away silently; the user learns what there is to know about it."""
    log, here = path / LOG, socket.gethostname()
    silent = f"; its {LOG} was written {duration(time.time() - log.stat().st_mtime)} ago" if log.exists() else ""
    return f"which cannot be seen from {here}{silent}. If it is dead (a pod that was replaced): rm {path / LOCK}"
