"""Closed formulas against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.inference.scores import RunningAuroc, pass_at_k, wilson


@given(st.integers(1, 2000), st.data())
def test_wilson_ends_are_where_the_score_test_is_just_significant(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    for end in (low, high):
        if 0 < end < 1:  # |share - p| = z sqrt(p (1 - p) / n) defines the interval
            assert math.isclose(abs(right / total - end), 1.959964 * math.sqrt(end * (1 - end) / total), rel_tol=1e-4)
    assert (low == 0) == (right == 0)
    assert (high == 1) == (right == total)


def test_wilson_known_value() -> None:
    low, high = wilson(81, 263)  # Wallis (2013): [0.255, 0.366]
    assert (round(low, 3), round(high, 3)) == (0.255, 0.366)


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in (1, 4, 6) for c in range(n + 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, c: int) -> None:
    rows = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(rows, k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k(np.array([c]), np.array([n]), k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_does_not_overflow() -> None:
    value = pass_at_k(np.array([1]), np.array([4096]), 2048)[0]
    assert value == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.5, math.inf]), st.booleans()), min_size=1, max_size=30)
)
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[float, bool]]) -> None:
    auroc = RunningAuroc()
    for at in range(0, len(rows), 7):  # in blocks
        values, right = zip(*rows[at : at + 7], strict=True)
        auroc.add(np.array(values, np.float32), np.array(right))
    pairs = [(w > r) + 0.5 * (w == r) for w, bad in rows if not bad for r, good in rows if good]
    assert auroc.value() == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_auroc_of_close_values_is_nearly_exact() -> None:
    generator = np.random.default_rng(0)
    right = generator.random(3000) < 0.6
    values = np.exp(generator.normal(size=3000) + ~right).astype(np.float32)
    auroc = RunningAuroc()
    auroc.add(values, right)
    exact = np.mean(values[~right][:, None] > values[right][None])
    assert auroc.value() == pytest.approx(exact, abs=1e-4)
