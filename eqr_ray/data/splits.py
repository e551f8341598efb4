"""Dividing puzzles into train, validation and test so that no two parts share a puzzle up to symmetry.

Puzzles with the same fingerprint are one group. The groups are ordered by a keyed hash of the fingerprint, so the
division depends on the puzzles and the seed alone, not on the order of a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.keys import hash_words
from eqr_ray.tasks.puzzles import Puzzles
from eqr_ray.tasks.registry import Task

SPLIT_DRAW = 0x5B117  # tells this use of the seed from others


@dataclass(frozen=True)
class Division:
    """The parts, and what was left out: `duplicates` (further copies up to symmetry in the pool), `test_overlap`
    (groups of the pool that the source's own test part has too)."""

    train: Puzzles
    validation: Puzzles
    test: Puzzles
    duplicates: int
    test_overlap: int


def divide(
    task: Task, pool: Puzzles, own_test: Puzzles | None, train: int | None, validation: int, test: int | None, seed: int
) -> Division:
    """Exact counts. `train` None takes all that remain; `test` None all of the source's own test part.

    With a test part of its own, the source's first `test` puzzles of it are the test split as they stand (copies
    included: it is a published benchmark), and every puzzle of the pool that the test part has up to symmetry is left
    out. UserError: too few puzzles, with their number.
    """
    fingerprints, heads = np.unique(task.fingerprint(pool.inputs, pool.labels), return_index=True)
    order = np.argsort(hash_words(seed, SPLIT_DRAW, fingerprints), kind="stable")
    heads, fingerprints = heads[order], fingerprints[order]
    duplicates = len(pool) - len(heads)
    if own_test is None:
        if test is None:
            raise UserError("test=null means all of the source's own test part, but this source has none: give a count")
        test_part, overlap, from_pool = pool.take(heads[:test]), 0, test
    else:
        test_count = len(own_test) if test is None else test
        _enough(len(own_test), {"test": test_count}, "the source's own test part has")
        in_test = np.isin(fingerprints, task.fingerprint(own_test.inputs, own_test.labels))
        test_part, overlap, from_pool = own_test.take(np.arange(test_count)), int(in_test.sum()), 0
        heads = heads[~in_test]
    wanted = {"train": train or 0, "validation": validation, "test": from_pool}
    _enough(len(heads), wanted, f"different puzzles up to symmetry{' and outside test' if own_test else ''}:")
    rest = heads[from_pool:]
    train_rows = rest[validation:] if train is None else rest[validation : validation + train]
    if len(train_rows) == 0:
        raise UserError(f"no puzzle is left for training: {len(heads)} in all, {validation + from_pool} are held out")
    return Division(pool.take(train_rows), pool.take(rest[:validation]), test_part, duplicates, overlap)


def _enough(available: int, wanted: dict[str, int], what: str) -> None:
    if sum(wanted.values()) > available:
        asked = " + ".join(f"{part}={count}" for part, count in wanted.items() if count)
        raise UserError(f"too few puzzles: {what} {available}, asked for {asked}")
