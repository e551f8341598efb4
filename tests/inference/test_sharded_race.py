"""A puzzle's restarts over several engines: whoever steps and is told when, the rows of one engine come out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eqr_ray.inference.dispatch import ShardedRace
from eqr_ray.inference.engine import BreadthEngine
from eqr_ray.inference.policies import POLICIES, Win
from eqr_ray.inference.records import CANCELLED, SETTLED, Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit
from tests.inference import naive
from tests.inference.fake import FakeNetwork, puzzles
from tests.inference.same import assert_same

SLOTS = 4
RACE = Settings(depth=16, breadth=10, seed=1, policy="race", settle_below=0.05)
INPUTS = puzzles(4)
UNITS = [Unit(puzzle, puzzle + 1, 0, 10) for puzzle in range(4)]
EXPECTED = naive.run(FakeNetwork(), RACE, INPUTS)


@dataclass
class Place:
    """An engine and the shards that it has."""

    engine: BreadthEngine = field(default_factory=lambda: BreadthEngine(FakeNetwork(), RACE, SLOTS))
    shards: list[Unit] = field(default_factory=list)


def carry_out(order: st.DataObject, places: list[Place], tell: bool = True) -> Records:
    """All units over these places; `order` draws who is given what, who steps, and who is told of wins."""
    race, parts = ShardedRace(POLICIES["race"], SLOTS), []
    for shard in race.shards(UNITS):
        place = order.draw(st.sampled_from(places))
        place.engine.add(shard, INPUTS[shard.first : shard.last])
        place.shards.append(shard)
    while race.open:
        place = order.draw(st.sampled_from([place for place in places if place.shards]))
        if tell and order.draw(st.booleans()):
            for shard, win in race.wins(place.shards):
                place.engine.beaten(shard, shard.first, win)
        for shard, rows in place.engine.step():
            place.shards.remove(shard)
            parts += race.merged(shard, rows)
    assert sorted(unit for unit, _ in parts) == UNITS
    return concatenate([rows for _, rows in parts]).in_order()


@given(st.data(), st.integers(1, 4))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_rows_do_not_tell_where_a_puzzle_ran(data: st.DataObject, count: int) -> None:
    assert_same(carry_out(data, [Place() for _ in range(count)]), EXPECTED)


def test_the_expected_rows_are_worth_comparing() -> None:
    won = EXPECTED.status == SETTLED
    assert EXPECTED.puzzle[won].tolist() == [1, 2, 3]  # of puzzle 0 no restart settles
    assert EXPECTED.restart[won].tolist() == [1, 6, 6]  # in the first shard and in the second
    assert (EXPECTED.status == CANCELLED).sum() == 9 * 3


def test_who_is_told_stops_sooner() -> None:
    """One step each in turn: the last shards end with the winner, or run on to their own end."""

    def spent(tell: bool) -> int:
        race, places = ShardedRace(POLICIES["race"], SLOTS), [Place(), Place(), Place()]
        for place, shard in zip(places, race.shards(UNITS[1:2]), strict=True):
            place.engine.add(shard, INPUTS[1:2])
            place.shards.append(shard)
        while race.open:
            for place in places:
                for shard, win in race.wins(place.shards) if tell else ():
                    place.engine.beaten(shard, 1, win)
                for shard, rows in place.engine.step():
                    place.shards.remove(shard)
                    race.merged(shard, rows)
        return sum(place.engine.row_segments for place in places)

    first = int(EXPECTED.segments[EXPECTED.puzzle == 1].min())
    assert 10 * first <= spent(tell=True) <= 10 * (first + 1)
    assert spent(tell=True) < spent(tell=False)


def test_a_shard_that_has_not_begun_heeds_the_winner_too() -> None:
    engine, shard = BreadthEngine(FakeNetwork(), RACE, SLOTS), Unit(1, 2, 4, 8)
    engine.add(shard, INPUTS[1:2])
    engine.beaten(shard, 1, Win(restart=1, segments=10))
    while not engine.idle:
        engine.step()
    assert engine.row_segments == 4 * 9  # in the tenth segment they would come behind restart 1


def test_units_of_several_puzzles_and_other_policies_are_not_divided() -> None:
    both = [Unit(0, 2, 0, 10), Unit(2, 3, 0, 3)]
    assert list(ShardedRace(POLICIES["race"], SLOTS).shards(both)) == both
    full = ShardedRace(POLICIES["full"], SLOTS)
    assert list(full.shards(UNITS)) == UNITS
    assert not full.open
    rows = EXPECTED.take(np.flatnonzero(EXPECTED.puzzle == 0))
    assert full.merged(UNITS[0], rows) == [(UNITS[0], rows)]
