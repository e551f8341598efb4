"""The options of the command sweep, and what a resume must find again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import option
from eqr_ray.inference.settings import ActorOptions
from eqr_ray.search.proposals import most_trials
from eqr_ray.search.study import SearchConfig, written
from eqr_ray.search.trial_dirs import MOST_SEEDS
from eqr_ray.storage.run_log import WandbMode


class SweepConfig(ActorOptions):
    """Searches the keys of train (or of infer, for a given checkpoint) over the space in a YAML file. Trials are
    compared on validation puzzles; the best train again with fresh seeds, and only their networks see the test puzzles,
    once. A sweep that was interrupted or killed goes on with resume=, and with more trials= it is extended.

    Example: python -m eqr_ray.sweep space=tune/smoke.yaml data=data/sudoku4 out=runs/smoke
             python -m eqr_ray.sweep resume=runs/smoke trials=20
             python -m eqr_ray.train recipe=runs/smoke/best.yaml data=data/sudoku4
    """

    space: str | None = option(
        None,
        "FILE.yaml: what varies, how it is searched, what counts (docs/guide/search.md); null: with resume=",
        resume=True,
    )
    data: str | None = option(
        None, "a folder that prepare made: its train, validation and, for the finals, test split", resume=True
    )
    checkpoint: str | None = option(
        None,
        "of a search over answers: a run's folder, a folder with model.safetensors, FILE.pth, zoo:NAME",
        resume=True,
    )
    out: str | None = option(None, "folder of results; null: runs/sweep-NAME, named after the file")
    resume: str | None = option(
        None, "a sweep's folder: go on there; trials=, finals and machines may change, the search may not"
    )
    mirror: str | None = option(
        None, "s3://bucket/path, gs://...: holds a copy of the folder, for other machines", resume=True
    )
    trials: int | None = option(None, "how many in all; null: as the file says", ge=1, resume=True)
    finalists: int = option(3, "so many of the best train again; 0: none", ge=0, resume=True)
    seeds: int = option(3, "with so many fresh seeds each", ge=1, le=MOST_SEEDS, resume=True)
    workers: int = option(
        0,
        "Ray Train workers of a trial; 0: the trial trains in its own process, which the next one takes over",
        ge=0,
        resume=True,
    )
    cpus_each: int = option(1, "CPUs of a worker, or of the trial with workers=0", ge=1, resume=True)
    at_once: int | None = option(None, "trials side by side; null: as many as there is room for", ge=1, resume=True)
    max_failures: int = option(3, "new starts of a trial whose process died", ge=0, resume=True)
    wandb: WandbMode = option(
        "disabled",
        "Weights & Biases: disabled, offline, online; one run per trial, grouped by the sweep",
        resume=True,
    )

    @model_validator(mode="after")
    def _check(self) -> SweepConfig:
        if self.mirror is not None and self.out is None and self.resume is None:
            raise UserError("mirror= needs out=: the folder that is copied")
        return self

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.resume or self.out or f"runs/sweep-{Path(self.space or '').stem}")

    @property
    def data_folder(self) -> Path:
        """UserError: it is not given, or has no validation split."""
        if self.data is None:
            raise UserError("data= must be given: a folder that eqr_ray.prepare made")
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
