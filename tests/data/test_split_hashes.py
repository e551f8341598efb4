"""Splits, stored copies and draws are the same as in every version before, to the bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from eqr_ray.data.arrow_store import Split, content_hash, write_split
from eqr_ray.data.dataset import divide, with_copies
from eqr_ray.data.sampler import Sampler
from eqr_ray.tasks import task_named

# the first 16 digits of the content hashes of train (with two copies of each puzzle), validation and test, and of draws
WANTED = {
    "sudoku4": ("22f29df1912b1294", "6f31885d38d799cf", "c069f2db454c6d92", "e6eaadd75318ea0e"),
    "sudoku6": ("4f898f780fe9fe2f", "68748a27dac110a4", "c4780957e25997cd", "0e0418b069a95a9d"),
    "sudoku9": ("35a7ef43e8ee3aef", "3c0d948c6291d722", "49af6f3b10ea4f8a", "084bfeada38ca157"),
    "maze15": ("06893b882608c311", "d79de93d141dfa44", "e8b018a0c39de7b7", "1d9ab641cf4c8abc"),
    "maze16": ("bb219ddf40072123", "1b6e9e4a9aa9321a", "160e1988a7dea7e6", "9817c98725cc4b93"),
}


def digests(name: str, folder: Path) -> tuple[str, ...]:
    task = task_named(name)
    parts = divide(task, task.generate(30, 3), None, train=15, validation=5, test=10, seed=4)
    train = with_copies(task, parts.train, 2, seed=4)
    hashes = [content_hash(task, part.inputs, part.labels)[:16] for part in (train, parts.validation, parts.test)]
    write_split(folder / "train.arrow", task, train, source="", seed=0)
    draw = Sampler(Split.open(folder / "train.arrow"), 8, seed=5, augment=True).draw(np.arange(8), np.arange(8))
    drawn = hashlib.sha256()
    for array in (draw.puzzle, draw.inputs, draw.labels, draw.keys):
        drawn.update(np.ascontiguousarray(array).tobytes())
    return (*hashes, drawn.hexdigest()[:16])


@pytest.mark.parametrize("name", list(WANTED))
def test_the_same_as_ever(name: str, tmp_path: Path) -> None:
    assert digests(name, tmp_path) == WANTED[name]
