"""Estimates from counts: intervals, pass@k, the area under the ROC curve.

Why here: small closed formulas, each checked in tests against a brute-force twin.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

NORMAL_975 = 1.959963984540054  # the 97.5 % quantile of the normal distribution: two-sided 95 %


def wilson(right: int, total: int, z: float = NORMAL_975) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927, score interval), 95 % by default. `total` at least 1."""
    assert 0 <= right <= total
    assert total > 0
    share, shrink = right / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # at the ends the formula is 0 or 1 up to rounding
    return (0.0 if right == 0 else centre - half), (1.0 if right == total else centre + half)


def pass_at_k(right: npt.NDArray[np.integer], total: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """(P,) unbiased chance that one of k restarts drawn without repetition is right: 1 - C(n-c, k) / C(n, k) for c
    right of n (Chen et al. 2021, arXiv 2107.03374, eq. 1). `total` at least k."""
    assert (total >= k).all()
    # C(n-c, k) / C(n, k) = prod over i < k of (n - c - i) / (n - i), with no large binomials
    wrong = (total - right).astype(np.float64)
    miss = np.ones(len(total))
    for i in range(k):
        miss *= np.maximum(wrong - i, 0.0) / (total - i)
    return 1.0 - miss


class RunningAuroc:
    """How well a residual tells wrong from right: the chance that a wrong row has the greater one, ties counted half.

    Constant memory: values are counted by the upper 16 bits of their float32 form, a relative precision of 1/256;
    within such a bin values count as ties. Values are not negative; `inf` is allowed.
    """

    def __init__(self) -> None:
        self._right = np.zeros(1 << 16, dtype=np.int64)
        self._wrong = np.zeros(1 << 16, dtype=np.int64)

    def add(self, residual_N: npt.NDArray[np.float32], right_N: npt.NDArray[np.bool_]) -> None:
        # The bit patterns of non-negative floats order as the floats do.
        bins = np.ascontiguousarray(residual_N, dtype=np.float32).view(np.uint32) >> 16
        self._right += np.bincount(bins[right_N], minlength=1 << 16)
        self._wrong += np.bincount(bins[~right_N], minlength=1 << 16)

    def value(self) -> float | None:
        """None where there are no right rows, or no wrong ones."""
        rights, wrongs = int(self._right.sum()), int(self._wrong.sum())
        if not rights or not wrongs:
            return None
        below = np.cumsum(self._right) - self._right  # right rows with a smaller residual
        return float((self._wrong * (below + 0.5 * self._right)).sum() / (rights * wrongs))
