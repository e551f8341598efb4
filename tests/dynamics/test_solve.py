"""The solver on maps whose fixed points are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.dynamics.solve import State, solve


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.9, 0.9), min_size=1, max_size=5), st.floats(0.5, 3.0))
def test_affine_maps_reach_their_fixed_point(rates: list[float], b: float) -> None:
    a = torch.tensor(rates, dtype=torch.float64).view(-1, 1)

    def step(z: State, k: int) -> State:
        return (a * z[0] + b,)

    (z_star,), info = solve(step, (torch.zeros(len(rates), 3, dtype=torch.float64),), depth=500, tol=1e-9)
    torch.testing.assert_close(z_star, (b / (1 - a)).expand(-1, 3), rtol=1e-7, atol=0)
    assert info.settled.all()
    assert (info.residual <= 1e-9).all()


def test_each_row_stops_by_itself_and_keeps_its_state() -> None:
    a = torch.tensor([0.0, 0.5, 0.99])
    calls = []

    def step(z: State, k: int) -> State:
        calls.append(k)
        return (a.view(-1, 1) * z[0] + 1.0,)

    (z_star,), info = solve(step, (torch.zeros(3, 2),), depth=40, tol=1e-4, window=1)
    assert calls == list(range(40))
    assert info.settled.tolist() == [True, True, False]
    # row 0 moves in step 1 and rests in step 2; row 1 moves by 2^-k / 2 relative after k + 1 steps: 1e-4 needs 14
    assert info.steps.tolist() == [2, 14, 40]
    torch.testing.assert_close(z_star[1], torch.full((2,), 2 - 2.0**-13))
    torch.testing.assert_close(z_star[2], torch.full((2,), (1 - 0.99**40) / 0.01))


def test_patience_asks_for_several_calm_steps() -> None:
    def step(z: State, k: int) -> State:
        return z

    for patience in (1, 2, 5):
        _, info = solve(step, (torch.ones(1, 2),), depth=10, patience=patience)
        assert info.steps.tolist() == [patience]


def test_states_of_several_tensors_and_the_step_number() -> None:
    def step(z: State, k: int) -> State:
        return z[0] + 10.0**k, z[1] * 2

    (x, y), info = solve(step, (torch.zeros(1, 1), torch.ones(1, 4)), depth=3)
    assert (x.item(), y[0].tolist()) == (111.0, [8.0] * 4)
    assert info.steps.tolist() == [3]
    assert math.isfinite(info.residual.item())


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"depth": 1, "patience": 0}, {"depth": 1, "tol": -1.0}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least"):
        solve(lambda z, k: z, (torch.zeros(1, 1),), **wrong)
