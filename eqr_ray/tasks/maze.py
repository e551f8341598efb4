"""Mazes with a start and a goal: mark the shortest path.

Generated mazes follow Maze-Unique: a depth-first perfect maze, so the path is the only one. The checker also takes
mazes with several shortest paths (HRM's maze-30x30-hard); any of them is right.

The symmetries are the eight of the square. Mazes of even size are odd mazes with a further row and column of wall at
the end (as in Maze-Unique). Turning the whole grid would move that wall, so only the core is turned.

    N mazes, L = size * size cells, row by row      open_L  bool: a cell that is no wall
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.keys import Words, below, hash_words, jit, shuffle
from eqr_ray.tasks.puzzles import NOT_RATED, Puzzles, Tokens
from eqr_ray.tasks.task import Candidate, ShowCount, Task, generate_unique

Cells = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.int32]

WALL, OPEN, START, GOAL, PATH = 1, 2, 3, 4, 5
FAR = -1  # the distance of a wall or of an unreachable cell
SYMMETRIES = 8
CHUNK = 512  # mazes whose fingerprints are computed at once

# Maze-Unique at 30x30: 14 x 14 rooms and a path of 100 to 140 steps. Other sizes: the same steps per room.
REFERENCE_ROOMS, REFERENCE_STEPS = 14 * 14, (100, 140)


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
    exactly one way between any two. Returns open_L."""
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


class Maze(Task):
    """`size` x `size` cells; even sizes have a last row and column of wall."""

    vocabulary = "_# SGo"

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = f"maze{size}"
        self.grid = (size, size)
        self.core = size - 1 if size % 2 == 0 else size
        rooms = (self.core // 2) ** 2
        # the shortest and the longest path that is generated, in steps; every length between is equally frequent
        self.steps = tuple(max(2, round(steps * rooms / REFERENCE_ROOMS)) for steps in REFERENCE_STEPS)

    def _place(self, cell: int) -> str:
        return f"row {cell // self.size + 1}, column {cell % self.size + 1}"

    def _steps(self, open_L: Cells, puzzle_L: Tokens) -> int:
        """Steps from start to goal over the open cells; FAR where there is no way."""
        return int(distances(open_L, self.size, int((puzzle_L == START).argmax()))[puzzle_L == GOAL][0])

    def _check_puzzle(self, puzzle_L: Tokens) -> str | None:
        for token, name in ((START, "start 'S'"), (GOAL, "goal 'G'")):
            count = int((puzzle_L == token).sum())
            if count != 1:
                return f"{count} cells are the {name}; a maze has one"
        if PATH in puzzle_L:
            return f"the puzzle has a path cell 'o' at {self._place(int((puzzle_L == PATH).argmax()))}"
        if self._steps(puzzle_L != WALL, puzzle_L) == FAR:
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
        if steps == FAR:
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
        start, goal = (int((puzzle_L == end).argmax()) for end in (START, GOAL))
        solutions = []
        for path in itertools.islice(self._shortest_paths(start, distances(puzzle_L != WALL, self.size, goal)), limit):
            answer = puzzle_L.copy()
            answer[path] = PATH
            solutions.append(answer)
        return solutions

    def _shortest_paths(self, start: int, to_goal: Distances) -> Iterator[list[int]]:
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
        return NOT_RATED if steps == FAR else steps

    def augment(self, puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words) -> tuple[Tokens, Tokens]:
        """The core is all but a last row and column of wall, if they are wall."""
        size = self.size
        tables = np.concatenate([_turns(size, size), _turns(size, size - 1)])
        grid = puzzles_NL.reshape(-1, size, size)
        framed = (grid[:, -1, :] == WALL).all(axis=1) & (grid[:, :, -1] == WALL).all(axis=1) & (size % 2 == 0)
        which = (hash_words(keys_N, SYMMETRIES) % np.uint64(SYMMETRIES)).astype(np.int64) + SYMMETRIES * framed
        cells_NL = tables[which]
        return np.take_along_axis(puzzles_NL, cells_NL, axis=1), np.take_along_axis(answers_NL, cells_NL, axis=1)

    def fingerprint(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> Words:
        """Of the mazes alone, for a maze says all of its answer: the least of eight hashes of the smallest rectangle
        that holds all that is not wall, which makes it independent of where the core lies in the grid."""
        table = hash_words(*np.ogrid[: self.vocab_size, : self.size, : self.size]).reshape(self.vocab_size, -1)
        table[WALL] = 0  # so that walls outside the rectangle do not count
        prints_N = np.empty(len(puzzles_NL), dtype=np.uint64)
        for at in range(0, len(puzzles_NL), CHUNK):
            prints_N[at : at + CHUNK] = _least_hash(puzzles_NL[at : at + CHUNK], self.size, table)
        return prints_N

    def generate(self, count: int, seed: int, hard: bool = False, progress: ShowCount | None = None) -> Puzzles:
        """Perfect mazes; path length uniform in `steps`, with `hard` only the longest quarter of that range."""
        low, high = self.steps
        if hard:
            low = high - (high - low) // 4

        def make(randomness: Words) -> Candidate:
            # drawn before the maze, and mazes are made until one has it: otherwise short paths would be favoured
            steps = low + int(randomness[0] % np.uint64(high - low + 1))
            start = -1
            while start < 0:
                open_L = carve(self.size, self.core, randomness)
                start, goal = place_ends(open_L, self.size, steps, randomness)
            puzzle = np.where(open_L, OPEN, WALL).astype(np.uint8)
            puzzle[start], puzzle[goal] = START, GOAL
            return puzzle, self.solve(puzzle, limit=1)[0], steps

        return generate_unique(self, count, seed, hard, make, progress)


def _turns(size: int, core: int) -> npt.NDArray[np.int64]:
    """(8, L) for each symmetry of the top left core: the cell whose token comes to each place."""
    tables = np.tile(np.arange(size * size).reshape(size, size), (SYMMETRIES, 1, 1))
    for number in range(SYMMETRIES):
        turned = np.rot90(tables[number, :core, :core], number % 4)
        tables[number, :core, :core] = (turned.T if number >= 4 else turned).copy()
    return tables.reshape(SYMMETRIES, -1)


def _least_hash(puzzles_NL: Tokens, size: int, table: Words) -> Words:
    """`table` (tokens, L): a hash of each token in each place of the rectangle."""
    grid = puzzles_NL.reshape(-1, size, size) != WALL
    top, height = _extent(grid.any(axis=2))
    left, width = _extent(grid.any(axis=1))
    down, right = np.arange(size) - top[:, None], np.arange(size) - left[:, None]
    hashes = []
    for rows in (down, height[:, None] - 1 - down):
        for cols in (right, width[:, None] - 1 - right):
            row, col = rows.clip(0, size - 1)[:, :, None], cols.clip(0, size - 1)[:, None, :]
            places = [place.reshape(len(puzzles_NL), -1) for place in (row * size + col, col * size + row)]
            hashes += [table[puzzles_NL, place_NL].sum(axis=1, dtype=np.uint64) for place_NL in places]
    return hash_words(np.min(hashes, axis=0), np.minimum(height, width), np.maximum(height, width))


def _extent(used: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(first used line, number of lines from the first to the last) of each row of `used` (N, size)."""
    first = used.argmax(axis=1)
    return first, used.shape[1] - used[:, ::-1].argmax(axis=1) - first
