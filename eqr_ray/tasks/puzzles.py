"""Puzzles in memory: the value that sources return, splits divide and the store writes. N puzzles, L cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint8]

NOT_RATED = -1  # the rating of a puzzle whose search was given up


@dataclass(frozen=True)
class Puzzles:
    """Puzzles of one task, all arrays by row. `labels` is None without answers, a row of zeros where only that one is
    missing; `ratings`: guesses (sudoku) or path length (maze); `sources`: where each comes from; `lines`: where it
    stood in its file, from 1, None where it was in no file."""

    inputs: Tokens  # (N, L)
    labels: Tokens | None  # (N, L)
    ratings: npt.NDArray[np.int32]  # (N,)
    sources: Sequence[str]  # N
    lines: npt.NDArray[np.int64] | None = None  # (N,)

    def __post_init__(self) -> None:
        assert self.inputs.ndim == 2
        assert self.inputs.dtype == np.uint8
        assert self.ratings.dtype == np.int32
        assert self.labels is None or (self.labels.shape == self.inputs.shape and self.labels.dtype == np.uint8)
        assert len(self.ratings) == len(self.sources) == len(self.inputs)
        assert self.lines is None or len(self.lines) == len(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: npt.NDArray[np.integer]) -> Puzzles:
        """The puzzles of these row numbers, in this order."""
        labels = None if self.labels is None else self.labels[rows]
        lines = None if self.lines is None else self.lines[rows]
        sources = [self.sources[row] for row in rows.tolist()]
        return Puzzles(self.inputs[rows], labels, self.ratings[rows], sources, lines)


def joined(parts: Sequence[Puzzles]) -> Puzzles:
    """One after the other. Answers stay where any part has them, lines where every part does."""
    labels = [np.zeros_like(part.inputs) if part.labels is None else part.labels for part in parts]
    lines = [part.lines for part in parts if part.lines is not None]
    return Puzzles(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate(labels) if any(part.labels is not None for part in parts) else None,
        np.concatenate([part.ratings for part in parts]),
        [source for part in parts for source in part.sources],
        np.concatenate(lines) if len(lines) == len(parts) else None,
    )
