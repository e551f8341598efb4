"""Text sources: every form that is read, and every kind of bad row, with its line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.data import validation as rows_module
from eqr_ray.data.arrow_store import write_split
from eqr_ray.data.sources import read_puzzles
from eqr_ray.tasks import task_named
from eqr_ray.tasks.puzzles import NOT_RATED
from tests.support.sources import read_source

TASK = task_named("sudoku4")
QUESTION, ANSWER = "1.3..4.2....432.", "1234341221434321"
SECOND, SECOND_ANSWER = "12343412214343..", "1234341221434321"


def write(folder: Path, text: str, name: str = "p.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(
    "text",
    [
        f"source,question,answer,rating\nme,{QUESTION},{ANSWER},7\n",
        f"rating,answer,question,source\n7,{ANSWER},{QUESTION},me\n",
        f"\ufeffQuestion,Answer,Rating,Source,notes\r\n{QUESTION},{ANSWER},7,me,x\r\n",
        f'puzzle,solution,rating,source\n"{QUESTION}","{ANSWER}",7,"me"\n',
        f"question,rating,source\n{QUESTION.replace('.', '0')},7,me\n",  # the answer is searched for
    ],
)
def test_headers(tmp_path: Path, text: str) -> None:
    puzzles, bad = read_source(TASK, write(tmp_path, text))
    assert bad == []
    assert puzzles.labels is not None
    assert [TASK.decode(one) for one in (puzzles.inputs[0], puzzles.labels[0])] == [QUESTION, ANSWER]
    assert (puzzles.ratings.tolist(), list(puzzles.sources)) == ([7], ["me"])


def test_lists_without_a_header(tmp_path: Path) -> None:
    plain = write(tmp_path, f"# a comment\n\n {QUESTION}\n{SECOND}\n", "list.txt")
    puzzles, bad = read_source(TASK, plain)
    assert (len(puzzles), bad) == (2, [])
    assert puzzles.labels is not None
    assert TASK.decode(puzzles.labels[1]) == SECOND_ANSWER
    assert puzzles.ratings.tolist() == [0, 0]
    assert list(puzzles.sources) == ["list.txt"] * 2
    pairs, bad = read_source(TASK, write(tmp_path, f"{QUESTION},{ANSWER}\n{SECOND},{SECOND_ANSWER}"))
    assert (len(pairs), bad) == (2, [])


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "p.csv.gz"
    path.write_bytes(gzip.compress(f"question,answer\n{QUESTION},{ANSWER}\n".encode()))
    assert len(read_source(TASK, str(path))[0]) == 1
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"p\.csv\.gz: cannot be read"):
        read_source(TASK, str(path))
    path.write_text("no gzip")
    with pytest.raises(UserError, match=r"p\.csv\.gz: cannot be read"):
        read_source(TASK, str(path))


BAD = {
    f"{QUESTION[:-1]},{ANSWER},1,a": "question: 15 characters where sudoku4 has 16",
    f"{QUESTION},{ANSWER}1,1,a": "answer: 17 characters",
    f"x{QUESTION[1:]},{ANSWER},1,a": "question: character 'x' at position 1",
    f"{QUESTION},{ANSWER[:-1]}5,1,a": "answer: character '5' at position 16",
    f"{QUESTION},2134{ANSWER[4:]},1,a": "clue 1 at r1c1 is '2' in the answer",
    f"{QUESTION},12343421{ANSWER[8:]},1,a": "clue 2 at r2c4 is '1'",
    f"1...{'.' * 12},1234341212344321,1,a": "stands twice in column",
    f"11..{'.' * 12},,1,a": "digit 1 stands twice in row 1",
    f"{QUESTION},.{ANSWER[1:]},1,a": "clue 1 at r1c1 is '.'",
    f".{QUESTION[1:]},.{ANSWER[1:]},1,a": "r1c1 is blank in the answer",
    f"{'.' * 16},,1,a": "several solutions",
    "123....4........,,1,a": "no solution",
    f"{QUESTION},{ANSWER},easy,a": "rating 'easy' is not a whole number",
    f"{QUESTION},{ANSWER},-1,a": "rating '-1'",
    f"{QUESTION},{ANSWER},99999999999,a": "rating '99999999999'",
    f"{QUESTION},{ANSWER},1": "3 columns where the first line names 4",
    f"{QUESTION},{ANSWER},1,a,b": "5 columns",
    f'"{QUESTION},{ANSWER},1,a': "a quote is not closed",
}


def test_every_kind_of_bad_row_has_its_line_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "CHUNK", 4)  # several chunks, so that line numbers cross their borders
    good = f"{QUESTION},{ANSWER},1,good"
    lines = ["question,answer,rating,source"]
    for row in BAD:
        lines += [good, row]
    path = write(tmp_path, "\n".join([*lines, good]))
    puzzles, bad = read_source(TASK, path)
    assert len(puzzles) == len(BAD) + 1
    assert set(puzzles.sources) == {"good"}
    assert [row.line for row in bad] == [3 + 2 * number for number in range(len(BAD))]
    for row, (text, reason) in zip(bad, BAD.items(), strict=True):
        assert reason in row.reason
        assert row.file == path
        assert row.text in text.replace('"', "") or row.text == text
        assert str(row).startswith(f"{path}:{row.line}: ")


def test_several_solutions_are_refused_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, f"question,answer\n{'.' * 16},{ANSWER}\n{QUESTION},{ANSWER}\n")
    assert len(read_source(TASK, path)[0]) == 2
    puzzles, bad = read_source(TASK, path, unique=True)
    assert len(puzzles) == 1
    assert [(row.line, row.reason) for row in bad] == [(2, "several solutions")]


def test_headers_that_cannot_be_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'question' among answer, rating"):
        read_source(TASK, write(tmp_path, f"answer,rating\n{ANSWER},1\n"))
    with pytest.raises(UserError, match="two columns are the question"):
        read_source(TASK, write(tmp_path, f"question,puzzle\n{QUESTION},{QUESTION}\n"))
    puzzles, bad = read_source(TASK, write(tmp_path, f"a,{QUESTION},{ANSWER}\n"))
    assert len(puzzles) == 0
    assert "no first line that names them" in bad[0].reason
    with pytest.raises(UserError, match="no such file"):
        read_source(TASK, str(tmp_path / "absent.csv"))


def test_mazes_keep_their_spaces(tmp_path: Path) -> None:
    maze = task_named("maze5")
    text = " #  S" + " " * 15 + "G    "
    _, bad = read_source(maze, write(tmp_path, f"{text}\n"))
    assert [row.reason for row in bad] == ["several solutions"]  # an open square has many shortest paths
    task, puzzles, bad = read_puzzles(maze, write(tmp_path, f"question\n{text}\n"))
    assert (task, len(puzzles), bad) == (maze, 1, [])
    assert maze.decode(puzzles.inputs[0]) == text


def test_puzzles_to_answer(tmp_path: Path) -> None:
    path = write(tmp_path, f"question,answer\n{QUESTION},{ANSWER}\n{SECOND},\nbad,\n{'.' * 16},\n")
    task, puzzles, bad = read_puzzles(None, path)
    assert task == TASK
    assert puzzles.labels is not None
    assert TASK.decode(puzzles.labels[0]) == ANSWER
    assert not puzzles.labels[1:].any()
    assert puzzles.lines is not None
    assert puzzles.lines.tolist() == [2, 3, 5]
    assert puzzles.ratings.tolist() == [NOT_RATED] * 3
    assert [row.line for row in bad] == [4]
    assert read_puzzles(TASK, write(tmp_path, f"{QUESTION}\n{SECOND}\n"))[1].labels is None
    _, answered, _ = read_puzzles(TASK, write(tmp_path, f"{QUESTION},{ANSWER}\n"))
    assert answered.labels is not None


def test_missing_answers_are_zeros_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "CHUNK", 2)
    path = write(tmp_path, f"question,answer\n{SECOND},\nbad,\n{SECOND},\n\n{QUESTION},{ANSWER}\n{SECOND},\n")
    _, puzzles, _ = read_puzzles(TASK, path)
    assert puzzles.labels is not None
    assert puzzles.labels.any(axis=1).tolist() == [False, False, True, False]
    assert puzzles.lines is not None
    assert puzzles.lines.tolist() == [2, 4, 6, 7]
    assert puzzles.take(np.array([2, 0])).lines.tolist() == [6, 2]


@pytest.mark.parametrize("name", ["sudoku4", "sudoku6", "sudoku9", "maze9", "maze15", "maze16"])
def test_the_task_is_guessed(tmp_path: Path, name: str) -> None:
    task = task_named(name)
    made = task.generate(2, 0)
    path = write(tmp_path, "\n".join(task.decode(puzzle) for puzzle in made.inputs), "list.txt")
    found, puzzles, bad = read_puzzles(None, path)
    assert (found, bad) == (task, [])
    assert (puzzles.inputs == made.inputs).all()


def test_a_task_that_cannot_be_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name it with task="):
        read_puzzles(None, write(tmp_path, "abc\n"))
    with pytest.raises(UserError, match="name it with task="):
        read_puzzles(None, write(tmp_path, ""))
    with pytest.raises(UserError, match="no such file or folder"):
        read_puzzles(None, tmp_path / "absent")
    with pytest.raises(UserError, match=r"neither test\.arrow nor"):
        read_puzzles(None, tmp_path)


def test_prepared_files_and_folders(tmp_path: Path) -> None:
    made = TASK.generate(3, 0)
    write_split(tmp_path / "test.arrow", TASK, made, source="", seed=0)
    for path in (tmp_path, tmp_path / "test.arrow"):
        task, puzzles, bad = read_puzzles(None, path)
        assert (task, bad) == (TASK, [])
        assert (puzzles.inputs == made.inputs).all()
    with pytest.raises(UserError, match="holds sudoku4 puzzles, not sudoku9"):
        read_puzzles(task_named("sudoku9"), tmp_path)
