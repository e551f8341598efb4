"""Puzzles from the npy folders of HRM, TRM and EqR.

Each of `train/` and `test/` has dataset.json and, for every set that it names, SET__inputs.npy, SET__labels.npy
(rows, L) and SET__puzzle_indices.npy, SET__group_indices.npy. A group holds the augmented copies of one puzzle: puzzles
group_indices[g] up to group_indices[g + 1], whose rows are puzzle_indices[p] up to puzzle_indices[p + 1]. The first row
of each group is the puzzle itself and the only one read, for training makes its copies on the fly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.data.validation import BadRow, RawRow, check_rows
from eqr_ray.tasks import Puzzles, Task
from eqr_ray.tasks.puzzles import joined
from eqr_ray.tasks.registry import tasks_of_length

IGNORED_LABEL = -100
SET_NAME = re.compile(r"\w[\w.-]*")


def is_npy_part(folder: Path) -> bool:
    """Whether the folder holds one part (train or test) in this layout."""
    return (folder / "dataset.json").is_file() and any(folder.glob("*__inputs.npy"))


def read_npy(task: Task, folder: Path, complete: bool, unique: bool) -> tuple[Puzzles, list[BadRow]]:
    """The first row of each group of every set of `folder`. `complete`, `unique`: see `check_rows`.

    UserError: a file that is missing, foreign or damaged."""
    about = _about(folder)
    if about.get("seq_len", task.length) != task.length:
        raise UserError(f"{folder}: its puzzles have {about['seq_len']} cells, those of {task.name} {task.length}")
    names = about.get("sets", ["all"])
    # they are parts of names of files in `folder`, and lead nowhere else
    is_list = isinstance(names, list) and names
    if not is_list or not all(isinstance(name, str) and SET_NAME.fullmatch(name) for name in names):
        raise UserError(f"{folder / 'dataset.json'}: sets={json.dumps(names)}: expected a list of names")
    paths = [folder / f"{name}__inputs.npy" for name in names]
    read = [check_rows(task, path, _rows(task, path), complete, unique) for path in paths]
    return joined([puzzles for puzzles, _ in read]), [row for _, bad in read for row in bad]


def guess_npy_task(folder: Path) -> Task:
    """The only task with this length and number of tokens. UserError: none or several."""
    about = _about(folder)
    fitting = tasks_of_length(int(about.get("seq_len", 0)))
    fitting = [task for task in fitting if task.vocab_size == about.get("vocab_size", task.vocab_size)]
    if len(fitting) != 1:
        raise UserError(f"{folder}: dataset.json does not say which task this is; name it with task=")
    return fitting[0]


def _rows(task: Task, path: Path) -> Iterator[RawRow]:
    folder, stem = path.parent, str(path).removesuffix("inputs.npy")
    inputs, labels_path = _array(path), Path(f"{stem}labels.npy")
    labels = _array(labels_path) if labels_path.is_file() else np.full(inputs.shape, IGNORED_LABEL)
    if inputs.ndim != 2 or inputs.shape[1] != task.length:
        raise UserError(f"{path}: shape {inputs.shape} where {task.name} has (rows, {task.length})")
    if labels.shape != inputs.shape:
        raise UserError(f"{path}: inputs of shape {inputs.shape}, but labels of {labels.shape}")
    for row in _group_heads(stem, len(inputs)).tolist():
        question, answer = inputs[row], labels[row]
        is_answered = (answer != IGNORED_LABEL).any()
        written = np.concatenate([question, answer]) if is_answered else question
        wrong = written[(written < 0) | (written > 254)]
        if len(wrong):
            yield RawRow(row + 1, "", problem=f"token {wrong[0]} is outside 0..254")
        else:
            tokens = answer.astype(np.uint8) if is_answered else None
            source = f"{folder.parent.name}/{folder.name}/{row}"
            yield RawRow(row + 1, question.astype(np.uint8), tokens, source=source)


def _group_heads(stem: str, rows: int) -> npt.NDArray[np.int64]:
    """Row number of the first example of each group; every row where the folder has no groups."""
    paths = [Path(f"{stem}{kind}_indices.npy") for kind in ("puzzle", "group")]
    if not all(path.is_file() for path in paths):
        return np.arange(rows)
    puzzle_starts, group_starts = (_array(path) for path in paths)
    for path, starts, bound in zip(paths, (puzzle_starts, group_starts), (rows, len(puzzle_starts) - 1), strict=True):
        if starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or starts[-1] != bound or (np.diff(starts) < 1).any():
            raise UserError(f"{path}: not the starts of parts of {bound} rows")
    return np.asarray(puzzle_starts[group_starts[:-1]], dtype=np.int64)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'dataset.json'}: cannot be read ({error})") from error
    if not isinstance(about, dict):
        raise UserError(f"{folder / 'dataset.json'}: not an object")
    return about


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an npy array ({error})") from error
    if array.dtype.kind not in "iu":
        raise UserError(f"{path}: holds {array.dtype}, not whole numbers")
    return array
