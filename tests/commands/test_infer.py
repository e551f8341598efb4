"""The command `infer`: what it leaves, that it continues, and what it says to mistakes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from eqr_ray import infer
from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import write_split
from eqr_ray.distributed import answering
from eqr_ray.distributed.resources import Node, ResourceRequest
from eqr_ray.inference.records import Records, concatenate, read_part
from eqr_ray.inference.settings import InferConfig
from eqr_ray.storage.run_dir import locked
from tests.inference.same import assert_same
from tests.inference.tiny import TASK, save_echo, save_tiny, sudokus, write_csv

torch.set_num_threads(1)  # many small tensors; other processes may want the other cores

REPO = Path(__file__).parents[2]
# interface.md
ACCURACIES = ["exact_accuracy", "exact_low", "exact_high", "token_accuracy", "pass_at", "majority_vote"]
ACCURACIES += ["mean_restart_accuracy", "settled_accuracy"]
SUMMARY = ["puzzles", *ACCURACIES, "settled_share", "segments_mean", "segments_total", "flops_mean", "seconds"]
SUMMARY += ["row_segments_per_s", "actors", "slots", "policy", "depth", "breadth", "noise_scale", "seed"]
SUMMARY += ["checkpoint_hash", "data_hash"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A tiny network and 20 puzzles, with answers and without."""
    puzzles = sudokus(20)
    return {
        "checkpoint": save_tiny(tmp_path / "tiny"),
        "data": write_csv(tmp_path / "with.csv", puzzles),
        "questions": write_csv(tmp_path / "without.csv", puzzles, answers=False),
        "out": tmp_path / "out",
    }


def run(files: dict[str, Path], **options: object) -> dict:
    """The command in this process; returns summary.json."""
    keys = {
        "depth": 4,
        "breadth": 3,
        "actors": 0,
        **{key: files[key] for key in ("checkpoint", "data", "out")},
        **options,
    }
    infer.run(*parse_arguments(InferConfig, [f"{key}={value}" for key, value in keys.items()]))
    return json.loads((Path(str(keys["out"])) / "summary.json").read_text())


def records(out: Path) -> Records:
    return concatenate([read_part(path) for path in sorted((out / "records").glob("*.parquet"))])


