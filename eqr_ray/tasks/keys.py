"""Keyed randomness: one 64-bit hash of the words that name a draw.

A symmetry, a split or a place in an epoch is a function of (seed, what it is for), so it is the same for any batch
size, order or number of workers. The hash folds its words one by one through the finaliser of splitmix64 (Steele, Lea
and Flood, OOPSLA 2014; multipliers and shifts are Stafford's Mix13).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: the increment of splitmix64
MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def finalise(words: Words) -> Words:
    """Bijective avalanche of 64-bit words, any shape."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        x = (words ^ (words >> np.uint64(30))) * MULTIPLIER_1
        x = (x ^ (x >> np.uint64(27))) * MULTIPLIER_2
        return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def as_words(value: int | npt.ArrayLike) -> Words:
    """Any integer, or array of integers, as 64-bit words (negative ones modulo 2**64)."""
    return np.asarray(value % 2**64 if isinstance(value, int) else value).astype(np.uint64)


def hash_words(*words: int | npt.ArrayLike) -> Words:
    """Hash of the words, in order; arrays are broadcast against each other. Returns uint64 of the broadcast shape."""
    hashed = np.zeros((), dtype=np.uint64)
    for word in words:
        with np.errstate(over="ignore"):
            hashed = finalise((hashed + GOLDEN) ^ as_words(word))
    return hashed
