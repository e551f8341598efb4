"""Generated puzzles: one solution, minimal, no copies, a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.tasks import task_named

COUNTS = {"sudoku4": 100, "sudoku6": 60, "sudoku9": 30, "maze15": 30, "maze30": 10, "maze7": 20}


@pytest.mark.parametrize("name", COUNTS)
def test_one_solution_and_no_copies(name: str) -> None:
    task = task_named(name)
    made = task.generate(COUNTS[name], 11)
    assert made.labels is not None
    assert len(made) == COUNTS[name]
    assert len(set(task.fingerprint(made.inputs, made.labels).tolist())) == len(made)
    for puzzle, answer, rating in zip(made.inputs, made.labels, made.ratings, strict=True):
        solutions = task.solve(puzzle, limit=2)
        assert len(solutions) == 1
        assert (solutions[0] == answer).all()
        assert task.check(puzzle, answer) is None
        assert task.rate(puzzle) == rating


@pytest.mark.parametrize("name", ["sudoku6", "sudoku9"])
def test_minimal(name: str) -> None:
    """Without any one of its clues a puzzle has several solutions."""
    task = task_named(name)
    for puzzle in task.generate(10, 3).inputs:
        for cell in np.flatnonzero(puzzle > 1):
            thinner = puzzle.copy()
            thinner[cell] = 1
            assert len(task.solve(thinner, limit=2)) == 2


@pytest.mark.parametrize("name", ["sudoku4", "sudoku9", "maze15"])
def test_a_function_of_the_seed_and_a_prefix_of_more(name: str) -> None:
    task = task_named(name)
    few, more, other = task.generate(5, 1), task.generate(70, 1), task.generate(5, 2)
    assert (few.inputs == more.inputs[:5]).all()
    assert (few.ratings == more.ratings[:5]).all()
    assert (few.inputs != other.inputs).any()


def test_hard() -> None:
    made = task_named("sudoku9").generate(10, 0, hard=True)
    assert made.ratings.min() >= 3
    assert "hard" in made.sources[0]
    assert task_named("maze30").generate(20, 0, hard=True).ratings.min() >= 130
    with pytest.raises(UserError, match="no hard puzzles"):
        task_named("sudoku4").generate(1, 0, hard=True)


def test_16x16_has_one_solution() -> None:
    task = task_named("sudoku16")
    made = task.generate(1, 0)
    assert made.labels is not None
    assert task.check(made.inputs[0], made.labels[0]) is None
    assert len(task.solve(made.inputs[0])) == 1


def test_maze_paths_are_uniform_in_the_stated_range() -> None:
    made = task_named("maze15").generate(600, 4)
    counts = np.bincount(made.ratings - 25, minlength=11)
    assert len(counts) == 11  # 25 to 35 steps
    assert counts.min() > 30  # 55 expected, standard deviation 7
    assert counts.max() < 85


def test_asking_for_more_than_there_are() -> None:
    with pytest.raises(UserError, match=r"maze5: found \d+ different puzzles up to symmetry where 500"):
        task_named("maze5").generate(500, 0)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    task_named("sudoku4").generate(100, 0, progress=lambda done, wanted: told.append((done, wanted)))
    assert told[-1] == (100, 100)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_none() -> None:
    assert len(task_named("sudoku9").generate(0, 0)) == 0
