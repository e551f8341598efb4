"""Where figures of a run go: `log.jsonl` always, Weights & Biases when asked for. Only the first worker tracks.

A run has one W&B run however often it is restarted: its id is kept in the run folder, and so is the group that it
belongs to, if any.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import wandb

WandbMode = Literal["disabled", "offline", "online"]
ID_FILE = "wandb_id.txt"
GROUP_FILE = "wandb_group.txt"  # a trial's: the name of its sweep


class Tracker(Protocol):
    """Takes named figures of a step."""

    def log(self, kind: str, step: int, figures: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """For workers other than the first."""

    def log(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        return

    def close(self) -> None:
        return


def kept_warning(tracker: Tracker) -> Callable[[str], None]:
    """For `warnings_told`: a warning goes into log.jsonl, from where the driver shows it."""
    return lambda message: tracker.log("warning", 0, {"message": message})


def run_name(folder: Path) -> str:
    """What a run is called in logs."""
    parts = folder.resolve().parts
    return "/".join(parts[-3:]) if parts[-2:-1] in (("trials",), ("finals",)) else parts[-1]


class RunTracker:
    """Appends one JSON object a line to `log.jsonl` (kind, step, time, run, worker, figures), and mirrors figures to
    W&B. `run` is SWEEP/trials/NUMBER for a trial, so that lines of many runs can be told apart."""

    def __init__(self, folder: Path, mode: WandbMode, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "log.jsonl").open("a", buffering=1)
        self._who = {"run": run_name(folder), "worker": socket.gethostname()}
        self._wandb = None if mode == "disabled" else _start_wandb(folder, mode, config)

    def log(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        entry = {"kind": kind, "step": step, "time": round(time.time(), 3), **self._who, **figures}
        self._file.write(json.dumps(entry) + "\n")
        if self._wandb is not None:
            numbers = {f"{kind}/{key}": value for key, value in figures.items() if isinstance(value, int | float)}
            if numbers:
                self._wandb.log(numbers, step=step)

    def close(self) -> None:
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(folder: Path, mode: WandbMode, config: dict[str, Any]) -> Any:
    id_file = folder / ID_FILE
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:8])
    group_file = folder / GROUP_FILE
    return wandb.init(
        project="eqr_ray",
        id=id_file.read_text(),
        name=folder.name,
        group=group_file.read_text() if group_file.exists() else None,
        dir=str(folder),
        mode=mode,
        resume="allow",
        config=config,
    )
