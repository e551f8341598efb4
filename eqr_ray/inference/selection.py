"""Choose one restart per puzzle, and write the answers, one row per puzzle, for people and programs.

The method answers with the trajectory of least residual; other rules are judged beside it on the same records. Every
rule is one sort: by puzzle, by the rule's own score, then by logit residual, then by restart number, so that ties fall
the same way whatever order the rows came in. Answers are read from records and puzzles alone, block by block, so that
choosing otherwise never means running again.

    N rows (puzzle, restart), L tokens, P puzzles
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from eqr_ray.data.sources import PuzzleSet
from eqr_ray.inference.records import ACCEPTED, CANCELLED, STATUSES, Records, growing_table, is_answered, is_exact
from eqr_ray.inference.settings import Selection
from eqr_ray.storage.atomic import atomic

SELECTIONS: tuple[str, ...] = get_args(Selection)
SCORED = (*SELECTIONS, "vote")  # rules that every run is scored by

# puzzle: number among the rows that can be read, as in records; line: in the user's file, from 1; residual: the one
# selected by (the logit residual with halt), null if there is none; segments: spent by all restarts; exact:
# null where no answer is known
COLUMNS = {"puzzle": "int64", "line": "int64", "question": "string", "answer": "string", "restart": "int32"}
COLUMNS |= {"residual": "float", "segments": "int64", "settled": "bool", "exact": "bool", "status": "string"}


def votes(rows: Records) -> npt.NDArray[np.int64]:
    """(N,) how many restarts of the same puzzle give exactly the same answer, the row itself included."""
    named = np.concatenate([rows.puzzle.astype("<i8")[:, None].view(np.uint8), rows.prediction], axis=1)
    whole = np.ascontiguousarray(named).view(np.dtype((np.void, named.shape[1])))[:, 0]
    _, inverse, count = np.unique(whole, return_inverse=True, return_counts=True)
    return np.asarray(count[inverse], dtype=np.int64)


def choose(method: str, rows: Records) -> npt.NDArray[np.int64]:
    """(P,) row number of the chosen restart of each puzzle, in the order of puzzle numbers.

    `logit_residual` and `latent_residual`: the least. `halt`: the greatest halting logit. `vote`: the most frequent
    answer, of its rows the one of least logit residual. NaN counts as the worst. Whatever the method, accepted rows go
    before the others of their puzzle.
    """
    logit_residual = _worst_if_nan(rows.logit_residual)
    rules: dict[str, Callable[[], npt.NDArray[np.float64]]] = {
        "logit_residual": lambda: logit_residual,
        "latent_residual": lambda: _worst_if_nan(rows.latent_residual),
        "halt": lambda: _worst_if_nan(-rows.halt_logit),
        "vote": lambda: -votes(rows).astype(np.float64),
    }
    score = rules[method]()
    order = np.lexsort((rows.restart, logit_residual, score, rows.status != ACCEPTED, rows.puzzle))
    return np.asarray(order[np.diff(rows.puzzle[order], prepend=-1) != 0], dtype=np.int64)


def _worst_if_nan(score: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(score), np.inf, score).astype(np.float64)


def answers_of(rows: Records, select: str) -> tuple[Records, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The rows of the P chosen restarts, the residuals that they were selected by (the logit residual with `halt`), and
    the segments that all restarts took. `rows`: ordered, one per trajectory, with all restarts of their puzzles."""
    answers = rows.take(rows.status != CANCELLED)
    chosen = answers.take(choose(select, answers))
    _, first = np.unique(rows.puzzle, return_index=True)
    residual = chosen.latent_residual if select == "latent_residual" else chosen.logit_residual
    return chosen, residual, np.add.reduceat(rows.segments.astype(np.int64), first)


def _answer_rows(rows: Records, puzzle_set: PuzzleSet, select: str) -> list[dict[str, Any]]:
    chosen, residual, spent = answers_of(rows, select)
    labels = np.zeros_like(chosen.prediction) if puzzle_set.labels is None else puzzle_set.labels[chosen.puzzle]
    known, right = is_answered(labels), is_exact(chosen.prediction, labels)
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
            "exact": bool(right[number]) if known[number] else None,
            "status": STATUSES[chosen.status[number]],
        }
        for number, puzzle in enumerate(chosen.puzzle.tolist())
    ]


def write_answers(
    out: Path, blocks: Iterable[Records], puzzle_set: PuzzleSet, select: str, depth: int, breadth: int
) -> None:
    """`answers.parquet` and `answers.csv` in `out`, each atomically, in constant memory. `blocks`: ordered records with
    all restarts of their puzzles. Rows that could not be read follow at the end with the reason."""
    with (
        growing_table(out / "answers.parquet", COLUMNS) as write,
        atomic(out / "answers.csv") as path,
        path.open("w", newline="") as file,
    ):
        lines = csv.DictWriter(file, list(COLUMNS))
        lines.writeheader()
        for block in blocks:
            rows = _answer_rows(block.take(block.last_at(depth, breadth)), puzzle_set, select)
            write(rows)
            lines.writerows(rows)
        bad = [{"line": row.line, "question": row.text, "status": f"bad row: {row}"} for row in puzzle_set.bad]
        if bad:
            write(bad)
            lines.writerows(bad)
