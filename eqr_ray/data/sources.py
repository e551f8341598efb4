"""Where puzzles come from, by one word: a file, a folder or a dataset of the hub."""

from __future__ import annotations

from pathlib import Path

from eqr_ray.config.errors import UserError, extra
from eqr_ray.data.arrow_store import Split
from eqr_ray.data.csv_reader import guess_task, read_csv
from eqr_ray.data.npy_reader import guess_npy_task, is_npy_part, read_npy
from eqr_ray.data.validation import BadRow
from eqr_ray.tasks.puzzles import Puzzles
from eqr_ray.tasks.registry import Task

HUB = "hub:"


def locate(source: str) -> dict[str, Path]:
    """The parts of a source: {"train": path}, and "test" where the source has a test part of its own.

    A path is a CSV file or an npy folder. UserError: there is nothing that can be read.
    """
    root = _from_hub(source) if source.startswith(HUB) else Path(source)
    if not root.exists():
        raise UserError(f"source={source}: no such file or folder (known: generate, FILE.csv, FOLDER, hub:OWNER/NAME)")
    if root.is_file() or is_npy_part(root):
        return {"train": root}
    parts = {}
    for part in ("train", "test"):
        candidates = [root / part, root / f"{part}.csv", root / f"{part}.csv.gz"]
        found = [path for path in candidates if path.is_file() or is_npy_part(path)]
        if found:
            parts[part] = found[0]
    if "train" not in parts:
        raise UserError(f"{source}: holds neither train/ with npy arrays nor train.csv")
    return parts


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


def _from_hub(source: str) -> Path:
    with extra("hub", f"source={source}"):
        # lazy: the client need not be installed
        from eqr_ray.data import hub  # noqa: PLC0415
    return hub.fetch(source[len(HUB) :])
