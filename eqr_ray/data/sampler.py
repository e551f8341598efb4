"""Which puzzle a training row sees next, and under which symmetry: a function of the row's own counter.

Row r of the B rows of the global batch counts its draws n; its next draw is number j = n * B + r of an endless list
that goes through all puzzles once an epoch. A checkpoint holds the counters and nothing else, and a draw does not
depend on who asks.

    N puzzles, B rows of the global batch, n rows asked for, L cells
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import Split
from eqr_ray.tasks.keys import Words, as_words, hash_words
from eqr_ray.tasks.puzzles import Tokens

ORDER, SYMMETRY = 0x0D3, 0x577  # tell the uses of the seed apart
FEISTEL_ROUNDS = 6


def permuted(positions: npt.ArrayLike, size: int, *key: int | npt.ArrayLike) -> npt.NDArray[np.int64]:
    """A keyed bijection of 0..size-1, applied to `positions` (n,); each key word is a number or (n,).

    A Feistel network on the least even number of bits that holds size - 1, walked until the value is below `size` again
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): under four steps on average.
    """
    values = np.atleast_1d(as_words(positions)).copy()
    assert (values < size).all()
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.broadcast_to(hash_words(*key), values.shape)
    moving = np.arange(len(values))
    while len(moving):
        left, right = values[moving] >> half, values[moving] & low
        for number in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (hash_words(keys[moving], number, right) & low)
        values[moving] = (left << half) | right
        moving = moving[values[moving] >= size]
    return values.astype(np.int64)


@dataclass(frozen=True)
class Draw:
    """What n rows see next."""

    puzzle: npt.NDArray[np.int64]  # (n,) its number in the split
    inputs: Tokens  # (n, L)
    labels: Tokens  # (n, L)
    keys: Words  # (n,) of its symmetry


class Sampler:
    """Draws for the rows of a global batch of `batch` rows; `augment`: every draw under a symmetry of its own."""

    def __init__(self, split: Split, batch: int, seed: int, augment: bool) -> None:
        if split.labels is None or len(split) == 0:
            raise UserError(f"{split.path}: has no {'puzzles' if len(split) == 0 else 'answers'} to train on")
        self.inputs_NL, self.labels_NL = split.inputs, split.labels
        self.task, self.batch, self.seed, self.augment = split.task, batch, seed, augment

    def draw(self, rows: npt.ArrayLike, counts: npt.ArrayLike) -> Draw:
        """Draw number counts[i] (from 0) of global row rows[i], both (n,)."""
        rows_n, counts_n = np.asarray(rows, dtype=np.int64), np.asarray(counts, dtype=np.int64)
        assert rows_n.ndim == 1
        assert rows_n.shape == counts_n.shape
        assert ((rows_n >= 0) & (rows_n < self.batch) & (counts_n >= 0)).all()
        number = counts_n * self.batch + rows_n
        size = len(self.inputs_NL)
        puzzle = permuted(number % size, size, self.seed, ORDER, number // size)
        keys = hash_words(self.seed, SYMMETRY, number)
        inputs, labels = self.inputs_NL[puzzle], self.labels_NL[puzzle]
        if self.augment:
            inputs, labels = self.task.augment(inputs, labels, keys)
        return Draw(puzzle, inputs, labels, keys)
