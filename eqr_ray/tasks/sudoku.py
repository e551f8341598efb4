"""Sudoku of any box shape up to 16 digits. Tokens: 0 pads, 1 is blank, digit d is d + 1 (as in Sudoku-Extreme).

The symmetries are the relabelling of digits, the permutation of bands and of stacks, of rows in a band and of columns
in a stack, and transposition where the box is square.

N puzzles, n digits, L = n * n cells, U = 3 * n units (rows, then columns, then boxes), V = n + 2 tokens
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.keys import GOLDEN, Words, hash_words, jit, scramble
from eqr_ray.tasks.puzzles import NOT_RATED, Puzzles, Tokens
from eqr_ray.tasks.sudoku_search import Bits, full_grid, remove_clues, search
from eqr_ray.tasks.task import Candidate, ShowCount, Task, generate_unique

DIGITS = "123456789ABCDEFG"

# The order in which a guess tries the assignments of a 3x3 band. Any order is right; this one (rotations first, then
# reflections) makes the number of guesses agree with the published ratings, which depend on it (docs/results/tasks.md).
GUESS_ORDER_3 = ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0), (0, 2, 1), (1, 0, 2))

# Guesses after which a search is given up: half a minute for 16x16, never reached by 9x9.
MAX_GUESSES = 1_000_000
# Guesses allowed to prove that a clue may go. 9x9 needs a few; in 16x16 the last clues would cost minutes each.
PROOF_GUESSES = {16: 20}
# `hard`: at least so many guesses (one in ten of the minimal 9x9 puzzles, one in thirty of 6x6).
HARD_GUESSES = {6: 1, 9: 3, 16: 10}
# Clues put back at random, 0 to this. There are only 36 minimal 4x4 puzzles up to symmetry.
PUT_BACK = {4: 6}

CHUNK = 4096  # rows that are augmented at once: the working set stays in cache
RELABEL, BANDS, STACKS, ROWS, COLUMNS, TRANSPOSE = range(6)  # which draw a hash is for

REFINEMENTS = 4  # any two cells are at most two units apart; the further ones tell similar puzzles apart
# odd multipliers that tell the roles of the sums apart (fractional parts of pi, e, the square roots of 2 and 3)
ROW, COLUMN = np.uint64(0x243F6A8885A308D3), np.uint64(0xB7E151628AED2A6B)
BOX, DIGIT = np.uint64(0x6A09E667F3BCC909), np.uint64(0xBB67AE8584CAA73B)


class Sudoku(Task):
    """Boxes of `box_rows` x `box_cols` cells; as many digits as a box has cells."""

    aliases: ClassVar[dict[str, str]] = {"0": "."}

    def __init__(self, box_rows: int, box_cols: int) -> None:
        self.box_rows, self.box_cols = box_rows, box_cols
        self.side = side = box_rows * box_cols
        self.name = f"sudoku{side}"
        self.vocabulary = "_." + DIGITS[:side]
        self.grid = (side, side)
        cells = np.arange(side * side, dtype=np.int32).reshape(side, side)
        boxes = cells.reshape(box_cols, box_rows, box_rows, box_cols).transpose(0, 2, 1, 3).reshape(side, side)
        self.units = np.concatenate([cells, cells.T, boxes])  # (U, n) the cells of each
        self._tables = self.units, _assignments(box_rows), _assignments(box_cols)
        self._bits = np.zeros(256, dtype=np.int32)  # of a token's digit; 0 for blank, padding and what is out of range
        self._bits[2 : 2 + side] = 1 << np.arange(side, dtype=np.int32)

    def _place(self, cell: int) -> str:
        return f"r{cell // self.side + 1}c{cell % self.side + 1}"

    def _check_puzzle(self, puzzle_L: Tokens) -> str | None:
        """The first digit that stands twice in a unit."""
        for number, unit in enumerate(self.units):
            seen: dict[int, int] = {}
            for cell in unit.tolist():
                token = int(puzzle_L[cell])
                if token >= 2 and token in seen:
                    name = f"{('row', 'column', 'box')[number // self.side]} {number % self.side + 1}"
                    places = f"{self._place(seen[token])} and {self._place(cell)}"
                    return f"digit {DIGITS[token - 2]} stands twice in {name} ({places})"
                seen[token] = cell
        return None

    def _check_answer(self, puzzle_L: Tokens, answer_L: Tokens) -> str | None:
        changed = np.flatnonzero((puzzle_L >= 2) & (puzzle_L != answer_L))
        if len(changed):
            at = int(changed[0])
            clue, digit = self.vocabulary[puzzle_L[at]], self.vocabulary[answer_L[at]]
            return f"clue {clue} at {self._place(at)} is {digit!r} in the answer"
        if 1 in answer_L:
            return f"{self._place(int((answer_L == 1).argmax()))} is blank in the answer"
        return self._check_puzzle(answer_L)

    def suspects(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> npt.NDArray[np.bool_]:
        strange = ((puzzles_NL < 1) | (puzzles_NL >= self.vocab_size)).any(axis=1)
        bits_NUn = self._bits[puzzles_NL if answers_NL is None else answers_NL][:, self.units]
        union_NU = np.bitwise_or.reduce(bits_NUn, axis=2)
        if answers_NL is None:  # a digit that stands twice makes the sum of the bits differ from their union
            return np.asarray(strange | (union_NU != bits_NUn.sum(axis=2)).any(axis=1))
        changed = ((puzzles_NL >= 2) & (puzzles_NL != answers_NL)).any(axis=1)
        return np.asarray(strange | changed | (union_NU != (1 << self.side) - 1).any(axis=1))

    def _search(self, puzzle_tokens: npt.ArrayLike, limit: int) -> tuple[list[Tokens], int]:
        """(solutions, guesses or -1 when given up)."""
        puzzle_L = np.asarray(puzzle_tokens)
        reason = self._check_tokens(puzzle_L)
        if reason is not None:
            raise UserError(f"not a {self.name} puzzle: {reason}")
        bits = self._bits[puzzle_L.astype(np.uint8)]
        start = np.where(bits == 0, (1 << self.side) - 1, bits).astype(np.int32)
        found = np.zeros((limit, self.length), dtype=np.int32)
        solutions, guesses = search(start, *self._tables, limit, MAX_GUESSES, found, np.zeros(0, np.uint64))
        return [_tokens(found[number]) for number in range(solutions)], guesses

    def solve(self, puzzle_tokens: npt.ArrayLike, limit: int = 2) -> list[Tokens]:
        solutions, guesses = self._search(puzzle_tokens, limit)
        if guesses < 0 and len(solutions) < limit:
            raise UserError(f"the search for {limit} solutions was given up after {MAX_GUESSES:,} guesses")
        return solutions

    def rate(self, puzzle_tokens: npt.ArrayLike) -> int:
        guesses = self._search(puzzle_tokens, 1)[1]
        return NOT_RATED if guesses < 0 else guesses

    def augment(self, puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words) -> tuple[Tokens, Tokens]:
        """Padding and blank stay what they are."""
        puzzles, answers = np.empty_like(puzzles_NL), np.empty_like(answers_NL)
        for at in range(0, len(puzzles_NL), CHUNK):
            rows = slice(at, at + CHUNK)
            cells_NL, digits_NV = self._draw_symmetries(keys_N[rows])
            for old, new in ((puzzles_NL, puzzles), (answers_NL, answers)):
                new[rows] = np.take_along_axis(digits_NV, np.take_along_axis(old[rows], cells_NL, axis=1), axis=1)
        return puzzles, answers

    def _draw_symmetries(self, keys_N: Words) -> tuple[npt.NDArray[np.int64], Tokens]:
        """(N, L) the cell whose token comes to each place, and (N, V) the new token of each old one."""
        rows_Nn = _line_order(keys_N, BANDS, ROWS, bands=self.box_cols, lines=self.box_rows)
        cols_Nn = _line_order(keys_N, STACKS, COLUMNS, bands=self.box_rows, lines=self.box_cols)
        cells_Nnn = rows_Nn[:, :, None] * self.side + cols_Nn[:, None, :]
        if self.box_rows == self.box_cols:
            turned = (hash_words(keys_N, TRANSPOSE) & np.uint64(1)).astype(bool)
            cells_Nnn[turned] = cells_Nnn[turned].transpose(0, 2, 1)
        digits_NV = np.empty((len(keys_N), self.vocab_size), dtype=np.uint8)
        digits_NV[:, :2] = (0, 1)
        digits_NV[:, 2:] = 2 + _permutation(keys_N, RELABEL, self.side)
        return cells_Nnn.reshape(-1, self.length), digits_NV

    def fingerprint(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> Words:
        puzzles = np.ascontiguousarray(puzzles_NL)
        digits = puzzles if answers_NL is None else np.ascontiguousarray(answers_NL)
        assert max(puzzles.max(initial=0), digits.max(initial=0)) < self.vocab_size  # compiled code does not look
        prints_N = np.empty(len(puzzles), dtype=np.uint64)
        _canonical_hashes(puzzles, digits, self.box_rows, self.box_cols, prints_N)
        return prints_N

    def generate(self, count: int, seed: int, hard: bool = False, progress: ShowCount | None = None) -> Puzzles:
        """Minimal puzzles (4x4: up to 6 clues more; 16x16: near-minimal). `hard`: at least HARD_GUESSES guesses."""
        if hard and self.side not in HARD_GUESSES:
            raise UserError(f"{self.name} has no hard puzzles: none needs a guess")
        least = HARD_GUESSES[self.side] if hard else 0
        proof_guesses, most_put_back = PROOF_GUESSES.get(self.side, MAX_GUESSES), PUT_BACK.get(self.side, 0)

        def make(randomness: Words) -> Candidate | None:
            put_back = int(randomness[0] % np.uint64(most_put_back + 1))
            answer = full_grid(*self._tables, randomness)
            puzzle = _tokens(remove_clues(answer, *self._tables, proof_guesses, put_back, randomness))
            rating = self.rate(puzzle)
            wanted = rating >= least or (rating == NOT_RATED and hard)
            return (puzzle, _tokens(answer), rating) if wanted else None

        return generate_unique(self, count, seed, hard, make, progress)


def _assignments(boxes: int) -> Bits:
    """(boxes!, boxes) the ways to give each line of a band a box of its own, in the order of guessing."""
    return np.array(GUESS_ORDER_3 if boxes == 3 else list(itertools.permutations(range(boxes))), dtype=np.int32)


def _tokens(masks: Bits) -> Tokens:
    """Sets of digits as tokens: a single digit is known, any other set is a blank."""
    digits = np.bitwise_count(masks - 1)  # the number of the lowest bit where only one is set
    return np.where(np.bitwise_count(masks) == 1, digits + 2, 1).astype(np.uint8)


def _permutation(keys: Words, purpose: int, size: int) -> npt.NDArray[np.int64]:
    """(..., size) a keyed permutation of 0..size-1 for each key: the order of hashed numbers."""
    return np.argsort(hash_words(keys[..., None], purpose, np.arange(size)), axis=-1)


def _line_order(keys_N: Words, outer: int, inner: int, bands: int, lines: int) -> npt.NDArray[np.int64]:
    """(N, bands * lines) which old line comes to each place: bands permuted, lines permuted inside each."""
    band_NB = _permutation(keys_N, outer, bands)
    line_NBl = _permutation(hash_words(keys_N[:, None], inner, np.arange(bands)), inner, lines)
    return (band_NB[:, :, None] * lines + line_NBl).reshape(-1, bands * lines)


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
        for _ in range(REFINEMENTS):
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
