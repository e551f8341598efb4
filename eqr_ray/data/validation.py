"""Raw rows on their way in: text or tokens become checked puzzles, bad rows a list of file, line and reason.

Every reader hands its rows to `check_rows`, so a rule is the same everywhere. Whole chunks are checked at a time; only
rows that fail are looked at one by one, for the words.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.puzzles import NOT_RATED, Puzzles, Tokens, joined
from eqr_ray.tasks.registry import Task

CHUNK = 20_000
UNKNOWN = 255  # `Task.alphabet` of a character that no puzzle has
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
    """A row of a file: question and answer as text, or already as tokens. None or "": it has none."""

    line: int
    question: str | Tokens
    answer: str | Tokens | None = None
    rating: str | None = None
    source: str | None = None


def check_rows(
    task: Task, path: Path, rows: Iterator[RawRow | BadRow], complete: bool, unique: bool
) -> tuple[Puzzles, list[BadRow]]:
    """The good rows of a file in order, and the bad ones by line.

    `complete`: a missing answer is searched for and a missing rating counted, as training needs it; otherwise both stay
    missing (the answer: zeros). `unique`: every puzzle must have exactly one solution.
    """
    parts: list[Puzzles] = []
    bad: list[BadRow] = []
    while chunk := list(itertools.islice(rows, CHUNK)):
        bad += [row for row in chunk if isinstance(row, BadRow)]
        raw = [row for row in chunk if isinstance(row, RawRow)]
        puzzles, reasons = _check_chunk(task, path.name, raw, complete, unique)
        bad += [BadRow(str(path), raw[at].line, reason, _shown(raw[at])) for at, reason in reasons.items()]
        parts.append(puzzles)
    return joined(parts, task.length), sorted(bad, key=lambda row: row.line)


def _shown(row: RawRow) -> str:
    shown = row.question if isinstance(row.question, str) else " ".join(str(token) for token in row.question.tolist())
    return shown[:SHOWN]


def _check_chunk(
    task: Task, name: str, rows: list[RawRow], complete: bool, unique: bool
) -> tuple[Puzzles, dict[int, str]]:
    """The good rows of a chunk, and for each bad one what is wrong with it."""
    reasons: dict[int, str] = {}
    inputs_NL, _ = _tokens(task, [row.question for row in rows], "question", reasons)
    labels_NL, answered = _tokens(task, [row.answer for row in rows], "answer", reasons)
    ratings = np.array([_rating(row, at, reasons) for at, row in enumerate(rows)], dtype=np.int32)
    _apply_rules(task, inputs_NL, labels_NL, answered, reasons)
    for at in range(len(rows)):
        if complete and at not in reasons:
            reason = _complete(task, at, inputs_NL, labels_NL, ratings, search=unique or not answered[at])
            if reason is not None:
                reasons[at] = reason
    good = np.array([at for at in range(len(rows)) if at not in reasons], dtype=np.int64)
    labels = labels_NL[good] if complete or answered[good].any() else None
    sources = [rows[at].source or name for at in good.tolist()]
    lines = np.array([rows[at].line for at in good.tolist()], dtype=np.int64)
    return Puzzles(inputs_NL[good], labels, ratings[good], sources, lines), reasons


def _tokens(
    task: Task, written: Sequence[str | Tokens | None], column: str, reasons: dict[int, str]
) -> tuple[Tokens, npt.NDArray[np.bool_]]:
    """(N, L) tokens, zeros where there are none, and (N,) where there are some; what cannot be read goes to
    `reasons`."""
    tokens_NL = np.zeros((len(written), task.length), dtype=np.uint8)
    written_N = np.array([one is not None and len(one) > 0 for one in written], dtype=np.bool_)
    texts: dict[int, str] = {}
    for at, one in enumerate(written):
        if isinstance(one, np.ndarray):
            tokens_NL[at] = one
        elif one and len(one) == task.length:
            texts[at] = one
        elif one or column == "question":
            length = len(one or "")
            reasons.setdefault(at, f"{column}: {length} characters where {task.name} has {task.length} cells")
    letters = np.frombuffer("".join(texts.values()).encode("latin-1", errors="replace"), dtype=np.uint8)
    tokens_NL[list(texts)] = task.alphabet[letters].reshape(len(texts), task.length)
    for at in np.flatnonzero((tokens_NL == UNKNOWN).any(axis=1)).tolist():
        try:
            task.encode(texts[at])
        except UserError as error:
            reasons.setdefault(at, f"{column}: {error}")
    return tokens_NL, written_N


def _rating(row: RawRow, at: int, reasons: dict[int, str]) -> int:
    """A whole number that an int32 holds."""
    if not row.rating:
        return NOT_RATED
    if row.rating.strip().isdecimal() and int(row.rating) < 2**31:
        return int(row.rating)
    reasons.setdefault(at, f"rating {row.rating!r} is not a whole number from 0")
    return NOT_RATED


def _apply_rules(
    task: Task, inputs_NL: Tokens, labels_NL: Tokens, answered: npt.NDArray[np.bool_], reasons: dict[int, str]
) -> None:
    """Add to `reasons` what the task's rules object to."""
    for rows, labels in ((np.flatnonzero(answered), labels_NL), (np.flatnonzero(~answered), None)):
        suspects = task.suspects(inputs_NL[rows], None if labels is None else labels[rows])
        for at in rows[suspects].tolist():
            if at not in reasons:
                reason = task.check_puzzle(inputs_NL[at]) or task.check(inputs_NL[at], labels_NL[at])
                reasons[at] = reason or "does not obey the rules"


def _complete(
    task: Task, at: int, inputs_NL: Tokens, labels_NL: Tokens, ratings: npt.NDArray[np.int32], search: bool
) -> str | None:
    """Fill in row `at` of `labels_NL` (where `search`) and of `ratings` (where missing); or what prevents it."""
    try:
        if search:
            solutions = task.solve(inputs_NL[at], limit=2)
            if len(solutions) != 1:
                return "several solutions" if solutions else "no solution"
            labels_NL[at] = solutions[0]
        if ratings[at] == NOT_RATED:
            ratings[at] = task.rate(inputs_NL[at])
    except UserError as error:
        return str(error)
    return None
