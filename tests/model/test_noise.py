"""Keyed draws: their distribution, and that they depend on their key alone."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from eqr_ray.model.noise import BYTES_STD, keyed_noise, row_keys, truncated_normal


def eps(keys, call=0, shape=(81, 64)):
    noise = keyed_noise(torch.as_tensor(keys, dtype=torch.int64), 1.0)
    assert noise is not None
    return noise(torch.tensor(call, dtype=torch.int32), torch.empty(len(keys), *shape))


def test_moments_are_those_of_four_bytes():
    x = eps(row_keys(7, torch.arange(400))).double().flatten().numpy()
    n = len(x)
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert x.std() == pytest.approx(1.0, abs=5 / math.sqrt(2 * n))
    assert abs(stats.skew(x)) < 5 * math.sqrt(6 / n)
    assert stats.kurtosis(x, fisher=False) == pytest.approx(2.7, abs=0.01)
    assert np.abs(x).max() <= 510 / BYTES_STD + 1e-6


@pytest.mark.parametrize("other", ["call", "key", "row", "column"])
def test_no_correlation_between_neighbours(other):
    a = eps(row_keys(1, torch.arange(200)))
    b = {
        "call": lambda: eps(row_keys(1, torch.arange(200)), call=1),
        "key": lambda: eps(row_keys(1, torch.arange(1, 201))),
        "row": lambda: a.roll(1, 1),
        "column": lambda: a.roll(1, 2),
    }[other]()
    n = a.numel()
    assert abs(float(np.corrcoef(a.flatten(), b.flatten())[0, 1])) < 5 / math.sqrt(n)


def test_a_row_draws_the_same_in_any_batch():
    keys = row_keys(3, torch.arange(50))
    assert torch.equal(eps(keys)[17:20], eps(keys[17:20]))


def test_no_scale_means_no_noise():
    assert keyed_noise(torch.arange(3), 0.0) is None


def test_starts_are_truncated_normals_of_exact_std():
    x = truncated_normal(row_keys(5, torch.arange(300)), -1, (81, 32), std=1.7).double().flatten().numpy() / 1.7
    cut = 2 / 0.8796256610342398
    reference = stats.truncnorm(-2, 2, scale=1 / 0.8796256610342398)
    assert np.abs(x).max() <= cut + 1e-5
    assert x.std() == pytest.approx(1.0, abs=0.005)
    assert stats.kstest(x[:50_000], reference.cdf).pvalue > 1e-4


def test_the_two_states_start_apart():
    keys = row_keys(5, torch.arange(20))
    a, b = truncated_normal(keys, -1, (81, 32), 1.0), truncated_normal(keys, -2, (81, 32), 1.0)
    assert abs(float(np.corrcoef(a.flatten(), b.flatten())[0, 1])) < 0.02


def test_mix_separates_words_and_their_order():
    words = torch.arange(1000)
    hashes = [
        row_keys(0, words),
        row_keys(1, words),
        row_keys(words, 0),
        row_keys(words, 1),
        row_keys(0, words, 0),
        row_keys(words),
    ]
    same_words = 4  # (0, 0), (0, 1), (1, 0) and (1, 1) are each asked for twice
    assert len(torch.unique(torch.cat(hashes))) == 6000 - same_words


def test_mix_takes_any_64_bit_seed():
    assert int(row_keys(2**64 - 1)) == int(row_keys(-1))
