"""Raw rows on their way in: text or tokens become checked puzzles, bad rows a list of file, line and reason.

Why here: every source hands its rows to one `Intake`, so that a rule is checked once and the same everywhere. Whole
chunks are checked at a time; only rows that fail are looked at one by one, for the words.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """A row as it was found: question and answer as text, or already as tokens. None or "": not given."""

    line: int
    question: str | Tokens
    answer: str | Tokens | None = None
    rating: str | None = None
    source: str | None = None

    @property
    def text(self) -> str:
        """What to show of it in a list of bad rows."""
        shown = self.question if isinstance(self.question, str) else " ".join(str(t) for t in self.question.tolist())
        return shown[:SHOWN]


@dataclass(frozen=True)
class Strictness:
    """How strict the intake is. `complete`: a missing answer is searched for and a missing rating counted, as training
    needs it; otherwise both stay missing (the answer: zeros). `unique`: every puzzle must have exactly one solution."""

    complete: bool = True
    unique: bool = False


class Intake:
    """Takes the rows of one file. Feed `add`, then call `finish` once."""

    def __init__(self, task: Task, file: str, strictness: Strictness) -> None:
        self.task = task
        self.file = file
        self.strictness = strictness
        self.bad: list[BadRow] = []
        self._waiting: list[RawRow] = []
        self._parts: list[Puzzles] = []

    def add(self, row: RawRow) -> None:
        """One more row."""
        self._waiting.append(row)
        if len(self._waiting) == CHUNK:
            self._take_chunk()

    def reject(self, line: int, reason: str, text: str) -> None:
        """A row that cannot even be split into its fields."""
        self.bad.append(BadRow(self.file, line, reason, text[:SHOWN]))

    def finish(self) -> tuple[Puzzles, list[BadRow]]:
        """The good rows in order, and the bad ones by line."""
        self._take_chunk()
        return joined(self._parts, self.task.length), sorted(self.bad, key=lambda row: row.line)

    def _take_chunk(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        reasons: dict[int, str] = {}
        answered = np.array([row.answer is not None and len(row.answer) > 0 for row in rows], dtype=np.bool_)
        inputs_NL = self._tokens([row.question for row in rows], "question", np.ones(len(rows), np.bool_), reasons)
        labels_NL = self._tokens([row.answer for row in rows], "answer", answered, reasons)
        ratings = np.full(len(rows), NOT_RATED, dtype=np.int32)
        for number, row in enumerate(rows):
            if row.rating:
                try:
                    ratings[number] = _rating(row.rating)
                except UserError as error:
                    reasons.setdefault(number, str(error))
        self._judge(inputs_NL, labels_NL, answered, reasons)
        if self.strictness.complete:
            self._complete(inputs_NL, labels_NL, answered, ratings, reasons)
        for number, reason in reasons.items():
            self.reject(rows[number].line, reason, rows[number].text)
        good = np.array([number for number in range(len(rows)) if number not in reasons], dtype=np.int64)
        labels = labels_NL[good] if self.strictness.complete or answered[good].any() else None
        sources = [rows[number].source or Path(self.file).name for number in good.tolist()]
        lines = np.array([rows[number].line for number in good.tolist()], dtype=np.int64)
        self._parts.append(Puzzles(inputs_NL[good], labels, ratings[good], sources, lines))

    def _tokens(
        self,
        written: Sequence[str | Tokens | None],
        column: str,
        given: npt.NDArray[np.bool_],
        reasons: dict[int, str],
    ) -> Tokens:
        """(N, L) tokens, zeros where nothing is given; what cannot be read goes to `reasons`."""
        tokens_NL = np.zeros((len(written), self.task.length), dtype=np.uint8)
        texts: list[str] = []
        fitting: list[int] = []
        for number in np.flatnonzero(given).tolist():
            one = written[number]
            if isinstance(one, str) and len(one) == self.task.length:
                texts.append(one)
                fitting.append(number)
            elif isinstance(one, np.ndarray):
                tokens_NL[number] = one
            else:
                length = len(one) if one is not None else 0
                reason = f"{column}: {length} characters where {self.task.name} has {self.task.length} cells"
                reasons.setdefault(number, reason)
        if texts:
            letters = np.frombuffer("".join(texts).encode("latin-1", errors="replace"), dtype=np.uint8)
            tokens_NL[fitting] = self.task.alphabet[letters].reshape(len(texts), self.task.length)
        for number in np.flatnonzero((tokens_NL == UNKNOWN).any(axis=1)).tolist():
            try:
                self.task.encode(str(written[number]))
            except UserError as error:
                reasons.setdefault(number, f"{column}: {error}")
        return tokens_NL

    def _judge(
        self, inputs_NL: Tokens, labels_NL: Tokens, answered: npt.NDArray[np.bool_], reasons: dict[int, str]
    ) -> None:
        """Add to `reasons` what the rules object to."""
        for rows in (np.flatnonzero(answered), np.flatnonzero(~answered)):
            with_answers = len(rows) > 0 and bool(answered[rows[0]])
            suspects = self.task.suspects(inputs_NL[rows], labels_NL[rows] if with_answers else None)
            for number in rows[suspects].tolist():
                if number not in reasons:
                    reason = self.task.check_puzzle(inputs_NL[number])
                    if reason is None:
                        reason = self.task.check(inputs_NL[number], labels_NL[number])
                    reasons[number] = reason or "does not obey the rules"

    def _complete(
        self,
        inputs_NL: Tokens,
        labels_NL: Tokens,
        answered: npt.NDArray[np.bool_],
        ratings: npt.NDArray[np.int32],
        reasons: dict[int, str],
    ) -> None:
        """Find the missing answers and ratings; count solutions where asked for. Changes its arguments."""
        for number in range(len(inputs_NL)):
            if number in reasons:
                continue
            try:
                if self.strictness.unique or not answered[number]:
                    solutions = self.task.solve(inputs_NL[number], limit=2)
                    if len(solutions) != 1:
                        reasons[number] = "several solutions" if solutions else "no solution"
                        continue
                    labels_NL[number] = solutions[0]
                    answered[number] = True
                if ratings[number] == NOT_RATED:
                    ratings[number] = self.task.rate(inputs_NL[number])
            except UserError as error:
                reasons[number] = str(error)


def _rating(written: str) -> int:
    """A whole number that an int32 holds."""
    if not written.strip().isdecimal() or not 0 <= int(written) < 2**31:
        raise UserError(f"rating {written!r} is not a whole number from 0")
    return int(written)
