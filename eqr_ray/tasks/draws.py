"""Hash and random draws inside code that numba compiles: splitmix64 on a state of one word.

`keys.hash_words` gives each puzzle its starting state, and these functions go on from there.
"""

from __future__ import annotations

import numpy as np

from eqr_ray.tasks.jit import jit
from eqr_ray.tasks.keys import GOLDEN, MULTIPLIER_1, MULTIPLIER_2, Words

_30, _27, _31, _33 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(33)


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
