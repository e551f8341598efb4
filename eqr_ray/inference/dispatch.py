"""Who runs which unit: one queue, workers that ask, and the last units run twice.

Why here: the scheduling of a run as plain values, tested and simulated without a cluster. A worker comes back with
results, or because it has a slot to spare, and is then given units: so slow workers take fewer, and new ones join in at
any time. Units are read as they are needed; what a lost worker had goes back to the front.

When nothing waits any more, a worker that has run dry gets a copy of a unit that another one still holds: the first
result counts, and the other worker is told to drop the unit. Records are a function of the unit alone, so it does not
matter whose they are.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic, NamedTuple, TypeVar

from eqr_ray.inference.units import Unit, offered

AHEAD = 2  # trajectories per slot that a worker is given at first ...
MOST_AHEAD = 16  # ... and at most before it asks for more: doubled whenever slots stood idle
CALL_S = 1.0  # a worker reports at least this often, unless ...
REPORTS_PER_S = 100  # ... there are so many that a driver would be busy with reports alone (some 2 ms each)

W = TypeVar("W", bound=Hashable)

log = logging.getLogger(__name__)


def call_s(workers: int) -> float:
    """Seconds after which a worker reports, finished units or not."""
    return max(CALL_S, workers / REPORTS_PER_S)


class Order(NamedTuple):
    """What a worker is told: units to `drop` (finished elsewhere), and then units to `run`, behind those it has.
    `more`: others wait, so that it should come back as soon as it has a slot to spare."""

    drop: list[Unit]
    run: list[Unit]
    more: bool


@dataclass
class Held:
    """What a worker has: units given and not finished, oldest first; units that it has not yet been told to drop; and
    how many trajectories per slot it is to have ahead. Where many are short and a few are long, several units have
    nothing left to start and wait for their last."""

    units: dict[Unit, None] = field(default_factory=dict)
    drop: list[Unit] = field(default_factory=list)
    ahead: int = AHEAD


class Dispatcher(Generic[W]):
    """Hands out units to workers of `slots` slots each; of every unit that is added one result is kept.

    `in_turn` as in `offered`. A unit is with two workers at most, and with one where not `copies`.
    """

    def __init__(self, slots: int, in_turn: bool, copies: bool = True) -> None:
        self._slots, self._in_turn, self._copies = slots, in_turn, copies
        self._unread: Iterator[Unit] = iter(())
        self._waiting: deque[Unit] = deque()  # returned by lost workers, and at most one that was read ahead
        self._held: dict[W, Held] = {}
        self._holders: dict[Unit, list[W]] = {}
        self._single: dict[Unit, W] = {}  # units with one holder; those that were given out first come first

    def add(self, units: Iterable[Unit]) -> None:
        """More to run, behind all others. Units are read when they are handed out."""
        self._unread = chain(self._unread, units)

    @property
    def finished(self) -> bool:
        """Whether every unit has its result."""
        return not self._holders and not self._more()

    def held(self, worker: W) -> list[Unit]:
        """The units that it has, oldest first."""
        return list(self._held[worker].units)

    def join(self, worker: W) -> None:
        """A worker is there, with nothing to do yet."""
        assert worker not in self._held
        self._held[worker] = Held()

    def leave(self, worker: W) -> list[Unit]:
        """A worker is lost, if it had joined. Returns what waits again: its units, but for those with a copy."""
        lost = self._held.pop(worker, Held())
        back = [unit for unit in lost.units if unit in self._single]
        for unit in lost.units:
            self._let_go(unit, worker)
        self._waiting.extendleft(reversed(back))
        return back

    def done(self, worker: W, unit: Unit) -> bool:
        """A worker brings the result of a unit: whether it is the first, and to be kept."""
        if worker not in self._holders.get(unit, ()):
            return False  # finished elsewhere: the order to drop it was still on its way
        for holder in list(self._holders[unit]):
            self._let_go(unit, holder)
            del self._held[holder].units[unit]
            if holder != worker:
                self._held[holder].drop.append(unit)
        return True

    def give(self, worker: W, starved: bool = False) -> Order:
        """What to tell a worker now. `starved`: slots stood idle with all that it has; it gets a unit in any case."""
        held = self._held[worker]
        if starved:
            held.ahead = min(2 * held.ahead, MOST_AHEAD)
        drop, held.drop = held.drop, []
        run: list[Unit] = []
        while self._more() and ((starved and not run) or offered(held.units, self._in_turn) < held.ahead * self._slots):
            run.append(self._hand(self._waiting.popleft(), worker))
        if not held.units and (unit := self._to_copy()) is not None:
            log.info("%s a second time, on %s: nothing waits, and it has run dry", unit.name, worker)
            run.append(self._hand(unit, worker))
        return Order(drop, run, self._more())

    def _more(self) -> bool:
        """Whether a unit waits."""
        if not self._waiting:
            self._waiting.extend(islice(self._unread, 1))
        return bool(self._waiting)

    def _hand(self, unit: Unit, worker: W) -> Unit:
        self._held[worker].units[unit] = None
        if unit in self._holders:
            del self._single[unit]
        else:
            self._single[unit] = worker
        self._holders.setdefault(unit, []).append(worker)
        return unit

    def _let_go(self, unit: Unit, worker: W) -> None:
        holders = self._holders[unit]
        holders.remove(worker)
        if holders:
            self._single[unit] = holders[0]
        else:
            del self._holders[unit], self._single[unit]

    def _to_copy(self) -> Unit | None:
        """Of the worker with the most units that have no copy (among equals, of the oldest) the last: it has done the
        least of that one."""
        units_of: dict[W, list[Unit]] = {}
        for unit, holder in self._single.items():
            units_of.setdefault(holder, []).append(unit)
        return max(units_of.values(), key=len)[-1] if units_of and self._copies else None
