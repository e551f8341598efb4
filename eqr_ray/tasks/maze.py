"""Mazes with a start and a goal: mark the shortest path.

Generated mazes follow Maze-Unique: a depth-first perfect maze, so the path is the only one. The checker also takes
mazes with several shortest paths (HRM's maze-30x30-hard); any of them is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.tasks import maze_search, maze_symmetry
from eqr_ray.tasks.generation import Candidate, generate_unique
from eqr_ray.tasks.keys import Words
from eqr_ray.tasks.puzzles import NOT_RATED, Puzzles, Tokens
from eqr_ray.tasks.task import Progress, Task

WALL, OPEN, START, GOAL, PATH = 1, 2, 3, 4, 5

# Maze-Unique at 30x30: 14 x 14 rooms and a path of 100 to 140 steps. Other sizes: the same steps per room.
REFERENCE_ROOMS, REFERENCE_STEPS = 14 * 14, (100, 140)


class Maze(Task):
    """`size` x `size` cells; even sizes have a last row and column of wall."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = f"maze{size}"
        self.vocabulary = "_# SGo"
        self.grid = (size, size)
        self.core = size - 1 if size % 2 == 0 else size
        rooms = (self.core // 2) ** 2
        # the shortest and the longest path that is generated, in steps; every length between is equally frequent
        self.steps = tuple(max(2, round(steps * rooms / REFERENCE_ROOMS)) for steps in REFERENCE_STEPS)

    def _place(self, cell: int) -> str:
        return f"row {cell // self.size + 1}, column {cell % self.size + 1}"

    def _steps(self, open_L: npt.NDArray[np.bool_], puzzle_L: Tokens) -> int:
        """Steps from start to goal over the open cells; FAR where there is no way."""
        distances = maze_search.distances(open_L, self.size, int(np.flatnonzero(puzzle_L == START)[0]))
        return int(distances[puzzle_L == GOAL][0])

    def _check_puzzle(self, puzzle_L: Tokens) -> str | None:
        for token, name in ((START, "start 'S'"), (GOAL, "goal 'G'")):
            count = int((puzzle_L == token).sum())
            if count != 1:
                return f"{count} cells are the {name}; a maze has one"
        marked = np.flatnonzero(puzzle_L == PATH)
        if len(marked):
            return f"the puzzle has a path cell 'o' at {self._place(int(marked[0]))}"
        if self._steps(puzzle_L != WALL, puzzle_L) == maze_search.FAR:
            return "there is no way from S to G"
        return None

    def _check_answer(self, puzzle_L: Tokens, answer_L: Tokens) -> str | None:
        reason = self._check_puzzle(puzzle_L)
        if reason is not None:
            return f"the puzzle itself is malformed: {reason}"
        changed = np.flatnonzero(np.where(answer_L == PATH, OPEN, answer_L) != puzzle_L)
        if len(changed):
            at = int(changed[0])
            before, after = self.vocabulary[puzzle_L[at]], self.vocabulary[answer_L[at]]
            return f"{before!r} at {self._place(at)} is {after!r} in the answer"
        steps, shortest = self._steps(answer_L >= START, puzzle_L), self._steps(puzzle_L != WALL, puzzle_L)
        if steps == maze_search.FAR:
            return "the path cells do not connect S and G"
        if steps > shortest:
            return f"the path takes {steps} steps, the shortest {shortest}"
        marked = int((answer_L == PATH).sum())
        if marked != steps - 1:
            return f"{marked} path cells where the shortest path has {steps - 1} between S and G"
        return None

    def solve(self, puzzle_tokens: npt.ArrayLike, limit: int = 2) -> list[Tokens]:
        reason = self.check_puzzle(puzzle_tokens)
        if reason is not None:
            raise UserError(f"not a {self.name} puzzle: {reason}")
        puzzle_L = np.asarray(puzzle_tokens).astype(np.uint8)
        start, goal = (int(np.flatnonzero(puzzle_L == end)[0]) for end in (START, GOAL))
        solutions = []
        for path in self._shortest_paths(start, maze_search.distances(puzzle_L != WALL, self.size, goal)):
            answer = puzzle_L.copy()
            answer[path] = PATH
            solutions.append(answer)
            if len(solutions) == limit:
                break
        return solutions

    def _shortest_paths(self, start: int, to_goal: maze_search.Distances) -> Iterator[list[int]]:
        """Every shortest path as its cells between start and goal, depth first."""
        trails = [[start]]
        while trails:
            trail = trails.pop()
            cell = trail[-1]
            if to_goal[cell] == 1:
                yield trail[1:]
                continue
            row, col = divmod(cell, self.size)
            for to_row, to_col in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
                inside = 0 <= to_row < self.size and 0 <= to_col < self.size
                if inside and to_goal[to_row * self.size + to_col] == to_goal[cell] - 1:
                    trails.append([*trail, to_row * self.size + to_col])

    def rate(self, puzzle_tokens: npt.ArrayLike) -> int:
        """Steps of the shortest path (path cells + 1); NOT_RATED where there is no way. UserError: no maze."""
        puzzle_L = np.asarray(puzzle_tokens)
        if (puzzle_L == START).sum() != 1 or (puzzle_L == GOAL).sum() != 1:
            raise UserError(f"not a {self.name} puzzle: {self.check_puzzle(puzzle_L)}")
        steps = self._steps(puzzle_L != WALL, puzzle_L.astype(np.uint8))
        return NOT_RATED if steps == maze_search.FAR else steps

    def fingerprint(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> Words:
        """Of the mazes alone: a maze says all of its answer."""
        return maze_symmetry.fingerprint(puzzles_NL, self.size, self.vocab_size)

    def augment(self, puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words) -> tuple[Tokens, Tokens]:
        return maze_symmetry.augment(puzzles_NL, answers_NL, keys_N, self.size)

    def generate(self, count: int, seed: int, hard: bool = False, progress: Progress | None = None) -> Puzzles:
        """Perfect mazes; path length uniform in `steps`, with `hard` only the longest quarter of that range."""
        low, high = self.steps
        if hard:
            low = high - (high - low) // 4

        def make(randomness: Words) -> Candidate:
            # drawn before the maze, and mazes are made until one has it: otherwise short paths would be favoured
            steps = low + int(randomness[0] % np.uint64(high - low + 1))
            start = -1
            while start < 0:
                open_L = maze_search.carve(self.size, self.core, randomness)
                start, goal = maze_search.place_ends(open_L, self.size, steps, randomness)
            puzzle = np.where(open_L, OPEN, WALL).astype(np.uint8)
            puzzle[start], puzzle[goal] = START, GOAL
            return puzzle, self.solve(puzzle, limit=1)[0], steps

        return generate_unique(self, count, seed, hard, make, progress)
