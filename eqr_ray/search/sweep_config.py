"""The options of the command sweep, and what a resume must find again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.search.proposals import most_trials
from eqr_ray.search.study import SearchConfig, written
from eqr_ray.storage.run_log import WandbMode

# What a resume may change: how much of the search, and on what machine.
FREE = (
    *("trials", "finalists", "seeds", "workers", "cpus_each", "gpus_each", "at_once", "max_failures", "device"),
    *("address", "wandb", "actors", "data", "checkpoint", "mirror"),
)


@dataclass(frozen=True)
class SweepConfig:
    """The keys of the command; each is described in conf/sweep.yaml."""

    space: str | None
    data: str | None
    checkpoint: str | None
    out: str | None
    resume: str | None
    trials: int | None
    seed: int
    finalists: int
    seeds: int
    workers: int
    cpus_each: int
    gpus_each: float
    at_once: int | None
    max_failures: int
    device: str
    address: str | None
    wandb: WandbMode
    limit: int | None
    actors: int | None
    mirror: str | None = None

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise UserError(f"trials={self.trials} is not allowed: at least 1")
        for name in ("seed", "max_failures"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: 0 or more")
        if self.mirror is not None and self.out is None and self.resume is None:
            raise UserError("mirror= needs out=: the folder that is copied")
        if self.data is None:
            raise UserError("data= must be given: a folder that eqr_ray.prepare made")

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.resume or self.out or f"runs/sweep-{Path(self.space or '').stem}")

    @property
    def data_folder(self) -> Path:
        """UserError: it has no validation split."""
        folder = Path(str(self.data))
        if not (folder / "validation.arrow").is_file():
            raise UserError(f"data={folder}: no validation.arrow there; a sweep needs a folder that prepare made")
        return folder

    @property
    def test_split(self) -> Path | None:
        """The test puzzles, if there are any."""
        path = self.data_folder / "test.arrow"
        return path if path.is_file() else None


def identity(search: SearchConfig, config: SweepConfig, **content: str) -> dict[str, Any]:
    """What a resume must find again. `content`: hashes of data and weights, the name of the task."""
    searched = {key: value for key, value in written(search).items() if key != "trials"}
    return {"search": searched, "seed": config.seed, "limit": config.limit, **content}


def trials_of(search: SearchConfig, config: SweepConfig, before: int) -> int:
    """How many trials there shall be; `before`: so many the sweep was to have so far, 0 for a new one. UserError: more
    than there are configurations."""
    wanted = config.trials or max(search.trials, before)
    most = most_trials(search)
    if most is not None and config.trials is not None and config.trials > most:
        raise UserError(f"trials={wanted} is not allowed: {search.algorithm.name} has {most} trials in all")
    return wanted if most is None else min(wanted, most)
