"""The symmetries of a Sudoku grid: keyed draws of one, and a fingerprint that none of them changes.

Why here: training multiplies its puzzles by these symmetries, and the splits must share no puzzle up to them. They are
the relabelling of digits, the permutation of bands and of stacks, of rows in a band and of columns in a stack, and
transposition where the box is square.

    N puzzles, L = n * n cells, n digits
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eqr_ray.tasks.keys import Words, hash_words
from eqr_ray.tasks.puzzles import Tokens
from eqr_ray.tasks.sudoku_canonical import canonical_hashes
from eqr_ray.tasks.sudoku_rules import Geometry

CHUNK = 4096  # rows at once: the working set stays in cache

# which draw a hash is for
DIGITS, BANDS, STACKS, ROWS, COLUMNS, TRANSPOSE = range(6)


def augment(puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words, shape: Geometry) -> tuple[Tokens, Tokens]:
    """Row i under the symmetry of keys_N[i]. Padding and blank stay what they are."""
    parts = [
        _augment(puzzles_NL[at : at + CHUNK], answers_NL[at : at + CHUNK], keys_N[at : at + CHUNK], shape)
        for at in range(0, len(puzzles_NL), CHUNK)
    ]
    if not parts:
        return puzzles_NL.copy(), answers_NL.copy()
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _augment(puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words, shape: Geometry) -> tuple[Tokens, Tokens]:
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
    return (
        np.take_along_axis(digits_NV, np.take_along_axis(puzzles_NL, cells_NL, axis=1), axis=1),
        np.take_along_axis(digits_NV, np.take_along_axis(answers_NL, cells_NL, axis=1), axis=1),
    )


def _permutation(keys: Words, purpose: int, size: int) -> npt.NDArray[np.int64]:
    """(..., size) a keyed permutation of 0..size-1 for each key: the order of hashed numbers."""
    return np.argsort(hash_words(keys[..., None], purpose, np.arange(size)), axis=-1)


def _line_order(keys_N: Words, outer: int, inner: int, bands: int, lines: int) -> npt.NDArray[np.int64]:
    """(N, bands * lines) which old line comes to each place: bands permuted, lines permuted inside each."""
    band_NB = _permutation(keys_N, outer, bands)
    line_NBl = _permutation(hash_words(keys_N[:, None], inner, np.arange(bands)), inner, lines)
    return (band_NB[:, :, None] * lines + line_NBl).reshape(len(keys_N), bands * lines)


def fingerprint(puzzles_NL: Tokens, answers_NL: Tokens | None, shape: Geometry) -> Words:
    """(N,) a hash that no symmetry changes: see `sudoku_canonical`."""
    digits_NL = puzzles_NL if answers_NL is None else answers_NL
    assert max(puzzles_NL.max(initial=0), digits_NL.max(initial=0)) < shape.side + 2  # compiled code does not look
    prints = np.empty(len(puzzles_NL), dtype=np.uint64)
    puzzles, digits = np.ascontiguousarray(puzzles_NL), np.ascontiguousarray(digits_NL)
    canonical_hashes(puzzles, digits, shape.box_rows, shape.box_cols, prints)
    return prints
