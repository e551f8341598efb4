"""The eight symmetries of the square, applied to the core of a maze, and a fingerprint that none of them changes.

Mazes of even size are odd mazes with a further row and column of wall at the end (as in Maze-Unique). Turning the whole
grid would move that wall to another side, so only the core is turned.

    N mazes, L = size * size cells
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eqr_ray.tasks.keys import Words, hash_words
from eqr_ray.tasks.puzzles import Tokens

WALL = 1
SYMMETRIES = 8
CHUNK = 512


def turns(size: int, core: int) -> npt.NDArray[np.int64]:
    """(8, L) for each symmetry of the top left core: the cell whose token comes to each place."""
    grid = np.arange(size * size).reshape(size, size)
    tables = []
    for number in range(SYMMETRIES):
        table = grid.copy()
        turned = np.rot90(grid[:core, :core], number % 4)
        table[:core, :core] = turned.T if number >= 4 else turned
        tables.append(table.reshape(-1))
    return np.stack(tables)


def augment(puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words, size: int) -> tuple[Tokens, Tokens]:
    """Row i under the symmetry of keys_N[i]. The core is all but a last row and column of wall, if they are wall."""
    tables = np.concatenate([turns(size, size), turns(size, size - 1)])
    grid = puzzles_NL.reshape(-1, size, size)
    framed = (grid[:, -1, :] == WALL).all(axis=1) & (grid[:, :, -1] == WALL).all(axis=1) & (size % 2 == 0)
    which = (hash_words(keys_N, SYMMETRIES) % np.uint64(SYMMETRIES)).astype(np.int64) + SYMMETRIES * framed
    cells_NL = tables[which]
    return np.take_along_axis(puzzles_NL, cells_NL, axis=1), np.take_along_axis(answers_NL, cells_NL, axis=1)


def fingerprint(puzzles_NL: Tokens, size: int, vocab_size: int) -> Words:
    """(N,) the least of eight hashes of the smallest rectangle that holds all that is not wall.

    Cutting to the rectangle first makes the value independent of where the core lies in the grid.
    """
    token, row, col = np.meshgrid(np.arange(vocab_size), np.arange(size), np.arange(size), indexing="ij")
    table = hash_words(token, row, col).reshape(vocab_size, -1)
    table[WALL] = 0  # so that walls outside the rectangle do not count
    parts = [_fingerprint(puzzles_NL[at : at + CHUNK], size, table) for at in range(0, len(puzzles_NL), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def _fingerprint(puzzles_NL: Tokens, size: int, table: Words) -> Words:
    grid = puzzles_NL.reshape(-1, size, size) != WALL
    top, height = _extent(grid.any(axis=2))
    left, width = _extent(grid.any(axis=1))
    down = np.arange(size) - top[:, None]
    right = np.arange(size) - left[:, None]
    hashes = []
    for rows in (down, height[:, None] - 1 - down):
        for cols in (right, width[:, None] - 1 - right):
            rows_in, cols_in = rows.clip(0, size - 1), cols.clip(0, size - 1)
            for place in (
                rows_in[:, :, None] * size + cols_in[:, None, :],
                cols_in[:, None, :] * size + rows_in[:, :, None],
            ):
                flat = place.reshape(len(puzzles_NL), -1)
                hashes.append(table[puzzles_NL, flat].sum(axis=1, dtype=np.uint64))
    least = np.min(np.stack(hashes), axis=0)
    return hash_words(least, np.minimum(height, width), np.maximum(height, width))


def _extent(used: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(first used line, number of lines from the first to the last) of each row of `used` (N, size)."""
    first = used.argmax(axis=1)
    last = used.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
    return first, last - first + 1
