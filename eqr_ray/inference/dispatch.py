"""Who runs which unit: one queue, workers that ask, the last units run twice, and races divided among workers.

A worker comes back with results, or because it has a slot to spare, and is then given units: so slow workers take
fewer, and new ones join in at any time. Units are read as they are needed; what a lost worker had goes back to the
front. When nothing waits any more, a worker that has run dry gets a copy of a unit that another one still has: the
first result counts, and the other worker is told to drop the unit. Records are a function of the unit alone, so it does
not matter whose they are.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

from eqr_ray.inference.policies import Policy, Race, Win
from eqr_ray.inference.records import SETTLED, Records, concatenate
from eqr_ray.inference.units import Unit, offered

AHEAD = 2  # trajectories per slot that a worker is given at first ...
MOST_AHEAD = 16  # ... and at most before it asks for more: doubled whenever slots stood idle
CALL_S = 1.0  # a worker reports at least this often, unless ...
REPORTS_PER_S = 100  # ... there are so many that a driver would be busy with reports alone (some 2 ms each)

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


class Dispatcher:
    """Hands out units to workers of `slots` slots each; of every unit that is added one result is kept.

    `in_turn` as in `offered`. A unit is with two workers at most, and with one where not `copies`.
    """

    def __init__(self, slots: int, in_turn: bool, copies: bool = True) -> None:
        self._slots, self._in_turn, self._copies = slots, in_turn, copies
        self._unread: Iterator[Unit] = iter(())
        self._waiting: deque[Unit] = deque()  # returned by lost workers, and at most one that was read ahead
        self._held: dict[Hashable, Held] = {}  # by worker

    def add(self, units: Iterable[Unit]) -> None:
        """More to run, behind all others. Units are read when they are handed out."""
        self._unread = chain(self._unread, units)

    @property
    def finished(self) -> bool:
        """Whether every unit has its result."""
        return not any(held.units for held in self._held.values()) and not self._more()

    def held(self, worker: Hashable) -> list[Unit]:
        """The units that it has, oldest first."""
        return list(self._held[worker].units)

    def join(self, worker: Hashable) -> None:
        """A worker is there, with nothing to do yet."""
        assert worker not in self._held
        self._held[worker] = Held()

    def leave(self, worker: Hashable) -> list[Unit]:
        """A worker is lost, if it had joined. Returns what waits again: its units, but for those with a copy."""
        lost = self._held.pop(worker, Held())
        back = [unit for unit in lost.units if not any(unit in held.units for held in self._held.values())]
        self._waiting.extendleft(reversed(back))
        return back

    def done(self, worker: Hashable, unit: Unit) -> bool:
        """A worker brings the result of a unit: whether it is the first, and to be kept."""
        if worker not in self._held or unit not in self._held[worker].units:
            return False  # finished elsewhere: the order to drop it was still on its way
        for holder, held in self._held.items():
            if unit in held.units:
                del held.units[unit]
                if holder != worker:
                    held.drop.append(unit)
        return True

    def give(self, worker: Hashable, starved: bool = False) -> Order:
        """What to tell a worker now. `starved`: slots stood idle with all that it has; it gets a unit in any case."""
        held = self._held[worker]
        if starved:
            held.ahead = min(2 * held.ahead, MOST_AHEAD)
        drop, held.drop = held.drop, []
        run: list[Unit] = []
        while self._more() and ((starved and not run) or offered(held.units, self._in_turn) < held.ahead * self._slots):
            run.append(self._waiting.popleft())
            held.units[run[-1]] = None
        if not held.units and self._copies and (unit := self._last_of_most()) is not None:
            log.info("%s a second time, on %s: nothing waits, and it has run dry", unit.name, worker)
            run.append(unit)
            held.units[unit] = None
        return Order(drop, run, self._more())

    def _more(self) -> bool:
        """Whether a unit waits."""
        if not self._waiting:
            self._waiting.extend(islice(self._unread, 1))
        return bool(self._waiting)

    def _last_of_most(self) -> Unit | None:
        """Of the worker with the most units that have no copy the last: it has done the least of that one."""
        holders = Counter(chain.from_iterable(held.units for held in self._held.values()))
        single = [[unit for unit in held.units if holders[unit] == 1] for held in self._held.values()]
        most = max(single, key=len)
        return most[-1] if most else None


@dataclass
class Divided:
    """A unit in shards: the records of those that are back, how many are not, and who is first so far."""

    unit: Unit
    missing: int
    back: list[Records] = field(default_factory=list)
    win: Win | None = None


class ShardedRace:
    """Divides units of one puzzle and puts them together again; other units, and other policies', pass as they are."""

    def __init__(self, policy: Policy, slots: int) -> None:
        self._policy, self._slots = policy, slots
        self._of: dict[Unit, Divided] = {}  # by shard

    @property
    def open(self) -> bool:
        """Whether there are shards that are not back."""
        return bool(self._of)

    def shards(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """What to hand out; units are read as they are needed."""
        for unit in units:
            starts = range(unit.restart_first, unit.restart_last, self._slots)
            if unit.puzzles > 1 or len(starts) == 1 or self._policy.restarts is not Race:
                yield unit
                continue
            ends = (*starts[1:], unit.restart_last)
            shards = [Unit(unit.first, unit.last, *restarts) for restarts in zip(starts, ends, strict=True)]
            self._of.update(dict.fromkeys(shards, Divided(unit, len(shards))))
            yield from shards

    def merged(self, shard: Unit, rows: Records) -> list[tuple[Unit, Records]]:
        """A shard is back: the unit that this completes, if it does, with its records."""
        if shard not in self._of:
            return [(shard, rows)]
        divided = self._of.pop(shard)
        divided.back.append(rows)
        divided.missing -= 1
        won = rows.take(rows.status == SETTLED)
        wins = [Win(*win) for win in zip(won.segments.tolist(), won.restart.tolist(), strict=True)]
        divided.win = min(wins + ([divided.win] if divided.win else []), default=None)
        if divided.missing:
            return []
        return [(divided.unit, Race.resolve(concatenate(divided.back).in_order(), SETTLED))]

    def wins(self, shards: Iterable[Unit]) -> list[tuple[Unit, Win]]:
        """Which of these are beaten by a restart of another shard, and by whom."""
        return [(one, win) for one in shards if one in self._of and (win := self._of[one].win) is not None]
