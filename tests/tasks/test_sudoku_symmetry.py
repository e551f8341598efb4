"""Symmetries of the grid: what they keep, and the fingerprint against brute-force canonical forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.tasks import task_named
from eqr_ray.tasks.keys import hash_words
from eqr_ray.tasks.puzzles import Tokens

NAMES = ["sudoku4", "sudoku6", "sudoku9"]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 2**63))
def test_a_symmetry_keeps_validity_clues_and_fingerprint(name: str, seed: int) -> None:
    task = task_named(name)
    made = task.generate(16, 7)
    assert made.labels is not None
    puzzles, answers = task.augment(made.inputs, made.labels, hash_words(seed, np.arange(16)))
    assert not task.suspects(puzzles, answers).any()
    assert ((puzzles > 1).sum(axis=1) == (made.inputs > 1).sum(axis=1)).all()
    assert (task.fingerprint(puzzles, answers) == task.fingerprint(made.inputs, made.labels)).all()
    assert (task.fingerprint(puzzles, None) == task.fingerprint(made.inputs, None)).all()


def test_a_row_depends_on_its_own_key_only() -> None:
    task = task_named("sudoku9")
    made = task.generate(12, 1)
    assert made.labels is not None
    keys = hash_words(1, np.arange(12))
    together = task.augment(made.inputs, made.labels, keys)
    alone = [task.augment(made.inputs[i : i + 1], made.labels[i : i + 1], keys[i : i + 1]) for i in range(12)]
    assert (together[0] == np.concatenate([one[0] for one in alone])).all()
    assert (together[1] == np.concatenate([one[1] for one in alone])).all()


@pytest.mark.parametrize(("name", "transposes"), [("sudoku4", True), ("sudoku6", False)])
def test_every_kind_of_symmetry_is_drawn(name: str, transposes: bool) -> None:
    """The orbit of one puzzle under many keys is its whole orbit: no symmetry is missing, none is made up."""
    task = task_named(name)
    rows, cols = (2, 2) if name == "sudoku4" else (2, 3)
    side = rows * cols
    place = np.zeros((1, task.length), dtype=np.uint8) + 1
    place[0, 0] = 2
    count = 3000
    puzzles, _ = task.augment(np.repeat(place, count, 0), np.repeat(place, count, 0), hash_words(9, np.arange(count)))
    reached = {(int(np.argmax(one > 1)), int(one.max())) for one in puzzles}
    assert reached == {(cell, token) for cell in range(task.length) for token in range(2, side + 2)}
    line = np.full((1, task.length), 1, dtype=np.uint8)
    line[0, :2] = 2  # two neighbours in a row: upright only after a transposition
    puzzles, _ = task.augment(np.repeat(line, count, 0), np.repeat(line, count, 0), hash_words(9, np.arange(count)))
    upright = [np.ptp(np.flatnonzero(one > 1) // side) > 0 for one in puzzles]
    assert any(upright) == transposes


def line_orders(bands: int, lines: int) -> list[list[int]]:
    return [
        [band * lines + line for band, inside in zip(order, insides, strict=True) for line in inside]
        for order in itertools.permutations(range(bands))
        for insides in itertools.product(itertools.permutations(range(lines)), repeat=bands)
    ]


def canonical_4x4(puzzle: Tokens, answer: Tokens) -> tuple[int, ...]:
    """The least of all 128 arrangements of the cells, digits relabelled in order of appearance in the answer."""
    forms = []
    for rows, cols in itertools.product(line_orders(2, 2), repeat=2):
        for turned in (False, True):
            grids = []
            for tokens in (puzzle, answer):
                grid = tokens.reshape(4, 4)[np.ix_(rows, cols)]
                grids.append((grid.T if turned else grid).reshape(-1).tolist())
            names: dict[int, int] = {1: 1}
            for token in grids[1]:
                names.setdefault(token, len(names) + 1)
            forms.append(tuple(names[token] for grid in grids for token in grid))
    return min(forms)


def test_fingerprints_divide_4x4_puzzles_as_canonical_forms_do() -> None:
    task = task_named("sudoku4")
    made = task.generate(60, 2)
    assert made.labels is not None
    copies = task.augment(made.inputs, made.labels, hash_words(4, np.arange(60)))
    puzzles, answers = np.concatenate([made.inputs, copies[0]]), np.concatenate([made.labels, copies[1]])
    forms = [canonical_4x4(p, a) for p, a in zip(puzzles, answers, strict=True)]
    prints = task.fingerprint(puzzles, answers).tolist()
    assert len(set(forms)) == 60  # the generator gave no two copies
    assert len(set(zip(forms, prints, strict=True))) == len(set(forms)) == len(set(prints))


def test_a_puzzle_with_another_clue_has_another_fingerprint() -> None:
    task = task_named("sudoku9")
    made = task.generate(1, 5)
    assert made.labels is not None
    blanks = np.flatnonzero(made.inputs[0] == 1)
    puzzles = np.repeat(made.inputs, len(blanks) + 1, axis=0)
    puzzles[np.arange(len(blanks)), blanks] = made.labels[0, blanks]
    prints = task.fingerprint(puzzles, np.repeat(made.labels, len(puzzles), axis=0))
    assert len(set(prints.tolist())) == len(puzzles)


def test_transposed_boxes_of_6x6_are_another_puzzle() -> None:
    """Rows and columns of 6x6 play different parts: exchanging them is no symmetry."""
    task = task_named("sudoku6")
    row, col = np.full((1, 36), 1, dtype=np.uint8), np.full((1, 36), 1, dtype=np.uint8)
    row[0, :2], col[0, [0, 6]] = 2, 2
    assert task.fingerprint(row, None) != task.fingerprint(col, None)


def test_no_rows() -> None:
    none = np.zeros((0, 81), dtype=np.uint8)
    task = task_named("sudoku9")
    assert task.augment(none, none, np.zeros(0, np.uint64))[0].shape == (0, 81)
    assert task.fingerprint(none, none).shape == (0,)
