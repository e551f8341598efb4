"""The command `frontier`: what it leaves, that records serve again, and what it says to mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from eqr_ray import frontier, infer
from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.data.sources import PuzzleSet
from eqr_ray.frontier import FrontierConfig, names_of
from eqr_ray.inference import replay as recorded
from eqr_ray.inference.records import concatenate
from eqr_ray.inference.settings import InferConfig, Settings
from eqr_ray.status import report
from tests.inference.same import assert_same
from tests.inference.tiny import TASK, save_tiny, sudokus, write_csv

torch.set_num_threads(1)  # many small tensors; other processes may want the other cores


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny network, 12 puzzles with answers and without, and a frontier of theirs."""
    folder, puzzles = tmp_path_factory.mktemp("frontier"), sudokus(12)
    found = {
        "checkpoint": save_tiny(folder / "tiny"),
        "data": write_csv(folder / "with.csv", puzzles),
        "questions": write_csv(folder / "without.csv", puzzles, answers=False),
        "other": write_csv(folder / "other.csv", sudokus(12, seed=1)),
        "out": folder / "out",
        "records": folder / "out" / "run",
    }
    command(checkpoint=found["checkpoint"], data=found["data"], out=found["out"], depth=4, breadth=3, actors=0)
    return found


def command(**options: object) -> dict:
    """The command in this process; returns summary.json."""
    frontier.main(*parse_arguments(FrontierConfig, [f"{key}={value}" for key, value in options.items()]))
    return json.loads((Path(str(options["out"])) / "summary.json").read_text())


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "frontier.parquet").to_pylist()


def test_what_it_leaves(files: dict[str, Path]) -> None:
    out = files["out"]
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        *("manifest.json", "log.jsonl"),
        *("frontier.parquet", "frontier.png", "config.json", "summary.json", "run"),
    }
    summary, rows = json.loads((out / "summary.json").read_text()), rows_of(out)
    assert summary["points"] == len(rows) > 50
    assert [one["policy"] for one in summary["recommended"]] == list(dict.fromkeys(row["policy"] for row in rows))
    assert [row for row in rows if row["on_front"]] == summary["front"]
    assert summary["cost"] == []
    free = [row for row in summary["recommended"] if not row["verified"]]
    best = max(free, key=lambda row: (row["exact_accuracy"], -row["segments_mean"]))
    words = dict(report(out))["best"]
    assert words.startswith(f"{best['policy']} {best['depth']} x {best['breadth']}")
    assert words.endswith(f": {best['exact_accuracy']:.2%} right, {best['segments_mean']:.1f} segments a puzzle")
    full = next(row for row in rows if (row["policy"], row["depth"], row["breadth"]) == ("full", 4, 3))
    run = json.loads((files["records"] / "summary.json").read_text())
    for name in ("exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean", "settled_share"):
        assert full[name] == pytest.approx(run[name]), name
    assert full["seconds_mean"] == pytest.approx(12 / run["row_segments_per_s"])
    assert {row["verified"] for row in rows if row["policy"] == "verify"} == {True}
    assert json.loads((out / "config.json").read_text())["depth"] == 4


def test_records_serve_again(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "answer", None)  # the network does not run
    options = {"policies": "[full,sequential]", "settle_below": 0.5, "depth": 2, "cost.puzzles": 1000}
    summary = command(records=files["records"], out=tmp_path / "again", **options)
    rows = rows_of(tmp_path / "again")
    assert {(row["policy"], row["settle_below"]) for row in rows if row["policy"] != "full"} == {("sequential", 0.5)}
    assert max(row["depth"] for row in rows) == 2
    before = {(r["policy"], r["depth"], r["breadth"]): r["exact_accuracy"] for r in rows_of(files["out"])}
    assert all(row["exact_accuracy"] == before["full", row["depth"], row["breadth"]] for row in rows[:6])
    assert [(one["policy"], one["gpus"]) for one in summary["cost"]] == [
        *(("full", 1), ("full", 8), ("full", 64), ("sequential", 1), ("sequential", 8), ("sequential", 64))
    ]
    printed = capsys.readouterr().out
    assert "64 GPUs" in printed
    assert " at 0.5" in printed


