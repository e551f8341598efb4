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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from eqr_ray.inference.policies import POLICIES, Race, Restarts, Signals, Win
from eqr_ray.inference.records import DEPTH, DIVERGED, PRUNED, RUNNING, Records, Tokens, concatenate, no_records
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.slots import Numbers, Slots, SlotsLike
from eqr_ray.inference.units import Unit, offered

Flags = npt.NDArray[np.bool_]


class EngineReport(NamedTuple):
    """What has been done since the last report: segments of trajectories, and units that are finished; how many puzzles
    are answered in units that are not; which actor did it (None: this process)."""

    row_segments: int
    finished: list[tuple[Unit, Records]]
    answered: dict[Unit, int] = {}  # noqa: RUF012
    actor: str | None = None


class OpenUnit:
    """A unit in work: its `inputs` (puzzles, L), the trajectories that are still to be run, and the `records` so far.
    Puzzles go side by side, those that have begun first; rows of padding alone are left out."""

    def __init__(self, unit: Unit, inputs: Tokens, settings: Settings) -> None:
        self.unit, self.inputs, self._settings = unit, inputs, settings
        self.records: list[Records] = []
        self.answered = 0  # puzzles of which nothing is left to do
        self._waiting = deque((unit.first + np.flatnonzero((inputs != 0).any(axis=1))).tolist())
        self._open: dict[int, Restarts] = {}  # puzzles that have begun, and those that are beaten before
        self._ready: deque[int] = deque()  # puzzles that may need a restart
        self._rotation: deque[int] = deque()  # puzzles that may have a restart to run ahead

    @property
    def finished(self) -> bool:
        """Whether all that were taken have ended and no more will come."""
        return not self._waiting and not self._open

    def take(self) -> tuple[int, int] | None:
        """(puzzle, restart) to start next; None when there is none now (`ended` may bring more)."""
        while self._ready:
            puzzle = self._ready[0]
            if puzzle in self._open and self._open[puzzle].needed:
                return puzzle, self._open[puzzle].start()
            self._ready.popleft()
        if not self._waiting:
            return None
        puzzle = self._waiting.popleft()
        self._ready.append(puzzle)
        self._rotation.append(puzzle)
        return puzzle, self._restarts(puzzle).start()

    def take_ahead(self) -> tuple[int, int] | None:
        """One that may turn out not to be needed, for a slot that would be idle; None: there is none."""
        while self._rotation:
            puzzle = self._rotation.popleft()
            if puzzle in self._open and self._open[puzzle].left:
                self._rotation.append(puzzle)
                return puzzle, self._open[puzzle].start()
        return None

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
        race = self._restarts(puzzle) if puzzle in self._waiting else self._open.get(puzzle)
        return isinstance(race, Race) and race.beaten(win)

    def _restarts(self, puzzle: int) -> Restarts:
        if puzzle not in self._open:
            numbers = range(self.unit.restart_first, self.unit.restart_last)
            self._open[puzzle] = POLICIES[self._settings.policy].restarts(numbers, self._settings)
        return self._open[puzzle]


