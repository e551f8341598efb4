"""Search spaces: what a file may say, and what is drawn from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.search.space import Space, space_of

EVERYTHING = {
    "damping": {"uniform": [0.0, 0.5], "points": 3},
    "noise_scale": {"log": [1e-3, 1.0], "points": 4},
    "model.layers": {"integer": [1, 3]},
    "halting": {"choice": ["learned", "fixed", "oracle"]},
    "max_segments": {"integer": [2, 4], "when": {"halting": ["fixed"]}},
    "schedule": {"choice": ["sot", "trajectory"], "when": {"halting": ["fixed", "oracle"]}},
    "supervise_every": {"integer": [1, 8], "points": 2, "when": {"schedule": ["trajectory"]}},
}
SPACE = space_of(EVERYTHING)
UNITS = st.lists(st.floats(0, 1), min_size=len(EVERYTHING), max_size=len(EVERYTHING))


@given(UNITS)
def test_every_point_is_inside_and_active(units: list[float]) -> None:
    values = SPACE.at(units)
    assert SPACE.check(values, "first[0]") == values
    assert list(values) == [name for name in SPACE.names if name in values]
    assert ("max_segments" in values) == (values["halting"] == "fixed")
    assert ("supervise_every" in values) == (values.get("schedule") == "trajectory")


@given(st.floats(0, 1), st.floats(0, 1))
def test_ranges_are_covered_in_order(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for name in ("damping", "noise_scale", "model.layers"):
        assert SPACE[name].at(low) <= SPACE[name].at(high)


def test_a_logarithmic_range_has_its_middle_between_the_decades() -> None:
    assert SPACE["noise_scale"].at(0.5) == pytest.approx(math.sqrt(1e-3), rel=1e-5)
    assert SPACE["noise_scale"].grid() == [0.001, 0.01, 0.1, 1.0]


def test_a_grid_has_every_combination_once() -> None:
    grid = SPACE.grid()
    by_halting = {"learned": 1, "fixed": 3 * (1 + 2), "oracle": 1 + 2}  # of schedule, supervise_every, max_segments
    assert len(grid) == 3 * 4 * 3 * sum(by_halting.values())
    assert len({str(values) for values in grid}) == len(grid)
    assert all(SPACE.check(values, "grid") == values for values in grid)


def test_every_end_of_every_parameter_is_a_corner() -> None:
    corners = list(SPACE.corners())
    for one in SPACE:
        assert [values[one.name] for name, values in corners if name == one.name] == one.ends()
    assert all(SPACE.check(values, "corner") == values for _, values in corners)


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("a", 3, "space.a=3: expected e.g. {uniform: [0.0, 1.0]}"),
        ("a", {"unifrom": [0, 1]}, "unknown key 'space.a.unifrom'; did you mean 'space.a.uniform'?"),
        ("a", {"uniform": [0, 1], "log": [1, 2]}, "exactly one of uniform, log, integer, choice is needed, not 2"),
        ("a", {"points": 2}, "not 0"),
        ("a", {"uniform": [1, 0]}, "space.a.uniform=[1.0, 0.0]: expected [lowest, highest]"),
        ("a", {"uniform": [0, "1"]}, 'space.a.uniform[1]="1" is not allowed: should be a valid number'),
        ("a", {"uniform": [0, math.inf]}, "uniform[1]=Infinity is not allowed: should be a finite number"),
        ("a", {"log": [0, 1]}, "expected [lowest, highest], above 0"),
        ("a", {"integer": [0, 1.5]}, "space.a.integer[1]=1.5 is not allowed: should be a valid integer"),
        ("a", {"choice": []}, "expected one value or more"),
        ("a", {"choice": [1, 1]}, "each once"),
        ("a", {"uniform": [0, 1], "points": 0}, "space.a.points=0: expected 1 or more"),
        ("a", {"uniform": [0, 1], "when": {"b": [1]}}, "space.a.when.b: no choice of this name stands before it"),
        ("a", {"uniform": [0, 1], "when": {"kind": ["z"]}}, 'space.a.when.kind="z": expected one of ["x", "y"]'),
    ],
)
def test_mistakes_are_named(name: str, entry: object, words: str) -> None:
    with pytest.raises(UserError) as error:
        space_of({"kind": {"choice": ["x", "y"]}, name: entry})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "x", "lenght": 1}, "first[0]: unknown key 'lenght'; did you mean 'length'?"),
        ({}, 'first[0]: kind is missing (one of ["x", "y"])'),
        ({"kind": "x"}, "first[0]: length is missing (1 .. 4)"),
        ({"kind": "x", "length": 5}, "first[0]: length=5: expected 1 .. 4"),
        ({"kind": "x", "length": 1.5}, "first[0]: length=1.5: expected 1 .. 4"),
        ({"kind": "y", "length": 2}, "first[0]: length does not go with the other values: kind is x"),
    ],
)
def test_points_outside_are_named(values: dict, words: str) -> None:
    space = space_of({"kind": {"choice": ["x", "y"]}, "length": {"integer": [1, 4], "when": {"kind": ["x"]}}})
    with pytest.raises(UserError) as error:
        space.check(values, "first[0]")
    assert words in str(error.value)


def test_a_range_without_points_is_no_grid() -> None:
    space: Space = space_of({"a": {"log": [1, 10]}})
    with pytest.raises(UserError, match=r"space\.a has no points"):
        space.grid()
    assert space_of({"a": {"log": [1, 100], "points": 1}}).grid() == [{"a": 10.0}]
