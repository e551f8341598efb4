"""Compiled parts of the mazes: distances, and carving. `open_L`: bool (L,), L = size * size, row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eqr_ray.tasks.draws import below, jit, shuffle
from eqr_ray.tasks.keys import Words

Cells = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.int32]
FAR = -1  # the distance of a wall or of an unreachable cell


@jit
def distances(open_L: Cells, size: int, start: int) -> Distances:
    """(L,) steps from `start` to every open cell by moves up, down, left, right; FAR where there is no way."""
    reached = np.full(size * size, FAR, np.int32)
    queue = np.empty(size * size, np.int32)
    queue[0], reached[start] = start, 0
    head, tail = 0, 1
    while head < tail:
        cell = queue[head]
        head += 1
        row, col = cell // size, cell % size
        for way in range(4):
            to_row = row + (way == 0) - (way == 1)
            to_col = col + (way == 2) - (way == 3)
            if 0 <= to_row < size and 0 <= to_col < size:
                there = to_row * size + to_col
                if open_L[there] and reached[there] == FAR:
                    reached[there] = reached[cell] + 1
                    queue[tail] = there
                    tail += 1
    return reached


@jit
def carve(size: int, core: int, randomness: Words) -> Cells:
    """A depth-first perfect maze in the top left `core` x `core` cells (core odd): rooms at odd rows and columns,
    exactly one way between any two. Open cells are True."""
    open_L = np.zeros(size * size, np.bool_)
    rooms = core // 2
    trail = np.empty(rooms * rooms, np.int32)
    cell = (2 * below(randomness, rooms) + 1) * size + 2 * below(randomness, rooms) + 1
    trail[0], depth = cell, 1
    open_L[cell] = True
    ways = np.arange(4)
    while depth > 0:
        cell = trail[depth - 1]
        row, col = cell // size, cell % size
        shuffle(randomness, ways)
        dead_end = True
        for way in ways:
            down = (way == 0) * 1 - (way == 1) * 1
            right = (way == 2) * 1 - (way == 3) * 1
            to_row, to_col = row + 2 * down, col + 2 * right
            if 0 < to_row < core and 0 < to_col < core and not open_L[to_row * size + to_col]:
                open_L[(row + down) * size + col + right] = True
                open_L[to_row * size + to_col] = True
                trail[depth] = to_row * size + to_col
                depth += 1
                dead_end = False
                break
        if dead_end:
            depth -= 1
    return open_L


@jit
def place_ends(open_L: Cells, size: int, steps: int, randomness: Words) -> tuple[int, int]:
    """A random start and a random goal exactly `steps` apart; (-1, -1) where the maze has no such pair."""
    starts = np.flatnonzero(open_L)
    shuffle(randomness, starts)
    for start in starts:
        goals = np.flatnonzero(distances(open_L, size, int(start)) == steps)
        if goals.shape[0]:
            return int(start), int(goals[below(randomness, goals.shape[0])])
    return -1, -1
