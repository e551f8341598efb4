"""Work units: which trajectories belong together, in one place and one file.

A unit is what is handed out, repeated after a loss and written as one atomic part. The division depends on
the run alone, never on who works on it, so that a run can be continued by any number of actors.

A unit is a block of puzzles times all restarts; where there are fewer puzzles than make enough units, the restarts of
each puzzle are divided instead. The units of a huge run grow with it: some ten thousand files are enough for any run.
The last units are smaller, so that many workers end at about the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNITS_WANTED = 16  # enough for a few actors to share a small run evenly
UNIT_SEGMENTS = 1 << 15  # row-segments of a unit at most: seconds on a GPU, two minutes on two cores; but ...
MOST_UNITS = 10_000  # ... a run has hardly more units than this: each becomes a file
FINER = 4  # times smaller are the last units: a fifth of the puzzles (benchmarks/simulation.py: half of the time lost)


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

    def is_in(self, other: Unit) -> bool:
        """Whether all of this is part of `other`."""
        puzzles = other.first <= self.first and self.last <= other.last
        return puzzles and other.restart_first <= self.restart_first and self.restart_last <= other.restart_last

    @property
    def rows(self) -> int:
        """Trajectories at most."""
        return self.puzzles * self.restarts

    @property
    def name(self) -> str:
        """Sorts as the units do."""
        return f"{self.first:09d}-{self.last:09d}-r{self.restart_first:05d}-{self.restart_last:05d}"


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


def later_units(first: Sequence[Unit], start: int, end: int) -> list[Unit]:
    """The blocks of puzzles of the `first` round, and as many restarts at a time, for restarts `start` .. `end`-1."""
    blocks = dict.fromkeys((unit.first, unit.last) for unit in first)
    chunk = max(unit.restart_last - unit.restart_first for unit in first)
    if len(blocks) == len(first):  # all restarts of a puzzle were in one unit
        chunk = max(chunk, end - start)
    return [
        Unit(*block, restart, min(restart + chunk, end)) for block in blocks for restart in range(start, end, chunk)
    ]