def test_records_are_read_in_blocks_of_whole_puzzles(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = recorded.open_recorded(files["records"])
    (whole,) = run.blocks()
    monkeypatch.setattr(recorded, "BLOCK_BYTES", 3 * 4 * 3 * 16)  # three puzzles of 4 segments x 3 restarts x 16 cells
    blocks = list(run.blocks())
    assert len(blocks) >= 4
    assert all(len(block) % 12 == 0 for block in blocks)
    assert_same(concatenate(blocks), whole)


def test_runs_are_drawn_together_under_what_differs(files: dict[str, Path], tmp_path: Path) -> None:
    noisy = {"depth": 4, "breadth": 3, "actors": 0, "noise_scale": 0.5, "policies": "[full]"}
    command(checkpoint=files["checkpoint"], data=files["data"], out=tmp_path / "noisy", **noisy)
    both = f"[{files['records']},{tmp_path / 'noisy' / 'run'}]"
    summary = command(records=both, out=tmp_path / "both", policies="[full,settle]")
    scale = json.loads((files["records"] / "manifest.json").read_text())["identity"]["noise_scale"]
    assert {row["run"] for row in rows_of(tmp_path / "both")} == {f"noise_scale={scale}", "noise_scale=0.5"}
    assert len(summary["recommended"]) == 4


def test_an_interrupted_recording_is_continued(files: dict[str, Path], tmp_path: Path) -> None:
    options = {"depth": 2, "breadth": 2, "actors": 0, "policies": "[full]", "out": tmp_path / "out"}
    options |= {"checkpoint": files["checkpoint"], "data": files["data"]}
    command(**options)
    first, records = rows_of(tmp_path / "out"), tmp_path / "out" / "run" / "records"
    part, *kept = sorted(records.iterdir())
    before = {path: path.stat().st_mtime_ns for path in kept}
    part.unlink()
    (tmp_path / "out" / "run" / "summary.json").unlink()
    with pytest.raises(UserError, match="the run is not finished"):
        command(records=records.parent, out=tmp_path / "other")
    (tmp_path / "out" / "frontier.parquet").unlink()
    for name in ("frontier.png", "config.json", "summary.json"):
        (tmp_path / "out" / name).unlink()
    command(**options)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    same = ("policy", "depth", "breadth", "exact_accuracy", "segments_mean")
    assert [[row[name] for name in same] for row in rows_of(tmp_path / "out")] == [
        [row[name] for name in same] for row in first
    ]


def test_records_of_less_than_everything_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    keys = {"checkpoint": files["checkpoint"], "data": files["data"], "out": tmp_path / "run", "actors": 0}
    infer.run(
        *parse_arguments(InferConfig, [f"{key}={value}" for key, value in {**keys, "depth": 4, "breadth": 2}.items()])
    )
    with pytest.raises(UserError, match="policy=full with 0 snapshots of 4 segments; a replay needs policy=full with"):
        command(records=tmp_path / "run", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either checkpoint= or records= must be given"),
        ({"checkpoint": "here", "records": "there"}, "either checkpoint= or records= must be given"),
        ({"checkpoint": "here"}, "data= must be given with checkpoint="),
        ({"records": "nowhere"}, "records=nowhere: no run of infer is there"),
        ({"records": "RUN", "data": "OTHER"}, "other.csv does not hold the puzzles that records="),
        ({"records": "RUN", "data": "QUESTIONS"}, "without.csv does not hold the puzzles"),
        ({"checkpoint": "TINY", "data": "QUESTIONS"}, "without.csv has no answers to compare with"),
        ({"records": "RUN", "seed": 1}, "seed= does not go with records="),
        ({"records": "RUN", "depth": 5}, "depth=5 is more than the 4 that were recorded"),
        ({"records": "RUN", "policies": "[full,best]"}, "\"best\" is not allowed: should be 'full', 'halt'"),
        ({"records": "RUN", "policies": "[]"}, r"policies=\[\] is not allowed"),
        ({"records": "RUN", "settle_below": -1}, "settle_below=-1(.0)? is not allowed"),
        ({"records": "RUN", "budgets": "[0]"}, r"budgets\[0\]=0 is not allowed"),
        ({"records": "RUN", "cost.puzzles": 0}, r"cost.puzzles=0 is not allowed"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(
    files: dict[str, Path], tmp_path: Path, options: dict, message: str
) -> None:
    names = {"RUN": "records", "OTHER": "other", "QUESTIONS": "questions", "TINY": "checkpoint"}
    typed = {key: files[names[value]] if value in names else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        command(out=tmp_path / "out", **typed)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no frontier"):
        command(records=files["records"], out=tmp_path)
    with pytest.raises(UserError, match=r"notes\.txt is a file, not a folder"):
        command(records=files["records"], out=tmp_path / "notes.txt")


def test_runs_are_told_apart_by_what_differs() -> None:
    puzzle_set = PuzzleSet(TASK, np.zeros((1, 16), np.uint8), None, np.ones(1, np.int64), [], "hash")
    first = recorded.RecordedRun(
        Path("a"),
        {"noise_scale": 0.1, "seed": 0, "snapshots": [1], "widths": [1]},
        Settings(depth=6, breadth=3),
        puzzle_set,
        1.0,
        None,
    )
    other = dataclasses.replace(first, path=Path("b"), manifest={**first.manifest, "noise_scale": 0.5, "widths": [2]})
    assert names_of([first]) == [""]
    assert names_of([first, other]) == ["noise_scale=0.1", "noise_scale=0.5"]
    assert names_of([first, dataclasses.replace(first, path=Path("b"))]) == ["a", "b"]
