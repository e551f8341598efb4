"""The breadth engine on one device: units of (puzzle, restart) work in, records out.

Why here: the host half. A queue of trajectories feeds a fixed number of slots; every step is one segment of all slots,
after which finished trajectories are recorded and their slots refilled at once, also across the borders of units. Slots
for which nothing waits may run ahead (a restart that is needed only if the one before it fails), else they are padding:
computed and never read. The host reads back one flag per slot and segment, and none with `full`.

    S slots, F slots being filled or recorded
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.policies import make_policy
from eqr_ray.inference.records import DEPTH, DIVERGED, OUTDONE, RUNNING, STATUSES, Records, concatenate, no_records
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.slots import Readings, Slots, SlotsLike
from eqr_ray.inference.trajectories import Job, Jobs, Outcome, Races, Win
from eqr_ray.inference.units import Unit, enough_ahead

NOBODY = -1


class Report(NamedTuple):
    """What has been done since the last report: segments of trajectories, and units that are finished."""

    row_segments: int
    finished: list[tuple[Unit, Records]]


class Held(NamedTuple):
    """A paused trajectory: its row so far, and its state, taken out of the slot."""

    row: Records
    state: Any


class OpenUnit:
    """A unit in work: its inputs (puzzles, L) uint8, what is still to be run, and what has been recorded."""

    def __init__(self, number: int, unit: Unit, inputs: npt.NDArray[np.uint8], jobs: Jobs) -> None:
        assert len(inputs) == unit.puzzles
        self.number, self.unit, self.inputs, self.jobs = number, unit, inputs, jobs
        self.records: list[Records] = []
        self.held: dict[tuple[int, int], Held] = {}  # by puzzle and restart


class Engine:
    """`slots` trajectories at a time on the network's device.

    `add` units, then `step` until `idle`; `row_segments` counts the segments of trajectories, needed or run ahead,
    never of padding. `make` builds the slots of (network, slots, settings): `Slots`, or something that plays back.
    """

    def __init__(
        self,
        network: Any,
        settings: Settings,
        slots: int,
        make: Callable[[Any, int, Settings], SlotsLike] = Slots,
    ) -> None:
        self.settings, self.policy = settings, make_policy(settings)
        self.slots, self.row_segments = slots, 0
        self._slots = make(network, slots, settings)
        self._stop_status = STATUSES.index(self.policy.status)
        self._open: dict[int, OpenUnit] = {}
        self._added = 0
        self._active = np.zeros(slots, dtype=np.bool_)
        self._owner = np.full(slots, NOBODY, dtype=np.int64)  # the number of the open unit
        self._puzzle, self._restart = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
        self._segments, self._until = np.zeros(slots, dtype=np.int32), np.zeros(slots, dtype=np.int32)

    @property
    def idle(self) -> bool:
        return not self._open

    def add(self, unit: Unit, inputs: npt.NDArray[np.uint8]) -> None:
        """Queue a unit behind the others. `inputs` (unit.puzzles, L) uint8; rows of padding alone are left out."""
        wanted = unit.first + np.flatnonzero((inputs != 0).any(axis=1))
        self._open[self._added] = OpenUnit(self._added, unit, inputs, self.policy.jobs(unit, wanted.tolist()))
        self._added += 1

    def drop(self, unit: Unit) -> None:
        """Forget a unit and free its slots; one that is not here is ignored."""
        for number in [part.number for part in self._open.values() if part.unit == unit]:
            del self._open[number]
            self._active &= self._owner != number

    def beaten(self, unit: Unit, puzzle: int, win: Win) -> None:
        """A restart of this puzzle has settled elsewhere; a unit that is not here is ignored."""
        for part in self._open.values():
            if part.unit == unit and isinstance(part.jobs, Races):
                for job in part.jobs.beaten(puzzle, win).sooner:
                    self._shorten(part, job)

    def step(self, ahead: bool = False) -> list[tuple[Unit, Records]]:
        """Refill, one segment of all slots, record. Returns the units that this finished, their records in order.
        `ahead`: slots that would be idle take what may not be needed; the records are the same."""
        self._refill(ahead)
        if not self._active.any():
            return self._collect()  # units without a puzzle to run
        signals = self._slots.advance()
        self._segments[self._active] += 1
        self.row_segments += int(self._active.sum())
        stop = self.policy.stop(signals)
        stopped = np.zeros_like(self._active) if stop is None else stop.cpu().numpy() & self._active
        done = self._active & (stopped | (self._segments >= self._until))
        seen = done
        if self.settings.snapshots:
            seen = done | (self._active & np.isin(self._segments, self.settings.snapshots))
        if not seen.any():
            return []
        self._record(np.flatnonzero(seen), done, stopped)
        return self._collect()

    def _refill(self, ahead: bool) -> None:
        free = int((~self._active).sum())
        fresh: list[tuple[OpenUnit, Job]] = []
        again: list[tuple[OpenUnit, Job]] = []
        for part, job in islice(self._waiting(ahead), free):
            (again if job[:2] in part.held else fresh).append((part, job))
        taken = fresh + again
        if not taken:
            return
        at = np.flatnonzero(~self._active)[: len(taken)]
        jobs = np.array([job for _, job in taken], dtype=np.int64)
        self._puzzle[at], self._restart[at], self._until[at] = jobs.T
        self._owner[at] = [part.number for part, _ in taken]
        self._active[at], self._segments[at] = True, 0
        held = [part.held.pop(job[:2]) for part, job in again]
        if held:
            self._segments[at[len(fresh) :]] = [one.row.segments[0] for one in held]
            for (part, _), one in zip(again, held, strict=True):
                if one.row.segments[0] in self.settings.snapshots:
                    part.records.append(with_status(one.row, RUNNING))
        inputs = np.stack([part.inputs[job.puzzle - part.unit.first] for part, job in taken])
        self._slots.fill(at, self._puzzle[at], self._restart[at], inputs, [one.state for one in held])

    def _waiting(self, ahead: bool) -> Iterator[tuple[OpenUnit, Job]]:
        """What may start now, in the order in which slots are given to it; what is read has been taken."""
        for part in self._open.values():
            while (job := part.jobs.take()) is not None:
                yield part, job
        for part in self._open.values() if ahead else ():
            while (job := part.jobs.take_ahead()) is not None:
                yield part, job

    def _record(self, at: npt.NDArray[np.int64], done: npt.NDArray[np.bool_], stopped: npt.NDArray[np.bool_]) -> None:
        """Keep a row of each of these slots (F,); free those that are done and tell their units."""
        readings = self._slots.read(at)
        ended = self._segments[at] >= self.settings.depth
        status = np.where(done[at], np.where(stopped[at], self._stop_status, DEPTH), RUNNING)
        status = np.where(np.isnan(readings.latent_residual) & ~stopped[at], DIVERGED, status)
        rows = self._rows(at, readings, status.astype(np.uint8))
        paused = done[at] & ~stopped[at] & ~ended
        owner = self._owner[at]
        for number in np.unique(owner).tolist():
            mine = owner == number
            self._open[number].records.append(rows.take(mine & ~paused))
        self._active &= ~done
        if paused.any():
            self._hold(at[paused], rows.take(paused))
        self._tell(np.flatnonzero(done[at]), at, stopped, rows)

    def _hold(self, at: npt.NDArray[np.int64], rows: Records) -> None:
        """Take paused trajectories (F,) out of their slots."""
        for row, (slot, state) in enumerate(zip(at.tolist(), self._slots.park(at), strict=True)):
            part = self._open[int(self._owner[slot])]
            one = rows.take(np.array([row]))
            part.held[int(one.puzzle[0]), int(one.restart[0])] = Held(one, state)

    def _tell(
        self, ended: npt.NDArray[np.int64], at: npt.NDArray[np.int64], stopped: npt.NDArray[np.bool_], rows: Records
    ) -> None:
        """Tell the units of the jobs that have `ended` (numbers among the rows), and do what follows."""
        slots = at[ended]
        columns = (self._owner[slots], self._puzzle[slots], self._restart[slots], self._until[slots])
        results = (rows.segments[ended], stopped[slots], rows.logit_residual[ended])
        for owner, puzzle, restart, until, *result in zip(*(c.tolist() for c in (*columns, *results)), strict=True):
            part = self._open[owner]
            decision = part.jobs.ended(Job(puzzle, restart, until), Outcome(*result))
            for job in decision.outdone:
                part.records.append(with_status(part.held.pop(job[:2]).row, OUTDONE))
            for job in decision.sooner:
                self._shorten(part, job)

    def _shorten(self, part: OpenUnit, job: Job) -> None:
        here = self._active & (self._owner == part.number)
        here &= (self._puzzle == job.puzzle) & (self._restart == job.restart)
        self._until[here] = np.minimum(self._until[here], job.until)

    def _rows(self, at: npt.NDArray[np.int64], readings: Readings, status: npt.NDArray[np.uint8]) -> Records:
        none = np.float32(np.inf)
        return Records(
            puzzle=self._puzzle[at],
            restart=self._restart[at].astype(np.int32),
            segments=self._segments[at],
            settled=readings.settled,
            logit_residual=np.where(np.isnan(readings.logit_residual), none, readings.logit_residual),
            latent_residual=np.where(np.isnan(readings.latent_residual), none, readings.latent_residual),
            halt_logit=readings.halt_logit,
            prediction=readings.prediction,
            status=status,
        )

    def _collect(self) -> list[tuple[Unit, Records]]:
        finished = [part for part in self._open.values() if part.jobs.finished]
        for part in finished:
            del self._open[part.number]
        return [(part.unit, self._kept(part)) for part in finished]

    def _kept(self, part: OpenUnit) -> Records:
        length = part.inputs.shape[1]
        return self.policy.resolve(concatenate(part.records or [no_records(length)]).in_order())


def with_status(rows: Records, status: int) -> Records:
    """The rows with this status; diverged ones stay so."""
    return dataclasses.replace(rows, status=np.where(rows.status == DIVERGED, rows.status, np.uint8(status)))


def run_units(engine: Engine, units: Iterable[Unit], inputs_NL: npt.NDArray[np.uint8]) -> Iterator[Report]:
    """All units through one engine in this process, in any order of finishing; a report after every step.

    `inputs_NL` is indexed by row number of the data. Units are queued ahead, so that slots stay full; when there are no
    more, slots run ahead.
    """
    waiting = iter(units)
    queued: list[Unit] = []
    starved, more = False, True
    while True:
        while more and (starved or not enough_ahead(queued, engine.slots, engine.policy.in_turn)):
            unit = next(waiting, None)
            more, starved = unit is not None, False
            if unit is not None:
                engine.add(unit, np.asarray(inputs_NL[unit.first : unit.last]))
                queued.append(unit)
        if not queued:
            return
        before = engine.row_segments
        finished = engine.step(ahead=not more)
        row_segments = engine.row_segments - before
        starved = row_segments < engine.slots
        queued = [unit for unit in queued if all(unit != done for done, _ in finished)]
        yield Report(row_segments, finished)
