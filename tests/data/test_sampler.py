"""The sampler: every puzzle once an epoch, whoever asks and in whatever pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import Split, write_split
from eqr_ray.data.sampler import Sampler, permuted
from eqr_ray.tasks import Puzzles, task_named

TASK = task_named("sudoku4")


def make_split(folder: Path, count: int) -> Split:
    write_split(folder / "train.arrow", TASK, TASK.generate(count, 1), source="", seed=0)
    return Split.open(folder / "train.arrow")


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 100))
def test_permuted_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


def test_permutations_look_random() -> None:
    """Over many keys each position goes everywhere equally often, and neighbours do not stay neighbours."""
    places = np.stack([permuted(np.arange(10), 10, key) for key in range(1000)])
    counts = np.stack([np.bincount(places[:, column], minlength=10) for column in range(10)])
    assert counts.min() > 60  # 100 expected, standard deviation 9.5
    assert counts.max() < 140
    followed = (np.diff(places, axis=1) == 1).mean()
    assert 0.08 < followed < 0.12  # 9 of 90 ordered pairs


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (12, 4), (5, 8), (1, 3)])
def test_every_puzzle_once_an_epoch(tmp_path: Path, count: int, batch: int) -> None:
    sampler = Sampler(make_split(tmp_path, count), batch, seed=5, augment=False)
    drawn = [sampler.draw(np.arange(batch), np.full(batch, step)).puzzle for step in range(3 * count)]
    flat = np.concatenate(drawn)
    epochs = flat[: len(flat) // count * count].reshape(-1, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()
    if count > 4:
        assert (epochs[0] != epochs[1]).any()


def test_draws_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    whole = Sampler(split, 8, seed=5, augment=True)
    rows, counts = np.arange(8), np.array([0, 3, 3, 7, 1, 0, 50, 2])
    together = whole.draw(rows, counts)
    for order in (np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7]), np.array([6, 1]), np.array([3])):
        part = Sampler(split, 8, seed=5, augment=True).draw(rows[order], counts[order])
        assert (part.puzzle == together.puzzle[order]).all()
        assert (part.inputs == together.inputs[order]).all()
        assert (part.labels == together.labels[order]).all()
        assert (part.keys == together.keys[order]).all()
    assert len(whole.draw(rows[:0], counts[:0]).puzzle) == 0


def test_augmented_draws_are_symmetric_copies(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    sampler = Sampler(split, 8, seed=5, augment=True)
    draws = [sampler.draw(np.arange(8), np.full(8, step)) for step in range(20)]
    for draw in draws:
        assert (TASK.fingerprint(draw.inputs, draw.labels) == split.fingerprints[draw.puzzle]).all()
        assert not TASK.suspects(draw.inputs, draw.labels).any()
    keys = np.concatenate([draw.keys for draw in draws])
    assert len(set(keys.tolist())) == 160
    inputs = np.concatenate([draw.inputs for draw in draws])
    assert (inputs != split.inputs[np.concatenate([draw.puzzle for draw in draws])]).any(axis=1).mean() > 0.9


def test_seed_and_no_augmentation(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    one, other = (Sampler(split, 8, seed, augment=False).draw(np.arange(8), np.zeros(8)) for seed in (1, 2))
    assert (one.puzzle != other.puzzle).any()
    assert (one.inputs == split.inputs[one.puzzle]).all()


def test_what_cannot_be_sampled(tmp_path: Path) -> None:
    made = TASK.generate(3, 1)
    write_split(tmp_path / "b", TASK, Puzzles(made.inputs, None, made.ratings, made.sources), source="", seed=0)
    with pytest.raises(UserError, match="no answers"):
        Sampler(Split.open(tmp_path / "b"), 4, 0, augment=True)
