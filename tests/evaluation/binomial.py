"""Binomial bounds by plain sums and bisection: the twin of what scipy gives."""

from __future__ import annotations

import math

import numpy as np

BISECTIONS = 60  # halvings of [0, 1]: the last bit of a float near 0.001


def binomial_tail(errors: int, total: int, share: float) -> float:
    """P(Binomial(total, share) <= errors): the chance of so few errors where `share` is the true one."""
    assert 0 <= errors <= total
    if errors == total or share == 0:
        return 1.0
    if share == 1:
        return 0.0
    k = np.arange(1, errors + 1)
    # log of C(n, k) p^k (1-p)^(n-k), by the ratio of neighbours
    ratios = np.log((total - k + 1) / k) + math.log(share) - math.log1p(-share)
    log_terms = total * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(ratios)])
    top = float(log_terms.max())
    return min(1.0, math.exp(top) * float(np.exp(log_terms - top).sum()))


def highest_share(errors: int, total: int, confidence: float) -> float:
    """The one-sided upper bound of Clopper and Pearson (1934): the largest true share at which so few errors are not
    rarer than 1 - `confidence`. 1 of nothing."""
    low, high = 0.0, 1.0
    if errors == total:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if binomial_tail(errors, total, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def fewest(errors: int, share: float, confidence: float) -> int:
    """How many trials with `errors` errors show, with this confidence, that the true share is at most `share`."""
    low, high = errors, errors + 1  # `low` is too few: all of them errors
    while binomial_tail(errors, high, share) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_tail(errors, middle, share) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high
