"""Work units: which trajectories belong together, in one place and one file; and the folder of their files.

A unit is what is handed out, repeated after a loss and written as one atomic part. The division depends on
the run alone, never on who works on it, so that a run can be continued by any number of actors.

A unit is a block of puzzles times all restarts; where there are fewer puzzles than make enough units, the restarts of
each puzzle are divided instead. The units of a huge run grow with it: some ten thousand files are enough for any run.
The last units are smaller, so that many workers end at about the same time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from eqr_ray.config.errors import UserError
from eqr_ray.inference.records import ACCEPTED, SETTLED, Records, Tokens, concatenate, read_part, write_part
from eqr_ray.storage.run_dir import LOG, RunDir
from eqr_ray.storage.run_log import number, read_log

UNITS_WANTED = 16  # enough for a few actors to share a small run evenly
UNIT_SEGMENTS = 1 << 15  # row-segments of a unit at most: seconds on a GPU, two minutes on two cores; but ...
MOST_UNITS = 10_000  # ... a run has hardly more units than this: each becomes a file
FINER = 4  # times smaller are the last units: a fifth of the puzzles (benchmarks/simulation.py: half of the time lost)
DAMAGED = ".damaged"

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Unit:
    """Puzzles `first` .. `last`-1 (row numbers in the data) times restarts `restart_first` .. `restart_last`-1."""

    first: int
    last: int
    restart_first: int
    restart_last: int

    @property
    def puzzles(self) -> int:
        return self.last - self.first

    @property
    def restarts(self) -> int:
        return self.restart_last - self.restart_first

    @property
    def rows(self) -> int:
        """Trajectories at most."""
        return self.puzzles * self.restarts

    @property
    def name(self) -> str:
        """Sorts as the units do."""
        return f"{self.first:09d}-{self.last:09d}-r{self.restart_first:05d}-{self.restart_last:05d}"

    def is_in(self, other: Unit) -> bool:
        """Whether all of this is part of `other`."""
        puzzles = other.first <= self.first and self.last <= other.last
        return puzzles and other.restart_first <= self.restart_first and self.restart_last <= other.restart_last


def plan(puzzles: int, breadth: int, depth: int, *, whole: bool) -> list[Unit]:
    """All units of a run, in order. `whole`: the restarts of a puzzle depend on each other and must stay together."""
    rows = puzzles * breadth
    size = max(1, min(rows // UNITS_WANTED, UNIT_SEGMENTS // depth))
    block = max(1, size // breadth, -(-puzzles * (4 + FINER) // (5 * MOST_UNITS)))
    chunk = breadth
    if not whole and block * breadth > size:
        most = max(1, MOST_UNITS // max(1, puzzles))  # parts of a puzzle
        chunk = max(min(size, breadth), -(-breadth // most))
    fine, coarse = -(-block // FINER), 4 * puzzles // 5 // block * block
    return [
        Unit(first, min(first + height, end), restart, min(restart + chunk, breadth))
        for start, end, height in ((0, coarse, block), (coarse, puzzles, fine))
        for first in range(start, end, height)
        for restart in range(0, breadth, chunk)
    ]


def offered(units: Iterable[Unit], in_turn: bool) -> int:
    """Trajectories that may run side by side; where restarts follow each other (`in_turn`), one per puzzle."""
    return sum(unit.puzzles if in_turn else unit.rows for unit in units)


def enough_ahead(units: Sequence[Unit], slots: int, in_turn: bool) -> bool:
    """Whether these unfinished units keep `slots` slots busy until more can be fetched: at least two units, and two
    trajectories per slot."""
    return len(units) >= 2 and offered(units, in_turn) >= 2 * slots


def _later_units(first: Sequence[Unit], start: int, end: int) -> list[Unit]:
    """The blocks of puzzles of the `first` round, and as many restarts at a time, for restarts `start` .. `end`-1."""
    blocks = dict.fromkeys((unit.first, unit.last) for unit in first)
    chunk = max(unit.restarts for unit in first)
    if len(blocks) == len(first):  # all restarts of a puzzle were in one unit
        chunk = max(chunk, end - start)
    parts = [(restart, min(restart + chunk, end)) for restart in range(start, end, chunk)]
    return [Unit(*block, *part) for block in blocks for part in parts]


class RecordDir:
    """The run directory `path` of the inference run of this `identity` (JSON values, with `breadth`), which keeps one
    atomic part per unit: records/UNIT.parquet. A part that exists is complete and is never run again.

    Nothing is written before `make`. `units` are those known so far. `widens`: a run of less breadth may be here, to
    which restarts are added; `widths` are the breadths that it has had. UserError: the folder belongs to another run;
    the message names what differs.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], units: Sequence[Unit], widens: bool = False) -> None:
        self.path, self.identity, self.units = path, dict(identity), list(units)
        self.run_dir = RunDir(path, "infer")
        self._grows = ("breadth",) if widens else ()
        self.run_dir.check(identity, self._grows)
        widths = self.run_dir.manifest().get("widths", []) if widens else []
        self.widths: list[int] = sorted({*widths, self.identity["breadth"]})

    def make(self, config: Mapping[str, Any]) -> None:
        """Begin or go on; for the process that has the lock. UserError: another run has begun here since."""
        self.run_dir.create(self.identity, config, self._grows, widths=self.widths)
        (self.path / "records").mkdir(exist_ok=True)

    def set_damaged_aside(self) -> None:
        """Rename parts that cannot be read, so that their units are run again."""
        for part in sorted((self.path / "records").glob("*.parquet")):
            try:
                read_part(part)
            except UserError as error:
                aside = part.with_name(part.name + DAMAGED)
                part.replace(aside)
                log.warning("%s; it is kept as %s", error, aside.name)

    def part(self, unit: Unit) -> Path:
        """Where the records of a unit are."""
        return self.path / "records" / f"{unit.name}.parquet"

    def missing(self) -> list[Unit]:
        """Units known so far whose records are not there yet, in order."""
        there = {path.stem for path in (self.path / "records").glob("*.parquet")}
        return [unit for unit in self.units if unit.name not in there]

    def save(self, unit: Unit, rows: Records, labels_NL: Tokens | None) -> None:
        """Keep the records of a unit; `labels_NL` is indexed by row number of the data."""
        labels = None if labels_NL is None else labels_NL[rows.puzzle]
        write_part(self.part(unit), rows, self.identity["seed"], labels)

    def read(self, unit: Unit) -> Records:
        """The records of a finished unit."""
        return read_part(self.part(unit))

    def blocks(self) -> Iterator[Records]:
        """The records of a finished run, a block of puzzles with all their restarts at a time, in order."""
        for _, units in groupby(sorted(self.units), key=lambda unit: (unit.first, unit.last)):
            yield concatenate([self.read(unit) for unit in units]).in_order()

    def rounds(self, inputs_NL: Tokens, whole: bool) -> Iterator[tuple[list[Unit], Tokens]]:
        """(units, inputs) of every round of a run that was widened: the first, and the restarts that were added to it.
        Later units go to `units`. `whole`: puzzles with a settled or accepted answer get no further restarts, and
        padding for inputs. The units of a round must all be here before the next one is asked for, so that an
        interrupted run finds its place again."""
        first = units = list(self.units)
        unanswered_N = np.ones(len(inputs_NL), dtype=np.bool_)
        yield first, inputs_NL
        for start, end in pairwise(self.widths):
            for unit in units if whole else ():
                rows = self.read(unit)
                unanswered_N[rows.puzzle[np.isin(rows.status, (SETTLED, ACCEPTED))]] = False
            if not unanswered_N.any():
                return
            units = _later_units(first, start, end)
            self.units += units
            yield units, inputs_NL if unanswered_N.all() else np.where(unanswered_N[:, None], inputs_NL, np.uint8(0))

    def spent(self) -> tuple[float, int]:
        """(seconds, row-segments) that the finished units took, summed over all sittings of this run."""
        units = read_log(self.path / LOG).of("unit")
        seconds = sum(number(unit, "seconds") or 0.0 for unit in units)
        return seconds, int(sum(number(unit, "row_segments") or 0 for unit in units))
