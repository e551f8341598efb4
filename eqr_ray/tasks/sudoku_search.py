"""The Sudoku search, compiled: propagation to a fixed point, then a guess with the fewest choices; and, on top of it,
making one puzzle.

    n        side of the grid = box_rows * box_cols = number of digits      L = n * n cells, row by row
    unit     a row, a column or a box: n cells that hold every digit once
    band     box_rows neighbouring rows (a stack: box_cols neighbouring columns)
    segment  the part of a line inside one box; in a band every digit lies in one segment of each line and of each box,
             so its segments are one of the (boxes in a band)! assignments line -> box
    state    int32 (L + 2*n*P,): the candidates of each cell as bits, then for orientation (0 rows, 1 columns), band and
             assignment the set of digits that may still use it.  P = the larger number of assignments
    units, rows, cols   tables (3n, n) of cells, (box_rows!, box_rows) and (box_cols!, box_cols) of assignments

Propagation is naked and hidden singles in every unit, and the segments of every band: which assignments each digit
still has, what follows for the cells (locked candidates), and that a segment of w cells holds w digits. A guess takes
the band with the fewest assignments left, in it the digit with the fewest, and tries one of these against all others.
Both are as in tdoku (t-dillon.github.io/tdoku), so the number of guesses is comparable with the ratings of
Sudoku-Extreme, which tdoku counted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eqr_ray.tasks.keys import Words, below, jit, shuffle

Bits = npt.NDArray[np.int32]
STUCK, SAME, CHANGED = 0, 1, 2


@jit
def count_bits(mask: int) -> int:
    """Number of digits in a set of at most 16 (sums of neighbouring fields of 1, 2, 4 and 8 bits)."""
    mask -= (mask >> 1) & 0x5555
    mask = (mask & 0x3333) + ((mask >> 2) & 0x3333)
    mask = (mask + (mask >> 4)) & 0x0F0F
    return (mask + (mask >> 8)) & 0x1F


@jit
def narrow_unit(state: Bits, unit: Bits, full: int) -> int:
    """Naked and hidden singles of one unit."""
    once, twice, fixed = 0, 0, 0
    for cell in unit:
        mask = state[cell]
        twice |= once & mask
        once |= mask
        if mask & (mask - 1) == 0:
            if mask == 0 or fixed & mask:
                return STUCK
            fixed |= mask
    if once != full:
        return STUCK
    if fixed == full:
        return SAME
    outcome = SAME
    for cell in unit:
        mask = state[cell]
        if mask & (mask - 1) == 0:
            continue
        hidden = mask & once & ~twice
        kept = hidden if hidden else mask & ~fixed
        if kept == 0 or (hidden and hidden & (hidden - 1)):
            return STUCK
        if kept != mask:
            state[cell] = kept
            outcome = CHANGED
    return outcome


@jit
def narrow_band(
    state: Bits, at: int, first: int, line_step: int, cell_step: int, width: int, assignments: Bits, full: int
) -> int:
    """Segments of one band: its cells start at `first`, its assignments' digit sets at `at` in the state."""
    count, lines = assignments.shape
    segments = np.zeros((lines, lines), np.int32)
    allowed = np.zeros((lines, lines), np.int32)
    for line in range(lines):
        for box in range(lines):
            base = first + line * line_step + box * width * cell_step
            for i in range(width):
                segments[line, box] |= state[base + i * cell_step]
    for line in range(lines):  # a segment with as many digits as cells claims them: no assignment leads them elsewhere
        for box in range(lines):
            if count_bits(segments[line, box]) == width:
                for p in range(count):
                    if assignments[p, line] != box:
                        state[at + p] &= ~segments[line, box]
    possible = 0
    for p in range(count):
        digits = state[at + p]
        for line in range(lines):
            digits &= segments[line, assignments[p, line]]
        state[at + p] = digits
        possible |= digits
        for line in range(lines):
            allowed[line, assignments[p, line]] |= digits
    if possible != full:
        return STUCK
    outcome = SAME
    for line in range(lines):
        for box in range(lines):
            elsewhere = 0
            for other in range(lines):
                if other != box:
                    elsewhere |= allowed[line, other]
            certain = allowed[line, box] & ~elsewhere
            keep = certain if count_bits(certain) >= width else allowed[line, box]
            if segments[line, box] & ~keep == 0:
                continue
            outcome = CHANGED
            base = first + line * line_step + box * width * cell_step
            for i in range(width):
                state[base + i * cell_step] &= keep
                if state[base + i * cell_step] == 0:
                    return STUCK
    return outcome


