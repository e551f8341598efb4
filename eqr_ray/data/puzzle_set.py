"""The puzzles that are to be answered, checked against the network that shall answer them.    N puzzles, L tokens"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import content_hash
from eqr_ray.data.sources import read_puzzles
from eqr_ray.data.validation import BadRow
from eqr_ray.tasks.registry import Task, task_named


@dataclass(frozen=True)
class PuzzleSet:
    """`labels` has zeros where an answer is missing, and is None without any. `lines` (N,): where each puzzle stands in
    the user's file, from 1. `bad`: the rows that could not be read. `data_hash`: of the tokens of inputs and labels."""

    task: Task
    inputs: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8] | None
    lines: npt.NDArray[np.int64]
    bad: list[BadRow]
    data_hash: str

    def __len__(self) -> int:
        return len(self.inputs)


def open_puzzle_set(path: str | Path, task_name: str, limit: int | None = None) -> PuzzleSet:
    """The puzzles of a file or folder for a model of this task ("": not known, the data tells); the first `limit`.

    UserError: unreadable, of another task, or without a single puzzle.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit} is not allowed: at least 1, or null for all")
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
    if task.length != length:
        raise UserError(f"the puzzles are {task.name} with {task.length} cells, the model takes {length}")
    if task.vocab_size != vocab_size:
        raise UserError(f"{task.name} has {task.vocab_size} tokens, the model was made for {vocab_size}")
