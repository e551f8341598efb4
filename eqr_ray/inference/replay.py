"""Replay: what another policy would have done, from the records of a full run, without the network.

A run of the policy `full` with a snapshot at every segment holds all that any policy, threshold, smaller depth or
breadth asks for. Its records take the network's place under the same engine and policies, so that calibration and
frontiers cost seconds, and equal bit for bit what a run would have recorded.

    N recorded rows, P puzzles, R restarts, K segments, L tokens
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.data.sources import PuzzleSet, open_puzzle_set
from eqr_ray.inference.engine import BreadthEngine
from eqr_ray.inference.policies import Signals
from eqr_ray.inference.records import Records, Tokens, concatenate, is_answered, read_part
from eqr_ray.inference.settings import AnsweringOptions, NetworkRunOptions, Settings
from eqr_ray.inference.slots import Numbers
from eqr_ray.inference.units import Unit
from eqr_ray.storage.run_dir import RunDir

REPLAY_SLOTS = 1024
BLOCK_BYTES = 1 << 25  # of predictions, most of what a row has: 400,000 rows of 9x9 Sudoku


class Trace:
    """The records of all segments of consecutive puzzles: columns (P, R, K). `rows` in order, complete, of `full`."""

    def __init__(self, rows: Records) -> None:
        self.columns, self.first = rows, int(rows.puzzle[0])
        self.puzzles, self.breadth = int(rows.puzzle[-1]) + 1 - self.first, int(rows.restart.max()) + 1
        self.depth = int(rows.segments.max())
        if len(rows) != self.puzzles * self.breadth * self.depth:
            raise UserError(
                f"these records have {len(rows):,} rows, not all of {self.puzzles} puzzles x {self.breadth} restarts x "
                f"{self.depth} segments: record with policy=full and a snapshot at every segment"
            )

    def at(self, puzzle: Numbers, restart: Numbers, segments: Numbers) -> Records:
        """Trajectories (S,) after so many segments (S,), 1 at least."""
        return self.columns.take(((puzzle - self.first) * self.breadth + restart) * self.depth + segments - 1)


class Playback:
    """Slots that show what a trace recorded (a `slots.SlotsLike`)."""

    def __init__(self, trace: Trace, count: int, settings: Settings) -> None:
        self._trace, self._settings = trace, settings
        self._puzzle = np.full(count, trace.first, dtype=np.int64)
        self._restart, self._segments, self._settled_streak = np.zeros((3, count), dtype=np.int64)
        self._inputs = np.zeros((count, trace.columns.prediction.shape[1]), dtype=np.uint8)

    def fill(self, slots: Numbers, puzzles: Numbers, restarts: Numbers, inputs_FL: Tokens) -> None:
        """See `Slots.fill`."""
        self._puzzle[slots], self._restart[slots], self._inputs[slots] = puzzles, restarts, inputs_FL
        self._segments[slots] = self._settled_streak[slots] = 0

    def advance(self) -> Signals:
        """One segment of every slot; idle ones stay at the last."""
        trace, settings = self._trace, self._settings
        self._segments = np.minimum(self._segments + 1, trace.depth)
        rows = trace.at(self._puzzle, self._restart, self._segments)
        self._settled_streak = np.where(rows.logit_residual <= settings.settle_below, self._settled_streak + 1, 0)
        settled = self._settled_streak >= settings.settle_for
        columns = (rows.logit_residual, rows.latent_residual, rows.halt_logit, settled, self._inputs, rows.prediction)
        return Signals(*(torch.from_numpy(column) for column in columns))


def replay(trace: Trace, settings: Settings, inputs_PL: Tokens | None = None) -> Records:
    """The ordered records that a run with `settings` would have left of the trace's puzzles. `inputs_PL`: theirs, for
    a policy that verifies. UserError: deeper or wider than what was recorded."""
    for name, recorded in (("depth", trace.depth), ("breadth", trace.breadth)):
        if getattr(settings, name) > recorded:
            raise UserError(f"{name}={getattr(settings, name)} is more than the {recorded} that were recorded")
    if inputs_PL is None:
        inputs_PL = np.ones((trace.puzzles, trace.columns.prediction.shape[1]), dtype=np.uint8)  # nobody reads them
    engine = BreadthEngine(trace, settings, min(REPLAY_SLOTS, trace.puzzles * settings.breadth), make=Playback)
    engine.add(Unit(trace.first, trace.first + trace.puzzles, 0, settings.breadth), inputs_PL)
    finished: list[tuple[Unit, Records]] = []
    while not finished:
        finished = engine.step()
    return finished[0][1]


def every_segment(settings: Settings) -> Settings:
    """The settings of a run that can be replayed: everything is run, every segment is recorded."""
    return settings.replace(policy="full", snapshots=tuple(range(1, settings.depth + 1)), budget=None)


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
        files = sorted((self.path / "records").glob("*.parquet"))
        for _, parts in groupby(files, key=lambda part: part.name.rpartition("-r")[0]):  # by puzzles: see `Unit.name`
            block = concatenate([read_part(part) for part in parts]).in_order()
            if waiting and sum(one.prediction.nbytes for one in (*waiting, block)) > BLOCK_BYTES:
                yield concatenate(waiting)
                waiting = []
            waiting.append(block)
        if waiting:
            yield concatenate(waiting)


def open_recorded(path: Path, data: str | None = None) -> RecordedRun:
    """The run in this folder and its puzzles, from where it says it had them or from `data`.

    UserError: not a finished run, not every segment of every restart, other puzzles, or puzzles without answers.
    """
    folder = RunDir(path, "infer")
    manifest = folder.identity()
    if not manifest:
        raise UserError(f"records={path}: no run of infer is there")
    kept = {name: manifest[name] for name in Settings.model_fields if name in manifest}
    settings = Settings.parse(kept)
    if settings.policy != "full" or not set(range(1, settings.depth)) <= set(settings.snapshots):
        raise UserError(
            f"records={path}: policy={settings.policy} with {len(settings.snapshots)} snapshots of {settings.depth} "
            "segments; a replay needs policy=full with all of them: let `eqr_ray.frontier checkpoint=` record"
        )
    summary = folder.summary() or {}
    if any(summary.get(name) != manifest[name] for name in kept):
        raise UserError(f"records={path}: the run is not finished; the command that began it continues it")
    data = data or folder.config()["data"]
    puzzle_set = open_puzzle_set(data, summary["task"], manifest["puzzles"])
    if puzzle_set.data_hash != manifest["data_hash"]:
        raise UserError(f"data={data} does not hold the puzzles that records={path} are of")
    check_answers(puzzle_set, data)
    flops = summary["flops_mean"] / summary["segments_mean"]
    return RecordedRun(path, manifest, settings, puzzle_set, flops, summary["row_segments_per_s"])


def open_records(folders: Iterable[str], data: str | None, typed: Collection[str]) -> list[RecordedRun]:
    """The runs that records= names. UserError: as `open_recorded`, or a key was typed that shapes a recording."""
    if own := [name for name in NetworkRunOptions.model_fields if name in typed]:
        raise UserError(f"{own[0]}= does not go with records=, which have their own")
    return [open_recorded(Path(folder), data) for folder in folders]


def within(config: AnsweringOptions, most: Settings) -> Settings:
    """The settings of a recorded run, at the depth and breadth that are asked for. UserError: it has less."""
    asked = {name: value for name in ("depth", "breadth") if (value := getattr(config, name)) is not None}
    for name, value in asked.items():
        if value > getattr(most, name):
            raise UserError(f"{name}={value} is more than the {getattr(most, name)} that were recorded")
    return most.replace(snapshots=(), **asked)


def check_answers(puzzle_set: PuzzleSet, data: str) -> None:
    """UserError: no answer of the puzzles in `data` is known."""
    if puzzle_set.labels is None or not is_answered(puzzle_set.labels).any():
        raise UserError(f"data={data} has no answers to compare with")
