"""Sudoku's tokens, rules and search against a brute-force twin."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.tasks import Task, task_named
from eqr_ray.tasks.puzzles import Tokens

SUDOKUS = {"sudoku4": (2, 2), "sudoku6": (2, 3), "sudoku9": (3, 3), "sudoku16": (4, 4)}
# made by our generator
PUZZLE = "4.2...8.......7.6....4..1...64...5..8.......7..3..94..7..9...1..3.5..2....9.4...."
ANSWER = "412695873385217964697438152964721538821354697573869421746982315138576249259143786"


def brute_force(puzzle: Tokens, box_rows: int, box_cols: int, limit: int) -> list[list[int]]:
    """Try every digit in every blank cell, first cell first."""
    side = box_rows * box_cols
    found: list[list[int]] = []
    cells = puzzle.tolist()

    def fits(cell: int, token: int) -> bool:
        row, col = divmod(cell, side)
        for other, held in enumerate(cells):
            r, c = divmod(other, side)
            same_box = r // box_rows == row // box_rows and c // box_cols == col // box_cols
            if other != cell and held == token and (r == row or c == col or same_box):
                return False
        return True

    def fill(cell: int) -> None:
        while cell < len(cells) and cells[cell] > 1:
            cell += 1
        if cell == len(cells):
            found.append(list(cells))
            return
        for token in range(2, side + 2):
            if fits(cell, token):
                cells[cell] = token
                fill(cell + 1)
                cells[cell] = 1
                if len(found) >= limit:
                    return

    fill(0)
    return found


@pytest.mark.parametrize("name", SUDOKUS)
def test_encode_and_decode_are_inverse(name: str) -> None:
    task = task_named(name)
    tokens = (np.arange(task.length) % (task.vocab_size - 1) + 1).astype(np.uint8)
    assert (task.encode(task.decode(tokens)) == tokens).all()


def test_tokens_are_those_of_sudoku_extreme() -> None:
    task = task_named("sudoku9")
    assert (task.vocab_size, task.length) == (11, 81)
    tokens = task.encode("0.19" + "." * 77)
    assert tokens[:4].tolist() == [1, 1, 2, 10]
    assert task_named("sudoku16").encode("G" + "." * 255)[0] == 17


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("." * 80, "80 characters where sudoku9 has 81"),
        ("..x" + "." * 78, "character 'x' at position 3"),
        ("." * 80 + "é", "character 'é' at position 81"),
        ("." * 80 + "字", "character '字' at position 81"),
        ("_" + "." * 80, "character '_' at position 1"),
    ],
)
def test_encode_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        task_named("sudoku9").encode(text)


def test_decode_refuses_what_is_no_token() -> None:
    with pytest.raises(UserError, match="outside"):
        task_named("sudoku4").decode(np.full(16, 6))
    with pytest.raises(UserError, match="shape"):
        task_named("sudoku4").decode(np.full(15, 1))


def changed(text: str, at: int, to: str) -> str:
    return text[:at] + to + text[at + 1 :]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (changed(ANSWER, 0, "5"), "clue 4 at r1c1 is '5' in the answer"),
        (changed(ANSWER, 1, "."), "r1c2 is blank"),
        (changed(ANSWER, 1, "2"), r"digit 2 stands twice in row 1 \(r1c2 and r1c3\)"),
        ("123456789" * 9, "clue 4 at r1c1"),
    ],
)
def test_check_says_which_rule(answer: str, words: str) -> None:
    task = task_named("sudoku9")
    reason = task.check(task.encode(PUZZLE), task.encode(answer))
    assert reason is not None
    assert re.search(words, reason), reason


def test_check_accepts_the_answer_and_sees_columns_and_boxes() -> None:
    task = task_named("sudoku9")
    assert task.check(task.encode(PUZZLE), task.encode(ANSWER)) is None
    empty = task.encode("." * 81)
    same_columns = "".join("123456789" for _ in range(9))
    shifted = "".join("123456789"[i:] + "123456789"[:i] for i in range(9))  # rows and columns right, boxes wrong
    assert "column 1" in str(task.check(empty, task.encode(same_columns)))
    assert "box 1" in str(task.check(empty, task.encode(shifted)))
    assert "81 cells" in str(task.check(empty, np.ones(80)))
    assert "token 0" in str(task.check(empty, np.zeros(81)))
    assert "token 11" in str(task.check(empty, np.full(81, 11)))


def test_check_puzzle() -> None:
    task = task_named("sudoku6")
    assert task.check_puzzle(task.encode("." * 36)) is None
    assert "twice in row 1" in str(task.check_puzzle(task.encode("1....1" + "." * 30)))
    # boxes of 6x6 are two rows by three columns
    assert "twice in box 1" in str(task.check_puzzle(task.encode("1....." + "..1..." + "." * 24)))
    assert task.check_puzzle(task.encode("1....." + "...1.." + "." * 24)) is None


@st.composite
def thinned(draw: st.DrawFn) -> tuple[Task, Tokens]:
    """A generated 4x4 or 6x6 puzzle with clues taken away or given back, at times with a wrong one."""
    name = draw(st.sampled_from(["sudoku4", "sudoku6"]))
    task = task_named(name)
    made = task.generate(20, 3)
    assert made.labels is not None
    row = draw(st.integers(0, 19))
    puzzle = made.inputs[row].copy()
    for cell in draw(st.lists(st.integers(0, task.length - 1), max_size=3)):
        puzzle[cell] = 1
    for cell in draw(st.lists(st.integers(0, task.length - 1), max_size=3)):
        puzzle[cell] = made.labels[row][cell]
    if draw(st.booleans()):
        puzzle[draw(st.integers(0, task.length - 1))] = draw(st.integers(2, task.vocab_size - 1))
    return task, puzzle


@settings(max_examples=60, deadline=None)
@given(thinned())
def test_solve_finds_what_brute_force_finds(case: tuple[Task, Tokens]) -> None:
    task, puzzle = case
    if task.check_puzzle(puzzle) is not None:
        assert task.solve(puzzle) == []
        return
    expected = brute_force(puzzle, *SUDOKUS[task.name], limit=30)
    found = [solution.tolist() for solution in task.solve(puzzle, limit=30)]
    if len(expected) < 30:
        assert sorted(found) == sorted(expected)
    else:
        assert len(found) == 30
        assert len({tuple(one) for one in found}) == 30
        assert all(task.check(puzzle, np.array(one)) is None for one in found)


def test_solve_9x9_and_rate() -> None:
    task = task_named("sudoku9")
    assert [task.decode(one) for one in task.solve(task.encode(PUZZLE))] == [ANSWER]
    assert task.rate(task.encode(ANSWER)) == 0
    assert task.rate(task.encode(PUZZLE)) > 0
    assert len(task.solve(task.encode("." * 81), limit=5)) == 5
    with pytest.raises(UserError, match="not a sudoku9 puzzle"):
        task.solve(np.ones(80))


def test_all_4x4_grids_are_found() -> None:
    assert len(task_named("sudoku4").solve(np.ones(16), limit=1000)) == 288  # a known count


def test_suspects_are_the_rows_that_check_objects_to() -> None:
    task = task_named("sudoku6")
    made = task.generate(40, 1)
    assert made.labels is not None
    rng = np.random.default_rng(0)
    puzzles, answers = made.inputs.copy(), made.labels.copy()
    for row in range(40):
        target = (puzzles, answers)[row % 2]
        target[row, rng.integers(36)] = rng.integers(0, 8)
    slow = []
    for puzzle, answer in zip(puzzles, answers, strict=True):
        slow.append(task.check_puzzle(puzzle) is not None or task.check(puzzle, answer) is not None)
    assert task.suspects(puzzles, answers).tolist() == slow
    assert any(slow)
    assert not all(slow)
    assert task.suspects(puzzles, None).tolist() == [task.check_puzzle(p) is not None for p in puzzles]


def test_unknown_tasks_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sudoku9'"):
        task_named("sudoko9")
    with pytest.raises(UserError, match="side of 5 to"):
        task_named("maze4")
    assert task_named("maze7").grid == (7, 7)
    assert task_named("sudoku9") == task_named("sudoku9") != task_named("sudoku4")