class BreadthEngine:
    """`slots` trajectories at a time on the network's device.

    `add` units, then `step` until `idle`; `row_segments` counts the segments of trajectories, needed or run ahead,
    never of padding. `make` builds the slots of (network, slots, settings): `Slots`, or something that plays back.
    """

    def __init__(
        self, network: Any, settings: Settings, slots: int, make: Callable[[Any, int, Settings], SlotsLike] = Slots
    ) -> None:
        self.settings, self.policy = settings, POLICIES[settings.policy]
        self.slots, self.row_segments = slots, 0
        self._slots = make(network, slots, settings)
        self._open: dict[Unit, OpenUnit] = {}
        # What is in each slot.
        self._active, self._part = np.zeros(slots, dtype=np.bool_), np.full(slots, None, dtype=object)
        self._puzzle, self._restart = np.zeros((2, slots), dtype=np.int64)
        self._segments, self._until = np.zeros((2, slots), dtype=np.int32)

    @property
    def idle(self) -> bool:
        return not self._open

    @property
    def has_enough(self) -> bool:
        """Whether the units keep the slots busy until more can be fetched: two at least, two trajectories per slot."""
        return len(self._open) >= 2 and offered(self._open, self.policy.restarts.in_turn) >= 2 * self.slots

    def add(self, unit: Unit, inputs: Tokens) -> None:
        """Queue a unit behind the others. `inputs` (unit.puzzles, L); rows of padding alone are left out."""
        assert len(inputs) == unit.puzzles
        self._open[unit] = OpenUnit(unit, inputs, self.settings)

    def answered(self) -> dict[Unit, int]:
        """How many puzzles are done, of every unit in work."""
        return {unit: part.answered for unit, part in self._open.items() if part.answered}

    def drop(self, unit: Unit) -> None:
        """Forget a unit and free its slots; one that is not here is ignored."""
        if (part := self._open.pop(unit, None)) is not None:
            self._active &= self._part != part

    def beaten(self, unit: Unit, puzzle: int, win: Win) -> None:
        """A restart of this puzzle has settled elsewhere; a unit that is not here is ignored."""
        if unit in self._open and self._open[unit].beaten(puzzle, win):
            self._shorten(self._open[unit], puzzle)

    def step(self, ahead: bool = False) -> list[tuple[Unit, Records]]:
        """Refill, one segment of all slots, record. Returns the units that this finished, their records in order.
        `ahead`: slots that would be idle take what may not be needed; the records are the same."""
        self._refill(ahead)
        if not self._active.any():
            return self._collect()  # units without a puzzle to run
        signals = self._slots.advance()
        self._segments[self._active] += 1
        self.row_segments += int(self._active.sum())
        stop = self.policy.stop(signals, self.settings)
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
            part, puzzle = self._part[slot], int(self._puzzle[slot])
            if part.ended(puzzle, int(self._restart[slot]), int(self._segments[slot]), bool(stopped[slot])):
                self._shorten(part, puzzle)
        return self._collect()

    def _refill(self, ahead: bool) -> None:
        """Start what waits: needed trajectories of all units in order, then perhaps those that run ahead."""
        takers = [(part, part.take) for part in self._open.values()]
        takers += [(part, part.take_ahead) for part in self._open.values() if ahead]
        idle, taken = np.flatnonzero(~self._active), list[tuple[OpenUnit, int, int]]()
        for part, take in takers:
            while len(taken) < len(idle) and (one := take()) is not None:
                taken.append((part, *one))
        if not taken:
            return
        at = idle[: len(taken)]
        self._active[at], self._segments[at] = True, 0
        self._part[at], self._puzzle[at], self._restart[at] = zip(*taken, strict=True)
        self._until[at] = [part.until(puzzle, restart) for part, puzzle, restart in taken]
        inputs = np.stack([part.inputs[puzzle - part.unit.first] for part, puzzle, _ in taken])
        self._slots.fill(at, self._puzzle[at], self._restart[at], inputs)

    def _record(self, at: Numbers, done: Flags, stopped: Flags, signals: Signals) -> None:
        """Keep a row of each of these slots (F,)."""
        slots = torch.from_numpy(at).to(signals.settled.device)
        scores = torch.stack([signals.logit_residual, signals.latent_residual, signals.halt_logit.float()])
        logit_residual, latent_residual, halt_logit = scores.index_select(1, slots).cpu().numpy()
        reasons = (stopped[at], np.isnan(latent_residual), ~done[at], self._segments[at] >= self.settings.depth)
        status = np.select(reasons, (self.policy.stop_status, DIVERGED, RUNNING, DEPTH), PRUNED)
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
            status=status.astype(np.uint8),
        )
        parts = self._part[at]
        for part in dict.fromkeys(parts):
            part.records.append(rows.take(parts == part))

    def _shorten(self, part: OpenUnit, puzzle: int) -> None:
        """Ask again when the running restarts of a puzzle end."""
        for slot in np.flatnonzero(self._active & (self._part == part) & (self._puzzle == puzzle)).tolist():
            self._until[slot] = part.until(puzzle, int(self._restart[slot]))

    def _collect(self) -> list[tuple[Unit, Records]]:
        finished = [self._open.pop(unit) for unit, part in list(self._open.items()) if part.finished]
        rows = [concatenate(part.records or [no_records(part.inputs.shape[1])]).in_order() for part in finished]
        resolve, status = self.policy.restarts.resolve, self.policy.stop_status
        return [(part.unit, resolve(own, status)) for part, own in zip(finished, rows, strict=True)]


def run_units(engine: BreadthEngine, units: Iterable[Unit], inputs_NL: Tokens) -> Iterator[EngineReport]:
    """All units through one engine in this process, in any order of finishing; a report after every step.

    `inputs_NL` is indexed by row number of the data. Units are queued ahead, so that slots stay full; when there are no
    more, slots run ahead.
    """
    waiting = iter(units)
    starved, more = False, True
    while True:
        while more and (starved or not engine.has_enough):
            unit = next(waiting, None)
            more, starved = unit is not None, False
            if unit is not None:
                engine.add(unit, np.asarray(inputs_NL[unit.first : unit.last]))
        if engine.idle:
            return
        before = engine.row_segments
        finished = engine.step(ahead=not more)
        row_segments = engine.row_segments - before
        starved = row_segments < engine.slots
        yield EngineReport(row_segments, finished, engine.answered())
