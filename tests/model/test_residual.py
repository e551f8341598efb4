"""Residuals against plain loops."""

from __future__ import annotations

import math

import numpy as np
import torch

from eqr_ray.model.residual import WINDOW, RunningMean, latent_change, logit_change


def test_logit_change_is_the_mean_over_positions_of_the_norm_over_the_vocabulary() -> None:
    generator = np.random.default_rng(0)
    new, old = generator.normal(size=(2, 4, 7, 5))
    expected = [np.mean([math.dist(new[b, t], old[b, t]) for t in range(7)]) for b in range(4)]
    np.testing.assert_allclose(logit_change(torch.tensor(new), torch.tensor(old)), expected, rtol=1e-12)


def test_latent_change_is_relative_over_both_states() -> None:
    old = (torch.zeros(2, 3, 4), torch.ones(2, 3, 4))
    new = (torch.full((2, 3, 4), 2.0), torch.ones(2, 3, 4))
    expected = math.sqrt(12 * 4 / (12 * 4 + 12))
    torch.testing.assert_close(latent_change(new, old), torch.full((2,), expected))


def test_latent_change_of_a_state_at_zero_is_zero_and_of_an_empty_one_counts_nothing() -> None:
    zero, empty = torch.zeros(2, 3, 4), torch.zeros(2, 0, 4)
    assert latent_change((zero, empty), (zero, empty)).tolist() == [0.0, 0.0]


def test_latent_change_in_bfloat16_is_computed_in_float32() -> None:
    old = torch.ones(1, 100, 100, dtype=torch.bfloat16)
    new = old.clone()
    new[0, 0, 0] = 1.0078125  # one unit in the last place, at one of 10,000 entries
    change = latent_change((new,), (old,))
    assert change.dtype == torch.float32
    torch.testing.assert_close(change, torch.tensor([0.0078125 / 100]), rtol=1e-3, atol=0)


def test_running_mean_is_that_of_the_last_window() -> None:
    values = torch.rand(10, 4)
    running = RunningMean(4, torch.device("cpu"))
    assert running.mean().tolist() == [math.inf] * 4
    for k, value in enumerate(values):
        running.push(value)
        torch.testing.assert_close(running.mean(), values[max(0, k + 1 - WINDOW) : k + 1].mean(dim=0))


def test_running_mean_forgets_rows_that_are_reset_and_leaves_out_rows_that_are_masked() -> None:
    running = RunningMean(3, torch.device("cpu"))
    for _ in range(4):
        running.push(torch.tensor([1.0, 2.0, 3.0]))
    running.reset(torch.tensor([0, 2]))
    running.push(torch.tensor([10.0, 5.0, 30.0]), torch.tensor([True, True, False]))
    assert running.mean().tolist() == [10.0, 3.0, math.inf]
    running.push(torch.tensor([20.0, 5.0, 40.0]))
    assert running.mean().tolist() == [15.0, 4.0, 40.0]


def test_a_nan_stays_visible_until_the_row_is_reset() -> None:
    running = RunningMean(2, torch.device("cpu"))
    running.push(torch.tensor([math.nan, 1.0]))
    assert math.isnan(running.mean()[0])
    running.reset(torch.tensor([0]))
    running.push(torch.tensor([4.0, 1.0]))
    assert running.mean().tolist() == [4.0, 1.0]
