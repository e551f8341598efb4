"""The compiler's decorator, typed: the few hot loops of the tasks (search, clues, mazes) are compiled by numba.

Why here: numba has no type stubs for its decorator, and every compiled file wants the same two options. The compiled
code is cached beside the sources (or in the user's cache folder where those cannot be written), so that only the first
run on a machine pays for the compilation. The cache of a function is renewed when its own file changes, not when a
function of another file that it calls does: after such an edit, remove `eqr_ray/tasks/__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def jit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call; arguments are numpy arrays and integers."""
    return cast(Callable[P, R], numba.njit(cache=True)(function))
