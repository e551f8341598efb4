"""Splits: nothing shared up to symmetry, exact counts, honest errors."""

from __future__ import annotations

import numpy as np
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.data.dataset import Division, divide
from eqr_ray.tasks import Puzzles, task_named
from eqr_ray.tasks.keys import hash_words
from eqr_ray.tasks.puzzles import joined

TASK = task_named("sudoku6")


def symmetric(puzzles: Puzzles, seed: int) -> Puzzles:
    assert puzzles.labels is not None
    inputs, labels = TASK.augment(puzzles.inputs, puzzles.labels, hash_words(seed, np.arange(len(puzzles))))
    return Puzzles(inputs, labels, puzzles.ratings, puzzles.sources)


def prints(puzzles: Puzzles) -> set[int]:
    found = set(TASK.fingerprint(puzzles.inputs, puzzles.labels).tolist())
    assert len(found) == len(puzzles)
    return found


def sets(division: Division) -> tuple[set[int], set[int], set[int]]:
    return prints(division.train), prints(division.validation), prints(division.test)


def test_parts_share_no_puzzle_up_to_symmetry() -> None:
    made = TASK.generate(60, 1)
    pool = joined([made, symmetric(made, 1), symmetric(made, 2)])
    division = divide(TASK, pool, None, train=30, validation=10, test=15, seed=0)
    train, validation, test = sets(division)
    assert (len(train), len(validation), len(test)) == (30, 10, 15)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert division.duplicates == 120


def test_all_that_remain_and_the_order_of_the_file() -> None:
    made = TASK.generate(60, 1)
    one = divide(TASK, made, None, train=None, validation=10, test=15, seed=0)
    backwards = divide(TASK, made.take(np.arange(60)[::-1]), None, train=None, validation=10, test=15, seed=0)
    other = divide(TASK, made, None, train=None, validation=10, test=15, seed=1)
    assert len(one.train) == 35
    assert sets(one) == sets(backwards)
    assert sets(one) != sets(other)


def test_own_test_part_stays_and_its_copies_leave_the_pool() -> None:
    made = TASK.generate(60, 1)
    own = symmetric(made.take(np.arange(20)), 3)
    division = divide(TASK, made, own, train=None, validation=10, test=None, seed=0)
    assert (division.test.inputs == own.inputs).all()
    assert division.test_overlap == 20
    assert len(division.train) == 30
    assert not (prints(division.train) | prints(division.validation)) & prints(division.test)
    first = divide(TASK, made, own, train=30, validation=10, test=5, seed=0)
    assert (first.test.inputs == own.inputs[:5]).all()
    assert first.test_overlap == 20  # also against the part of test that was not asked for


def test_too_few() -> None:
    made = TASK.generate(20, 1)
    with pytest.raises(UserError, match=r"up to symmetry: 20, asked for train=15 \+ validation=5 \+ test=1"):
        divide(TASK, made, None, train=15, validation=5, test=1, seed=0)
    with pytest.raises(UserError, match="own test part has 20, asked for test=21"):
        divide(TASK, made, made, train=None, validation=0, test=21, seed=0)
    with pytest.raises(UserError, match="outside test: 0, asked for train=1"):
        divide(TASK, made, made, train=1, validation=0, test=1, seed=0)
    with pytest.raises(UserError, match="no puzzle is left"):
        divide(TASK, made, None, train=None, validation=10, test=10, seed=0)
    with pytest.raises(UserError, match="has none: give a count"):
        divide(TASK, made, None, train=None, validation=10, test=None, seed=0)
