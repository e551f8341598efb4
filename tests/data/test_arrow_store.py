"""The Arrow file of a split: round trip without copies, atomic writing, damage that is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import Split, content_hash, write_split
from eqr_ray.tasks import Puzzles, task_named

TASK = task_named("sudoku4")


@pytest.fixture
def puzzles() -> Puzzles:
    return TASK.generate(20, 1)


@pytest.fixture
def path(tmp_path: Path, puzzles: Puzzles) -> Path:
    write_split(tmp_path / "a.arrow", TASK, puzzles, source="here", seed=3)
    return tmp_path / "a.arrow"


def test_round_trip(path: Path, puzzles: Puzzles) -> None:
    split = Split.open(path, verify=True)
    assert puzzles.labels is not None
    assert split.labels is not None
    assert (split.inputs == puzzles.inputs).all()
    assert (split.labels == puzzles.labels).all()
    assert (split.ratings == puzzles.ratings).all()
    assert list(split.puzzles().sources) == list(puzzles.sources)
    assert (split.fingerprints == TASK.fingerprint(puzzles.inputs, puzzles.labels)).all()
    assert (len(split), split.task_name) == (20, "sudoku4")
    assert (split.metadata["source"], split.metadata["seed"]) == ("here", "3")
    assert split.content_hash == content_hash(TASK, puzzles.inputs, puzzles.labels)
    assert (split.puzzles().take(np.array([3])).inputs == puzzles.inputs[3:4]).all()


def test_arrays_are_views_of_the_mapped_file(path: Path) -> None:
    before = pa.total_allocated_bytes()
    split = Split.open(path)
    assert pa.total_allocated_bytes() == before
    assert not split.inputs.flags.writeable
    assert not split.inputs.flags.owndata


def test_without_answers_and_without_rows(tmp_path: Path, puzzles: Puzzles) -> None:
    unanswered = Puzzles(puzzles.inputs, None, puzzles.ratings, puzzles.sources)
    write_split(tmp_path / "b.arrow", TASK, unanswered, source="", seed=0)
    split = Split.open(tmp_path / "b.arrow", verify=True)
    assert split.labels is None
    assert split.content_hash != content_hash(TASK, puzzles.inputs, puzzles.labels)
    write_split(tmp_path / "c.arrow", TASK, puzzles.take(np.zeros(0, np.int64)), source="", seed=0)
    assert len(Split.open(tmp_path / "c.arrow", verify=True)) == 0


def test_pickles_as_its_path(path: Path) -> None:
    sent = pickle.dumps(Split.open(path))
    assert len(sent) < 1000
    assert pickle.loads(sent).content_hash == Split.open(path).content_hash


def test_missing_truncated_and_foreign_files(tmp_path: Path, path: Path) -> None:
    whole = path.read_bytes()
    with pytest.raises(UserError, match=r"nothing\.arrow: no such file"):
        Split.open(tmp_path / "nothing.arrow")
    for kept in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"a\.arrow: not an Arrow file, or damaged"):
            Split.open(path)
    path.write_bytes(b"question,answer\n" * 50)
    with pytest.raises(UserError, match=r"a\.arrow: not an Arrow file"):
        Split.open(path)
    with pytest.raises(UserError, match="not an Arrow file, or damaged"):
        Split.open(tmp_path)
    table = pa.table({"x": [1]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"a\.arrow: an Arrow file, but no split"):
        Split.open(path)


def test_a_changed_token_is_found_on_request(path: Path, puzzles: Puzzles) -> None:
    whole = bytearray(path.read_bytes())
    at = whole.find(puzzles.inputs.tobytes())
    assert at > 0
    whole[at] ^= 1
    path.write_bytes(bytes(whole))
    Split.open(path)
    with pytest.raises(UserError, match=r"a\.arrow: damaged, its tokens"):
        Split.open(path, verify=True)


@pytest.mark.parametrize("column", ["inputs", "rating", "fingerprint"])
def test_a_missing_column_is_named_as_damage(path: Path, column: str) -> None:
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        table = reader.read_all().drop_columns([column])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"a\.arrow: damaged split"):
        Split.open(path)
