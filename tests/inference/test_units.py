"""The division of huge jobs: a part is a file, and some ten thousand of them are enough; the last ones are smaller."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eqr_ray.inference.units import FINER, MOST_UNITS, UNIT_SEGMENTS, Unit, plan

MOST = MOST_UNITS + 2 * FINER  # what rounding to whole puzzles may add


def assert_tiles(units: list[Unit], puzzles: int, breadth: int) -> None:
    """Every (puzzle, restart) is in one unit, and units come in the order of both."""
    assert sum(unit.rows for unit in units) == puzzles * breadth
    assert (units[0].first, units[0].restart_first) == (0, 0)
    assert (units[-1].last, units[-1].restart_last) == (puzzles, breadth)
    for one, following in pairwise(units):
        if one.restart_last == breadth:
            assert (following.first, following.restart_first) == (one.last, 0)
        else:
            assert (following.first, following.last) == (one.first, one.last)
            assert following.restart_first == one.restart_last


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("puzzles", "breadth", "depth"),
    [(422_786, 128, 64), (10_000_000, 128, 64), (9_999, 300, 1024), (3, 1_000_000, 64), (70_000, 500, 1)],
)
def test_a_huge_job_has_few_units(puzzles: int, breadth: int, depth: int, whole: bool) -> None:
    units = plan(puzzles, breadth, depth, whole=whole)
    assert len(units) <= MOST
    assert_tiles(units, puzzles, breadth)
    if not whole:
        assert len(units) > MOST_UNITS // 2 or units[0].rows * depth <= UNIT_SEGMENTS


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 3_000), st.sampled_from([1, 16, 1024]), st.booleans())
def test_any_job_has_few_units(puzzles: int, breadth: int, depth: int, whole: bool) -> None:
    units = plan(puzzles, breadth, depth, whole=whole)
    assert len(units) <= MOST
    assert_tiles(units, puzzles, breadth)
    assert not whole or all(unit.rows == unit.puzzles * breadth for unit in units)


def test_the_last_units_are_smaller() -> None:
    units = plan(1_000, 8, 16, whole=False)
    assert [unit.puzzles for unit in units[:12]] == [62] * 12
    assert {unit.puzzles for unit in units[12:-1]} == {16}
    assert units[12].first == 744


def test_no_puzzles_make_no_units() -> None:
    assert plan(0, 4, 16, whole=False) == []
