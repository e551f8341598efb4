"""Our ratings against those of the real lists, which tdoku counted; and every real answer is right."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from eqr_ray.tasks import task_named
from tests.support.sources import read_source

# list: (rows, least share of equal ratings)
LISTS = {
    "sudoku_forum_hardest_11plus_2500.csv": (300, 0.94),
    "sudoku_magictour_top1465_public.csv": (300, 0.98),
    "sudoku_diabolical_1000.csv": (500, 0.99),
    "sudoku_17clue_1500.csv": (500, 0.99),
    "sudoku_qqwing_expert_500.csv": (500, 0.99),
}


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


@pytest.mark.parametrize("name", LISTS)
def test_ratings_agree(real_puzzles: Path, name: str) -> None:
    rows, least = LISTS[name]
    task = task_named("sudoku9")
    with (real_puzzles / name).open() as file:
        listed = [(row["question"], int(row["rating"])) for row in csv.DictReader(file)][:rows]
    theirs = np.array([rating for _, rating in listed])
    ours = np.array([task.rate(task.encode(question)) for question, _ in listed])
    assert (ours == theirs).mean() >= least
    assert np.corrcoef(ranks(ours), ranks(theirs))[0, 1] > 0.98


def test_two_rows_of_sudoku_extreme(real_puzzles: Path) -> None:
    puzzles, bad = read_source(task_named("sudoku9"), str(real_puzzles / "sudoku_extreme_known_train_rows.csv"))
    assert bad == []
    assert [task_named("sudoku9").rate(puzzle) for puzzle in puzzles.inputs] == puzzles.ratings.tolist()


def test_puzzles_with_several_solutions_are_refused(real_puzzles: Path) -> None:
    puzzles, bad = read_source(task_named("sudoku9"), str(real_puzzles / "sudoku_multi_solution_negatives.csv"))
    assert len(puzzles) == 0
    assert len(bad) == 100
    assert {row.reason for row in bad} == {"several solutions"}


@pytest.mark.parametrize("name", ["maze_unique_eqr_seed42_train_1000.npz", "maze_hrm_hard_train_1000.npz"])
def test_real_mazes(real_puzzles: Path, name: str) -> None:
    task = task_named("maze30")
    arrays = np.load(real_puzzles / name)
    assert not task.suspects(arrays["inputs"], arrays["labels"]).any()
    several = [len(task.solve(puzzle)) > 1 for puzzle in arrays["inputs"][:50]]
    assert all(several) == any(several) == ("hrm" in name)
    lengths = [task.rate(puzzle) for puzzle in arrays["inputs"]]
    assert lengths == ((arrays["labels"] == 5).sum(axis=1) + 1).tolist()
    if "unique" in name:
        assert (min(lengths), max(lengths)) == task.steps
