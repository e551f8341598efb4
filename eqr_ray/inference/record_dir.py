"""The records of an inference run: one atomic part per work unit, in its run directory.

A part that exists is complete and is never run again; one that was damaged since is set aside under another name.

    out/records/UNIT.parquet
    out/log.jsonl       the seconds and segments that each unit took
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.inference.records import ACCEPTED, SETTLED, Records, concatenate, read_part, write_part
from eqr_ray.inference.units import Unit, later_units
from eqr_ray.storage.run_dir import LOG, RunDir
from eqr_ray.storage.run_log import number, read_log

DAMAGED = ".damaged"

log = logging.getLogger(__name__)

Inputs = npt.NDArray[np.uint8]


class RecordDir:
    """`path` for the run of this `identity` (JSON values, with `breadth`). Nothing is written before `make`.

    `units` are those known so far. `widens`: a run of less breadth may be here, to which restarts are added; `widths`
    are the breadths that it has had. UserError: the folder belongs to another run; the message names what differs.
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

    def read(self, unit: Unit) -> Records:
        """The records of a finished unit."""
        return read_part(self.part(unit))

    def missing(self) -> list[Unit]:
        """Units known so far whose records are not there yet, in order."""
        there = {path.name for path in (self.path / "records").glob("*.parquet")}
        return [unit for unit in self.units if self.part(unit).name not in there]

    def rounds(self, inputs_NL: Inputs, whole: bool) -> Iterator[tuple[list[Unit], Inputs]]:
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
            units = later_units(first, start, end)
            self.units += units
            yield units, inputs_NL if unanswered_N.all() else np.where(unanswered_N[:, None], inputs_NL, np.uint8(0))

    def save(self, unit: Unit, rows: Records, labels_NL: npt.NDArray[np.uint8] | None) -> None:
        """Keep the records of a unit; `labels_NL` is indexed by row number of the data."""
        labels = None if labels_NL is None else labels_NL[rows.puzzle]
        write_part(self.part(unit), rows, self.identity["seed"], labels)

    def finished(self, missing: Collection[Unit]) -> Iterator[tuple[Unit, Records]]:
        """Units that are not `missing`, with their records."""
        for unit in self.units:
            if unit not in missing:
                yield unit, self.read(unit)

    def blocks(self) -> Iterator[Records]:
        """The records of a finished run, a block of puzzles with all their restarts at a time, in order."""
        for _, units in groupby(sorted(self.units), key=lambda unit: (unit.first, unit.last)):
            yield concatenate([self.read(unit) for unit in units]).in_order()

    def spent(self) -> tuple[float, int]:
        """(seconds, row-segments) that the finished units took, summed over all sittings of this run."""
        units = read_log(self.path / LOG).of("unit")
        seconds = sum(number(unit, "seconds") or 0.0 for unit in units)
        return seconds, int(sum(number(unit, "row_segments") or 0 for unit in units))
