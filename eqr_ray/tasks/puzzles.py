"""Puzzles in memory: the value that sources return, splits divide and the store writes.

N puzzles, L cells (tokens)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint8]

NOT_RATED = -1  # the rating of a puzzle whose search was given up


@dataclass(frozen=True)
class Puzzles:
    """Puzzles of one task. `inputs` and `labels` (N, L) uint8, labels None without answers; `ratings` (N,) int32
    (sudoku: guesses, maze: path length); `sources` N strings, where each puzzle comes from."""

    inputs: Tokens
    labels: Tokens | None
    ratings: npt.NDArray[np.int32]
    sources: Sequence[str]

    def __post_init__(self) -> None:
        assert self.inputs.ndim == 2
        assert self.inputs.dtype == np.uint8
        assert self.labels is None or (self.labels.shape == self.inputs.shape and self.labels.dtype == np.uint8)
        assert self.ratings.shape == (len(self.inputs),)
        assert self.ratings.dtype == np.int32
        assert len(self.sources) == len(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: npt.NDArray[np.integer]) -> Puzzles:
        """The puzzles of these row numbers, in this order."""
        labels = None if self.labels is None else self.labels[rows]
        return Puzzles(self.inputs[rows], labels, self.ratings[rows], [self.sources[row] for row in rows.tolist()])


def joined(parts: Sequence[Puzzles], length: int) -> Puzzles:
    """One after the other. Answers are kept only where every part has them; no part at all is no puzzle of `length`."""
    if not parts:
        none = np.zeros((0, length), dtype=np.uint8)
        return Puzzles(none, none, np.zeros(0, dtype=np.int32), [])
    labels = [part.labels for part in parts if part.labels is not None]
    return Puzzles(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate(labels) if len(labels) == len(parts) else None,
        np.concatenate([part.ratings for part in parts]),
        [source for part in parts for source in part.sources],
    )
