"""Records on disk: round trip, equal bytes for equal rows, nothing half-written, damage named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.inference.policies import Race
from eqr_ray.inference.records import (
    SETTLED,
    STATUSES,
    concatenate,
    is_exact,
    no_records,
    read_part,
    write_part,
)
from eqr_ray.storage.atomic import atomic, write_json
from tests.inference.same import assert_same
from tests.inference.synthetic import labels, records

# The contract of interface.md
COLUMNS = ["puzzle", "restart", "seed", "segments", "settled", "logit_residual", "latent_residual", "halt_logit"]
COLUMNS += ["prediction", "exact", "status"]


def test_round_trip_with_the_promised_columns(tmp_path: Path) -> None:
    rows, answers = records(3, 4, 3, 8, snapshots=(2,)), labels(3, 4)
    write_part(tmp_path / "a.parquet", rows, 11, answers[rows.puzzle])
    assert_same(read_part(tmp_path / "a.parquet"), rows)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == COLUMNS
    assert table.schema.field("prediction").type.value_type == pa.uint8()
    assert set(table.column("seed").to_pylist()) == {11}
    assert table.column("exact").to_pylist() == is_exact(rows.prediction, answers[rows.puzzle]).tolist()
    assert table.column("status").to_pylist() == [STATUSES[code] for code in rows.status]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_without_answers_exact_is_null(tmp_path: Path) -> None:
    rows = records(3, 2, 2, 4)
    write_part(tmp_path / "a.parquet", rows, 0, None)
    assert pq.read_table(tmp_path / "a.parquet").column("exact").to_pylist() == [None] * len(rows)
    assert_same(read_part(tmp_path / "a.parquet"), rows)


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    rows = records(3, 4, 3, 8)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows))).in_order()
    write_part(tmp_path / "a", rows, 0, None)
    write_part(tmp_path / "b", shuffled, 0, None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_exact_leaves_padding_out() -> None:
    prediction = np.array([[1, 2, 3], [1, 2, 4], [2, 2, 3]], np.uint8)
    answers = np.array([[1, 2, 0], [1, 2, 0], [1, 2, 0]], np.uint8)
    assert is_exact(prediction, answers).tolist() == [True, True, False]


def test_last_at_takes_the_last_row_of_each_trajectory() -> None:
    rows = records(5, 3, 3, 8, snapshots=(1, 2, 4))
    at = rows.last_at(4, 2)
    kept = [(int(rows.puzzle[i]), int(rows.restart[i])) for i in at]
    assert kept == [(puzzle, restart) for puzzle in range(3) for restart in range(2)]
    for i in at:
        own = (rows.puzzle == rows.puzzle[i]) & (rows.restart == rows.restart[i]) & (rows.segments <= 4)
        assert rows.segments[i] == rows.segments[own].max()


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", b"puzzle,restart\n"])
def test_a_damaged_part_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet is not a part"):
        read_part(path)


def test_no_wrong_bit_becomes_a_wrong_record(tmp_path: Path) -> None:
    """Wherever it is: the part is refused, or it was a bit of no meaning."""
    path, rows, refused = tmp_path / "a.parquet", records(3, 4, 3, 8), 0
    write_part(path, rows, 11, None)
    whole = path.read_bytes()
    tried = range(0, len(whole), 3)
    for at in tried:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            found = read_part(path)
        except UserError:
            refused += 1
        else:
            assert_same(found, rows)
    assert refused > len(tried) / 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail_halfway() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert path.read_text() == "old"


def test_concatenate_keeps_types() -> None:
    rows = records(1, 3, 2, 4)
    halves = [rows.take(rows.puzzle < 1), rows.take(rows.puzzle >= 1)]
    assert_same(concatenate(halves), rows)
    assert {f.name for f in dataclasses.fields(rows)} >= set(COLUMNS) - {"seed", "exact"}


def test_a_part_without_rows_joins_the_others(tmp_path: Path) -> None:
    rows = records(3, 2, 2, 4)
    write_part(tmp_path / "none.parquet", no_records(rows.prediction.shape[1]), 0, None)
    none = read_part(tmp_path / "none.parquet")
    assert len(none) == 0
    assert_same(concatenate([none, rows, none]).in_order(), rows)


def test_the_first_to_settle_stays_and_the_others_are_cancelled() -> None:
    rows = records(3, 3, 4, 8)
    names = ["depth", "settled", "depth", "settled"] * 2 + ["depth"] * 4
    segments = [8, 5, 8, 5, 8, 7, 8, 3, 8, 8, 8, 8]
    rows = dataclasses.replace(
        rows,
        status=np.array([STATUSES.index(name) for name in names], np.uint8),
        segments=np.array(segments, np.int32),
    )
    kept = Race.resolve(rows, SETTLED)
    assert np.flatnonzero(kept.status == STATUSES.index("settled")).tolist() == [1, 7]
    assert kept.segments.tolist() == [5] * 4 + [3] * 4 + [8] * 4
    assert_same(kept.take(np.array([1, 7, 8, 9, 10, 11])), rows.take(np.array([1, 7, 8, 9, 10, 11])))
    cancelled = kept.take(kept.status == STATUSES.index("cancelled"))
    assert len(cancelled) == 6
    assert np.isinf(cancelled.logit_residual).all()
    assert not cancelled.prediction.any()
