"""The log of a run, `log.jsonl`: one schema for every command, one writer, one reader; Weights & Biases when asked for.

Every line is a JSON object with `time` (seconds since 1970), `run`, `worker` (a host) or `actor`, `trial` (null outside
of a sweep), `event`, `step` where there is one, and the metrics of the event.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eqr_ray.config.errors import UserError, extra
from eqr_ray.storage.progress import polled
from eqr_ray.storage.run_dir import LOG

WandbMode = Literal["disabled", "offline", "online"]
ID_FILE = "wandb_id.txt"  # a run has one W&B run however often it is restarted
ABOUT = ("time", "run", "worker", "actor", "trial", "event", "step")  # what is no metric in a line
WARNINGS_SHOWN = 3  # the newest

Entry = dict[str, Any]


class RunLog:
    """Appends to the log of the run in `folder` (None: nothing is written, for workers other than the first).

    While it is open, this package's warnings go into it. `sinks` are given every entry: Ray metrics, a display.
    `actor`: who writes, if not the process of this host."""

    def __init__(
        self,
        folder: Path | None,
        *,
        actor: str | None = None,
        wandb: WandbMode = "disabled",
        config: Mapping[str, Any] | None = None,
        sinks: Iterable[Callable[[Entry], None]] = (),
    ) -> None:
        self.sinks = list(sinks)
        self._lock = threading.Lock()
        self._file = self._wandb = None
        if folder is None:
            return
        run, trial = run_and_trial(folder)
        who = {"worker": socket.gethostname()} if actor is None else {"actor": actor}
        self._about = {"run": run, **who, "trial": trial}
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = None if wandb == "disabled" else _start_wandb(folder, wandb, config or {})
        self._file = (folder / LOG).open("a+b", buffering=0)  # a line is one write: no other writer comes between
        if self._file.seek(0, 2):
            self._file.seek(-1, 2)
            if self._file.read() != b"\n":  # a kill cut a line short, to which the next one is not glued
                self._file.write(b"\n")

    def log(self, event: str, step: int | None = None, **metrics: Any) -> None:
        """One line. `metrics`: JSON values; `trial` and `actor` may be among them."""
        if self._file is None:
            return
        at = {} if step is None else {"step": step}
        entry = {"time": round(time.time(), 3), **self._about, "event": event, **at, **metrics}
        with self._lock:
            self._file.write(json.dumps(entry).encode() + b"\n")
        if self._wandb is not None:
            numbers = {f"{event}/{key}": value for key, value in metrics.items() if isinstance(value, int | float)}
            if numbers:
                self._wandb.log(numbers, step=step)
        for sink in self.sinks:
            sink(entry)

    def warning(self, message: str) -> None:
        """Something that the user should know of, and that does not end the run."""
        self.log("warning", message=message)

    def __reduce__(self) -> tuple[type[RunLog], tuple[None]]:
        return RunLog, (None,)  # Tune pickles what holds a log, and the copy is never used

    def __enter__(self) -> RunLog:
        _open.append(self)
        logging.getLogger("eqr_ray").addHandler(_handler)  # which is there once, however often it is added
        return self

    def __exit__(self, *_: object) -> None:
        _open.remove(self)
        if not _open:
            logging.getLogger("eqr_ray").removeHandler(_handler)
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._wandb is not None:
            self._wandb.finish()


class _WarningHandler(logging.Handler):
    """Of this package's logger: a warning goes to the run log that was opened last."""

    def emit(self, record: logging.LogRecord) -> None:
        for log in _open[-1:]:
            log.warning(record.getMessage())


_open: list[RunLog] = []
_handler = _WarningHandler(logging.WARNING)


def run_and_trial(folder: Path) -> tuple[str, str | None]:
    """What a run is called in logs, e.g. ("three", "trials/00007") of a trial of the sweep "three"; with the way from
    the run in whose folder it lies."""
    *_, over, parent, own = ("", "", *folder.resolve().parts)
    if parent in ("trials", "finals"):
        return over, f"{parent}/{own}"
    if parent in ("records", "test"):  # recorded by a sweep
        return f"{over}/{parent}/{own}", None
    return (f"{parent}/{own}" if own == "run" else own), None  # recorded by calibrate or frontier


@dataclass(frozen=True)
class LogContent:
    """The entries of a log in order. `unread`: whole lines that are no JSON object; `size`: bytes read."""

    entries: list[Entry] = field(default_factory=list)
    unread: int = 0
    size: int = 0

    def of(self, *events: str) -> list[Entry]:
        """The entries of these events."""
        return [entry for entry in self.entries if entry.get("event") in events]

    def lost(self) -> list[str]:
        """The newest warnings, how many there were before, and how many lines cannot be read."""
        words = [" ".join(str(entry.get("message")).split()) for entry in self.of("warning")]
        earlier = len(words) - WARNINGS_SHOWN
        lines = [f"{earlier:,} earlier warnings, in {LOG}"] if earlier > 0 else []
        lines += [f"warned: {message}" for message in words[-WARNINGS_SHOWN:]]
        return lines + ([f"{self.unread:,} lines of {LOG} cannot be read"] if self.unread else [])


def read_log(path: Path, start: int = 0) -> LogContent:
    """The whole lines of the log at `path` from byte `start` on; none where there is no log. UserError: unreadable."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return LogContent(size=start)
    except OSError as error:
        raise UserError(f"{path}: {str(error.strerror).lower()}") from error
    *lines, rest = content.split(b"\n")  # the last one is empty, or half: it is being written, or its writer died
    found = [_entry(line) for line in lines if line.strip()]
    entries = [entry for entry in found if entry is not None]
    return LogContent(entries, len(found) - len(entries), start + len(content) - len(rest))


def _entry(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


@dataclass(frozen=True)
class RunStatus:
    """What a run's folder tells, whatever its kind, read while others may be writing there.

    `facts`: label -> words. `lost`: what went wrong on the way. `needs`: what the user has to do besides going on.
    `goes_on`: the same command, or a resume, would have something to do and may succeed."""

    facts: dict[str, str]
    lost: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    goes_on: bool = True


@contextmanager
def followed(log: Path, show: Callable[[Entry], None]) -> Iterator[None]:
    """Show what is appended to `log` while the block runs, whoever writes it."""
    at = log.stat().st_size if log.exists() else 0

    def look() -> None:
        nonlocal at
        content = read_log(log, at)
        at = content.size
        for entry in content.entries:
            show(entry)

    with polled(look):
        yield


def number(entry: Mapping[str, Any], key: str) -> float | None:
    """A finite number of an entry, or None."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def _start_wandb(folder: Path, mode: WandbMode, config: Mapping[str, Any]) -> Any:
    with extra("wandb", f"wandb={mode}"):
        import wandb  # noqa: PLC0415  # lazy: takes a second, and need not be installed
    id_file, (run, trial) = folder / ID_FILE, run_and_trial(folder)
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:8])
    return wandb.init(
        project="eqr_ray",
        id=id_file.read_text(),
        name=folder.name,
        group=None if trial is None else run,
        dir=str(folder),
        mode=mode,
        resume="allow",
        config=dict(config),
    )
