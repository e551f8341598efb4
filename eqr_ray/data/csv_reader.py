"""Puzzles from text: Sudoku-Extreme's CSV, its gzip, or a plain list with one puzzle a line.

Lines are read one at a time, so that an error has a line number and an unbalanced quote spoils one line and not the
rest of the file.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from eqr_ray.config.errors import UserError
from eqr_ray.data.validation import BadRow, RawRow, check_rows
from eqr_ray.tasks import Puzzles, Task
from eqr_ray.tasks.registry import tasks_of_length

# names of a header's columns, in any order and case; others are ignored
COLUMNS = {
    "question": ("question", "puzzle", "quiz", "quizzes"),
    "answer": ("answer", "solution", "solutions"),
    "rating": ("rating",),
    "source": ("source",),
}


def read_csv(task: Task, path: Path, complete: bool, unique: bool) -> tuple[Puzzles, list[BadRow]]:
    """The puzzles of a file with a header that names a question column, or of lines `puzzle` or `puzzle,answer`.

    `complete`, `unique`: see `check_rows`. UserError: the file cannot be read, or has neither form.
    """
    return check_rows(task, path, _rows(path, strip=" " not in task.vocabulary), complete, unique)


def guess_task(path: Path) -> Task:
    """The only task whose length and characters fit the file's first puzzle. UserError: none or several."""
    first = next(_rows(path, strip=False), RawRow(1, ""))
    for text in (str(first.question), str(first.question).strip()):
        fitting = [task for task in tasks_of_length(len(text)) if _encodes(task, text)]
        if len(fitting) == 1:
            return fitting[0]
    raise UserError(f"{path}: its first puzzle does not say which task this is; name it with task=")


def _encodes(task: Task, text: str) -> bool:
    try:
        task.encode(text)
    except UserError:
        return False
    return True


def _rows(path: Path, strip: bool) -> Iterator[RawRow]:
    header: list[str] | None = None
    started = False
    for number, line in _lines(path, strip):
        fields = _fields(line)
        if fields is not None and not started:
            started, header = True, _header(fields, path)
            if header is not None:
                continue
        if fields is None:
            yield RawRow(number, line, problem="a quote is not closed")
        elif header is None and len(fields) > 2:
            yield RawRow(number, line, problem=f"{len(fields)} columns, but no first line that names them")
        elif header is not None and len(fields) != len(header):
            problem = f"{len(fields)} columns where the first line names {len(header)}"
            yield RawRow(number, line, problem=problem)
        else:
            cell = dict(zip(header or ("question", "answer"), fields, strict=False))
            yield RawRow(number, cell["question"], cell.get("answer"), cell.get("rating"), cell.get("source"))


def _lines(path: Path, strip: bool) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not empty; `strip` where spaces around a line mean nothing."""
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip() if strip else line.rstrip("\r\n")
                # in lists of Sudokus '#' begins a comment; in mazes it is a wall
                if text.strip() and not (strip and text.startswith("#")):
                    yield number, text
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _fields(line: str) -> list[str] | None:
    """The fields of a line; None where a quote is not closed."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return None


def _header(fields: list[str], path: Path) -> list[str] | None:
    """The columns' names as this package calls them (other names kept); None where the first line is a puzzle."""
    meanings = {alias: name for name, aliases in COLUMNS.items() for alias in aliases}
    names = [meanings.get(field.strip().lower(), field.strip()) for field in fields]
    if not set(names) & set(COLUMNS):
        return None
    if "question" not in names:
        raise UserError(f"{path}: no column 'question' among {', '.join(fields)}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns are the {name}: {', '.join(fields)}")
    return names
