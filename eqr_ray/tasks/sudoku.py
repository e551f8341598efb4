"""Sudoku of any box shape up to 16 digits. Tokens: 0 pads, 1 is blank, digit d is d + 1 (as in Sudoku-Extreme)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.tasks import sudoku_symmetry
from eqr_ray.tasks.generation import Candidate, generate_unique
from eqr_ray.tasks.keys import Words
from eqr_ray.tasks.puzzles import NOT_RATED, Puzzles, Tokens
from eqr_ray.tasks.sudoku_generation import full_grid, remove_clues
from eqr_ray.tasks.sudoku_rules import DIGITS, digit_masks, geometry, place, repeated_digit
from eqr_ray.tasks.sudoku_search import search
from eqr_ray.tasks.task import Progress, Task

NO_RANDOMNESS = np.zeros(0, dtype=np.uint64)

# Guesses after which a search is given up: half a minute for 16x16, never reached by 9x9.
MAX_GUESSES = 1_000_000
# Guesses allowed to prove that a clue may go. 9x9 needs a few; in 16x16 the last clues would cost minutes each.
PROOF_GUESSES = {16: 20}
# `hard`: at least so many guesses (one in ten of the minimal 9x9 puzzles, one in thirty of 6x6).
HARD_GUESSES = {6: 1, 9: 3, 16: 10}
# Clues put back at random, 0 to this. There are only 36 minimal 4x4 puzzles up to symmetry.
PUT_BACK = {4: 6}


class Sudoku(Task):
    """Boxes of `box_rows` x `box_cols` cells; as many digits as a box has cells."""

    aliases: ClassVar[dict[str, str]] = {"0": "."}

    def __init__(self, box_rows: int, box_cols: int) -> None:
        self.shape = geometry(box_rows, box_cols)
        self.side = box_rows * box_cols
        self.name = f"sudoku{self.side}"
        self.vocabulary = "_." + DIGITS[: self.side]
        self.grid = (self.side, self.side)
        self._tables = self.shape.units, self.shape.row_assignments, self.shape.col_assignments

    def _check_puzzle(self, puzzle_L: Tokens) -> str | None:
        return repeated_digit(puzzle_L, self.shape)

    def _check_answer(self, puzzle_L: Tokens, answer_L: Tokens) -> str | None:
        changed = np.flatnonzero((puzzle_L >= 2) & (puzzle_L != answer_L))
        if len(changed):
            at = int(changed[0])
            clue, digit = self.vocabulary[puzzle_L[at]], self.vocabulary[answer_L[at]]
            return f"clue {clue} at {place(at, self.side)} is {digit!r} in the answer"
        empty = np.flatnonzero(answer_L == 1)
        if len(empty):
            return f"{place(int(empty[0]), self.side)} is blank in the answer"
        return repeated_digit(answer_L, self.shape)

    def suspects(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> npt.NDArray[np.bool_]:
        strange = ((puzzles_NL < 1) | (puzzles_NL >= self.vocab_size)).any(axis=1)
        masks_NUn = digit_masks(puzzles_NL if answers_NL is None else answers_NL, self.side)[:, self.shape.units]
        union_NU = np.bitwise_or.reduce(masks_NUn, axis=2)
        if answers_NL is None:  # a digit that stands twice makes the sum of the bits differ from their union
            return np.asarray(strange | (union_NU != masks_NUn.sum(axis=2)).any(axis=1))
        changed = ((puzzles_NL >= 2) & (puzzles_NL != answers_NL)).any(axis=1)
        return np.asarray(strange | changed | (union_NU != (1 << self.side) - 1).any(axis=1))

    def _search(self, puzzle_tokens: npt.ArrayLike, limit: int) -> tuple[list[Tokens], int]:
        """(solutions, guesses or -1 when given up)."""
        puzzle_L = np.asarray(puzzle_tokens)
        reason = self._check_tokens(puzzle_L)
        if reason is not None:
            raise UserError(f"not a {self.name} puzzle: {reason}")
        masks = digit_masks(puzzle_L.astype(np.uint8), self.side)
        start = np.where(masks == 0, (1 << self.side) - 1, masks).astype(np.int32)
        found = np.zeros((limit, self.length), dtype=np.int32)
        solutions, guesses = search(start, *self._tables, limit, MAX_GUESSES, found, NO_RANDOMNESS)
        return [_tokens(found[number]) for number in range(solutions)], guesses

    def solve(self, puzzle_tokens: npt.ArrayLike, limit: int = 2) -> list[Tokens]:
        solutions, guesses = self._search(puzzle_tokens, limit)
        if guesses < 0 and len(solutions) < limit:
            raise UserError(f"the search for {limit} solutions was given up after {MAX_GUESSES:,} guesses")
        return solutions

    def rate(self, puzzle_tokens: npt.ArrayLike) -> int:
        guesses = self._search(puzzle_tokens, 1)[1]
        return NOT_RATED if guesses < 0 else guesses

    def fingerprint(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> Words:
        return sudoku_symmetry.fingerprint(puzzles_NL, answers_NL, self.shape)

    def augment(self, puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words) -> tuple[Tokens, Tokens]:
        return sudoku_symmetry.augment(puzzles_NL, answers_NL, keys_N, self.shape)

    def generate(self, count: int, seed: int, hard: bool = False, progress: Progress | None = None) -> Puzzles:
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


def _tokens(masks: npt.NDArray[np.int32]) -> Tokens:
    """Sets of digits as tokens: a single digit is known, any other set is a blank."""
    digits = np.bitwise_count(masks - 1)  # the number of the lowest bit where only one is set
    return np.where(np.bitwise_count(masks) == 1, digits + 2, 1).astype(np.uint8)
