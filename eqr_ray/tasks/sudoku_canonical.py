"""Weisfeiler-Leman colour refinement of a Sudoku's cells, compiled: the fingerprint of a puzzle up to symmetry.

Why here: the splits compare millions of puzzles up to symmetry. A cell's first colour says whether it is a clue. A
round mixes it with the sums of the colours over its row, column, box and the cells of its digit (in the answer; without
answers, among the clues). Sums do not see the order, and where transposition is a symmetry, the sums of row and column
enter alike; so no symmetry changes the sum of the last colours. Different puzzles may share it, in principle.
"""

from __future__ import annotations

import numpy as np

from eqr_ray.tasks.draws import scramble
from eqr_ray.tasks.jit import jit
from eqr_ray.tasks.keys import GOLDEN, Words
from eqr_ray.tasks.puzzles import Tokens

ROUNDS = 4  # any two cells are at most two units apart; the further rounds tell similar puzzles apart
# odd multipliers that tell the roles of the sums apart (fractional parts of pi, e, the square roots of 2 and 3)
ROW, COLUMN = np.uint64(0x243F6A8885A308D3), np.uint64(0xB7E151628AED2A6B)
BOX, DIGIT = np.uint64(0x6A09E667F3BCC909), np.uint64(0xBB67AE8584CAA73B)


@jit
def canonical_hashes(puzzles_NL: Tokens, digits_NL: Tokens, box_rows: int, box_cols: int, prints_N: Words) -> None:
    """Write the fingerprint of each puzzle to `prints_N`; `digits_NL` are its answers, or the puzzles again."""
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
