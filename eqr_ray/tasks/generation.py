"""Collecting generated puzzles until there are enough that differ up to symmetry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.keys import Words, hash_words
from eqr_ray.tasks.puzzles import Puzzles, Tokens
from eqr_ray.tasks.task import Progress, Task

CHUNK = 64  # candidates between two looks at the fingerprints
DRY_LIMIT = 20_000  # candidates in a row without a new puzzle: the task has no more

Candidate = tuple[Tokens, Tokens, int]  # puzzle (L,), answer (L,), rating


def generate_unique(
    task: Task, count: int, seed: int, hard: bool, make: Callable[[Words], Candidate | None], progress: Progress | None
) -> Puzzles:
    """The first `count` different puzzles of `make(hash_words(seed, i))`, i = 0, 1, ...

    `make` returns None for a candidate that is not wanted. UserError: the task has not so many.
    """
    chosen: list[Candidate] = []
    seen: set[int] = set()
    dry, number = 0, 0
    while len(chosen) < count:
        size = min(CHUNK, count - len(chosen))
        keys = hash_words(seed, np.arange(number, number + size))
        candidates = [one for key in keys if (one := make(np.array([key], dtype=np.uint64))) is not None]
        number, dry = number + size, dry + size
        prints = task.fingerprint(_tokens(task, candidates, 0), _tokens(task, candidates, 1))
        for candidate, fingerprint in zip(candidates, prints.tolist(), strict=True):
            if fingerprint not in seen:
                seen.add(fingerprint)
                chosen.append(candidate)
                dry = 0
        if dry > DRY_LIMIT:
            found = f"found {len(chosen)} different puzzles up to symmetry"
            raise UserError(f"{task.name}: {found} where {count} were asked for")
        if progress is not None:
            progress(len(chosen), count)
    ratings = np.array([one[2] for one in chosen], dtype=np.int32)
    sources = [f"generated seed={seed}{' hard' if hard else ''}"] * count
    return Puzzles(_tokens(task, chosen, 0), _tokens(task, chosen, 1), ratings, sources)


def _tokens(task: Task, candidates: list[Candidate], part: int) -> Tokens:
    """(N, L) the puzzles (part 0) or the answers (1)."""
    return np.array([one[part] for one in candidates], dtype=np.uint8).reshape(-1, task.length)
