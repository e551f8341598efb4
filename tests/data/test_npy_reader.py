"""The npy folders of HRM, TRM and EqR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.data.sources import locate, read_puzzles
from eqr_ray.tasks import Puzzles, task_named
from eqr_ray.tasks.keys import hash_words
from tests.support.sources import read_source

TASK = task_named("sudoku4")


def write_part(folder: Path, puzzles: Puzzles, copies: int = 0, **about: Any) -> None:
    """Each puzzle and `copies` symmetric copies of it as one group."""
    assert puzzles.labels is not None
    folder.mkdir(parents=True)
    numbers = np.repeat(np.arange(len(puzzles)), copies + 1)
    inputs, labels = TASK.augment(
        puzzles.inputs[numbers], puzzles.labels[numbers], hash_words(0, np.arange(len(numbers)))
    )
    heads = np.arange(len(puzzles)) * (copies + 1)
    inputs[heads], labels[heads] = puzzles.inputs, puzzles.labels
    arrays = {
        "inputs": inputs.astype(np.int64),
        "labels": labels.astype(np.int64),
        "puzzle_identifiers": np.zeros(len(numbers), np.int32),
        "puzzle_indices": np.arange(len(numbers) + 1, dtype=np.int32),
        "group_indices": np.append(heads, len(numbers)).astype(np.int32),
    }
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)
    (folder / "dataset.json").write_text(json.dumps({"seq_len": 16, "vocab_size": 6, "sets": ["all"], **about}))


@pytest.fixture
def made() -> Puzzles:
    return TASK.generate(12, 1)


def test_heads_of_the_groups_are_read(tmp_path: Path, made: Puzzles) -> None:
    write_part(tmp_path / "d" / "train", made.take(np.arange(8)), copies=3)
    write_part(tmp_path / "d" / "test", made.take(np.arange(8, 12)))
    assert set(locate(str(tmp_path / "d"))) == {"train", "test"}
    puzzles, bad = read_source(TASK, str(tmp_path / "d"))
    assert bad == []
    assert puzzles.labels is not None
    assert (puzzles.inputs == made.inputs).all()
    assert (puzzles.labels == made.labels).all()
    assert puzzles.sources[1] == "d/train/4"
    task, tested, _ = read_puzzles(None, tmp_path / "d")
    assert task == TASK
    assert len(tested) == 4
    assert len(read_puzzles(TASK, tmp_path / "d" / "train")[1]) == 8


def test_bad_rows_have_their_row_number(tmp_path: Path, made: Puzzles) -> None:
    write_part(tmp_path / "train", made)
    labels = np.load(tmp_path / "train" / "all__labels.npy")
    inputs = np.load(tmp_path / "train" / "all__inputs.npy")
    labels[3, 0] = labels[3, 1]
    inputs[5, 2], inputs[6, 2], inputs[7, 2] = 300, 9, -1
    labels[9] = -100  # ignored: no answer is given
    np.save(tmp_path / "train" / "all__labels.npy", labels)
    np.save(tmp_path / "train" / "all__inputs.npy", inputs)
    puzzles, bad = read_source(TASK, str(tmp_path))
    assert [row.line for row in bad] == [4, 6, 7, 8]
    assert "token 300" in bad[1].reason
    assert "token 9 at position 3" in bad[2].reason
    assert "token -1" in bad[3].reason
    assert bad[0].file.endswith("all__inputs.npy")
    assert len(puzzles) == 8
    assert puzzles.lines is not None
    assert puzzles.lines.tolist() == [1, 2, 3, 5, 9, 10, 11, 12]
    assert puzzles.labels is not None
    assert made.labels is not None
    assert (puzzles.labels[5] == made.labels[9]).all()


def test_pickled_arrays_are_not_read(tmp_path: Path, made: Puzzles) -> None:
    write_part(tmp_path / "train", made)
    np.save(tmp_path / "train" / "all__inputs.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"all__inputs\.npy: cannot be read"):
        read_source(TASK, str(tmp_path))


def test_damage_is_named(tmp_path: Path, made: Puzzles) -> None:
    write_part(tmp_path / "train", made)
    part = tmp_path / "train"
    with pytest.raises(UserError, match="have 16 cells, those of sudoku9 81"):
        read_source(task_named("sudoku9"), str(tmp_path))
    whole = (part / "all__labels.npy").read_bytes()
    (part / "all__labels.npy").write_bytes(whole[:300])
    with pytest.raises(UserError, match=r"all__labels\.npy: cannot be read"):
        read_source(TASK, str(tmp_path))
    np.save(part / "all__labels.npy", np.zeros((12, 15), np.int64))
    with pytest.raises(UserError, match=r"inputs of shape \(12, 16\), but labels of \(12, 15\)"):
        read_source(TASK, str(tmp_path))
    (part / "all__labels.npy").write_bytes(whole)
    np.save(part / "all__group_indices.npy", np.array([0, 5, 99]))
    with pytest.raises(UserError, match=r"all__group_indices\.npy: not the starts"):
        read_source(TASK, str(tmp_path))
    (part / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read"):
        read_source(TASK, str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither train/"):
        locate(str(tmp_path / "empty"))
