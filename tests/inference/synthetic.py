"""Made-up records with ties, snapshots and early ends."""

from __future__ import annotations

import numpy as np

from eqr_ray.inference.records import Records, concatenate

LENGTH = 3


def records(
    seed: int, puzzles: int, restarts: int, depth: int, snapshots: tuple[int, ...] = (), early: bool = True
) -> Records:
    generator = np.random.default_rng(seed)
    rows: list[Records] = []
    for puzzle in range(puzzles):
        for restart in range(restarts):
            end = int(generator.integers(1, depth + 1)) if early else depth
            rows += [_row(generator, puzzle, restart, at, end, depth) for at in sorted({*snapshots, end}) if at <= end]
    return concatenate(rows).in_order()


def _row(generator: np.random.Generator, puzzle: int, restart: int, at: int, end: int, depth: int) -> Records:
    return Records(
        np.array([puzzle], np.int64),
        np.array([restart], np.int32),
        np.array([at], np.int32),
        generator.random(1) < 0.5,
        generator.choice(np.array([0.125, 0.5, 2.0, np.inf], np.float32), 1),
        generator.choice(np.array([0.1, 0.2], np.float32), 1),
        generator.normal(size=1).astype(np.float32),
        generator.integers(1, 3, (1, LENGTH), dtype=np.uint8),
        np.array([0 if at < end else 1 if at == depth else 2], np.uint8),
    )


def labels(seed: int, puzzles: int) -> np.ndarray:
    """(puzzles, LENGTH) with some padding."""
    return np.random.default_rng(seed + 1).integers(0, 3, (puzzles, LENGTH), dtype=np.uint8)
