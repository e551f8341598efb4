"""Making a dataset folder: source -> checked puzzles -> split -> Arrow files, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.data.arrow_store import Split, write_split
from eqr_ray.data.sources import locate, read_part
from eqr_ray.data.splits import Division, divide
from eqr_ray.data.validation import BadRow
from eqr_ray.tasks.keys import hash_words
from eqr_ray.tasks.puzzles import Puzzles
from eqr_ray.tasks.registry import Task, task_named
from eqr_ray.tasks.task import Progress

FORMAT = "eqr_ray.dataset.1"
GENERATE = "generate"
SPLITS = ("train", "validation", "test")
COPIES = 0xC0B1E5  # tells this use of the seed from others


class PrepareConfig(Options):
    """Puzzles from a generator, a file, a folder or the hub, checked, divided without shared puzzles, as Arrow files.

    Example: python -m eqr_ray.prepare task=sudoku6 train=1000 validation=200 test=1000 out=data/sudoku6
             python -m eqr_ray.prepare source=hub:sapientinc/sudoku-extreme train=1000 test=null out=data/extreme
    """

    task: str = option("sudoku9", "sudoku4, sudoku6, sudoku9, sudoku16, maze15, maze30 (any mazeN from maze5 on)")
    source: str = option(
        GENERATE,
        "generate, FILE.csv (or .csv.gz, or one puzzle a line), FOLDER (npy arrays or train.csv, test.csv), "
        "hub:OWNER/NAME",
        min_length=1,
    )
    train: int | None = option(1000, "training puzzles; null: all that remain (not with generate)", ge=1)
    validation: int = option(200, "validation puzzles, drawn from the same pool as the training puzzles", ge=0)
    test: int | None = option(
        1000,
        "test puzzles: the first ones of the source's own test part, else drawn from the pool; null: all of that part",
        ge=0,
    )
    augment: int = option(
        0, "stored symmetric copies of each training puzzle; 0: none, training augments on the fly", ge=0
    )
    seed: int = option(0, "of the generator and of the division into splits", ge=0)
    hard: bool = option(
        False,
        "generate only hard puzzles (sudoku9: at least 3 solver guesses; mazes: the longest quarter of the paths)",
    )
    unique: bool = option(False, "prove that every puzzle has one solution; a row with several is a bad row")
    skip_bad: bool = option(False, "go on without bad rows and list them in bad_rows.csv; false: stop, nothing written")
    limit_bad: int = option(10, "bad rows shown on the terminal", ge=0)
    out: str = option(..., "folder to make", min_length=1)

    @model_validator(mode="after")
    def _check(self) -> PrepareConfig:
        if self.source == GENERATE and (self.train is None or self.test is None):
            raise UserError("source=generate needs counts: train= and test= cannot be null")
        if self.hard and self.source != GENERATE:
            raise UserError(f"hard=true is for source=generate; source={self.source} has the puzzles it has")
        return self


def prepare(config: PrepareConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Make the folder `config.out` and return what its dataset.json says.

    Everything is written to a folder beside it and renamed at the end. A folder that is there already is left as it is
    where it holds this very dataset. UserError: bad rows (unless skip_bad), too few puzzles, another dataset in `out`.
    """
    task = task_named(config.task)
    out = Path(config.out)
    if not (place := next(path for path in (out, *out.absolute().parents) if path.exists())).is_dir():
        raise UserError(f"out={out}: {place} is a file, not a folder")
    present = _present(out)
    if present is not None and config.source == GENERATE and present["config"] == _identity(config):
        return _verified(out, present)  # the same words generate the same puzzles
    if present is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out}: is there already and is no dataset of prepare; choose another name")
    pool, own_test, bad = _read(task, config, progress)
    if bad and not config.skip_bad:
        raise UserError(_complaint(bad, config.limit_bad))
    division = divide(task, pool, own_test, config.train, config.validation, config.test, config.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        about = _write(building, task, config, division, bad)
        if present is not None:
            if present["splits"] != about["splits"]:
                raise UserError(f"out={out}: holds another dataset; choose another name or remove it")
            return _verified(out, present)
        building.chmod(0o755)  # mkdtemp makes it private
        if out.exists():
            out.rmdir()  # known to be empty
        os.rename(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return about


def _read(task: Task, config: PrepareConfig, progress: Progress | None) -> tuple[Puzzles, Puzzles | None, list[BadRow]]:
    """(the pool, the source's own test part, bad rows)."""
    if config.source == GENERATE:
        count = (config.train or 0) + config.validation + (config.test or 0)
        return task.generate(count, config.seed, config.hard, progress), None, []
    read = {}
    bad: list[BadRow] = []
    for part, path in locate(config.source).items():
        read[part], found = read_part(task, path, unique=config.unique)
        bad += found
    return read["train"], read.get("test"), bad


def _complaint(bad: list[BadRow], limit: int) -> str:
    """One line per bad row shown, and the count."""
    listed = [str(row) for row in bad[:limit]]
    more = [f"... and {len(bad) - limit} more"] if len(bad) > limit else []
    total = f"{len(bad)} bad row{'s' if len(bad) > 1 else ''}, nothing written (skip_bad=true goes on without them)"
    return "\n".join([*listed, *more, total])


def _write(building: Path, task: Task, config: PrepareConfig, division: Division, bad: list[BadRow]) -> dict[str, Any]:
    """Fill the folder; returns dataset.json's content."""
    splits: dict[str, Any] = {}
    for name in SPLITS:
        puzzles: Puzzles = getattr(division, name)
        distinct = len(puzzles)
        if name == "train":
            puzzles = with_copies(task, puzzles, config.augment, config.seed)
        hashed = write_split(building / f"{name}.arrow", task, puzzles, source=config.source, seed=config.seed)
        splits[name] = {"file": f"{name}.arrow", "rows": len(puzzles), "puzzles": distinct, "content_hash": hashed}
    about = {
        "format": FORMAT,
        "task": task.name,
        "vocabulary": task.vocabulary,
        "vocab_size": task.vocab_size,
        "length": task.length,
        "grid": list(task.grid),
        "splits": splits,
        "duplicates_removed": division.duplicates,
        "test_overlap_removed": division.test_overlap,
        "bad_rows": len(bad),
        "config": _identity(config),
    }
    if bad:
        with (building / "bad_rows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "line", "reason", "text"])
            writer.writerows([row.file, row.line, row.reason, row.text] for row in bad)
    (building / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


def with_copies(task: Task, puzzles: Puzzles, copies: int, seed: int) -> Puzzles:
    """Each puzzle, followed by `copies` of it under keyed symmetries."""
    if copies == 0:
        return puzzles
    originals = np.repeat(np.arange(len(puzzles)), copies)
    keys = hash_words(seed, COPIES, originals, np.tile(np.arange(copies), len(puzzles)))
    everything = puzzles.take(np.repeat(np.arange(len(puzzles)), copies + 1))
    assert everything.labels is not None
    copied = np.arange(len(everything)) % (copies + 1) > 0
    inputs, labels = task.augment(everything.inputs[copied], everything.labels[copied], keys)
    everything.inputs[copied], everything.labels[copied] = inputs, labels
    return everything


def _identity(config: PrepareConfig) -> dict[str, Any]:
    """The configuration without what does not change the dataset."""
    return {name: value for name, value in config.to_dict().items() if name not in ("out", "limit_bad", "skip_bad")}


def _present(out: Path) -> dict[str, Any] | None:
    """dataset.json of a dataset that is there already; None where there is none."""
    try:
        about = json.loads((out / "dataset.json").read_text())
    except OSError:
        return None
    except ValueError as error:
        raise UserError(f"{out / 'dataset.json'}: damaged ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"out={out}: holds a dataset.json of something else; choose another name")
    return about


def _verified(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The dataset that is there, once its files are what dataset.json says."""
    for split in about["splits"].values():
        if Split.open(out / split["file"], verify=True).content_hash != split["content_hash"]:
            raise UserError(f"{out / split['file']}: not the file that dataset.json speaks of")
    return about
