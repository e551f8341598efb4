"""The folder of an inference run: a manifest of what it is, and one atomic part per work unit.

Why here: exactly once. A part that exists is complete and is never run again; the manifest names data, weights and
settings by content, so that a folder is continued by an equal run only, whatever was killed in between.

    out/manifest.json   what the records are of
    out/records/UNIT.parquet
    out/log.jsonl       what happened, with the seconds and segments that each unit took
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.inference.records import Records, concatenate, read_part, write_part
from eqr_ray.inference.units import Unit
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.run_log import number, read_log

MANIFEST = "manifest.json"
LOCK = "lock.json"  # whoever writes here may have left it, before there was a manifest


def stored_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run in this folder; empty where there is none. UserError: damaged."""
    stored = path / MANIFEST
    try:
        found = json.loads(stored.read_text()) if stored.is_file() else {}
    except ValueError as error:
        raise UserError(f"{stored} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{stored} is damaged: it holds no manifest")
    return found


class RunFolder:
    """`path` for the run that `manifest` (JSON values, with `breadth`) names. Nothing is written before `make`.

    `units` are those known so far. `widens`: a run of less breadth may be here, to which restarts are added; `widths`
    are the breadths that it has had. UserError: the folder belongs to another run; the message names what differs.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], units: Sequence[Unit], widens: bool = False) -> None:
        self.path, self.manifest, self.units = path, dict(manifest), list(units)
        self._widens = widens
        self._check()
        widths = stored_manifest(path).get("widths", []) if widens else []
        self.widths = sorted({*widths, self.manifest["breadth"]})

    def make(self) -> None:
        """Begin or go on; for one process at a time. UserError: another run has begun here since."""
        self._check()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self._stored, {**self.manifest, "widths": self.widths})
        (self.path / "records").mkdir(exist_ok=True)
        self._mend_log()

    @property
    def _stored(self) -> Path:
        return self.path / MANIFEST

    def _check(self) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise UserError(f"out={path} is a file, not a folder")
        if self._stored.exists():
            self._compare()
        elif path.exists() and any(entry.name != LOCK and entry.name[0] != "." for entry in path.iterdir()):
            raise UserError(f"out={path} is not empty and holds no inference run; choose another folder")

    def _mend_log(self) -> None:
        """End a line that a kill cut short, so that the next one is not glued to it."""
        log = self.path / "log.jsonl"
        if log.exists() and not log.read_bytes().endswith(b"\n"):
            with log.open("a") as file:
                file.write("\n")

    def _compare(self) -> None:
        found = stored_manifest(self.path)
        keys = [*self.manifest, *(key for key in found if key not in (*self.manifest, "widths"))]
        wanted = json.loads(json.dumps(self.manifest))
        differing = [key for key in keys if found.get(key) != wanted.get(key)]
        if self._widens and differing == ["breadth"] and found["breadth"] < wanted["breadth"]:
            return
        if differing:
            key = differing[0]
            more = f" (and {', '.join(differing[1:])})" if differing[1:] else ""
            raise UserError(
                f"out={self.path} holds another run: {key} is {found.get(key)} there and {wanted.get(key)} here{more}; "
                "choose another folder"
            )

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

    def save(self, unit: Unit, rows: Records, labels_NL: npt.NDArray[np.uint8] | None) -> None:
        """Keep the records of a unit; `labels_NL` is indexed by row number of the data."""
        labels = None if labels_NL is None else labels_NL[rows.puzzle]
        write_part(self.part(unit), rows, self.manifest["seed"], labels)

    def finished(self, missing: Collection[Unit]) -> Iterator[tuple[Unit, Records]]:
        """Units that are not `missing`, with their records."""
        for unit in self.units:
            if unit not in missing:
                yield unit, self.read(unit)

    def blocks(self) -> Iterator[Records]:
        """The records of a finished run, a block of puzzles with all their restarts at a time, in order."""
        for _, units in groupby(sorted(self.units), key=lambda unit: (unit.first, unit.last)):
            yield concatenate([self.read(unit) for unit in units]).in_order()

    def log(self, event: str, **facts: Any) -> None:
        """One line in log.jsonl."""
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")

    def spent(self) -> tuple[float, int]:
        """(seconds, row-segments) that the finished units took, summed over all sittings of this run."""
        units = read_log(self.path / "log.jsonl").of("unit")
        seconds, row_segments = (sum(number(unit, name) or 0 for unit in units) for name in ("seconds", "row_segments"))
        return seconds, int(row_segments)
