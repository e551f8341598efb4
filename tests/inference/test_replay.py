"""Replaying records equals running the network again, bit for bit, for every policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.records import Records, concatenate
from eqr_ray.inference.replay import Trace, every_segment, replay
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit
from tests.inference import naive
from tests.inference.fake import FakeNetwork, puzzles
from tests.inference.same import assert_same

INPUTS = puzzles(9)
WHOLE = Settings(depth=10, breadth=4, seed=2)


@pytest.fixture(autouse=True)
def a_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eqr_ray.inference.policies.task_named", lambda name: naive.FirstToken())


def run(settings: Settings, first: int = 0) -> Records:
    engine = BreadthEngine(FakeNetwork(), settings, 16)
    units = [Unit(first, len(INPUTS), 0, settings.breadth)]
    return concatenate([rows for report in run_units(engine, units, INPUTS) for _, rows in report.finished])


RECORDED = run(every_segment(WHOLE))


@pytest.mark.parametrize("policy", ["full", "halt", "settle", "sequential", "race", "verify"])
@hypothesis_settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_replay_is_the_run(policy: str, data: st.DataObject) -> None:
    settings = Settings(
        depth=data.draw(st.integers(1, WHOLE.depth)),
        breadth=data.draw(st.integers(1, WHOLE.breadth)),
        seed=WHOLE.seed,
        policy=policy,
        settle_below=data.draw(st.sampled_from([0.02, 0.08, 0.2])),
        settle_for=data.draw(st.integers(1, 3)),
        budget=data.draw(st.sampled_from([None, 5, 17])) if policy == "sequential" else None,
        verifier="fake" if policy == "verify" else "",
    )
    assert_same(replay(Trace(RECORDED), settings, INPUTS), run(settings))


def test_a_block_of_the_records_is_enough() -> None:
    settings = WHOLE.replace(policy="settle", settle_below=0.1)
    block = RECORDED.take((RECORDED.puzzle >= 4) & (RECORDED.puzzle < 7))
    expected = run(settings)
    assert_same(replay(Trace(block), settings), expected.take((expected.puzzle >= 4) & (expected.puzzle < 7)))


def test_what_was_not_recorded_cannot_be_replayed() -> None:
    with pytest.raises(UserError, match="depth=11 is more than the 10 that were recorded"):
        replay(Trace(RECORDED), WHOLE.replace(depth=11))
    with pytest.raises(UserError, match="record with policy=full and a snapshot at every segment"):
        Trace(RECORDED.take(RECORDED.segments != 3))
