"""Who runs which unit: whatever comes, goes and finishes when, every unit is kept once and the run ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eqr_ray.inference.dispatch import Dispatcher, Order
from eqr_ray.inference.units import Unit

SLOTS = 4
UNITS = [Unit(puzzle, puzzle + 1, 0, SLOTS) for puzzle in range(100)]  # each fills the slots once


def dispatcher(count: int, *workers: str, copies: bool = True) -> Dispatcher:
    made = Dispatcher(SLOTS, in_turn=False, copies=copies)
    made.add(UNITS[:count])
    for worker in workers:
        made.join(worker)
    return made


def test_units_are_read_as_they_are_needed() -> None:
    read: list[Unit] = []

    def units() -> Iterator[Unit]:
        for unit in UNITS:
            read.append(unit)
            yield unit

    queue = dispatcher(0, "a")
    queue.add(units())
    assert queue.give("a") == Order([], UNITS[:2], True)
    assert len(read) == 3  # one ahead, to know whether there are more
    assert queue.give("a") == Order([], [], True)
    assert queue.done("a", UNITS[0])
    assert queue.give("a").run == [UNITS[2]]


def test_a_worker_with_idle_slots_is_given_more() -> None:
    queue = dispatcher(100, "a", "b")
    assert len(queue.give("a").run) == 2
    assert len(queue.give("a", starved=True).run) == 2
    assert len(queue.give("a", starved=True).run) == 4
    assert queue.done("a", UNITS[0])
    assert len(queue.give("a").run) == 1  # it is kept at so many
    assert len(queue.give("b").run) == 2  # each its own
    for _ in range(20):
        assert queue.give("b", starved=True).run  # whatever it has, all of that has been started
    for unit in list(UNITS):
        queue.done("b", unit)
    assert len(queue.give("b").run) == 16  # and no more without being asked


def test_a_unit_that_covers_the_slots_many_times_is_enough() -> None:
    queue = Dispatcher(SLOTS, in_turn=False)
    queue.add([Unit(0, 16, 0, SLOTS), Unit(16, 32, 0, SLOTS), Unit(32, 48, 0, SLOTS)])
    queue.join("a")
    assert len(queue.give("a").run) == 1
    assert queue.give("a").run == []
    assert len(queue.give("a", starved=True).run) == 1
    assert len(queue.give("a", starved=True).run) == 1


def test_where_restarts_follow_each_other_puzzles_count() -> None:
    queue = Dispatcher(SLOTS, in_turn=True)
    queue.add(UNITS)
    queue.join("a")
    assert len(queue.give("a").run) == 2 * SLOTS


def test_units_may_be_added_when_all_are_done() -> None:
    queue = dispatcher(1, "a", "b")
    queue.give("a")
    assert queue.give("b").run == UNITS[:1]
    assert queue.done("a", UNITS[0])
    assert queue.finished
    queue.add(UNITS[1:3])
    assert not queue.finished
    assert queue.give("b") == Order(UNITS[:1], UNITS[1:3], False)


def test_what_a_lost_worker_had_goes_first() -> None:
    queue = dispatcher(6, "a", "b")
    assert (queue.give("a").run, queue.give("b").run) == (UNITS[:2], UNITS[2:4])
    assert queue.done("a", UNITS[0])
    assert queue.leave("a") == [UNITS[1]]
    assert queue.leave("never there") == []
    assert not queue.done("a", UNITS[1])  # too late
    assert queue.done("b", UNITS[2])
    assert queue.done("b", UNITS[3])
    assert queue.give("b").run == [UNITS[1], UNITS[4]]
    assert not queue.finished


def test_the_first_of_two_results_counts_and_the_other_worker_drops_the_unit() -> None:
    queue = dispatcher(2, "slow", "dry")
    assert queue.give("slow") == Order([], UNITS[:2], False)
    assert queue.give("dry").run == [UNITS[1]]  # the one that `slow` has done least of
    assert queue.give("dry").run == []
    assert queue.done("dry", UNITS[1])
    assert queue.give("dry").run == [UNITS[0]]
    assert queue.give("slow") == Order([UNITS[1]], [], False)
    assert not queue.done("slow", UNITS[1])  # it had just finished when it was told
    assert queue.done("slow", UNITS[0])
    assert queue.finished
    assert queue.held("dry") == []
    assert queue.give("dry") == Order([UNITS[0]], [], False)


def test_a_copy_is_of_the_worker_with_most_ahead_and_then_of_the_oldest_unit() -> None:
    queue = dispatcher(5, "a", "b", "c", "d", "e")
    for worker in "abc":
        queue.give(worker)  # 2, 2 and 1 units
    assert queue.done("a", UNITS[0])
    assert queue.give("d").run == [UNITS[3]]  # of b's two
    assert queue.give("e").run == [UNITS[1]]  # a, b and c have one left each: a's was given first
    assert queue.leave("a") == []  # e has the copy
    assert queue.leave("e") == [UNITS[1]]


def test_without_copies_a_dry_worker_waits() -> None:
    queue = dispatcher(2, "a", "b", copies=False)
    queue.give("a")
    assert queue.give("b") == Order([], [], False)


class AnyOrder(RuleBasedStateMachine):
    """Workers as they may behave: each has what it was given and not told to drop, and finishes it in any order."""

    @initialize(count=st.integers(0, 12), copies=st.booleans())
    def begin(self, count: int, copies: bool) -> None:
        self.most, self.units = 1 + copies, UNITS[:count]
        self.queue = Dispatcher(SLOTS, in_turn=False, copies=copies)
        self.queue.add(iter(self.units))
        self.engines: dict[int, list[Unit]] = {}
        self.joined, self.kept = 0, Counter[Unit]()

    @rule()
    def join(self) -> None:
        self.queue.join(self.joined)
        self.engines[self.joined] = []
        self.joined += 1

    @precondition(lambda self: self.engines)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.engines)))
        back = self.queue.leave(worker)
        assert set(back) <= set(self.engines.pop(worker))

    @precondition(lambda self: self.engines)
    @rule(data=st.data(), starved=st.booleans())
    def give(self, data: st.DataObject, starved: bool) -> None:
        self.order(data.draw(st.sampled_from(sorted(self.engines))), starved)

    @precondition(lambda self: any(self.engines.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(worker for worker, units in self.engines.items() if units)))
        self.result(worker, data.draw(st.sampled_from(self.engines[worker])))

    def order(self, worker: int, starved: bool) -> None:
        engine, order = self.engines[worker], self.queue.give(worker, starved)
        for unit in order.drop:
            assert self.kept[unit] == 1
            if unit in engine:
                engine.remove(unit)
        assert not set(order.run) & set(engine)
        engine += order.run

    def result(self, worker: int, unit: Unit) -> None:
        self.engines[worker].remove(unit)
        kept = self.queue.done(worker, unit)
        assert kept == (self.kept[unit] == 0)
        self.kept[unit] += kept

    @invariant()
    def few_copies_of_what_is_not_finished(self) -> None:
        running = Counter(unit for units in self.engines.values() for unit in units if not self.kept[unit])
        assert max(running.values(), default=0) <= self.most
        assert max(self.kept.values(), default=0) <= 1

    def teardown(self) -> None:
        """Whatever has happened: workers that finish what they are given bring the run to its end."""
        if not hasattr(self, "queue"):
            return
        if not self.engines:
            self.join()
        for _ in range(2 * len(self.units) + 1):
            for worker in self.engines:
                self.order(worker, False)
            for worker, units in self.engines.items():
                if units:
                    self.result(worker, units[0])
        assert self.queue.finished
        assert self.kept == Counter(self.units)
        for worker in self.engines:
            self.order(worker, False)
        assert not any(self.engines.values())  # what was not kept was dropped


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
