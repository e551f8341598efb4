"""Collecting generated puzzles until enough different ones are there.

Why here: every generator makes candidates from numbered keys and drops those that are copies up to symmetry.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.keys import Words, hash_words
from eqr_ray.tasks.puzzles import Puzzles, Tokens
from eqr_ray.tasks.task import Progress, Task

CHUNK = 64  # candidates between two looks at the fingerprints
DRY_LIMIT = 20_000  # candidates in a row without a new puzzle: the task has no more


def generate_unique(
    task: Task,
    count: int,
    seed: int,
    source: str,
    make: Callable[[Words], tuple[Tokens, Tokens, int] | None],
    progress: Progress | None,
) -> Puzzles:
    """The first `count` different puzzles of `make(hash_words(seed, i))`, i = 0, 1, ...

    `make` returns (puzzle, answer, rating), or None for a candidate that is not wanted. UserError: not so many.
    """
    kept: list[tuple[Tokens, Tokens, int]] = []
    seen: set[int] = set()
    dry, number = 0, 0
    while len(kept) < count:
        size = min(CHUNK, count - len(kept))
        keys = hash_words(seed, np.arange(number, number + size))
        made = [candidate for key in keys if (candidate := make(np.array([key], dtype=np.uint64))) is not None]
        number += size
        dry += size
        if made:
            prints = task.fingerprint(np.stack([one[0] for one in made]), np.stack([one[1] for one in made]))
            for candidate, print_ in zip(made, prints.tolist(), strict=True):
                if print_ not in seen:
                    seen.add(print_)
                    kept.append(candidate)
                    dry = 0
        if dry > DRY_LIMIT:
            raise UserError(
                f"{task.name}: found {len(kept)} different puzzles up to symmetry where {count} were asked for"
            )
        if progress is not None:
            progress(min(len(kept), count), count)
    kept = kept[:count]
    none = np.zeros((0, task.length), dtype=np.uint8)
    return Puzzles(
        np.stack([one[0] for one in kept]) if kept else none,
        np.stack([one[1] for one in kept]) if kept else none.copy(),
        np.array([one[2] for one in kept], dtype=np.int32),
        [source] * len(kept),
    )