@jit
def propagate(state: Bits, units: Bits, rows: Bits, cols: Bits) -> bool:
    """Narrow `state` to a fixed point; False at a contradiction. `rows`, `cols`: assignments of bands and stacks."""
    side = units.shape[1]
    box_rows, box_cols = rows.shape[1], cols.shape[1]
    full = (1 << side) - 1
    wide = max(rows.shape[0], cols.shape[0])
    while True:
        changed = False
        for unit in range(units.shape[0]):
            outcome = narrow_unit(state, units[unit], full)
            if outcome == STUCK:
                return False
            changed = changed or outcome == CHANGED
        if changed:
            continue  # singles are cheap: exhaust them first
        for group in range(box_cols + box_rows):
            if group < box_cols:
                at, first = side * side + group * wide, group * box_rows * side
                outcome = narrow_band(state, at, first, side, 1, box_cols, rows, full)
            else:
                stack = group - box_cols
                at = side * side + (side + stack) * wide
                outcome = narrow_band(state, at, stack * box_cols, 1, side, box_rows, cols, full)
            if outcome == STUCK:
                return False
            changed = changed or outcome == CHANGED
        if not changed:
            return True


@jit
def choose(state: Bits, side: int, bands: int, stacks: int, rows: int, cols: int, wide: int) -> tuple[int, int]:
    """Where to guess: (offset of a band's assignments, digit's bit); (-1, 0) where everything is decided."""
    least, best_at, best_count = 1 << 30, -1, 0
    for group in range(bands + stacks):
        upright = group >= bands
        at = side * side + (side * wide + (group - bands) * wide if upright else group * wide)
        count = cols if upright else rows
        total = 0
        for p in range(count):
            total += count_bits(state[at + p])
        if side < total < least:
            least, best_at, best_count = total, at, count
    best_digit, fewest = 0, 1 << 30
    if best_at >= 0:
        for digit in range(side):
            total = 0
            for p in range(best_count):
                total += (state[best_at + p] >> digit) & 1
            if 1 < total < fewest:
                fewest, best_digit = total, 1 << digit
    return best_at, best_digit


@jit
def search(
    start: Bits, units: Bits, rows: Bits, cols: Bits, limit: int, max_guesses: int, found: Bits, randomness: Words
) -> tuple[int, int]:
    """Depth-first search from the candidates `start` (L,) for up to `limit` solutions, written to `found` (limit, L).

    Returns (solutions found, guesses made); guesses = -1 when `max_guesses` ran out first. A guess takes the first
    assignment in order; where `randomness` has a state (1,) instead of (0,), a random one.
    """
    side, length = units.shape[1], start.shape[0]
    wide = max(rows.shape[0], cols.shape[0])
    stack = np.empty((4 * length, length + 2 * side * wide), np.int32)
    stack[0, :length] = start
    stack[0, length:] = (1 << side) - 1
    depth, guesses, solutions = 1, 0, 0
    while depth > 0:
        state = stack[depth - 1]
        if not propagate(state, units, rows, cols):
            depth -= 1
            continue
        at, bit = choose(state, side, cols.shape[1], rows.shape[1], rows.shape[0], cols.shape[0], wide)
        if at < 0:
            found[solutions] = state[:length]
            solutions += 1
            depth -= 1
            if solutions == limit:
                break
            continue
        if guesses == max_guesses or depth == stack.shape[0]:
            return solutions, -1
        guesses += 1
        pick, options = 0, 0
        for p in range(wide):
            if state[at + p] & bit and (p < rows.shape[0] or at >= length + side * wide):
                options += 1
                # reservoir sampling gives each option the same chance
                if options == 1 or (randomness.shape[0] and below(randomness, options) == 0):
                    pick = p
        trial = stack[depth]
        trial[:] = state
        for p in range(wide):
            if p != pick:
                trial[at + p] &= ~bit
        state[at + pick] &= ~bit
        depth += 1
    return solutions, guesses


@jit
def full_grid(units: Bits, rows: Bits, cols: Bits, randomness: Words) -> Bits:
    """A random solved grid as digit bits (L,): random first row, random guesses, restarted when that leads astray."""
    side = units.shape[1]
    found: Bits = np.zeros((1, side * side), np.int32)
    first = np.arange(side)
    solutions = 0
    while solutions == 0:
        start = np.full(side * side, (1 << side) - 1, np.int32)
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
    """Take clues from the solved `grid` (L,) in random order as long as the solution stays the only one.

    A clue may go exactly if no solution has another digit in its cell; a search with that digit forbidden proves it. A
    proof that takes more than `max_guesses` guesses leaves its clue standing, so the puzzle may have a clue too many.
    Afterwards `put_back` of the clues taken are put back. Returns candidates (L,) with clues as single bits.
    """
    length = grid.shape[0]
    full = (1 << units.shape[1]) - 1
    found = np.zeros((1, length), np.int32)
    puzzle: Bits = grid.copy()
    order = np.arange(length)
    shuffle(randomness, order)
    taken = 0
    for turn in range(length):
        cell = order[turn]
        puzzle[cell] = full & ~grid[cell]
        solutions, guesses = search(puzzle, units, rows, cols, 1, max_guesses, found, np.zeros(0, np.uint64))
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
