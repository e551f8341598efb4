"""Raw rows on their way in: text or tokens become checked puzzles, bad rows a list of file, line and reason.

Every reader hands its rows to `check_rows`, so a rule is the same everywhere. The task's rules are checked for a whole
chunk at a time; only rows that fail are looked at one by one, for the words.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eqr_ray.config.errors import UserError
from eqr_ray.tasks import Puzzles, Task
from eqr_ray.tasks.puzzles import NOT_RATED, Tokens, joined

CHUNK = 20_000
SHOWN = 120  # characters of a bad row that are kept


@dataclass(frozen=True)
class BadRow:
    """A row that was not taken. `line` counts from 1 (in npy arrays: the row)."""

    file: str
    line: int
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class RawRow:
    """A row of a file: question and answer as text, or already as tokens. None or "": it has none. `problem`: why the
    reader cannot make a puzzle of it."""

    line: int
    question: str | Tokens
    answer: str | Tokens | None = None
    rating: str | None = None
    source: str | None = None
    problem: str | None = None


def check_rows(
    task: Task, path: Path, rows: Iterator[RawRow], complete: bool, unique: bool
) -> tuple[Puzzles, list[BadRow]]:
    """The good rows of a file in order, and the bad ones by line.

    `complete`: a missing answer is searched for and a missing rating counted, as training needs it; otherwise both stay
    missing (the answer: zeros). `unique`: every puzzle must have exactly one solution.
    """
    parts: list[Puzzles] = []
    bad: list[BadRow] = []
    while True:
        chunk = list(itertools.islice(rows, CHUNK))
        puzzles, reasons = _check_chunk(task, path.name, chunk, complete, unique)
        parts.append(puzzles)
        for at, reason in sorted(reasons.items()):
            question = chunk[at].question
            text = question if isinstance(question, str) else " ".join(map(str, question.tolist()))
            bad.append(BadRow(str(path), chunk[at].line, reason, text[:SHOWN]))
        if len(chunk) < CHUNK:
            return joined(parts), bad


def _check_chunk(
    task: Task, name: str, rows: list[RawRow], complete: bool, unique: bool
) -> tuple[Puzzles, dict[int, str]]:
    """The good rows of a chunk, and for each bad one what is wrong with it."""
    inputs_NL, labels_NL = np.zeros((2, len(rows), task.length), dtype=np.uint8)
    ratings = np.full(len(rows), NOT_RATED, dtype=np.int32)
    answered = np.array([row.answer is not None and len(row.answer) > 0 for row in rows], dtype=np.bool_)
    reasons: dict[int, str] = {}
    for at, row in enumerate(rows):
        try:
            if row.problem is not None:
                raise UserError(row.problem)
            inputs_NL[at] = _tokens(task, row.question, "question")
            if row.answer is not None and answered[at]:
                labels_NL[at] = _tokens(task, row.answer, "answer")
            ratings[at] = _rating(row.rating)
        except UserError as error:
            reasons[at] = str(error)
    for of_kind, labels in ((np.flatnonzero(answered), labels_NL), (np.flatnonzero(~answered), None)):
        suspects = task.suspects(inputs_NL[of_kind], None if labels is None else labels[of_kind])
        for at in of_kind[suspects].tolist():
            reason = task.check_puzzle(inputs_NL[at]) or task.check(inputs_NL[at], labels_NL[at])
            reasons.setdefault(at, reason or "does not obey the rules")
    for at in range(len(rows)):
        if complete and at not in reasons:
            try:
                if unique or not answered[at]:
                    labels_NL[at] = _only_solution(task, inputs_NL[at])
                if ratings[at] == NOT_RATED:
                    ratings[at] = task.rate(inputs_NL[at])
            except UserError as error:
                reasons[at] = str(error)
    good = np.array([at for at in range(len(rows)) if at not in reasons], dtype=np.int64)
    labels = labels_NL[good] if complete or answered[good].any() else None
    sources = [rows[at].source or name for at in good.tolist()]
    lines = np.array([rows[at].line for at in good.tolist()], dtype=np.int64)
    return Puzzles(inputs_NL[good], labels, ratings[good], sources, lines), reasons


def _tokens(task: Task, written: str | Tokens, column: str) -> Tokens:
    try:
        return task.encode(written) if isinstance(written, str) else written
    except UserError as error:
        raise UserError(f"{column}: {error}") from error


def _rating(written: str | None) -> int:
    if not written:
        return NOT_RATED
    if written.strip().isdecimal() and int(written) < 2**31:  # as an int32 holds it
        return int(written)
    raise UserError(f"rating {written!r} is not a whole number from 0")


def _only_solution(task: Task, puzzle_L: Tokens) -> Tokens:
    solutions = task.solve(puzzle_L, limit=2)
    if len(solutions) != 1:
        raise UserError("several solutions" if solutions else "no solution")
    return solutions[0]
