"""Making a dataset folder: source -> checked puzzles -> split -> Arrow files, whole or not at all.

No two splits share a puzzle up to symmetry. Puzzles with the same fingerprint are one group; the groups are ordered by
a keyed hash of the fingerprint, so the division depends on the puzzles and the seed alone, not on the order of a file.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.data.arrow_store import Split, write_split
from eqr_ray.data.sources import locate, read_part
from eqr_ray.data.validation import BadRow
from eqr_ray.tasks import Puzzles, Task, task_named
from eqr_ray.tasks.keys import hash_words
from eqr_ray.tasks.task import ShowCount

FORMAT = "eqr_ray.dataset.1"
GENERATE = "generate"
SPLITS = ("train", "validation", "test")
COPIES, SPLIT_DRAW = 0xC0B1E5, 0x5B117  # tell the uses of the seed apart


class PrepareConfig(Options):
    """Puzzles from a generator, a file, a folder or the hub, checked, divided without shared puzzles, as Arrow files.

    Example: python -m eqr_ray.prepare task=sudoku6 train=1000 validation=200 test=1000 out=data/sudoku6
             python -m eqr_ray.prepare source=hub:sapientinc/sudoku-extreme train=1000 test=null out=data/extreme
    """

    task: str = option("sudoku9", "sudoku4, sudoku6, sudoku9, sudoku16, maze15, maze30 (any mazeN from maze5 on)")
    source: str = option(
        GENERATE,
        "generate, FILE.csv (or .csv.gz, or one puzzle a line), FOLDER (npy or train.csv, test.csv), hub:OWNER/NAME",
        min_length=1,
    )
    train: int | None = option(1000, "training puzzles; null: all that remain (not with generate)", ge=1)
    validation: int = option(200, "validation puzzles, drawn from the same pool as the training puzzles", ge=0)
    test: int | None = option(
        1000, "test puzzles: the first of the source's own test part (null: all of it), else drawn from the pool", ge=0
    )
    augment: int = option(0, "stored copies of each training puzzle; 0: none, training augments on the fly", ge=0)
    seed: int = option(0, "of the generator and of the division into splits", ge=0)
    hard: bool = option(False, "only hard puzzles (sudoku9: 3 solver guesses or more; mazes: the longest paths)")
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

    @property
    def identity(self) -> dict[str, Any]:
        """The options without those that do not change the dataset."""
        return {name: value for name, value in self.to_dict().items() if name not in ("out", "limit_bad", "skip_bad")}


def prepare(config: PrepareConfig, progress: ShowCount | None = None) -> dict[str, Any]:
    """Make the folder `config.out` and return what its dataset.json says.

    Everything is written to a folder beside it and renamed at the end. A folder that is there already is left as it is
    where it holds this very dataset. UserError: bad rows (unless skip_bad), too few puzzles, another dataset in `out`.
    """
    task = task_named(config.task)
    out = Path(config.out)
    if not (place := next(path for path in (out, *out.absolute().parents) if path.exists())).is_dir():
        raise UserError(f"out={out}: {place} is a file, not a folder")
    present = _present(out)
    if present is not None and config.source == GENERATE and present["config"] == config.identity:
        return _verified(out, present)  # the same words generate the same puzzles
    if present is None and out.exists() and any(out.iterdir()):
        raise UserError(f"out={out}: is there already and is no dataset of prepare; choose another name")
    pool, own_test, bad = _read(task, config, progress)
    if bad and not config.skip_bad:
        more = [f"... and {len(bad) - config.limit_bad} more"] if len(bad) > config.limit_bad else []
        total = f"{len(bad)} bad row{'s' if len(bad) > 1 else ''}, nothing written (skip_bad=true goes on without them)"
        raise UserError("\n".join([*map(str, bad[: config.limit_bad]), *more, total]))
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
        os.rename(building, out)  # an empty folder gives way
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return about


def _read(
    task: Task, config: PrepareConfig, progress: ShowCount | None
) -> tuple[Puzzles, Puzzles | None, list[BadRow]]:
    """(the pool, the source's own test part, bad rows)."""
    if config.source == GENERATE:
        count = (config.train or 0) + config.validation + (config.test or 0)
        return task.generate(count, config.seed, config.hard, progress), None, []
    parts = {part: read_part(task, path, unique=config.unique) for part, path in locate(config.source).items()}
    own_test = parts["test"][0] if "test" in parts else None
    return parts["train"][0], own_test, [row for _, bad in parts.values() for row in bad]


def _write(building: Path, task: Task, config: PrepareConfig, division: Division, bad: list[BadRow]) -> dict[str, Any]:
    """Fill the folder; returns dataset.json's content."""
    splits: dict[str, Any] = {}
    for name in SPLITS:
        puzzles: Puzzles = getattr(division, name)
        stored = with_copies(task, puzzles, config.augment, config.seed) if name == "train" else puzzles
        hashed = write_split(building / f"{name}.arrow", task, stored, source=config.source, seed=config.seed)
        splits[name] = {"file": f"{name}.arrow", "rows": len(stored), "puzzles": len(puzzles), "content_hash": hashed}
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
        "config": config.identity,
    }
    if bad:
        with (building / "bad_rows.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [(row.file, row.line, row.reason, row.text) for row in bad]
            csv.writer(file).writerows([("file", "line", "reason", "text"), *rows])
    (building / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


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


@dataclass(frozen=True)
class Division:
    """The splits, and what was left out: `duplicates` (further copies up to symmetry in the pool), `test_overlap`
    (groups of the pool that the source's own test part has too)."""

    train: Puzzles
    validation: Puzzles
    test: Puzzles
    duplicates: int
    test_overlap: int


def divide(
    task: Task, pool: Puzzles, own_test: Puzzles | None, train: int | None, validation: int, test: int | None, seed: int
) -> Division:
    """Exact counts. `train` None takes all that remain; `test` None all of the source's own test part.

    With a test part of its own, the source's first `test` puzzles of it are the test split as they stand (copies
    included: it is a published benchmark), and every puzzle of the pool that the test part has up to symmetry is left
    out. UserError: too few puzzles, with their number.
    """
    fingerprints, heads = np.unique(task.fingerprint(pool.inputs, pool.labels), return_index=True)
    order = np.argsort(hash_words(seed, SPLIT_DRAW, fingerprints), kind="stable")
    heads, fingerprints = heads[order], fingerprints[order]
    duplicates, overlap, from_pool = len(pool) - len(heads), 0, test or 0
    if own_test is None:
        if test is None:
            raise UserError("test=null means all of the source's own test part, but this source has none: give a count")
        test_part = pool.take(heads[:test])
    else:
        test_count = len(own_test) if test is None else test
        _enough(len(own_test), {"test": test_count}, "the source's own test part has")
        in_test = np.isin(fingerprints, task.fingerprint(own_test.inputs, own_test.labels))
        test_part, overlap, from_pool = own_test.take(np.arange(test_count)), int(in_test.sum()), 0
        heads = heads[~in_test]
    wanted = {"train": train or 0, "validation": validation, "test": from_pool}
    _enough(len(heads), wanted, f"different puzzles up to symmetry{' and outside test' if own_test else ''}:")
    rest = heads[from_pool:]
    train_rows = rest[validation:] if train is None else rest[validation : validation + train]
    if len(train_rows) == 0:
        raise UserError(f"no puzzle is left for training: {len(heads)} in all, {validation + from_pool} are held out")
    return Division(pool.take(train_rows), pool.take(rest[:validation]), test_part, duplicates, overlap)


def _enough(available: int, wanted: dict[str, int], what: str) -> None:
    if sum(wanted.values()) > available:
        asked = " + ".join(f"{part}={count}" for part, count in wanted.items() if count)
        raise UserError(f"too few puzzles: {what} {available}, asked for {asked}")


def with_copies(task: Task, puzzles: Puzzles, copies: int, seed: int) -> Puzzles:
    """Each puzzle, followed by `copies` of it under keyed symmetries."""
    originals = np.repeat(np.arange(len(puzzles)), copies)
    keys = hash_words(seed, COPIES, originals, np.tile(np.arange(copies), len(puzzles)))
    everything = puzzles.take(np.repeat(np.arange(len(puzzles)), copies + 1))
    assert everything.labels is not None
    copied = np.arange(len(everything)) % (copies + 1) > 0
    inputs, labels = task.augment(everything.inputs[copied], everything.labels[copied], keys)
    everything.inputs[copied], everything.labels[copied] = inputs, labels
    return everything
