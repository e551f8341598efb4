"""Work units: which trajectories belong together, in one place and one file; and the folder of their files.

A unit is what is handed out, repeated after a loss and written as one atomic part: a block of puzzles times all
restarts; where there are fewer puzzles than make enough units, the restarts of each puzzle are divided instead. The
division depends on the run alone, never on who works on it, so that any number of actors can continue a run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eqr_ray.config.errors import UserError
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.records import ACCEPTED, SETTLED, Records, Tokens, concatenate, read_part, write_part
from eqr_ray.storage.run_dir import LOG, RunDir
from eqr_ray.storage.run_log import number, read_log

UNITS_WANTED = 16  # at least: enough for a few actors to share a small run evenly
UNIT_SEGMENTS = 1 << 15  # row-segments of a unit at most: seconds on a GPU, two minutes on two cores; but ...
MOST_UNITS = 10_000  # ... a run has hardly more units than this: each becomes a file
FINER = 4  # times smaller are the last units, a fifth of the puzzles: then many workers end at about the same time
DAMAGED = ".damaged"

log = logging.getLogger(__name__)


class Unit(NamedTuple):
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
        return self.puzzles * self.restarts

    @property
    def name(self) -> str:
        return f"{self.first:09d}-{self.last:09d}-r{self.restart_first:05d}-{self.restart_last:05d}"

    def is_in(self, other: Unit) -> bool:
        """Whether all of this is part of `other`."""
        has_puzzles = other.first <= self.first and self.last <= other.last
        return has_puzzles and other.restart_first <= self.restart_first and self.restart_last <= other.restart_last


def plan(puzzles: int, breadth: int, depth: int, *, whole: bool) -> list[Unit]:
    """All units of a run, in order. `whole`: the restarts of a puzzle depend on each other and must stay together."""
    size = max(1, min(puzzles * breadth // UNITS_WANTED, UNIT_SEGMENTS // depth))
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


class RecordDir:
    """The folder `path` of the run of infer with this `identity` (JSON values: settings, puzzles), with one atomic part
    per unit: records/UNIT.parquet. A part that exists is complete and is never run again.

    Nothing is written before `make`. `units` are those known so far; `widths` the breadths that the run has had: where
    the policy allows it, restarts are added to a run of less breadth. UserError: the folder belongs to another run; the
    message names what differs.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity, self.run_dir = path, dict(identity), RunDir(path, "infer")
        restarts = POLICIES[identity["policy"]].restarts
        widens = restarts.widens and identity.get("budget") is None
        self._whole, self._grows = restarts.whole, ("breadth",) if widens else ()
        self.run_dir.check(identity, self._grows)
        widths = self.run_dir.manifest().get("widths", []) if widens else []
        self.widths: list[int] = sorted({*widths, identity["breadth"]})
        self.units = plan(identity["puzzles"], self.widths[0], identity["depth"], whole=restarts.whole)

    def make(self, config: Mapping[str, Any]) -> None:
        """Begin or go on; for the process that has the lock. UserError: another run has begun here since."""
        self.run_dir.create(self.identity, config, self._grows, widths=self.widths)
        (self.path / "records").mkdir(exist_ok=True)

    def intact(self) -> Iterator[tuple[str, Records]]:
        """Every part that is here, by the name of its unit. Those that cannot be read are renamed and run again."""
        for part in sorted((self.path / "records").glob("*.parquet")):
            try:
                yield part.stem, read_part(part)
            except UserError as error:
                aside = part.replace(part.with_name(part.name + DAMAGED))
                log.warning("%s; it is kept as %s", error, aside.name)

    def part(self, unit: Unit) -> Path:
        return self.path / "records" / f"{unit.name}.parquet"

    def missing(self) -> list[Unit]:
        """Units known so far whose records are not there yet, in order."""
        there = {path.stem for path in (self.path / "records").glob("*.parquet")}
        return [unit for unit in self.units if unit.name not in there]

    def save(self, unit: Unit, rows: Records, labels_NL: Tokens | None) -> None:
        """Keep the records of a unit; `labels_NL` is indexed by row number of the data."""
        labels = None if labels_NL is None else labels_NL[rows.puzzle]
        write_part(self.part(unit), rows, self.identity["seed"], labels)

    def blocks(self) -> Iterator[Records]:
        """The records of a finished run, a block of puzzles with all their restarts at a time, in order."""
        for _, units in groupby(sorted(self.units), key=lambda unit: (unit.first, unit.last)):
            yield concatenate([read_part(self.part(unit)) for unit in units]).in_order()

    def rounds(self, inputs_NL: Tokens) -> Iterator[Tokens]:
        """The inputs of every round of a run that was widened: the first, and the restarts that were added to it, whose
        units go to `units`. Where restarts depend on each other, puzzles with a settled or accepted answer get no
        further ones, and padding for inputs. All units of a round must be here before the next one is asked for, so
        that an interrupted run finds its place again."""
        yield inputs_NL
        units = list(self.units)
        blocks = dict.fromkeys((unit.first, unit.last) for unit in units)
        chunk = max(unit.restarts for unit in units)  # of restarts in a unit, as in the first round
        is_divided = len(blocks) < len(units)
        unanswered_N = np.ones(len(inputs_NL), dtype=np.bool_)
        for start, end in pairwise(self.widths):
            for unit in units if self._whole else ():
                rows = read_part(self.part(unit))
                unanswered_N[rows.puzzle[np.isin(rows.status, (SETTLED, ACCEPTED))]] = False
            if not unanswered_N.any():
                return
            step = chunk if is_divided else max(chunk, end - start)
            parts = [(restart, min(restart + step, end)) for restart in range(start, end, step)]
            units = [Unit(*block, *part) for block in blocks for part in parts]
            self.units += units
            yield inputs_NL if unanswered_N.all() else np.where(unanswered_N[:, None], inputs_NL, np.uint8(0))

    def spent(self) -> tuple[float, int]:
        """(seconds, row-segments) that the finished units took, summed over all sittings of this run."""
        units = read_log(self.path / LOG).of("unit")
        seconds, row_segments = (sum(number(unit, key) or 0 for unit in units) for key in ("seconds", "row_segments"))
        return seconds, int(row_segments)
