"""A finished run that recorded every segment, opened to be replayed.

Why here: whether a folder holds what a replay needs, and of which puzzles, is checked once and said in one line; its
records are then read a block of puzzles at a time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import from_dict
from eqr_ray.data.puzzle_set import PuzzleSet, open_puzzle_set
from eqr_ray.inference.record_dir import stored_manifest
from eqr_ray.inference.records import Records, concatenate, is_answered, read_part
from eqr_ray.inference.settings import Settings

BLOCK_BYTES = 1 << 25  # of predictions, most of what a row has: 400,000 rows of 9x9 Sudoku


@dataclass(frozen=True)
class RecordedRun:
    """`settings` it was run with, the `puzzle_set` it answered, and what a segment costs: operations and
    row-segments a second of all its devices (None: too short to tell)."""

    path: Path
    manifest: dict[str, Any]
    settings: Settings
    puzzle_set: PuzzleSet
    flops_per_segment: float
    row_segments_per_s: float | None

    def blocks(self) -> Iterator[Records]:
        """All records in order, whole puzzles at a time: BLOCK_BYTES at most, or one unit's where that has more."""
        waiting: list[Records] = []
        for _, parts in groupby(sorted((self.path / "records").glob("*.parquet")), key=_puzzles_of):
            block = concatenate([read_part(part) for part in parts]).in_order()
            if waiting and sum(one.prediction.nbytes for one in (*waiting, block)) > BLOCK_BYTES:
                yield concatenate(waiting)
                waiting = []
            waiting.append(block)
        if waiting:
            yield concatenate(waiting)


def _puzzles_of(part: Path) -> str:
    return part.name.rpartition("-r")[0]  # folder.py names a part by its puzzles, then by its restarts


def open_recorded(path: Path, data: str | None = None) -> RecordedRun:
    """The run in this folder and its puzzles, from where it says it had them or from `data`.

    UserError: not a finished run, not every segment of every restart, other puzzles, or puzzles without answers.
    """
    manifest = stored_manifest(path)
    if not manifest:
        raise UserError(f"records={path}: no run of infer is there")
    kept = {field.name: manifest[field.name] for field in dataclasses.fields(Settings) if field.name in manifest}
    settings = from_dict(Settings, kept)
    if settings.policy != "full" or not set(range(1, settings.depth)) <= set(settings.snapshots):
        raise UserError(
            f"records={path}: policy={settings.policy} with {len(settings.snapshots)} snapshots of {settings.depth} "
            "segments; a replay needs policy=full with all of them: let `eqr_ray.frontier checkpoint=` record"
        )
    summary, config = (_read(path / name) for name in ("summary.json", "config.json"))
    if not config or any(summary.get(name) != manifest[name] for name in kept):
        raise UserError(f"records={path}: the run is not finished; the command that began it continues it")
    puzzle_set = open_puzzle_set(data or config["data"], summary["task"], manifest["puzzles"])
    if puzzle_set.data_hash != manifest["data_hash"]:
        raise UserError(f"data={data or config['data']} does not hold the puzzles that records={path} are of")
    check_answers(puzzle_set, data or config["data"])
    flops = summary["flops_mean"] / summary["segments_mean"]
    return RecordedRun(path, manifest, settings, puzzle_set, flops, summary["row_segments_per_s"])


def check_answers(puzzle_set: PuzzleSet, data: str) -> None:
    """UserError: no answer of the puzzles in `data` is known."""
    if puzzle_set.labels is None or not is_answered(puzzle_set.labels).any():
        raise UserError(f"data={data} has no answers to compare with")


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in this file; empty where there is none: the run was cut short."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
