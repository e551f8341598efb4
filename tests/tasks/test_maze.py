"""Mazes: the checker, shortest paths against a brute-force twin, and the symmetries of the square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.tasks import task_named
from eqr_ray.tasks.keys import hash_words
from eqr_ray.tasks.puzzles import Tokens

OPEN_5 = "S    " + "     " + "  #  " + "     " + "    G"
WALL, START, GOAL, PATH = 1, 3, 4, 5


def flood_steps(puzzle: Tokens, size: int) -> int:
    """Steps from S to G by growing a set of cells; -1 without a way."""
    grid = puzzle.reshape(size, size)
    reached = grid == START
    for steps in range(size * size):
        if reached[grid == GOAL][0]:
            return steps
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        reached = grown & (grid != WALL)
    return -1


@st.composite
def random_mazes(draw: st.DrawFn) -> Tokens:
    cells = draw(st.lists(st.sampled_from([1, 2, 2]), min_size=36, max_size=36))
    start, goal = draw(st.lists(st.integers(0, 35), min_size=2, max_size=2, unique=True))
    puzzle = np.array(cells, dtype=np.uint8)
    puzzle[start], puzzle[goal] = START, GOAL
    return puzzle


@settings(max_examples=100, deadline=None)
@given(random_mazes())
def test_solutions_are_all_shortest_paths(puzzle: Tokens) -> None:
    task = task_named("maze6")
    steps = flood_steps(puzzle, 6)
    assert task.rate(puzzle) == steps
    if steps < 0:
        assert task.check_puzzle(puzzle) == "there is no way from S to G"
        with pytest.raises(UserError, match="no way"):
            task.solve(puzzle)
        return
    solutions = task.solve(puzzle, limit=500)
    assert len(solutions) >= 1
    assert len({one.tobytes() for one in solutions}) == len(solutions)
    for one in solutions:
        assert task.check(puzzle, one) is None
        assert (one == PATH).sum() == steps - 1


def test_number_of_shortest_paths_in_an_open_square() -> None:
    task = task_named("maze5")
    assert len(task.solve(task.encode(OPEN_5.replace("#", " ")), limit=100)) == 70  # 8 over 4
    assert len(task.solve(task.encode(OPEN_5), limit=100)) == 70 - 6 * 6  # those through the middle are gone
    assert len(task.solve(task.encode(OPEN_5), limit=2)) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Soooo" + "    o" + "  # o" + "    o" + "    G", None),
        ("S    " + "o    " + "o #  " + "o    " + "ooooG", None),
        ("S    " + "     " + "  #  " + "     " + "    G", "do not connect"),
        ("Soooo" + "    o" + "  #oo" + "   o " + "   oG", "takes 10 steps, the shortest 8"),
        ("Soooo" + "    o" + "  # o" + "   oo" + "    G", "8 path cells where the shortest path has 7"),
        ("Sooo " + "  oo " + " o#o " + " ooo " + "    G", "do not connect"),
        ("So o " + "ooo o" + "  #oo" + "     " + "    G", "do not connect"),
        ("So   " + " ooo " + "  o  " + "  ooo" + "    G", "'#' at row 3, column 3 is 'o'"),
        ("ooooo" + "    o" + "  # o" + "    o" + "    G", "'S' at row 1, column 1 is 'o'"),
        ("Soooo" + "#   o" + "  # o" + "    o" + "    G", "' ' at row 2, column 1 is '#'"),
    ],
)
def test_check(answer: str, words: str | None) -> None:
    task = task_named("maze5")
    reason = task.check(task.encode(OPEN_5), task.encode(answer))
    assert reason is None if words is None else words in str(reason)


def test_a_detour_is_not_the_shortest_path() -> None:
    task = task_named("maze5")
    puzzle = task.encode("S G  " + " ####" + "     " + "     " + "     ")
    assert task.check(puzzle, task.encode("SoG  " + " ####" + "     " + "     " + "     ")) is None
    detour = task.encode("S    " + "#### " + "     " + " ####" + "    G")
    assert task.rate(detour) == 16
    shorter = task.encode("S    " + " ### " + "     " + "     " + "G    ")
    long_way = task.encode("Soooo" + " ###o" + "ooooo" + "o    " + "G    ")
    assert "takes 12 steps, the shortest 4" in str(task.check(shorter, long_way))


@pytest.mark.parametrize(
    ("puzzle", "words"),
    [
        (" " * 25, "0 cells are the start"),
        ("S" + " " * 24, "0 cells are the goal"),
        ("SS" + " " * 22 + "G", "2 cells are the start"),
        ("So" + " " * 22 + "G", "path cell 'o' at row 1, column 2"),
        ("S#   " + "#    " + " " * 14 + "G", "no way"),
    ],
)
def test_malformed_puzzles(puzzle: str, words: str) -> None:
    task = task_named("maze5")
    tokens = task.encode(puzzle)
    assert words in str(task.check_puzzle(tokens))
    assert words in str(task.check(tokens, tokens))
    with pytest.raises(UserError, match="not a maze5 puzzle"):
        task.solve(tokens)


@pytest.mark.parametrize("name", ["maze7", "maze8", "maze30"])
def test_symmetries_keep_the_maze(name: str) -> None:
    task = task_named(name)
    made = task.generate(1, 3)
    assert made.labels is not None
    copies = np.zeros(64, dtype=np.int64)
    puzzles, answers = task.augment(made.inputs[copies], made.labels[copies], hash_words(1, np.arange(64)))
    assert not task.suspects(puzzles, answers).any()
    assert len({one.tobytes() for one in puzzles}) == 8
    assert len(set(task.fingerprint(puzzles, answers).tolist())) == 1
    if task.grid[0] % 2 == 0:  # the further row and column of wall stay where they are
        grid = puzzles.reshape(64, *task.grid)
        assert (grid[:, -1] == WALL).all()
        assert (grid[:, :, -1] == WALL).all()


@settings(max_examples=50, deadline=None)
@given(random_mazes(), st.integers(0, 2**60))
def test_fingerprint_of_any_maze_is_kept(puzzle: Tokens, seed: int) -> None:
    task = task_named("maze6")
    turned, _ = task.augment(puzzle[None], puzzle[None], hash_words(seed, np.arange(1)))
    assert task.fingerprint(turned, None) == task.fingerprint(puzzle[None], None)


def test_other_mazes_have_other_fingerprints() -> None:
    task = task_named("maze15")
    made = task.generate(200, 0)
    moved = made.inputs.copy()
    moved[moved == GOAL] = 2
    for row in range(200):
        moved[row, np.flatnonzero(moved[row] == 2)[0]] = GOAL
    same = (moved == made.inputs).all(axis=1)
    assert ((task.fingerprint(moved, None) == task.fingerprint(made.inputs, None)) == same).all()
    assert same.mean() < 0.1


def test_generated_mazes_are_perfect() -> None:
    """Walls around, every room reached, and as many openings as a tree has edges."""
    for name, core in (("maze15", 15), ("maze30", 29)):
        task = task_named(name)
        for puzzle in task.generate(5, 8).inputs:
            grid = puzzle.reshape(task.grid) != WALL
            assert grid[1:core:2, 1:core:2].all()
            rooms = (core // 2) ** 2
            assert grid.sum() == 2 * rooms - 1
            assert not grid[core - 1 :].any()
            assert not grid[:, core - 1 :].any()
            assert not grid[0].any()
            assert not grid[:, 0].any()
