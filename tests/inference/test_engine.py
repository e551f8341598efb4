"""The engine against a plain loop over the same network, bit for bit, whatever the order, breadth and division."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.records import STATUSES, Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit, plan
from tests.inference import naive
from tests.inference.fake import FakeNetwork, L, puzzles
from tests.inference.same import assert_same

WHOLE = ["sequential", "race", "verify"]
IN_TURN = ["sequential", "verify"]
POLICIES = ["full", "halt", "settle", *WHOLE]


@pytest.fixture(autouse=True)
def a_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eqr_ray.inference.policies.task_named", lambda name: naive.FirstToken())


def made(policy: str, snapshots: tuple[int, ...] = (), **values: Any) -> Settings:
    kept = () if policy == "race" else snapshots
    return Settings(policy=policy, snapshots=kept, verifier="fake" if policy == "verify" else "", **values)


def run(settings: Settings, slots: int, inputs: np.ndarray, units: list[Unit] | None = None) -> Records:
    if units is None:
        units = plan(len(inputs), settings.breadth, settings.depth, whole=settings.policy in WHOLE)
    engine = BreadthEngine(FakeNetwork(), settings, slots)
    parts = [rows for report in run_units(engine, units, inputs) for _, rows in report.finished]
    assert len(parts) == len(units)
    return concatenate(parts).in_order()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", [1, 8, 64])
def test_equals_a_plain_loop(policy: str, slots: int) -> None:
    settings = made(policy, depth=9, breadth=3, seed=5, settle_below=0.08, snapshots=(1, 4))
    inputs = puzzles(7)
    expected = naive.run(FakeNetwork(), settings, inputs)
    assert_same(run(settings, slots, inputs), expected)
    statuses = {STATUSES[status] for status in expected.status} - {"running"}
    assert len(statuses) >= (1 if policy == "full" else 2), statuses  # it stopped some trajectories and not others


@pytest.mark.parametrize("policy", IN_TURN)
@pytest.mark.parametrize("budget", [1, 9, 14, 30])
def test_a_budget_is_never_exceeded_and_never_left_while_it_could_help(policy: str, budget: int) -> None:
    settings = made(policy, depth=9, breadth=3, seed=5, settle_below=0.05, budget=budget)
    inputs = puzzles(7)
    rows = run(settings, 8, inputs)
    assert_same(rows, naive.run(FakeNetwork(), settings, inputs))
    for puzzle in range(7):
        mine = rows.take(rows.puzzle == puzzle)
        answered = np.isin(mine.status, [STATUSES.index("settled"), STATUSES.index("accepted")]).any()
        assert mine.segments.sum() <= min(budget, 27)
        assert answered or mine.segments.sum() == min(budget, 27)


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.data())
def test_policies_that_compare_restarts_do_not_depend_on_slots(data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(WHOLE))
    settings = made(
        policy,
        depth=data.draw(st.integers(2, 12)),
        breadth=data.draw(st.integers(1, 6)),
        seed=data.draw(st.integers(0, 5)),
        settle_below=data.draw(st.sampled_from([0.0, 0.05, 0.1, 0.2])),
        snapshots=data.draw(st.sampled_from([(), (1, 2)])),
        budget=data.draw(st.sampled_from([None, 1, 7, 25])) if policy in IN_TURN else None,
    )
    inputs = puzzles(4)
    assert_same(run(settings, data.draw(st.integers(1, 9)), inputs), naive.run(FakeNetwork(), settings, inputs))


def test_idle_slots_run_restarts_ahead() -> None:
    settings, inputs = made("sequential", depth=6, breadth=8, settle_below=0.0), puzzles(3)
    network = FakeNetwork()
    reports = list(run_units(BreadthEngine(network, settings, 24), [Unit(0, 3, 0, 8)], inputs))
    assert len(reports) == network.calls == 6  # instead of 48, one restart after the other
    assert_same(reports[-1].finished[0][1], naive.run(FakeNetwork(), settings, inputs))


@pytest.mark.parametrize("slots", [5, 24])
def test_what_was_run_ahead_and_not_needed_leaves_no_trace(slots: int) -> None:
    settings, inputs = made("sequential", (2,), depth=9, breadth=8, seed=5, settle_below=0.08), puzzles(3)
    engine, unit = BreadthEngine(FakeNetwork(), settings, slots), Unit(0, 3, 0, 8)
    engine.add(unit, inputs)
    finished = []
    while not engine.idle:
        finished += engine.step(ahead=True)
    expected = naive.run(FakeNetwork(), settings, inputs)
    assert_same(finished[0][1], expected)
    ends = expected.take(expected.status != STATUSES.index("running"))
    assert engine.row_segments > ends.segments.sum()  # something was run in vain


def test_nothing_runs_ahead_while_more_is_to_be_had() -> None:
    settings, inputs = made("sequential", depth=6, breadth=8, settle_below=0.0), puzzles(3)
    engine = BreadthEngine(FakeNetwork(), settings, 24)
    engine.add(Unit(0, 3, 0, 8), inputs)
    engine.step()
    assert engine.row_segments == 3


def test_puzzles_may_be_skipped_and_units_dropped() -> None:
    settings, inputs = Settings(depth=4, breadth=2), puzzles(6)
    engine = BreadthEngine(FakeNetwork(), settings, 3)
    some = np.where(np.array([False, True, False, True, False, False])[:, None], inputs, np.uint8(0))
    for first, last in ((0, 3), (3, 4), (4, 6)):
        engine.add(Unit(first, last, 0, 2), some[first:last])
    engine.step()
    engine.drop(Unit(3, 4, 0, 2))
    finished = []
    while not engine.idle:
        finished += engine.step()
    assert [unit.first for unit, _ in finished] == [0, 4]
    assert len(finished[1][1]) == 0
    assert_same(finished[0][1], run(settings, 8, inputs).take(np.array([2, 3])))


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_division_and_order_gives_the_same_rows(data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(POLICIES))
    settings = made(policy, depth=6, breadth=4, seed=3, settle_below=0.15, snapshots=(2,))
    inputs = puzzles(6)
    cuts = sorted({0, 6, *data.draw(st.lists(st.integers(1, 5), max_size=4))})
    units = [Unit(first, last, 0, 4) for first, last in itertools.pairwise(cuts)]
    if policy not in WHOLE:  # restarts may be divided too
        units = [Unit(u.first, u.last, r, r + 2) for u in units for r in (0, 2)]
    units = data.draw(st.permutations(units))
    assert_same(run(settings, data.draw(st.integers(1, 30)), inputs, units), run(settings, 8, inputs))


def test_restart_r_is_the_same_whatever_the_breadth() -> None:
    inputs = puzzles(5)
    wide = run(Settings(depth=7, breadth=8, snapshots=(3,)), 16, inputs)
    narrow = run(Settings(depth=7, breadth=2, snapshots=(3,)), 16, inputs)
    assert_same(wide.take(wide.restart < 2), narrow)


def test_depth_only_adds_segments() -> None:
    inputs = puzzles(4)
    deep = run(Settings(depth=12, breadth=2, snapshots=(5,)), 8, inputs)
    shallow = run(Settings(depth=5, breadth=2), 8, inputs)
    at_5 = deep.take(deep.segments == 5)
    same = dataclasses.replace(at_5, status=shallow.status)  # one went on, the other ended
    assert_same(same, shallow)


def test_other_seeds_give_other_trajectories() -> None:
    one, other = (run(Settings(depth=3, breadth=2, seed=seed), 8, puzzles(4)) for seed in (0, 1))
    assert (one.logit_residual != other.logit_residual).all()
    assert len(np.unique(one.logit_residual)) == len(one)  # restarts and puzzles differ too


def test_padding_never_counts() -> None:
    settings, inputs = Settings(depth=5, breadth=3), puzzles(7)  # 21 trajectories on 8 slots: 3 idle at the end
    network = FakeNetwork()
    engine = BreadthEngine(network, settings, 8)
    reports = list(run_units(engine, plan(7, 3, 5, whole=False), inputs))
    records = concatenate([rows for report in reports for _, rows in report.finished])
    assert len(records) == 21
    assert engine.row_segments == sum(report.row_segments for report in reports) == 21 * 5
    assert network.calls == 15  # three rounds of eight slots, refilled with no pause


def test_slots_are_refilled_across_units() -> None:
    settings = Settings(depth=4, breadth=1)
    network = FakeNetwork()
    units = [Unit(at, at + 1, 0, 1) for at in range(32)]
    list(run_units(BreadthEngine(network, settings, 8), units, puzzles(32)))
    assert network.calls == 32 * 4 / 8


def test_a_diverged_row_says_so_and_leaves_the_others_alone() -> None:
    class Diverging(FakeNetwork):
        def embed(self, inputs_BL):
            embedding = super().embed(inputs_BL)
            return embedding.masked_fill((inputs_BL == 3).all(dim=1).view(-1, 1, 1), float("nan"))

    inputs = puzzles(3)
    inputs[1] = 3
    settings = Settings(depth=4, breadth=2)
    reports = run_units(BreadthEngine(Diverging(), settings, 4), plan(3, 2, 4, whole=False), inputs)
    records = concatenate([rows for report in reports for _, rows in report.finished]).in_order()
    expected = run(settings, 4, inputs)
    well = records.puzzle != 1
    assert_same(records.take(well), expected.take(well))
    bad = records.take(~well)
    assert bad.status.tolist() == [4, 4]
    assert np.isinf(bad.logit_residual).all()
    assert not bad.settled.any()


def test_memory_of_a_trajectory_does_not_grow_with_depth() -> None:
    engine = BreadthEngine(FakeNetwork(), Settings(depth=1024, breadth=1), 2)
    engine.add(Unit(0, 2, 0, 1), puzzles(2))

    def held() -> int:
        slots = vars(engine._slots)
        tensors = [value for value in slots.values() if hasattr(value, "nbytes")]
        tensors += [*slots["_latent"], *slots["_logit_window"]._values, *slots["_latent_window"]._values]
        return sum(tensor.nbytes for tensor in tensors)

    sizes = []
    while not engine.idle:
        finished = engine.step()
        sizes.append(held())
    assert set(sizes[1:]) == {sizes[0]}
    assert len(sizes) == 1024
    assert finished[0][1].segments.tolist() == [1024, 1024]
    assert finished[0][1].prediction.shape == (2, L)
