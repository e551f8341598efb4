"""Trainings and inference on several nodes that come and go: killed, told to go, replaced; the head is lost.

The nodes are real `ray start` processes on loopback; the measure is the same run in one process.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from eqr_ray.inference.records import concatenate, read_part
from eqr_ray.storage.run_log import read_log
from eqr_ray.tasks import Task, task_named
from eqr_ray.training.checkpoint import complete_checkpoints
from tests.support.commands import Started, succeed
from tests.support.machines import Machines, cables_possible

KEYS = ["model=eqr_small", "model.width=16", "model.hidden_multiple=16", "model.h_cycles=2", "model.l_cycles=1"]
KEYS += ["batch=8", "learning_rate=1e-4", "warmup=10", "weight_decay=0.1", "max_segments=4", "dtype=float32"]
KEYS += ["compile=false", "log_every=1", "validate_every=0", "validate_puzzles=8", "keep_checkpoints=100"]
RARELY = "checkpoint_every=100000"  # what is kept then, was written because somebody asked


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path) as machines:
        yield machines


def start(machines: Machines, log: Path, command: str, *keys: str) -> Started:
    """A command on the machines, which ends with them."""
    driver = Started(command, *keys, f"address={machines.address}", log=log, environment=machines.environment)
    machines.drivers.append(driver.process)
    return driver


def entries(run: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in read_log(run / "log.jsonl").entries if entry["event"] == kind]


def step_of(run: Path) -> int:
    found = entries(run, "train")
    return found[-1]["step"] if found else 0


def losses(run: Path) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in entries(run, "train")}


def test_two_workers_then_one_then_two(machines: Machines, data: Path, tmp_path: Path) -> None:
    """A node is told to go, and another comes: nothing is done again, and the curve is that of one process."""
    run = tmp_path / "run"
    nodes = [machines.add(), machines.add()]
    keys = [*KEYS, f"data={data}", RARELY]
    many = ["steps=100000", "workers=2", "workers_min=1", "zero=1", f"out={run}"]
    driver = start(machines, tmp_path / "said", "train", *keys, *many)
    driver.when(lambda: step_of(run) >= 30)
    driver.when(
        lambda: any("ray_eqr_rows_per_s{" in node.metrics() and 'run="run"' in node.metrics() for node in nodes)
    )
    nodes[1].tell_to_go()
    driver.when(lambda: len(entries(run, "resume")) == 1)
    assert entries(run, "resume")[0]["workers"] == 1
    one = entries(run, "resume")[0]["step"]
    driver.when(lambda: step_of(run) >= one + 30)
    machines.add()
    driver.when(lambda: len(entries(run, "resume")) == 2)
    assert entries(run, "resume")[1]["workers"] == 2
    two = entries(run, "resume")[1]["step"]
    driver.when(lambda: step_of(run) >= two + 30)
    driver.process.send_signal(signal.SIGTERM)
    output = driver.ended(status=130)
    assert "Traceback" not in output
    last = int(complete_checkpoints(run / "checkpoints")[-1].name)
    steps = [entry["step"] for entry in entries(run, "train")]
    assert steps == list(range(1, last + 1))  # every step once
    whole = tmp_path / "whole"
    succeed("train", *keys, f"steps={last}", f"out={whole}")
    expected, found = losses(whole), losses(run)
    worst = max(abs(found[step] - loss) / loss for step, loss in expected.items())
    print(f"{last} steps, 2 -> 1 at {one}, 1 -> 2 at {two}; largest relative difference of a loss: {worst:.1e}")
    assert worst < 1e-2


def test_nodes_are_waited_for_and_a_power_cut_costs_the_steps_since_the_last_checkpoint(
    machines: Machines, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    keys = [*KEYS, f"data={data}", "checkpoint_every=10", "steps=400", "workers=2", "workers_min=1", f"out={run}"]
    output = start(machines, tmp_path / "said", "train", *keys).ended(status=2)
    assert "workers_min=1 needs 1 CPUs; there are 0 GPUs, 0 CPUs" in output
    assert not (run / "config.json").exists()
    driver = start(machines, tmp_path / "said", "train", *keys, "wait_minutes=5")
    driver.when(lambda: "waiting 300 s at most: workers_min=1" in driver.said())
    nodes = [machines.add(), machines.add()]
    driver.when(lambda: entries(run, "resume") != [] and step_of(run) >= 30)  # it began when the first node was there
    nodes[0].kill()
    killed = step_of(run)
    output = driver.ended()
    assert "starting again from step" in output
    grown, again = entries(run, "resume")
    assert grown["workers"] == 2
    assert again["workers"] == 1
    assert killed - 10 <= again["step"] <= killed + 1


def test_inference_goes_on_without_a_node_and_after_the_head_is_lost(tmp_path: Path) -> None:
    """Records are those of one process that nothing happened to. The node is cut off: it runs on, and nobody hears it.
    (Where network namespaces are not ours to make, it is killed.)"""
    with Machines(tmp_path, cables=cables_possible()) as machines:
        lose_a_node_and_the_head(machines, tmp_path)


def lose_a_node_and_the_head(machines: Machines, tmp_path: Path) -> None:
    puzzles = write_csv(tmp_path / "mine.csv", task_named("sudoku6"), 100)
    keys = ["checkpoint=zoo:sudoku6", f"data={puzzles}", "depth=16", "breadth=8", "slots=32", "compile=false"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    succeed("infer", *keys, "actors=0", f"out={whole}")
    parts = len(list(whole.glob("records/*.parquet")))
    nodes = [machines.add(), machines.add()]
    driver = start(machines, tmp_path / "said", "infer", *keys, f"out={out}")
    driver.when(lambda: records_in(out) >= parts // 6)
    if nodes[0].cable:
        nodes[0].cut_off()
    else:
        nodes[0].kill()
    driver.when(lambda: records_in(out) >= parts // 3)
    machines.stop()
    driver.process.kill()
    done = records_in(out)
    assert done < parts
    machines.start()
    start(machines, tmp_path / "said", "infer", *keys, f"out={out}").ended()
    starts = [entry for entry in read_log(out / "log.jsonl").entries if entry["event"] == "start"]
    assert [entry["missing"] for entry in starts] == [parts, parts - done]
    assert rows_of(out) == rows_of(whole)


def write_csv(path: Path, task: Task, count: int) -> Path:
    path.write_text("\n".join(task.decode(question) for question in task.generate(count, 0).inputs))
    return path


def records_in(out: Path) -> int:
    return len(list(out.glob("records/*.parquet")))


def rows_of(out: Path) -> dict[str, bytes]:
    rows = concatenate([read_part(path) for path in sorted(out.glob("records/*.parquet"))]).in_order()
    return {field.name: getattr(rows, field.name).tobytes() for field in fields(rows)}
