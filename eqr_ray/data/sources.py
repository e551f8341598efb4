"""Where puzzles come from, by one word: to train on (a file, a folder, a dataset of the hub) or to answer.

N puzzles, L cells
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError, extra
from eqr_ray.data.arrow_store import Split, content_hash
from eqr_ray.data.csv_reader import guess_task, read_csv
from eqr_ray.data.npy_reader import guess_npy_task, is_npy_part, read_npy
from eqr_ray.data.validation import BadRow
from eqr_ray.tasks import Puzzles, Task, task_named
from eqr_ray.tasks.puzzles import Tokens

HUB = "hub:"
HUB_FILES = [f"{part}{file}" for part in ("train", "test") for file in (".csv", ".csv.gz", "/*.npy", "/dataset.json")]


def locate(source: str) -> dict[str, Path]:
    """The parts of a source: {"train": path}, and "test" where the source has a test part of its own.

    A path is a CSV file or an npy folder. UserError: there is nothing that can be read.
    """
    root = fetch(source) if source.startswith(HUB) else Path(source)
    if not root.exists():
        raise UserError(f"source={source}: no such file or folder (known: generate, FILE.csv, FOLDER, hub:OWNER/NAME)")
    if root.is_file() or is_npy_part(root):
        return {"train": root}
    parts: dict[str, Path] = {}
    for part in ("train", "test"):
        for path in (root / part, root / f"{part}.csv", root / f"{part}.csv.gz"):
            if path.is_file() or is_npy_part(path):
                parts.setdefault(part, path)
    if "train" not in parts:
        raise UserError(f"{source}: holds neither train/ with npy arrays nor train.csv")
    return parts


def fetch(source: str) -> Path:
    """Download `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` of the Hugging Face hub into the hub client's own cache:
    only CSV, npy and JSON files of the train and test parts, laid out as in the repository.

    UserError: no such dataset, no network, or nothing that this package reads.
    """
    with extra("hub", f"source={source}"):
        # lazy: the client need not be installed
        from huggingface_hub import HfApi, errors  # noqa: PLC0415
    repository, _, revision = source.removeprefix(HUB).partition("@")
    at, api = revision or None, HfApi()
    # A lost connection raises the HTTP library's own error. Which library that is depends on the client's version
    # (httpx, httpx2); its base error is the base of the client's.
    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    try:
        files = api.list_repo_files(repository, repo_type="dataset", revision=at)
        if not any(fnmatch(file, pattern) for file in files for pattern in HUB_FILES):
            has = ", ".join(sorted(files)[:8]) or "nothing"
            raise UserError(f"{source} has neither train.csv nor train/*.npy; it has: {has}")
        return Path(api.snapshot_download(repository, repo_type="dataset", revision=at, allow_patterns=HUB_FILES))
    except errors.HFValidationError as error:
        raise UserError(f"{source}: not a name of the form OWNER/NAME ({error})") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(f"{source}: no such dataset or revision, or it is private") from error
    except (transport_error, OSError) as error:
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{source}: cannot be fetched ({detail})") from error


def read_part(task: Task, path: Path, complete: bool = True, unique: bool = False) -> tuple[Puzzles, list[BadRow]]:
    """The puzzles of one CSV file or npy folder, and the rows that were not taken. `complete`, `unique`: see
    `validation.check_rows`."""
    return (read_npy if path.is_dir() else read_csv)(task, path, complete, unique)


def read_puzzles(task: Task | None, path: str | Path) -> tuple[Task, Puzzles, list[BadRow]]:
    """Puzzles to be answered: a CSV or text file, a prepared .arrow file, a folder of `prepare` (its test split) or of
    npy arrays (its test part). Labels are None where an answer is missing; missing ratings are NOT_RATED.

    `task` None: the only task that fits. Bad rows are returned, not raised. UserError: unreadable, or another task.
    """
    path = Path(path)
    if path.is_dir():
        found = [one for one in (path / "test.arrow", path / "test", path) if one.is_file() or is_npy_part(one)]
        if not found:
            raise UserError(f"{path}: holds neither test.arrow nor npy arrays")
        path = found[0]
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix == ".arrow":
        split = Split.open(path)
        if task is not None and split.task != task:
            raise UserError(f"{path}: holds {split.task_name} puzzles, not {task.name}")
        return split.task, split.puzzles(), []
    if task is None:
        task = guess_npy_task(path) if path.is_dir() else guess_task(path)
    puzzles, bad = read_part(task, path, complete=False)
    return task, puzzles, bad


@dataclass(frozen=True)
class PuzzleSet:
    """The puzzles that are to be answered. `labels` has zeros where an answer is missing, and is None without any.
    `lines`: where each puzzle stands in the user's file, from 1. `bad`: the rows that could not be read. `data_hash`:
    of the tokens of inputs and labels."""

    task: Task
    inputs: Tokens  # (N, L)
    labels: Tokens | None  # (N, L)
    lines: npt.NDArray[np.int64]  # (N,)
    bad: list[BadRow]
    data_hash: str

    def __len__(self) -> int:
        return len(self.inputs)


def open_puzzle_set(path: str | Path, task_name: str, limit: int | None = None) -> PuzzleSet:
    """The puzzles of a file or folder for a model of this task ("": not known, the data tells); the first `limit`.

    UserError: unreadable, of another task, or without a single puzzle.
    """
    task, puzzles, bad = read_puzzles(task_named(task_name) if task_name else None, path)
    if len(puzzles) == 0:
        first = f"; the first bad row: {bad[0]}" if bad else ""
        raise UserError(f"{path}: no {task.name} puzzle in it{first}")
    inputs, labels = puzzles.inputs[:limit], None if puzzles.labels is None else puzzles.labels[:limit]
    lines = np.arange(1, len(puzzles) + 1) if puzzles.lines is None else puzzles.lines  # a prepared file has no others
    return PuzzleSet(task, inputs, labels, lines[:limit], bad, content_hash(task, inputs, labels))


def check_fit(puzzle_set: PuzzleSet, length: int, vocab_size: int) -> None:
    """UserError where a network of this `length` and `vocab_size` cannot read the puzzles."""
    task = puzzle_set.task
    if (task.length, task.vocab_size) != (length, vocab_size):
        has = f"{task.name} has {task.length} cells and {task.vocab_size} tokens"
        raise UserError(f"the puzzles do not fit: {has}, the model was made for {length} and {vocab_size}")
