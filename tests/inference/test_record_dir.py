"""The run folder: exactly once, and refused for another run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.records import concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import RecordDir, plan
from eqr_ray.storage.run_dir import LOCK, locked
from eqr_ray.storage.run_log import RunLog
from tests.inference.fake import FakeNetwork, puzzles
from tests.inference.same import assert_same

MANIFEST = {
    "policy": "full",
    "puzzles": 9,
    "seed": 3,
    "depth": 4,
    "breadth": 2,
    "data_hash": "abc",
    "snapshots": (1, 2),
}
SETTINGS = Settings(depth=4, breadth=2, seed=3)
UNITS = plan(9, 2, 4, whole=False)


def made(path: Path, manifest: dict = MANIFEST) -> RecordDir:
    folder = RecordDir(path, manifest)
    folder.make({})
    return folder


def finish(folder: RecordDir, limit: int) -> None:
    """Run up to `limit` of the missing units."""
    inputs = puzzles(9)
    for report in run_units(BreadthEngine(FakeNetwork(), SETTINGS, 4), folder.missing()[:limit], inputs):
        for unit, rows in report.finished:
            folder.save(unit, rows, None)


def test_a_continued_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole")
    finish(whole, len(UNITS))
    for sitting in range(5):
        part = made(tmp_path / "part")
        assert len(part.missing()) == max(0, len(UNITS) - 4 * sitting)
        finish(part, 4)
        (tmp_path / "part" / "records" / ".half.parquet.1.tmp").write_bytes(b"a kill left this")
    assert_same(concatenate(list(part.blocks())), concatenate(list(whole.blocks())))
    for unit in UNITS:
        assert part.part(unit).read_bytes() == whole.part(unit).read_bytes()


def test_parts_that_exist_are_not_run_again(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    finish(folder, 3)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "records").iterdir()}
    finish(made(tmp_path / "run"), 100)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_hash": "abd"}, 'data_hash is "abc" there and "abd" here;'),
        ({"depth": 5, "seed": 4}, r"seed is 3 there and 4 here \(and depth\)"),
        ({"noise": 1}, "noise is not set there and 1 here"),
    ],
)
def test_another_run_is_refused_with_the_difference(tmp_path: Path, change: dict, message: str) -> None:
    made(tmp_path)
    with pytest.raises(UserError, match=message):
        RecordDir(tmp_path, {**MANIFEST, **change})


def test_nothing_is_written_before_it_is_made_and_another_run_may_have_come_first(tmp_path: Path) -> None:
    first, second = (RecordDir(tmp_path / "run", {**MANIFEST, "seed": seed}) for seed in (3, 4))
    assert not (tmp_path / "run").exists()
    first.make({})
    with pytest.raises(UserError, match="seed is 3 there and 4 here"):
        second.make({})


def test_a_lock_alone_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        made(tmp_path / "run")
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / LOCK).touch()  # its writer died before it had begun
    assert made(tmp_path / "early").missing() == UNITS


def test_exact_is_null_where_the_answer_is_missing(tmp_path: Path) -> None:
    labels = puzzles(9)
    labels[4] = 0
    folder = made(tmp_path)
    for report in run_units(BreadthEngine(FakeNetwork(), SETTINGS, 4), UNITS, puzzles(9)):
        for unit, rows in report.finished:
            folder.save(unit, rows, labels)
            exact = pq.read_table(folder.part(unit)).column("exact")
            assert [value is None for value in exact.to_pylist()] == [puzzle == 4 for puzzle in rows.puzzle.tolist()]


def test_foreign_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds no inference run"):
        RecordDir(tmp_path, MANIFEST)
    with pytest.raises(UserError, match="is a file"):
        RecordDir(tmp_path / "thesis.tex", MANIFEST)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="damaged"):
        RecordDir(tmp_path / "run", MANIFEST)


def test_blocks_join_divided_restarts(tmp_path: Path) -> None:
    settings = Settings(depth=3, breadth=32, seed=3)
    folder = made(tmp_path, {**MANIFEST, **settings.to_dict(), "puzzles": 2})
    assert any(unit.restart_first for unit in folder.units)
    for report in run_units(BreadthEngine(FakeNetwork(), settings, 8), folder.units[::-1], puzzles(2)):
        for unit, rows in report.finished:
            folder.save(unit, rows, None)
    blocks = list(folder.blocks())
    assert [np.unique(block.puzzle).tolist() for block in blocks] == [[0], [1]]
    assert [block.restart.tolist() for block in blocks] == [list(range(32))] * 2


def test_time_and_work_add_up_over_sittings_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert folder.spent() == (0.0, 0)
    with RunLog(tmp_path) as log:
        log.log("start", missing=2)
        log.log("unit", name="a", seconds=1.5, row_segments=10)
        log.log("unit", name="b", seconds=0.5, row_segments=5)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"event": "unit", "seconds": 99})[:-4])
    assert folder.spent() == (2.0, 15)
    with RunLog(tmp_path) as log:
        log.log("unit", name="c", seconds=1.0, row_segments=1)  # not glued to the torn line
    assert folder.spent() == (3.0, 16)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "foreign"])
def test_a_damaged_part_is_set_aside_and_run_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made(tmp_path)
    finish(folder, len(UNITS))
    whole = {unit: folder.part(unit).read_bytes() for unit in UNITS}
    part, content = folder.part(UNITS[2]), whole[UNITS[2]]
    middle = len(content) // 3
    flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    damaged = {"truncated": content[:-3], "empty": b"", "flipped": flipped, "foreign": b"a letter"}[damage]
    part.write_bytes(damaged)
    again = made(tmp_path)
    assert len(list(again.intact())) == len(UNITS) - 1
    assert again.missing() == [UNITS[2]]
    assert part.with_name(part.name + ".damaged").read_bytes() == damaged
    assert f"it is kept as {part.name}.damaged" in caplog.text
    finish(again, len(UNITS))
    assert {unit: again.part(unit).read_bytes() for unit in UNITS} == whole