def test_what_a_run_leaves(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(files, snapshots="[1,2]", seed=4)
    assert not set(SUMMARY) - set(summary)
    assert all(summary[name] is not None for name in set(SUMMARY) - {"settled_accuracy"})
    assert (summary["puzzles"], summary["segments_total"], summary["trajectories"]) == (20, 240, 60)
    assert {path.name for path in files["out"].iterdir()} == {
        *("records", "answers.parquet", "answers.csv", "config.json", "manifest.json", "summary.json", "log.jsonl"),
        ".lock.json",
    }
    assert json.loads((files["out"] / "config.json").read_text())["snapshots"] == [1, 2]
    cells = [(cell["depth"], cell["breadth"]) for cell in summary["table"]]
    assert cells == [(1, 1), (1, 3), (2, 1), (2, 3), (4, 1), (4, 3)]
    printed = capsys.readouterr().out
    assert "95 % interval" in printed
    assert "answers.csv" in printed


def test_a_cell_without_an_answer_is_shown_as_dashes(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A race may cancel restart 0 of every puzzle: then breadth 1 has no answer."""
    summary = run(files)
    capsys.readouterr()
    cell = summary["table"][0]
    summary["table"] = [{name: value if name in ("depth", "breadth") else None for name, value in cell.items()}]
    infer.show(summary, "out")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│"))
    assert row.replace("│", " ").split() == ["4", "1", *"-----"]


def test_who_follows_the_log_is_told_of_puzzles_as_they_are_answered(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's gauges do, and do not wait for the end of a unit."""
    told: list[dict] = []
    carry_out = answering.carry_out

    def followed(run, reports, live, log, display) -> None:
        log.sinks.append(told.append)
        carry_out(run, reports, live, log, display)

    monkeypatch.setattr(answering, "carry_out", followed)
    run(files, slots=8)
    live = [entry["puzzles"] for entry in told if "event" not in entry]
    assert live
    assert live == sorted(live)
    assert [entry["puzzles"] for entry in told if "puzzles" in entry][-1] == 20


def test_accuracy_is_counted_over_the_puzzles(files: dict[str, Path]) -> None:
    puzzles = sudokus(20)
    assert puzzles.labels is not None
    solved = dataclasses.replace(puzzles, inputs=np.where(np.arange(20)[:, None] < 7, puzzles.labels, puzzles.inputs))
    write_csv(files["data"], solved)
    echo = save_echo(files["checkpoint"])  # some restarts are right, for the seven puzzles that are filled in already
    summary = run(files, checkpoint=echo, depth=16, breadth=4, noise_scale=0)
    rows = records(files["out"])
    right = np.array([(rows.prediction[i] == puzzles.labels[rows.puzzle[i]]).all() for i in range(len(rows))])
    assert 0 < right.sum() < right.sum() + 30 < len(rows)
    assert not right[rows.puzzle >= 7].any()
    assert summary["mean_restart_accuracy"] == right.mean() == summary["pass_at"]["1"]
    assert summary["any_correct"] == len(set(rows.puzzle[right])) / 20 == summary["pass_at"]["4"]
    table = pq.read_table(files["out"] / "answers.parquet").to_pylist()
    exact = [row["answer"] == TASK.decode(puzzles.labels[row["puzzle"]]) for row in table]
    assert [row["exact"] for row in table] == exact
    assert summary["exact_accuracy"] == sum(exact) / 20
    assert summary["exact_low"] < summary["exact_accuracy"] < summary["exact_high"]
    assert summary["residual_auroc"] > 0.7


def test_answers_are_the_chosen_records(files: dict[str, Path]) -> None:
    summary = run(files)
    rows = records(files["out"])
    with (files["out"] / "answers.csv").open() as file:
        answers = list(csv.DictReader(file))
    table = pq.read_table(files["out"] / "answers.parquet").to_pylist()
    puzzles = sudokus(20)
    assert len(answers) == len(table) == 20
    for number, (line, row) in enumerate(zip(answers, table, strict=True)):
        own = rows.take(rows.puzzle == number)
        best = int(np.argmin(own.logit_residual))
        assert row["puzzle"] == int(line["puzzle"]) == number
        assert row["question"] == line["question"] == TASK.decode(puzzles.inputs[number])
        assert row["answer"] == line["answer"] == TASK.decode(own.prediction[best])
        assert (row["restart"], row["segments"]) == (best, 12)
        assert row["residual"] == own.logit_residual[best]
    assert summary["exact_accuracy"] == np.mean([row["exact"] for row in table])


def test_a_row_does_not_depend_on_breadth_limit_or_snapshots(files: dict[str, Path]) -> None:
    run(files, slots=16)
    run(files, slots=16, breadth=2, limit=7, snapshots="[2]", out=files["out"].with_name("small"))
    small = records(files["out"].with_name("small"))
    small = small.take(small.segments == 4)
    rows = records(files["out"])
    assert_same(small, rows.take((rows.puzzle < 7) & (rows.restart < 2)))


def test_data_without_answers(files: dict[str, Path]) -> None:
    summary = run(files, data=files["questions"])
    assert [name for name in SUMMARY if summary[name] is None] == ACCURACIES
    table = pq.read_table(files["out"] / "answers.parquet").to_pylist()
    assert {row["exact"] for row in table} == {None}
    assert all(len(row["answer"]) == 16 for row in table)
    assert run(files, out=files["out"].with_name("with"))["segments_total"] == summary["segments_total"]


def test_bad_rows_are_listed_and_the_others_answered(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = files["data"].read_text().splitlines()
    lines[2:2] = ["12,34", "11..............,"]
    files["data"].write_text("\n".join(lines) + "\n")
    assert run(files)["puzzles"] == 20
    table = pq.read_table(files["out"] / "answers.parquet").to_pylist()
    assert [row["puzzle"] for row in table] == [*range(20), None, None]
    assert [row["line"] for row in table] == [2, *range(5, 24), 3, 4]
    assert "\n1,5," in (files["out"] / "answers.csv").read_text()
    assert f"{files['data']}:3: question: 2 characters" in table[20]["status"]
    assert "bad row" in table[21]["status"]
    assert (table[21]["question"], table[21]["answer"]) == ("11..............", None)
    assert "2 rows could not be read" in capsys.readouterr().out


def test_scores_are_over_the_answered_puzzles(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    lines = files["data"].read_text().splitlines()
    lines[3] = lines[3].split(",")[0] + ","
    files["data"].write_text("\n".join(lines) + "\n")
    summary = run(files, breadth=4)
    assert (summary["puzzles"], summary["answered"]) == (20, 19)
    assert all(summary[name] is not None for name in set(ACCURACIES) - {"settled_accuracy"} | {"top4_accuracy"})
    assert summary["mean_latent_residual"] > 0
    table = pq.read_table(files["out"] / "answers.parquet").to_pylist()
    assert [row["puzzle"] for row in table if row["exact"] is None] == [2]
    assert summary["exact_accuracy"] == sum(row["exact"] for row in table if row["exact"] is not None) / 19
    assert "accuracies are over the 19 of 20 puzzles" in capsys.readouterr().out


def test_lines_of_a_prepared_file_are_its_rows(files: dict[str, Path], tmp_path: Path) -> None:
    write_split(tmp_path / "test.arrow", TASK, sudokus(20), source="", seed=0)
    run(files, data=tmp_path / "test.arrow", limit=3)
    assert pq.read_table(files["out"] / "answers.parquet").column("line").to_pylist() == [1, 2, 3]


def test_one_process_at_a_time(files: dict[str, Path]) -> None:
    with locked(files["out"]), pytest.raises(UserError, match=f"process {os.getpid()} on .* is at work in"):
        run(files)
    assert not (files["out"] / "manifest.json").exists()
    assert run(files)["puzzles"] == 20


NODE = {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("there", "options", "joined", "team"),
    [
        ([NODE], {}, False, None),  # one GPU needs no Ray
        ([{"CPU": 8.0, "GPU": 2.0}], {}, False, ResourceRequest(2, 4.0, 1.0)),
        ([{"CPU": 8.0}, NODE, NODE], {}, True, ResourceRequest(2, 8.0, 1.0)),
        ([{"CPU": 2.0}], {}, True, ResourceRequest(2, 1.0, 0.0)),
        ([NODE], {"actors": 2, "device": "cpu"}, False, ResourceRequest(2, 4.0, 0.0)),
        ([NODE, NODE], {"actors": 0}, True, None),
        ([NODE, NODE], {"gpus_each": 0.5}, True, ResourceRequest(4, 4.0, 0.5)),
        ([NODE], {"actors": 2, "gpus_each": 0.5}, False, ResourceRequest(2, 4.0, 0.5)),
    ],
)
def test_who_works(
    files: dict[str, Path], there: list[Node], options: dict, joined: bool, team: ResourceRequest | None
) -> None:
    keys = {"checkpoint": "c", "data": "d", **options}
    config = parse_arguments(InferConfig, [f"{key}={value}" for key, value in keys.items()])[0]
    assert answering.request_of(config, there, joined) == team


def test_the_same_command_continues_and_another_one_is_refused(files: dict[str, Path]) -> None:
    first = run(files)
    parts = sorted((files["out"] / "records").iterdir())
    whole = {path.name: path.read_bytes() for path in parts}
    for path in parts[::2]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts[1::2]}
    again = run(files, select="halt")  # how to choose is no part of the records
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {path.name: path.read_bytes() for path in (files["out"] / "records").iterdir()} == whole
    assert again["exact_accuracy"] == first["selected"]["halt"]
    for change in ({"seed": 1}, {"noise_scale": 0.2}, {"depth": 5}, {"slots": 8}, {"dtype": "float16"}, {"limit": 3}):
        key = "puzzles" if "limit" in change else next(iter(change))
        with pytest.raises(UserError, match=f"holds another inference run: {key} is "):
            run(files, **change)
    save_tiny(files["checkpoint"], seed=1)
    with pytest.raises(UserError, match="checkpoint_hash is"):
        run(files)


def test_a_folder_of_its_own_by_default(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files["out"].parent)
    for seed in (0, 0, 1):
        typed = [f"checkpoint={files['checkpoint']}", f"data={files['data']}", "depth=1", "actors=0", f"seed={seed}"]
        infer.run(*parse_arguments(InferConfig, typed))
    assert len(list(Path("runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "setle"}, "policy=.setle. is not allowed: should be .*'settle'"),
        ({"policy": "halving"}, "policy=halving was removed: it lost to full and sequential in every measurement"),
        ({"select": "vote"}, "select=vote was removed: summary.json has the majority vote"),
        ({"select": "luck"}, "select=.luck. is not allowed: should be .logit_residual"),
        ({"depth": "many"}, 'depth="many" is not allowed: should be a valid integer'),
        ({"noise_scale": -1}, "noise_scale=-1 is not allowed: should be greater than or equal to 0"),
        ({"snapshots": "[9]"}, "snapshots=9 is not allowed: 1 .. depth=4"),
        ({"limit": 0}, "limit=0 is not allowed"),
        ({"actors": 99}, "actors=99 needs 99 CPUs; there are 0 GPUs, "),
        ({"actors": 1, "device": "cuda"}, "actors=1 needs 1 GPUs; there are 0 GPUs"),
        ({"actors": -1}, "actors=-1 is not allowed"),
        ({"actors": 1, "gpus_each": 0.3}, "gpus_each=0.3 is not allowed: 1, 1/2, 1/3, "),
        ({"address": "127.0.0.1:9", "actors": 1}, "address=127.0.0.1:9: nobody answers there"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"data": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(files: dict[str, Path], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(files, **options)
    assert not files["out"].exists()


def test_puzzles_of_another_length_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "nine.csv").write_text("question\n" + "." * 81 + "\n")
    with pytest.raises(UserError, match=r"no sudoku4 puzzle in it.*81 characters where sudoku4 has 16 cells"):
        run(files, data=tmp_path / "nine.csv")


def command(files: dict[str, Path], **options: object) -> list[str]:
    keys = {key: files[key] for key in ("checkpoint", "data", "out")} | options
    return [sys.executable, "-m", "eqr_ray.infer", *(f"{key}={value}" for key, value in keys.items())]


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    until_s = time.monotonic() + 90
    while len(list((out / "records").glob("*.parquet")) if (out / "records").exists() else []) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_interrupted_ends_with_130_and_keeps_what_is_finished(files: dict[str, Path]) -> None:
    long = {"depth": 32, "breadth": 8, "actors": 0, "slots": 8}
    process = subprocess.Popen(
        command(files, **long), cwd=REPO, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    wait_for_parts(files["out"], 2, process)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 130, error
    assert error.strip().splitlines()[-1] == "eqr-infer: interrupted; everything that was finished is kept"
    kept = sorted((files["out"] / "records").iterdir())
    assert 2 <= len(kept) < 20
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert run(files, **long)["puzzles"] == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before
