"""Keyed randomness: one 64-bit hash of the words that name a draw, and draws for compiled code.

A symmetry, a split or a place in an epoch is a function of (seed, what it is for), so it is the same for any batch
size, order or number of workers. The hash folds its words one by one through the finaliser of splitmix64 (Steele, Lea
and Flood, OOPSLA 2014; multipliers and shifts are Stafford's Mix13).

numba caches what it compiled beside the sources, or in the user's cache folder. It renews a function when its own file
changes, not when a function of another file that it calls does: after such an edit, remove `eqr_ray/tasks/__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
P = ParamSpec("P")
R = TypeVar("R")

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: the increment of splitmix64
MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _33 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(33)


def _finalise(x: Words) -> Words:
    x = (x ^ (x >> _30)) * MULTIPLIER_1
    x = (x ^ (x >> _27)) * MULTIPLIER_2
    return x ^ (x >> _31)


def finalise(words: Words) -> Words:
    """Bijective avalanche of 64-bit words, any shape."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        return np.asarray(_finalise(words), dtype=np.uint64)


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


def jit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call; arguments are numpy arrays and integers."""
    return cast(Callable[P, R], numba.njit(cache=True)(function))


scramble = cast(Callable[[np.uint64], np.uint64], jit(_finalise))  # `finalise` of one word, compiled


@jit
def below(state: Words, bound: int) -> int:
    """The next draw from 0..bound-1; `state` (1,) advances. The bias is below bound / 2**31."""
    state[0] += GOLDEN
    return int(np.int64(scramble(state[0]) >> _33) % np.int64(bound))


@jit
def shuffle(state: Words, items: np.ndarray) -> None:
    """Fisher-Yates shuffle of `items` in place."""
    for last in range(items.shape[0] - 1, 0, -1):
        other = below(state, last + 1)
        items[last], items[other] = items[other], items[last]
