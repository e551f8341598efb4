"""Stages: a run that is widened, and one common budget, against runs that knew from the beginning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.inference.breadth_rounds import Stages, allowance, first_units
from eqr_ray.inference.engine import Engine, run_units
from eqr_ray.inference.policies import policy_named
from eqr_ray.inference.record_dir import RunFolder
from eqr_ray.inference.records import SETTLED, Records, concatenate
from eqr_ray.inference.settings import Settings
from tests.inference.fake import FakeNetwork, puzzles
from tests.inference.same import assert_same

INPUTS = puzzles(40)
SEQUENTIAL = Settings(depth=8, breadth=6, seed=1, policy="sequential", settle_below=0.05)


def run(path: Path, settings: Settings, parts: int = 1000) -> Records | None:
    """Run until `parts` parts have been saved here; all records once nothing is missing."""
    kind = policy_named(settings.policy)
    folder = RunFolder(path, dataclasses.asdict(settings), [], kind.widens and settings.budget_total is None)
    folder.units += first_units(len(INPUTS), settings, folder.widths, kind.whole)
    folder.make()
    engine = Engine(FakeNetwork(), settings, 8)
    for _, inputs in Stages(folder, INPUTS, settings, kind.whole):
        for report in run_units(engine, folder.missing(), inputs):
            for unit, rows in report.finished:
                if parts == 0:
                    return None
                folder.save(unit, rows, None)
                parts -= 1
    return concatenate(list(folder.blocks()))


@pytest.mark.parametrize("policy", ["full", "settle", "halt", "sequential"])
def test_a_widened_run_equals_a_wide_one(tmp_path: Path, policy: str) -> None:
    wide = dataclasses.replace(SEQUENTIAL, policy=policy)
    whole = run(tmp_path / "wide", wide)
    run(tmp_path / "run", dataclasses.replace(wide, breadth=1))
    kept = {path: path.read_bytes() for path in (tmp_path / "run" / "records").iterdir()}
    assert run(tmp_path / "run", dataclasses.replace(wide, breadth=4), parts=2) is None  # killed, and left at that
    widened = run(tmp_path / "run", wide)
    assert whole is not None
    assert widened is not None
    assert_same(widened, whole)
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_run_is_not_made_narrower(tmp_path: Path) -> None:
    run(tmp_path, SEQUENTIAL)
    with pytest.raises(UserError, match="breadth is 6 there and 3 here"):
        run(tmp_path, dataclasses.replace(SEQUENTIAL, breadth=3))


@pytest.mark.parametrize("policy", ["halving", "race"])
def test_what_compares_restarts_is_not_widened(tmp_path: Path, policy: str) -> None:
    run(tmp_path, dataclasses.replace(SEQUENTIAL, policy=policy, breadth=2))
    with pytest.raises(UserError, match="breadth is 2 there and 6 here"):
        run(tmp_path, dataclasses.replace(SEQUENTIAL, policy=policy))


@pytest.mark.parametrize("budget", [400, 700, 10_000])
def test_a_common_budget_goes_to_the_unanswered(tmp_path: Path, budget: int) -> None:
    settings = dataclasses.replace(SEQUENTIAL, budget_total=budget)
    rows = run(tmp_path / "whole", settings)
    assert rows is not None
    assert rows.segments.sum() <= budget
    everything = run(tmp_path / "free", SEQUENTIAL)
    assert everything is not None
    own = set(zip(everything.puzzle.tolist(), everything.restart.tolist(), strict=True))
    assert set(zip(rows.puzzle.tolist(), rows.restart.tolist(), strict=True)) <= own  # a settled puzzle gets no more
    if budget == 10_000:
        assert_same(rows, everything)
    else:  # what is left would not pay for one more trajectory each
        answered = np.unique(rows.puzzle[rows.status == SETTLED])
        assert len(answered) < len(INPUTS)
    while (again := run(tmp_path / "killed", settings, parts=30)) is None:
        pass
    assert_same(again, rows)


def test_a_common_budget_pays_for_one_restart_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="budget_total=319 is not allowed: at least 320, one restart of depth=8"):
        run(tmp_path, dataclasses.replace(SEQUENTIAL, budget_total=319))


@given(st.integers(0, 5000), st.integers(1, 50), st.integers(1, 20))
def test_an_allowance_is_never_more_than_there_is(budget: int, unanswered: int, start: int) -> None:
    settings = Settings(depth=8, breadth=32, policy="sequential")
    each, asked = allowance(budget, unanswered, start, settings)
    assert 0 <= each * asked * settings.depth <= budget
    assert 0 <= asked <= unanswered
    assert start + each <= settings.breadth
    assert asked == unanswered or (asked + 1) * settings.depth > budget
