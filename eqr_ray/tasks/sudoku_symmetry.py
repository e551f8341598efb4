"""The symmetries of a Sudoku grid: keyed draws of one, and a fingerprint that none of them changes.

They are the relabelling of digits, the permutation of bands and of stacks, of rows in a band and of columns in a stack,
and transposition where the box is square.

    N puzzles, L = n * n cells, n digits
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eqr_ray.tasks.draws import jit, scramble
from eqr_ray.tasks.keys import GOLDEN, Words, hash_words
from eqr_ray.tasks.puzzles import Tokens
from eqr_ray.tasks.sudoku_rules import Geometry

CHUNK = 4096  # rows at once: the working set stays in cache
DIGITS, BANDS, STACKS, ROWS, COLUMNS, TRANSPOSE = range(6)  # which draw a hash is for

ROUNDS = 4  # any two cells are at most two units apart; the further rounds tell similar puzzles apart
# odd multipliers that tell the roles of the sums apart (fractional parts of pi, e, the square roots of 2 and 3)
ROW, COLUMN = np.uint64(0x243F6A8885A308D3), np.uint64(0xB7E151628AED2A6B)
BOX, DIGIT = np.uint64(0x6A09E667F3BCC909), np.uint64(0xBB67AE8584CAA73B)


def augment(puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words, shape: Geometry) -> tuple[Tokens, Tokens]:
    """Row i under the symmetry of keys_N[i]. Padding and blank stay what they are."""
    puzzles, answers = np.empty_like(puzzles_NL), np.empty_like(answers_NL)
    for at in range(0, len(puzzles_NL), CHUNK):
        rows = slice(at, at + CHUNK)
        cells_NL, digits_NV = _draw_symmetries(keys_N[rows], shape)
        for old, new in ((puzzles_NL, puzzles), (answers_NL, answers)):
            new[rows] = np.take_along_axis(digits_NV, np.take_along_axis(old[rows], cells_NL, axis=1), axis=1)
    return puzzles, answers


def _draw_symmetries(keys_N: Words, shape: Geometry) -> tuple[npt.NDArray[np.int64], Tokens]:
    """(N, L) the cell whose token comes to each place, and (N, n + 2) the new token of each old one."""
    side = shape.side
    rows_Nn = _line_order(keys_N, BANDS, ROWS, bands=shape.box_cols, lines=shape.box_rows)
    cols_Nn = _line_order(keys_N, STACKS, COLUMNS, bands=shape.box_rows, lines=shape.box_cols)
    cells_NL = (rows_Nn[:, :, None] * side + cols_Nn[:, None, :]).reshape(len(keys_N), side * side)
    if shape.box_rows == shape.box_cols:
        turned = (hash_words(keys_N, TRANSPOSE) & np.uint64(1)).astype(bool)
        grid = cells_NL[turned].reshape(-1, side, side)
        cells_NL[turned] = grid.transpose(0, 2, 1).reshape(-1, side * side)
    digits_NV = np.empty((len(keys_N), side + 2), dtype=np.uint8)
    digits_NV[:, :2] = (0, 1)
    digits_NV[:, 2:] = 2 + _permutation(keys_N, DIGITS, side)
    return cells_NL, digits_NV


def _permutation(keys: Words, purpose: int, size: int) -> npt.NDArray[np.int64]:
    """(..., size) a keyed permutation of 0..size-1 for each key: the order of hashed numbers."""
    return np.argsort(hash_words(keys[..., None], purpose, np.arange(size)), axis=-1)


def _line_order(keys_N: Words, outer: int, inner: int, bands: int, lines: int) -> npt.NDArray[np.int64]:
    """(N, bands * lines) which old line comes to each place: bands permuted, lines permuted inside each."""
    band_NB = _permutation(keys_N, outer, bands)
    line_NBl = _permutation(hash_words(keys_N[:, None], inner, np.arange(bands)), inner, lines)
    return (band_NB[:, :, None] * lines + line_NBl).reshape(len(keys_N), bands * lines)


def fingerprint(puzzles_NL: Tokens, answers_NL: Tokens | None, shape: Geometry) -> Words:
    """(N,) a hash that no symmetry changes. Different puzzles may share it, in principle."""
    digits_NL = puzzles_NL if answers_NL is None else answers_NL
    assert max(puzzles_NL.max(initial=0), digits_NL.max(initial=0)) < shape.side + 2  # compiled code does not look
    prints_N = np.empty(len(puzzles_NL), dtype=np.uint64)
    puzzles, digits = np.ascontiguousarray(puzzles_NL), np.ascontiguousarray(digits_NL)
    _canonical_hashes(puzzles, digits, shape.box_rows, shape.box_cols, prints_N)
    return prints_N


@jit
def _canonical_hashes(puzzles_NL: Tokens, digits_NL: Tokens, box_rows: int, box_cols: int, prints_N: Words) -> None:
    """Write a hash of each puzzle's canonical form to `prints_N`; `digits_NL` are its answers, or the puzzles again.

    Weisfeiler-Leman refinement: a cell's first colour says whether it is a clue. A round mixes it with the sums of the
    colours over its row, column, box and the cells of its digit. Sums do not see the order, and where transposition is
    a symmetry, those of row and column enter alike; so no symmetry changes the sum of the last colours.
    """
    side = box_rows * box_cols
    column = ROW if box_rows == box_cols else COLUMN
    colours = np.empty(side * side, np.uint64)
    sums = np.empty((4, side + 2), np.uint64)
    for n in range(puzzles_NL.shape[0]):
        for cell in range(side * side):
            colours[cell] = scramble(GOLDEN if puzzles_NL[n, cell] >= 2 else ROW)
        for _ in range(ROUNDS):
            sums[:] = 0
            for cell in range(side * side):
                row, col = cell // side, cell % side
                sums[0, row] += colours[cell]
                sums[1, col] += colours[cell]
                sums[2, row // box_rows * box_rows + col // box_cols] += colours[cell]
                sums[3, digits_NL[n, cell]] += colours[cell]
            for cell in range(side * side):
                row, col, digit = cell // side, cell % side, digits_NL[n, cell]
                mixed = scramble(sums[0, row] ^ ROW) + scramble(sums[1, col] ^ column)
                mixed += scramble(sums[2, row // box_rows * box_rows + col // box_cols] ^ BOX)
                if digit >= 2:  # blanks have nothing in common
                    mixed += scramble(sums[3, digit] ^ DIGIT)
                colours[cell] = scramble(colours[cell] + GOLDEN) + scramble(mixed)
        prints_N[n] = scramble(colours.sum() ^ np.uint64(side * box_rows))
