"""The breadth engine on one device: units of (puzzle, restart) work in, records out.

A queue of trajectories feeds a fixed number of slots. Every step is one segment of all slots, after which finished
trajectories are recorded and their slots refilled at once, also across the borders of units. Slots for which nothing
waits may run ahead (a restart that is needed only if the one before it fails), else they are padding: computed and
never read. The host reads back one flag per slot and segment, and none with `full`.

    S slots, F slots being filled or recorded, L tokens
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from eqr_ray.inference.policies import Policy, Race, Restarts, Signals, Win, make_policy
from eqr_ray.inference.records import (
    DEPTH,
    DIVERGED,
    PRUNED,
    RUNNING,
    STATUSES,
    Records,
    Tokens,
    concatenate,
    no_records,
)
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.slots import Numbers, Slots, SlotsLike
from eqr_ray.inference.units import Unit, enough_ahead


class EngineReport(NamedTuple):
    """What has been done since the last report: segments of trajectories, and units that are finished; how many puzzles
    are answered in units that are not; which actor did it (None: this process)."""

    row_segments: int
    finished: list[tuple[Unit, Records]]
    answered: dict[Unit, int] = {}  # noqa: RUF012
    actor: str | None = None


class Trajectory(NamedTuple):
    """Row number of the puzzle, number of the restart, segments after which it ends at the latest."""

    puzzle: int
    restart: int
    until: int


class OpenUnit:
    """A unit in work: its `inputs` (puzzles, L), what is still to be run, and the `records` so far. Puzzles go side by
    side, those that have begun first; rows of padding alone are left out. The engine `take`s trajectories as slots come
    free, and reports every end."""

    def __init__(self, unit: Unit, inputs: Tokens, policy: Policy) -> None:
        self.unit, self.inputs = unit, inputs
        self.records: list[Records] = []
        self.answered = 0  # puzzles of which nothing is left to do
        self._policy = policy
        self._waiting = deque((unit.first + np.flatnonzero((inputs != 0).any(axis=1))).tolist())
        self._open: dict[int, Restarts] = {}  # puzzles that have begun, and those that are beaten before
        self._ready: deque[int] = deque()  # puzzles that may need a restart
        self._rotation: deque[int] = deque()  # puzzles that may have a restart to run ahead

    @property
    def finished(self) -> bool:
        """Whether all that were taken have ended and no more will come."""
        return not self._waiting and not self._open

    def take(self) -> Trajectory | None:
        """The next to start; None when there is none now (`ended` may bring more)."""
        while self._ready:
            puzzle = self._ready[0]
            if puzzle in self._open and self._open[puzzle].needed:
                return self._start(puzzle)
            self._ready.popleft()
        if not self._waiting:
            return None
        puzzle = self._waiting.popleft()
        self._begin(puzzle)
        self._ready.append(puzzle)
        self._rotation.append(puzzle)
        return self._start(puzzle)

    def take_ahead(self) -> Trajectory | None:
        """One that may turn out not to be needed, for a slot that would be idle; None: there is none."""
        while self._rotation:
            puzzle = self._rotation.popleft()
            if puzzle in self._open and self._open[puzzle].left:
                self._rotation.append(puzzle)
                return self._start(puzzle)
        return None

    def _begin(self, puzzle: int) -> None:
        if puzzle not in self._open:
            numbers = range(self.unit.restart_first, self.unit.restart_last)
            self._open[puzzle] = self._policy.restarts(numbers, self._policy.settings)

    def _start(self, puzzle: int) -> Trajectory:
        restart = self._open[puzzle].start()
        return Trajectory(puzzle, restart, self.until(puzzle, restart))

    def until(self, puzzle: int, restart: int) -> int:
        """After how many segments a trajectory that was taken ends, by what is known now."""
        return self._open[puzzle].until(restart)

    def ended(self, puzzle: int, restart: int, segments: int, stopped: bool) -> bool:
        """A trajectory has ended. Returns whether others of its puzzle that are running shall now end sooner."""
        restarts = self._open[puzzle]
        shortens = restarts.ended(restart, segments, stopped)
        if restarts.finished:
            del self._open[puzzle]
            self.answered += 1
            return False
        if restarts.needed:
            self._ready.append(puzzle)
        return shortens

    def beaten(self, puzzle: int, win: Win) -> bool:
        """A restart of this puzzle, of another unit, has settled. Returns as `ended` does."""
        if puzzle in self._waiting:
            self._begin(puzzle)
        race = self._open.get(puzzle)
        return isinstance(race, Race) and race.beaten(win)


class BreadthEngine:
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
        self._stop_status = STATUSES.index(self.policy.stop_status)
        self._open: dict[int, OpenUnit] = {}  # by the number in which they were added
        self._added = 0
        self._active = np.zeros(slots, dtype=np.bool_)
        self._owner = np.zeros(slots, dtype=np.int64)  # the number of the open unit
        self._puzzle, self._restart = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
        self._segments, self._until = np.zeros(slots, dtype=np.int32), np.zeros(slots, dtype=np.int32)

    @property
    def idle(self) -> bool:
        return not self._open

    def add(self, unit: Unit, inputs: Tokens) -> None:
        """Queue a unit behind the others. `inputs` (unit.puzzles, L) uint8; rows of padding alone are left out."""
        assert len(inputs) == unit.puzzles
        self._open[self._added] = OpenUnit(unit, inputs, self.policy)
        self._added += 1

    def answered(self) -> dict[Unit, int]:
        """How many puzzles are done, of every unit in work."""
        return {part.unit: part.answered for part in self._open.values() if part.answered}

    def drop(self, unit: Unit) -> None:
        """Forget a unit and free its slots; one that is not here is ignored."""
        for number in self._numbers(unit):
            del self._open[number]
            self._active &= self._owner != number

    def beaten(self, unit: Unit, puzzle: int, win: Win) -> None:
        """A restart of this puzzle has settled elsewhere; a unit that is not here is ignored."""
        for number in self._numbers(unit):
            if self._open[number].beaten(puzzle, win):
                self._shorten(number, puzzle)

    def _numbers(self, unit: Unit) -> list[int]:
        return [number for number, part in self._open.items() if part.unit == unit]

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
        self._record(np.flatnonzero(seen), done, stopped, signals)
        self._active &= ~done
        for slot in np.flatnonzero(done).tolist():
            number, puzzle = int(self._owner[slot]), int(self._puzzle[slot])
            end = int(self._restart[slot]), int(self._segments[slot]), bool(stopped[slot])
            if self._open[number].ended(puzzle, *end):
                self._shorten(number, puzzle)
        return self._collect()

    def _refill(self, ahead: bool) -> None:
        at = np.flatnonzero(~self._active)
        taken = list(islice(self._waiting(ahead), len(at)))
        if not taken:
            return
        at = at[: len(taken)]
        self._active[at], self._segments[at] = True, 0
        self._owner[at] = [number for number, _ in taken]
        rows = np.array([trajectory for _, trajectory in taken], dtype=np.int64)
        self._puzzle[at], self._restart[at], self._until[at] = rows.T
        parts = [(self._open[number], trajectory) for number, trajectory in taken]
        inputs = np.stack([part.inputs[trajectory.puzzle - part.unit.first] for part, trajectory in parts])
        self._slots.fill(at, self._puzzle[at], self._restart[at], inputs)

    def _waiting(self, ahead: bool) -> Iterator[tuple[int, Trajectory]]:
        """What may start now, in the order in which slots are given to it; what is read has been taken."""
        for number, part in self._open.items():
            yield from ((number, trajectory) for trajectory in iter(part.take, None))
        for number, part in self._open.items() if ahead else ():
            yield from ((number, trajectory) for trajectory in iter(part.take_ahead, None))

    def _record(
        self, at: Numbers, done: npt.NDArray[np.bool_], stopped: npt.NDArray[np.bool_], signals: Signals
    ) -> None:
        """Keep a row of each of these slots (F,)."""
        slots = torch.from_numpy(at).to(signals.settled.device)
        scores = torch.stack([signals.logit_residual, signals.latent_residual, signals.halt_logit.float()])
        logit_residual, latent_residual, halt_logit = scores.index_select(1, slots).cpu().numpy()
        ended = np.where(self._segments[at] >= self.settings.depth, DEPTH, PRUNED)
        status = np.where(done[at], ended, RUNNING)
        status = np.where(np.isnan(latent_residual), DIVERGED, status)
        none = np.float32(np.inf)
        rows = Records(
            puzzle=self._puzzle[at],
            restart=self._restart[at].astype(np.int32),
            segments=self._segments[at],
            settled=signals.settled.index_select(0, slots).cpu().numpy(),
            logit_residual=np.where(np.isnan(logit_residual), none, logit_residual),
            latent_residual=np.where(np.isnan(latent_residual), none, latent_residual),
            halt_logit=halt_logit,
            prediction=signals.prediction.index_select(0, slots).cpu().numpy(),
            status=np.where(stopped[at], self._stop_status, status).astype(np.uint8),
        )
        owner = self._owner[at]
        for number in np.unique(owner).tolist():
            self._open[number].records.append(rows.take(owner == number))

    def _shorten(self, number: int, puzzle: int) -> None:
        """Ask again when the running restarts of a puzzle end."""
        for slot in np.flatnonzero(self._active & (self._owner == number) & (self._puzzle == puzzle)).tolist():
            self._until[slot] = self._open[number].until(puzzle, int(self._restart[slot]))

    def _collect(self) -> list[tuple[Unit, Records]]:
        finished = [self._open.pop(number) for number, part in list(self._open.items()) if part.finished]
        rows = [concatenate(part.records or [no_records(part.inputs.shape[1])]).in_order() for part in finished]
        return [(part.unit, self.policy.resolve(own)) for part, own in zip(finished, rows, strict=True)]


def run_units(engine: BreadthEngine, units: Iterable[Unit], inputs_NL: Tokens) -> Iterator[EngineReport]:
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
        done = {unit for unit, _ in finished}
        queued = [unit for unit in queued if unit not in done]
        yield EngineReport(row_segments, finished, engine.answered())
