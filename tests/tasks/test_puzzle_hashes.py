"""Generated puzzles, fingerprints and symmetries are the same as in every version before, to the bit."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from eqr_ray.tasks import task_named
from eqr_ray.tasks.keys import hash_words

# the first 16 digits of the SHA-256 of what `generate`, `fingerprint` and `augment` return
WANTED = {
    ("sudoku4", 20, False): ("209b216121cf3ebd", "46411d851ec2266b", "aaf3bdfe08cde0fd"),
    ("sudoku6", 20, False): ("77e027cb3278deec", "b05372b5d3df7140", "633116d2bfead62a"),
    ("sudoku6", 5, True): ("fdd02c190993db03", "9474bea4a26ae63d", "d128a0a439403099"),
    ("sudoku9", 10, False): ("45034934c05064cf", "85e98cba59d4198f", "e624fc093ab7a353"),
    ("sudoku9", 3, True): ("4ce1b764b107ccc9", "6c4c2541b8593131", "16d26243006e308e"),
    ("sudoku16", 1, False): ("73a142ae407d465b", "95dd12b5c8f55c77", "c2f2c991a6681f8a"),
    ("maze7", 10, False): ("7feeeaa920debb38", "ea1337d702c38bec", "22626c0b48f2cf06"),
    ("maze15", 10, False): ("adc94f746d86fdb4", "663d8ef4cc4a94c4", "e3db12bd6be876a7"),
    ("maze30", 4, False): ("b3af15ea35200c2f", "9a20d90f9f6841ce", "fb7a2dbe43ca29e9"),
    ("maze30", 2, True): ("c2eb2e379c9eda7d", "65c147bdd0ee3721", "c95a2a49adf5737d"),
}


def digest(*arrays: npt.NDArray[np.generic]) -> str:
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(f"{array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()[:16]


@pytest.mark.parametrize(("name", "count", "hard"), list(WANTED))
def test_the_same_as_ever(name: str, count: int, hard: bool) -> None:
    task = task_named(name)
    made = task.generate(count, 7, hard)
    assert made.labels is not None
    prints = task.fingerprint(made.inputs, made.labels), task.fingerprint(made.inputs, None)
    augmented = task.augment(made.inputs, made.labels, hash_words(5, np.arange(count)))
    found = digest(made.inputs, made.labels, made.ratings), digest(*prints), digest(*augmented)
    assert found == WANTED[name, count, hard]
