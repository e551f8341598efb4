"""The command `train` in one process: a run's folder, its refusals, its resume."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import write_split
from eqr_ray.model.pretrained import load_model
from eqr_ray.storage.progress import Progress
from eqr_ray.storage.run_dir import LOCK, locked
from eqr_ray.tasks import task_named
from eqr_ray.train import main
from eqr_ray.training.experiment import TrainOptions
from eqr_ray.training.status import show_entry
from tests.support.commands import call

torch.set_num_threads(1)
TINY = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=4", "steps=6", "learning_rate=1e-3", "warmup=2", "compile=false", "dtype=float32", "log_every=2"]
TINY += ["checkpoint_every=3", "validate_puzzles=4", "validate_depth=2"]


def train(*typed: str) -> int:
    return main(*parse_arguments(TrainOptions, typed))


def refused(*typed: str) -> str:
    with pytest.raises(UserError) as error:
        train(*typed)
    return str(error.value)


@pytest.fixture
def run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "run"
    assert train(*TINY, f"data={data}", f"out={out}") == 0
    return out


def test_a_run_leaves_what_the_interface_says(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["steps"] == 6
    assert config["model"]["width"] == 8
    summary = json.loads((run / "summary.json").read_text())
    assert summary["step"] == 6
    assert 0 <= summary["validation_exact"] <= 1
    kinds = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert kinds == ["train"] * 3 + ["validation"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["00000003", "00000006"]
    assert not list(run.glob("wandb*"))
    model, card = load_model(str(run))
    assert card.task == "sudoku4"
    assert card.hash == summary["model_hash"]
    assert card.recipe["learning_rate"] == 1e-3
    assert str(run.parent) not in (run / "model.json").read_text()
    ema = load_file(run / "checkpoints" / "00000006" / "ema.safetensors")
    assert all(torch.equal(parameter, ema[name]) for name, parameter in model.named_parameters())


def test_without_data_puzzles_are_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def prepare(config) -> None:
        made.append(config.task)
        task, puzzles = task_named(config.task), task_named(config.task).generate(8, 0)
        Path(config.out).mkdir()
        for name in ("train", "validation"):
            write_split(Path(config.out) / f"{name}.arrow", task, puzzles, source="generate", seed=0)

    monkeypatch.setattr("eqr_ray.train.prepare", prepare)
    assert train(*TINY, "task=sudoku4", f"out={tmp_path / 'run'}") == 0
    assert made == ["sudoku4"]
    assert (tmp_path / "run" / "data" / "train.arrow").exists()


def test_a_mistake_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "schedule" in refused(*TINY, f"data={data}", f"out={out}", "schedule=vanila")
    assert "no such file" in refused(*TINY, f"data={tmp_path}", f"out={out}")
    assert "holds sudoku4 puzzles" in refused(*TINY, f"data={data}", "task=sudoku9", f"out={out}")
    assert not out.exists()


def test_numbers_are_names_of_folders(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").symlink_to(data)
    assert train(*TINY, "data=7", "out=1_0") == 0
    assert train("resume=1_0", "steps=7") == 0
    assert (tmp_path / "1_0" / "summary.json").exists()
    assert "unknown task '5'" in refused(*TINY, "task=5")


@pytest.mark.parametrize("out", ["file/x", "closed/x"])
def test_a_path_that_the_disk_refuses_is_one_line(data: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o500)
    if out == "closed/x" and os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("root may write everywhere")
    done = call("train", *TINY, f"data={data}", f"out={tmp_path / out}")
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert done.err.startswith(f"eqr-train: {tmp_path}/")


def test_without_out_a_run_is_named_after_its_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(*TINY, f"data={data}") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("sudoku4-")


def test_a_run_may_start_from_the_weights_of_another(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    still = [key for key in TINY if key != "learning_rate=1e-3"]
    assert train(*still, f"data={data}", f"out={out}", f"weights={run}", "learning_rate=1e-12") == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (run, out))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    words = refused(*TINY, f"data={data}", f"out={tmp_path / 'other'}", f"weights={run}", "model.layers=2")
    assert f"weights={run} do not fit model=" in words
    assert "no such folder" in refused(*TINY, f"data={data}", f"out={tmp_path / 'other'}", f"weights={tmp_path}/none")
    assert not (tmp_path / "other").exists()


def test_a_run_that_does_not_begin_leaves_a_finished_one_finished(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ray(experiment, folder) -> None:
        raise UserError("no Ray")

    before = (run / "summary.json").read_text(), (run / "config.json").read_text()
    monkeypatch.setattr("eqr_ray.train.run", no_ray)
    assert refused(f"resume={run}", "steps=12") == "no Ray"
    assert ((run / "summary.json").read_text(), (run / "config.json").read_text()) == before
    new = tmp_path / "new"
    assert refused(*TINY, f"data={data}", f"out={new}") == "no Ray"
    monkeypatch.undo()
    assert train(*TINY, f"data={data}", f"out={new}") == 0


def test_parameters_are_those_that_learn(data: Path, tmp_path: Path) -> None:
    assert train(*TINY[1:], "model=trm", "model.layers=1", f"data={data}", f"out={tmp_path / 'run'}") == 0
    model, _ = load_model(str(tmp_path / "run"))
    assert dict(model.named_buffers())  # a fixed start
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_a_folder_with_a_run_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    assert f"holds a run: resume={run}" in refused(*TINY, f"data={data}", f"out={run}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    assert "is not empty and holds no training run" in refused(*TINY, f"data={data}", f"out={tmp_path / 'mine'}")


def test_resume_needs_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    assert "the run is finished (6 steps" in refused(f"resume={run}")
    assert "raise steps=" in refused(f"resume={run}", "steps=6")
    assert "no training run there" in refused(f"resume={tmp_path}")
    assert not (tmp_path / ".lock.json").exists()


def test_resume_takes_the_runs_own_configuration(run: Path, data: Path, tmp_path: Path) -> None:
    assert train(f"resume={run}", "steps=12") == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["batch"]) == (12, 4)
    assert json.loads((run / "summary.json").read_text())["step"] == 12
    at_once = tmp_path / "at_once"
    keys = [key for key in TINY if not key.startswith("steps=")]
    assert train(*keys, "steps=12", f"data={data}", f"out={at_once}") == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (run, at_once))
    assert all(torch.equal(one[name], value) for name, value in two.items())


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("batch=8", "batch=8 does not go with resume=: the run has batch=4"),
        ("model.width=16", "model.width=16 does not go with resume=: the run has model.width=8"),
        ("model=trm", "does not go with resume=: the run has model."),
        ("damping=0.5", "damping=0.5 does not go with resume=: the run has model.damping=0.05"),
        ("task=sudoku9", "task=sudoku9 does not go with resume=: the run has task=sudoku4"),
        ("seed=3", "seed=3"),
        ("weights=zoo:sudoku6", "weights=zoo:sudoku6 does not go with resume=: the run has weights=None"),
        ("out=elsewhere", "out= does not go with resume=: the run in"),
    ],
)
def test_resume_refuses_what_would_be_another_run(run: Path, typed: str, words: str) -> None:
    assert words in refused(f"resume={run}", "steps=12", typed)


def test_a_recipe_is_for_a_new_run(run: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "best.yaml"
    recipe.write_text("model: eqr_small\n" + "\n".join(key.replace("=", ": ", 1) for key in TINY[1:]) + "\n")
    assert train(f"recipe={recipe}", f"data={data}", "steps=2", f"out={tmp_path / 'new'}") == 0
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["steps"], config["batch"], config["model"]["width"]) == (2, 4, 8)
    assert "has its own" in refused(f"resume={run}", "steps=9", f"recipe={recipe}")


def test_resume_with_the_same_values_is_the_same_run(run: Path) -> None:
    assert train(f"resume={run}", "steps=7", "batch=4", "damping=0.05", "model.width=8", "learning_rate=1e-3") == 0


def test_data_that_has_changed_is_refused(run: Path, tmp_path: Path) -> None:
    task, puzzles = task_named("sudoku4"), task_named("sudoku4").generate(24, 1)
    for name in ("train", "validation"):
        write_split(tmp_path / f"{name}.arrow", task, puzzles, source="generate", seed=0)
    assert "not what the run began with" in refused(f"resume={run}", "steps=12", f"data={tmp_path}")


def test_two_drivers_of_one_run(run: Path) -> None:
    with locked(run):
        assert "is at work in" in refused(f"resume={run}", "steps=12")
    assert not (run / LOCK).exists()
    stale = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time() - 100}
    (run / LOCK).write_text(json.dumps(stale))  # this number belonged to another process then
    with locked(run):
        pass
    (run / LOCK).write_text(json.dumps({**stale, "host": "elsewhere"}))
    said = refused(f"resume={run}", "steps=12")
    words = f"on elsewhere is at work in {run}, which cannot be seen from {socket.gethostname()}; its log.jsonl was "
    assert words in said
    assert said.endswith(f"If it is dead (a pod that was replaced): rm {run / LOCK}")


def test_a_diverging_run_is_one_line_and_status_1(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [key for key in TINY if not key.startswith("learning_rate=")]
    assert train(*keys, "learning_rate=1e30", f"data={data}", f"out={tmp_path / 'run'}") == 1
    assert "the loss became" in capsys.readouterr().err
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_control_c_and_sigterm_keep_a_checkpoint(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    keys = [key for key in TINY if not key.startswith(("steps=", "checkpoint_every="))]

    def send() -> None:
        end_s = time.monotonic() + 100
        while not (out / "log.jsonl").exists() or '"loss"' not in (out / "log.jsonl").read_text():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.default_int_handler)  # should the command have none, the test fails, not all
    try:
        with ThreadPoolExecutor() as pool:
            sent = pool.submit(send)
            done = call("train", *keys, "steps=1000000", f"data={data}", f"out={out}")
            sent.result()
    finally:
        signal.signal(number, before)
    assert done.status == 130, done.err
    (kept,) = (out / "checkpoints").iterdir()
    assert done.err.splitlines()[-1] == f"eqr-train: interrupted; {kept} is kept, resume={out} goes on from it"
    steps = int(kept.name) + 2
    assert train(f"resume={out}", f"steps={steps}") == 0
    assert json.loads((out / "summary.json").read_text())["step"] == steps


@pytest.mark.slow
def test_wandb_offline_keeps_one_run_over_a_resume(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "eqr_ray.train"]
    for keys in ([*TINY, f"data={data}", f"out={out}", "wandb=offline"], [f"resume={out}", "steps=8"]):
        done = subprocess.run([*command, *keys], capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
    run_id = (out / "wandb_id.txt").read_text()
    folders = sorted(path.name for path in (out / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(name.endswith(run_id) for name in folders)


def test_what_is_shown_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    train_line = {"event": "train", "step": 1200, "segments_per_s": 6.12, "rows_per_s": 783.2, "loss": 1.23456}
    train_line |= {"exact_accuracy": 0.125, "left_s": 7300.0}
    validation = {"event": "validation", "step": 1200, "validation_exact": 0.5, "puzzles": 2000, "depth": 16}
    with Progress(50_000, "steps") as display:
        show_entry(display, 50_000, train_line)
        show_entry(display, 50_000, validation)
        show_entry(display, 50_000, {"event": "resume", "step": 30, "checkpoint": "00000030", "workers": 2})
        show_entry(display, 50_000, {"event": "warning", "message": "a worker died"})
    assert capsys.readouterr().err.splitlines() == [
        "validation at step 1,200/50,000: exact 50.00% of 2,000 puzzles at depth 16",
        "continuing from step 30/50,000 (00000030), workers=2",
        "warning: a worker died",
        "1,200/50,000 steps  6.12 segments/s  783 rows/s  loss 1.2346  exact 12.50%  2 h 2 min left",
    ]
