"""The geometry of a Sudoku of any box shape, and its rules in numpy and in words.

n        side of the grid = box_rows * box_cols = number of digits      L = n * n cells, row by row
unit     a row, a column or a box: n cells that hold every digit once
band     box_rows neighbouring rows (a stack: box_cols neighbouring columns)
segment  the part of a line inside one box; in a band every digit lies in one segment of each line and of each box,
         so its segments are one of the (boxes in a band)! assignments line -> box
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIGITS = "123456789ABCDEFG"

# The order in which a guess tries the assignments of a 3x3 band. Any order is right; this one (rotations first, then
# reflections) makes the number of guesses agree with the published ratings, which depend on it (docs/results/tasks.md).
GUESS_ORDER_3 = ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0), (0, 2, 1), (1, 0, 2))


@dataclass(frozen=True)
class Geometry:
    """Tables of one box shape. `units` (3n, n): cells of the rows, then columns, then boxes."""

    box_rows: int
    box_cols: int
    units: npt.NDArray[np.int32]
    row_assignments: npt.NDArray[np.int32]  # (box_rows!, box_rows): line in a band -> box in the band
    col_assignments: npt.NDArray[np.int32]  # (box_cols!, box_cols): the same for stacks

    @property
    def side(self) -> int:
        return self.box_rows * self.box_cols


def geometry(box_rows: int, box_cols: int) -> Geometry:
    """The tables of boxes of `box_rows` x `box_cols` cells."""
    side = box_rows * box_cols
    grid = np.arange(side * side, dtype=np.int32).reshape(side, side)
    blocks = grid.reshape(box_cols, box_rows, box_rows, box_cols).transpose(0, 2, 1, 3).reshape(side, side)
    units = np.concatenate([grid, grid.T, blocks])
    return Geometry(box_rows, box_cols, units, _assignments(box_rows), _assignments(box_cols))


def _assignments(boxes: int) -> npt.NDArray[np.int32]:
    order = GUESS_ORDER_3 if boxes == 3 else tuple(itertools.permutations(range(boxes)))
    return np.array(order, dtype=np.int32)


def digit_masks(tokens: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.int32]:
    """Tokens (any shape) as sets of digits: a digit's bit; 0 for blank, padding and anything out of range."""
    table = np.zeros(256, dtype=np.int32)
    table[2 : 2 + side] = 1 << np.arange(side, dtype=np.int32)
    return np.asarray(table[tokens], dtype=np.int32)


def repeated_digit(tokens_L: npt.NDArray[np.uint8], shape: Geometry) -> str | None:
    """The first digit that stands twice in a unit, in words: "digit 5 stands twice in row 2 (r2c1 and r2c4)"."""
    for number, unit in enumerate(shape.units):
        seen: dict[int, int] = {}
        for cell in unit.tolist():
            token = int(tokens_L[cell])
            if token >= 2 and token in seen:
                name = f"{('row', 'column', 'box')[number // shape.side]} {number % shape.side + 1}"
                places = f"{place(seen[token], shape.side)} and {place(cell, shape.side)}"
                return f"digit {DIGITS[token - 2]} stands twice in {name} ({places})"
            seen[token] = cell
    return None


def place(cell: int, side: int) -> str:
    """A cell in words, counted from 1: "r2c5"."""
    return f"r{cell // side + 1}c{cell % side + 1}"
