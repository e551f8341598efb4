"""Reading every part of a source at once."""

from __future__ import annotations

from eqr_ray.data.sources import locate, read_part
from eqr_ray.data.validation import BadRow
from eqr_ray.tasks import Puzzles, Task
from eqr_ray.tasks.puzzles import joined


def read_source(task: Task, source: str, unique: bool = False) -> tuple[Puzzles, list[BadRow]]:
    """The puzzles of all parts, train first, with answers, and the bad rows."""
    read = [read_part(task, path, unique=unique) for path in locate(source).values()]
    return joined([puzzles for puzzles, _ in read]), [row for _, bad in read for row in bad]
