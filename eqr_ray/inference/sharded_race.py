"""One puzzle on several workers: its restarts are divided, and the first of them to settle ends all the others.

Why here: with few puzzles and many restarts, a race that stays in one place leaves the other workers idle. Units of one
puzzle are handed out in shards that fill a worker's slots once. Whoever settles beats the shards of the others, which
then run only while they could still be before it; when all shards are back, the policy keeps the rows that it would
have kept of the whole unit. So the records do not tell where and when anything ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from eqr_ray.inference.policies import FirstToSettle, Policy, Win
from eqr_ray.inference.records import SETTLED, Records, concatenate
from eqr_ray.inference.units import Unit


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
            if unit.puzzles > 1 or len(starts) == 1 or not isinstance(self._policy, FirstToSettle):
                yield unit
                continue
            divided = Divided(unit, len(starts))
            shards = [
                replace(unit, restart_first=start, restart_last=min(start + self._slots, unit.restart_last))
                for start in starts
            ]
            self._of.update(dict.fromkeys(shards, divided))
            yield from shards

    def merged(self, shard: Unit, rows: Records) -> list[tuple[Unit, Records]]:
        """A shard is back: the unit that this completes, if it does, with its records."""
        if shard not in self._of:
            return [(shard, rows)]
        divided = self._of.pop(shard)
        divided.back.append(rows)
        divided.missing -= 1
        won = rows.take(rows.status == SETTLED)
        found = [Win(*win) for win in zip(won.restart.tolist(), won.segments.tolist(), strict=True)]
        known = [divided.win] if divided.win else []
        divided.win = min(found + known, key=lambda win: (win.segments, win.restart), default=None)
        if divided.missing:
            return []
        return [(divided.unit, self._policy.resolve(concatenate(divided.back).in_order()))]

    def wins(self, shards: Iterable[Unit]) -> list[tuple[Unit, Win]]:
        """Which of these are beaten by a restart of another shard, and by whom."""
        open_shards = [(shard, self._of[shard].win) for shard in shards if shard in self._of]
        return [(shard, win) for shard, win in open_shards if win is not None]
