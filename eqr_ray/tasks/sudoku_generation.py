"""Making one Sudoku, compiled: a random full grid, clues taken away as long as the solution stays the only one.

A clue may go exactly if no solution has another digit in its cell. A search with that digit forbidden proves it, so the
puzzle's uniqueness needs no search of its own.
"""

from __future__ import annotations

import numpy as np

from eqr_ray.tasks.draws import jit, shuffle
from eqr_ray.tasks.keys import Words
from eqr_ray.tasks.sudoku_search import Bits, search


@jit
def full_grid(units: Bits, rows: Bits, cols: Bits, randomness: Words) -> Bits:
    """A random solved grid as digit bits (L,): random first row, random guesses, restarted when that leads astray."""
    side = units.shape[1]
    length = side * side
    found: Bits = np.zeros((1, length), np.int32)
    first = np.arange(side)
    solutions = 0
    while solutions == 0:
        start = np.full(length, (1 << side) - 1, np.int32)
        shuffle(randomness, first)
        for col in range(side):
            start[col] = 1 << first[col]
        solutions, _ = search(start, units, rows, cols, 1, 20 * side, found, randomness)
    grid: Bits = found[0]
    return grid


@jit
def remove_clues(
    grid: Bits, units: Bits, rows: Bits, cols: Bits, max_guesses: int, put_back: int, randomness: Words
) -> Bits:
    """Take clues from the solved `grid` (L,) in random order; each that goes leaves the solution unique.

    Returns candidates (L,) with clues as single bits. A proof that takes more than `max_guesses` guesses leaves its
    clue standing, and the puzzle may then have a clue too many. Afterwards `put_back` of the clues taken are put back.
    """
    side = units.shape[1]
    length = side * side
    full = (1 << side) - 1
    nothing = np.zeros(0, np.uint64)
    found = np.zeros((1, length), np.int32)
    puzzle: Bits = grid.copy()
    order = np.arange(length)
    shuffle(randomness, order)
    taken = 0
    for turn in range(length):
        cell = order[turn]
        puzzle[cell] = full & ~grid[cell]
        solutions, guesses = search(puzzle, units, rows, cols, 1, max_guesses, found, nothing)
        if solutions == 0 and guesses >= 0:
            puzzle[cell] = full
            order[taken] = cell
            taken += 1
        else:
            puzzle[cell] = grid[cell]
    for turn in range(min(put_back, taken)):
        cell = order[taken - 1 - turn]
        puzzle[cell] = grid[cell]
    return puzzle
