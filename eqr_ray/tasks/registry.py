"""The tasks by name."""

from __future__ import annotations

import re
from functools import cache

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.tasks.maze import Maze
from eqr_ray.tasks.sudoku import Sudoku
from eqr_ray.tasks.task import Task

BOXES = {"sudoku4": (2, 2), "sudoku6": (2, 3), "sudoku9": (3, 3), "sudoku16": (4, 4)}  # rows, columns of a box
MAZES = ("maze15", "maze30")  # those that error messages offer; any mazeN is accepted
SMALLEST_MAZE, LARGEST_MAZE = 5, 200


@cache
def task_named(name: str) -> Task:
    """The task of this name: sudoku4, sudoku6, sudoku9, sudoku16 or mazeN. UserError: no such task."""
    if name in BOXES:
        return Sudoku(*BOXES[name])
    size = re.fullmatch(r"maze([1-9]\d*)", name)
    if size is None:
        raise UserError(f"unknown task {name!r}{nearest(name, [*BOXES, *MAZES])}")
    if not SMALLEST_MAZE <= int(size[1]) <= LARGEST_MAZE:
        raise UserError(f"unknown task {name!r}: mazes have a side of {SMALLEST_MAZE} to {LARGEST_MAZE} cells")
    return Maze(int(size[1]))


def tasks_of_length(length: int) -> list[Task]:
    """Every task whose puzzles have `length` cells."""
    side = round(length**0.5)
    names = [f"sudoku{side}"] if f"sudoku{side}" in BOXES else []
    names += [f"maze{side}"] if SMALLEST_MAZE <= side <= LARGEST_MAZE else []
    return [task_named(name) for name in names if side**2 == length]
