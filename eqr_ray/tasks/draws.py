"""Compiled code of the tasks: numba's decorator, and random draws on a state of one word (splitmix64, see keys.py).

numba caches what it compiled beside the sources, or in the user's cache folder. It renews a function when its own file
changes, not when a function of another file that it calls does: after such an edit, remove `eqr_ray/tasks/__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np

from eqr_ray.tasks.keys import GOLDEN, MULTIPLIER_1, MULTIPLIER_2, Words

P = ParamSpec("P")
R = TypeVar("R")
_30, _27, _31, _33 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(33)


def jit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call; arguments are numpy arrays and integers."""
    return cast(Callable[P, R], numba.njit(cache=True)(function))


@jit
def scramble(word: np.uint64) -> np.uint64:
    """`keys.finalise` of one word."""
    word = (word ^ (word >> _30)) * MULTIPLIER_1
    word = (word ^ (word >> _27)) * MULTIPLIER_2
    return word ^ (word >> _31)


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
        held = items[last]
        items[last] = items[other]
        items[other] = held
