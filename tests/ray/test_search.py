"""The command sweep on a real Ray, with real kills: what is left is what would have been anyway.

One trial at a time, so that early ends are a matter of the trials and not of who came first.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from ray.runtime_context import get_runtime_context

from eqr_ray.data.arrow_store import write_split
from eqr_ray.search.trials import Trials
from eqr_ray.tasks import task_named
from tests.support.commands import Started, call, succeed

pytestmark = pytest.mark.usefixtures("cluster")

SPACE = """
command: train
space:
  damping: {uniform: [0.0, 0.3]}
  learning_rate: {log: [1.0e-4, 1.0e-2]}
keys:
  model: eqr_small
  model.width: 8
  model.hidden_multiple: 8
  model.h_cycles: 2
  model.l_cycles: 1
  batch: 4
  steps: 40
  warmup: 4
  max_segments: 2
  validate_puzzles: 8
  dtype: float32
  compile: false
objective: highest validation_token_accuracy
scheduler: {name: asha, first: 10, factor: 2}
report_every: 5
trials: 4
"""
SLOW = ("time", "elapsed_s", "left_s", "rows_per_s", "segments_per_s")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task, folder = task_named("sudoku4"), tmp_path_factory.mktemp("sudoku4")
    puzzles = task.generate(40, 0)
    for name, rows in (("train", (0, 16)), ("validation", (16, 24)), ("test", (24, 40))):
        write_split(folder / f"{name}.arrow", task, puzzles.take(np.arange(*rows)), source="generate", seed=0)
    (folder / "space.yaml").write_text(SPACE)
    return folder


def reported(out: Path, trial: int) -> int:
    """How many validations a trial has behind it."""
    log = out / "trials" / f"{trial:05d}" / "log.jsonl"
    return log.read_text().count('"event": "validation"') if log.exists() else 0


def trainers(out: Path) -> list[psutil.Process]:
    """The process that is training the trial at hand: the one that holds its lock."""
    found = []
    for lock in out.glob("*/*/lock.json"):
        try:
            found.append(psutil.Process(json.loads(lock.read_text())["pid"]))
        except (psutil.NoSuchProcess, ValueError, FileNotFoundError):
            continue
    return found


def rows(out: Path) -> dict[str, Any]:
    """What the trials came to, without the time of day."""
    table = pq.read_table(out / "trials.parquet").to_pylist()
    return {f"{row['trial']}@{row['step']}": {k: v for k, v in row.items() if k not in SLOW} for row in table}


def start(log: Path, *keys: str) -> Started:
    """In a process of its own, on the Ray of all tests."""
    return Started("sweep", *keys, f"address={get_runtime_context().gcs_address}", log=log)


def test_a_killed_trial_and_a_killed_driver_change_nothing(data: Path, tmp_path: Path) -> None:
    keys = [f"space={data / 'space.yaml'}", f"data={data}", "at_once=1", "finalists=1", "seeds=1", "device=cpu"]
    output = succeed("sweep", *keys, f"out={tmp_path / 'whole'}")
    assert "4 configurations tried" in output
    assert "Traceback" not in output
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert not (tmp_path / "whole" / "ray").exists()

    out = tmp_path / "killed"
    driver = start(tmp_path / "said", *keys, f"out={out}")
    driver.when(lambda: reported(out, 0) >= 2 and bool(trainers(out)))
    trainers(out)[0].kill()
    driver.when(lambda: (out / "trials" / "00001").exists())
    driver.when(lambda: reported(out, 1) >= 1 and bool(trainers(out)))
    orphans = trainers(out)
    driver.process.kill()
    driver.process.wait()
    assert psutil.wait_procs(orphans, timeout=60)[1] == []  # a trial ends with its driver
    assert not (out / "summary.json").exists()
    succeed("sweep", f"resume={out}", "address=null")
    assert rows(out) == rows(tmp_path / "whole")
    found = json.loads((out / "summary.json").read_text())
    for key in ("winner", "ends", "finalists"):
        assert found[key] == whole[key]


def test_trials_of_ray_train_workers(data: Path, tmp_path: Path) -> None:
    """One that ends before its time leaves its workers' places, and the process that it had, to the next."""
    text = SPACE.replace("steps: 40", "steps: 400").replace("{name: asha, first: 10,", "{name: asha, first: 20,")
    text = text.replace("report_every: 5", "report_every: 20")
    text += "first: [" + ", ".join(f"{{damping: 0.0, learning_rate: {rate}}}" for rate in (1e-2, 1e-4, 1e-3)) + "]\n"
    space, out = tmp_path / "space.yaml", tmp_path / "workers"
    space.write_text(text)
    keys = ["workers=2", "trials=3", "at_once=1", "finalists=0", "device=cpu"]
    succeed("sweep", f"space={space}", f"data={data}", *keys, f"out={out}")
    trials = Trials(out / "trials").all()
    assert [trials[number].status for number in range(3)] == ["finished", "stopped", "stopped"]
    assert len(trials[1].reports) == 1
    summary = json.loads((out / "trials" / "00000" / "summary.json").read_text())
    assert (summary["workers"], summary["step"]) == (2, 400)
    for number in (1, 2):
        for file in ("lock.json", "summary.json"):  # it has ended, and not because it was done
            assert not (out / "trials" / f"{number:05d}" / file).exists()


def test_control_c_keeps_what_there_is(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    keys = [f"space={data / 'space.yaml'}", f"data={data}", "finalists=0", "device=cpu", f"out={out}"]
    driver = start(tmp_path / "said", *keys)
    driver.when(lambda: reported(out, 0) >= 1)
    driver.process.send_signal(signal.SIGINT)
    output = driver.ended(status=130)
    assert "Traceback" not in output
    assert output.splitlines()[-1] == f"eqr-sweep: interrupted; resume={out} goes on from the trials that are there"


def test_a_trial_that_never_fits_is_refused_at_once(data: Path, tmp_path: Path) -> None:
    keys = [f"space={data / 'space.yaml'}", f"data={data}", "workers=1000", "device=cpu", f"out={tmp_path / 'run'}"]
    done = call("sweep", *keys)
    assert done.status == 2, done.err
    assert "batch=4 cannot be dealt out to workers=1000" in done.err or "has no place" in done.err
    assert not (tmp_path / "run").exists()
