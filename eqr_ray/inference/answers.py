"""Answers: one row per puzzle, chosen from the records, for people and programs.

They are read from records and puzzles alone, block by block, so that choosing otherwise never means running again. Rows
that could not be read follow at the end with the reason.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eqr_ray.data.puzzle_set import PuzzleSet
from eqr_ray.inference.records import STATUSES, Records, TableWriter, is_answered, is_exact
from eqr_ray.inference.selection import answers_of
from eqr_ray.storage.atomic import atomic

# puzzle: number among the rows that can be read, as in records; line: in the user's file, from 1; residual: the one
# selected by (the logit residual with halt), null if there is none; segments: spent by all restarts; exact:
# null where no answer is known
COLUMNS = {
    "puzzle": "int64",
    "line": "int64",
    "question": "string",
    "answer": "string",
    "restart": "int32",
    "residual": "float",
    "segments": "int64",
    "settled": "bool",
    "exact": "bool",
    "status": "string",
}


def answer_rows(block: Records, puzzle_set: PuzzleSet, select: str, depth: int, breadth: int) -> list[dict[str, Any]]:
    """The answers of a block of ordered records that holds all restarts of its puzzles."""
    chosen, residual, spent = answers_of(block.take(block.last_at(depth, breadth)), select)
    exact: list[Any] = [None] * len(chosen)
    if puzzle_set.labels is not None:
        labels = puzzle_set.labels[chosen.puzzle]
        right = is_exact(chosen.prediction, labels).tolist()
        exact = [one if known else None for one, known in zip(right, is_answered(labels).tolist(), strict=True)]
    return [
        {
            "puzzle": puzzle,
            "line": int(puzzle_set.lines[puzzle]),
            "question": puzzle_set.task.decode(puzzle_set.inputs[puzzle]),
            "answer": puzzle_set.task.decode(chosen.prediction[number]),
            "restart": int(chosen.restart[number]),
            "residual": float(residual[number]) if math.isfinite(residual[number]) else None,
            "segments": int(spent[number]),
            "settled": bool(chosen.settled[number]),
            "exact": exact[number],
            "status": STATUSES[chosen.status[number]],
        }
        for number, puzzle in enumerate(chosen.puzzle.tolist())
    ]


def _bad_rows(puzzle_set: PuzzleSet) -> Iterator[dict[str, Any]]:
    for row in puzzle_set.bad:
        yield {**dict.fromkeys(COLUMNS), "line": row.line, "question": row.text, "status": f"bad row: {row}"}


def write_answers(
    out: Path, blocks: Iterable[Records], puzzle_set: PuzzleSet, select: str, depth: int, breadth: int
) -> None:
    """`answers.parquet` and `answers.csv` in `out`, both atomically. Constant memory for any number of puzzles."""
    with (
        TableWriter(out / "answers.parquet", COLUMNS) as table,
        atomic(out / "answers.csv") as path,
        path.open("w", newline="") as file,
    ):
        lines = csv.DictWriter(file, list(COLUMNS))
        lines.writeheader()
        for block in blocks:
            rows = answer_rows(block, puzzle_set, select, depth, breadth)
            table.write({name: [row[name] for row in rows] for name in COLUMNS})
            lines.writerows(rows)
        bad = list(_bad_rows(puzzle_set))
        if bad:
            table.write({name: [row[name] for row in bad] for name in COLUMNS})
            lines.writerows(bad)
