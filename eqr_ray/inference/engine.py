"""The breadth engine on one device: units of (puzzle, restart) work in, records out.

Why here: the host half. A queue of trajectories feeds a fixed number of slots; every step is one segment of all slots,
after which finished trajectories are recorded and their slots refilled at once, also across the borders of units. Idle
slots are padding: they are computed and never read. The host reads back one flag per slot and segment, and none with
`full`.

    S slots, F slots being filled or recorded
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.policy import Job, Jobs, policy_named
from eqr_ray.inference.records import STATUSES, Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.slots import NetworkLike, Readings, Slots
from eqr_ray.inference.work import Unit, enough_ahead

RUNNING, DEPTH, DIVERGED = (STATUSES.index(name) for name in ("running", "depth", "diverged"))


class Report(NamedTuple):
    """What has been done since the last report: segments of trajectories, and units that are finished."""

    row_segments: int
    finished: list[tuple[Unit, Records]]


class OpenUnit:
    """A unit in work: its inputs (puzzles, L) uint8, what is still to be run, and what has been recorded."""

    def __init__(self, unit: Unit, inputs: npt.NDArray[np.uint8], jobs: Jobs) -> None:
        assert len(inputs) == unit.puzzles
        self.unit, self.inputs, self.jobs = unit, inputs, jobs
        self.records: list[Records] = []


class Engine:
    """`slots` trajectories at a time on the network's device.

    `add` units, then `step` until `idle`; `row_segments` counts the segments of trajectories, never of padding.
    """

    def __init__(self, network: NetworkLike, settings: Settings, slots: int) -> None:
        self.settings, self.policy = settings, policy_named(settings.policy)
        self.slots, self.row_segments = slots, 0
        self._slots = Slots(network, slots, settings)
        self._stop_status = STATUSES.index(self.policy.status)
        self._open: list[OpenUnit] = []
        self._owner: list[OpenUnit | None] = [None] * slots
        self._job = [Job(-1, -1)] * slots
        self._active = np.zeros(slots, dtype=np.bool_)
        self._segments = np.zeros(slots, dtype=np.int32)

    @property
    def idle(self) -> bool:
        return not self._open

    def add(self, unit: Unit, inputs: npt.NDArray[np.uint8]) -> None:
        """Queue a unit behind the others. `inputs` (unit.puzzles, L) uint8."""
        self._open.append(OpenUnit(unit, inputs, self.policy.jobs(unit)))

    def step(self) -> list[tuple[Unit, Records]]:
        """Refill, one segment of all slots, record. Returns the units that this finished, their records in order."""
        self._refill()
        assert self._active.any(), "a queue with neither work nor a running trajectory"
        signals = self._slots.advance()
        self._segments[self._active] += 1
        self.row_segments += int(self._active.sum())
        stop = self.policy.stop(signals)
        stopped = np.zeros_like(self._active) if stop is None else stop.cpu().numpy() & self._active
        done = self._active & (stopped | (self._segments >= self.settings.depth))
        seen = done | (self._active & np.isin(self._segments, self.settings.snapshots))
        if not seen.any():
            return []
        self._record(np.flatnonzero(seen), done, stopped)
        return self._collect()

    def _refill(self) -> None:
        free = iter(np.flatnonzero(~self._active).tolist())
        slots: list[int] = []
        inputs: list[npt.NDArray[np.uint8]] = []
        slot = next(free, None)
        for part in self._open:
            while slot is not None and (job := part.jobs.take()) is not None:
                self._owner[slot], self._job[slot] = part, job
                slots.append(slot)
                inputs.append(part.inputs[job.puzzle - part.unit.first])
                slot = next(free, None)
            if slot is None:
                break
        if slots:
            at = np.array(slots, dtype=np.int64)
            self._active[at], self._segments[at] = True, 0
            jobs = np.array([self._job[slot] for slot in slots], dtype=np.int64)
            self._slots.fill(at, jobs[:, 0].copy(), jobs[:, 1].copy(), np.stack(inputs))

    def _record(self, at: npt.NDArray[np.int64], done: npt.NDArray[np.bool_], stopped: npt.NDArray[np.bool_]) -> None:
        """Keep a row of each of these slots (F,); free those that are done and tell their units."""
        readings = self._slots.read(at)
        status = np.where(done[at], np.where(stopped[at], self._stop_status, DEPTH), RUNNING)
        status = np.where(np.isnan(readings.latent_residual), DIVERGED, status)
        rows = self._rows(at, readings, status.astype(np.uint8))
        owners = [self._owner[slot] for slot in at.tolist()]
        for part in {id(owner): owner for owner in owners if owner is not None}.values():
            part.records.append(rows.take(np.array([owner is part for owner in owners])))
        for number, slot in enumerate(at.tolist()):
            owner = owners[number]
            if done[slot] and owner is not None:
                owner.jobs.ended(self._job[slot], bool(readings.settled[number]))
                self._owner[slot] = None
        self._active &= ~done

    def _rows(self, at: npt.NDArray[np.int64], readings: Readings, status: npt.NDArray[np.uint8]) -> Records:
        jobs = np.array([self._job[slot] for slot in at.tolist()], dtype=np.int64)
        return Records(
            puzzle=jobs[:, 0],
            restart=jobs[:, 1].astype(np.int32),
            segments=self._segments[at],
            settled=readings.settled,
            logit_residual=np.where(np.isnan(readings.logit_residual), np.float32(np.inf), readings.logit_residual),
            latent_residual=np.where(np.isnan(readings.latent_residual), np.float32(np.inf), readings.latent_residual),
            halt_logit=readings.halt_logit,
            prediction=readings.prediction,
            status=status,
        )

    def _collect(self) -> list[tuple[Unit, Records]]:
        finished = [part for part in self._open if part.jobs.finished]
        if finished:
            self._open = [part for part in self._open if not part.jobs.finished]
        return [(part.unit, concatenate(part.records).in_order()) for part in finished]


def run_units(engine: Engine, units: Iterable[Unit], inputs_NL: npt.NDArray[np.uint8]) -> Iterator[Report]:
    """All units through one engine in this process, in any order of finishing; a report after every step.

    `inputs_NL` is indexed by row number of the data. Units are queued ahead, so that slots stay full.
    """
    waiting = iter(units)
    ahead: list[Unit] = []
    while True:
        while not enough_ahead(ahead, engine.slots, engine.policy.whole) and (unit := next(waiting, None)) is not None:
            engine.add(unit, np.asarray(inputs_NL[unit.first : unit.last]))
            ahead.append(unit)
        if not ahead:
            return
        before = engine.row_segments
        finished = engine.step()
        ahead = [unit for unit in ahead if all(unit != done for done, _ in finished)]
        yield Report(engine.row_segments - before, finished)
