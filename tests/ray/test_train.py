"""The command train on real Ray workers, with real kills: what is left is what would have been anyway.

A run of two workers is the measure. The same run loses a worker and then its driver; others change the number of
workers half-way. Everything is float32 and uncompiled, on one thread a worker. The commands run in this process, on the
Ray of all tests, but for the one that is killed, with its own Ray, and the one that is interrupted.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.runtime_context import get_runtime_context
from safetensors.torch import load_file

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.distributed.ray_internals import remove_orphaned_placement_groups, unused_resources
from eqr_ray.distributed.resources import place
from eqr_ray.distributed.trainer import ray_trainer, train_on_ray
from eqr_ray.training.experiment import Experiment, TrainOptions, describe_data, experiment_of
from tests.support.commands import Started, call, succeed

STEPS, EVERY = 100, 5
SHAPE = ["model=eqr_small", "model.width=16", "model.hidden_multiple=16", "model.h_cycles=2", "model.l_cycles=1"]
KEYS = [*SHAPE, "batch=8", f"steps={STEPS}", "learning_rate=1e-3", "warmup=10", "weight_decay=0.1", "max_segments=4"]
KEYS += ["dtype=float32", "compile=false", f"checkpoint_every={EVERY}", "keep_checkpoints=100", "log_every=1"]
KEYS += ["validate_every=0", "validate_puzzles=8"]
ON_CPUS = [*KEYS, "device=cpu"]  # the Ray of all tests says that it has GPUs


def workers_of(driver: Started) -> list[psutil.Process]:
    family = psutil.Process(driver.process.pid).children(recursive=True)
    return [process for process in family if "RayTrainWorker" in " ".join(process.cmdline())]


def kill_driver(driver: Started, workers: list[psutil.Process]) -> None:
    """As kill -9 does. The workers stand still until its raylet is gone too: on a busy machine that takes seconds, in
    which they would do all their steps."""
    raylets = [child for child in psutil.Process(driver.process.pid).children(True) if child.name() == "raylet"]
    assert raylets
    for worker in workers:
        worker.suspend()
    driver.process.kill()
    driver.process.wait()
    assert psutil.wait_procs(raylets, timeout=60)[1] == []
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.resume()


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:08d}"


def entries(run: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in found if entry["event"] == kind]


def losses(run: Path) -> dict[int, float]:
    """By step; where a step was done twice, the last time counts."""
    return {entry["step"]: entry["loss"] for entry in entries(run, "train")}


def final(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint(run, STEPS)
    parts = ("weights", "ema", "optimizer")
    return {f"{part}/{name}": t for part in parts for name, t in load_file(folder / f"{part}.safetensors").items()}


def draws(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """Which puzzle and which draw every global row is at."""
    pieces = [load_file(path) for path in sorted(checkpoint(run, step).glob("carry-*.safetensors"))]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in ("rows", "puzzle", "draws", "age", "inputs")}


def begin_from(run: Path, other: Path, step: int) -> Path:
    """A copy of a run as it was at `step`."""
    checkpoint(other, step).parent.mkdir(parents=True)
    shutil.copytree(checkpoint(run, step), checkpoint(other, step))
    for name in ("manifest.json", "config.json"):
        shutil.copy(run / name, other)
    return other


@pytest.fixture(scope="session")
def whole(cluster: dict[str, float], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workers, ZeRO 2, never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    output = succeed("train", *ON_CPUS, f"data={data}", "workers=2", "zero=2", f"out={run}")
    assert f"step {STEPS}/{STEPS}" in output
    assert "Traceback" not in output
    assert not (run / "ray").exists()
    assert json.loads((run / "summary.json").read_text())["step"] == STEPS
    return run


def test_a_killed_worker_and_a_killed_driver_change_no_bit(whole: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    keys = [*ON_CPUS, f"data={data}", "workers=2", "zero=2", f"out={run}"]
    driver = Started("train", *keys, log=tmp_path / "said")
    driver.when(checkpoint(run, STEPS // 4).exists)
    workers = workers_of(driver)
    assert len(workers) == 2
    workers[1].kill()
    driver.when(lambda: len(entries(run, "resume")) == 1)
    at = entries(run, "resume")[0]["step"]
    assert STEPS // 4 - EVERY <= at < STEPS - 3 * EVERY
    driver.when(checkpoint(run, at + EVERY).exists)
    workers = workers_of(driver)
    kill_driver(driver, workers)
    assert psutil.wait_procs(workers, timeout=30)[1] == []  # the workers end with their driver
    assert not (run / "summary.json").exists()
    output = succeed("train", f"resume={run}")
    assert f"continuing from step {entries(run, 'resume')[1]['step']}/{STEPS}" in output
    expected, found = final(whole), final(run)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert losses(run) == losses(whole)
    model = load_file(run / "model.safetensors")
    assert all(torch.equal(model[name], value) for name, value in load_file(whole / "model.safetensors").items())


def test_one_worker_goes_on_from_two(whole: Path, tmp_path: Path) -> None:
    run = begin_from(whole, tmp_path / "one", STEPS // 2)
    succeed("train", f"resume={run}", "workers=1", "zero=3")
    same_within_rounding(run, whole)


def test_this_process_goes_on_from_two_workers(whole: Path, tmp_path: Path) -> None:
    run = begin_from(whole, tmp_path / "here", STEPS // 2)
    succeed("train", f"resume={run}", "workers=0", "zero=0")
    same_within_rounding(run, whole)


def test_two_workers_go_on_from_this_process(whole: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    keys = [key for key in ON_CPUS if not key.startswith("steps=")]
    succeed("train", *keys, f"data={data}", f"steps={STEPS // 2}", f"out={run}")
    succeed("train", f"resume={run}", f"steps={STEPS}", "workers=2", "zero=1")
    same_within_rounding(run, whole)


def same_within_rounding(run: Path, whole: Path) -> None:
    """The same puzzles in the same rows; losses that part only as rounding does."""
    ours, theirs = losses(run), losses(whole)
    worst = max(abs(ours[step] - theirs[step]) / theirs[step] for step in ours if step > STEPS // 2)
    print(f"largest relative difference of a loss: {worst:.1e}")
    assert worst < 1e-3
    assert ours.keys() >= set(range(STEPS // 2 + 1, STEPS + 1))
    for name, value in draws(whole).items():
        assert torch.equal(draws(run)[name], value), name


def test_a_mistake_found_by_workers_is_one_line_and_no_retry(whole: Path, tmp_path: Path) -> None:
    run = begin_from(whole, tmp_path / "damaged", STEPS // 2)
    (checkpoint(run, STEPS // 2) / "ema.safetensors").write_bytes(b"")
    done = call("train", f"resume={run}", "workers=1")
    assert done.status == 2, done.err
    assert "damaged and passed over: ema.safetensors has changed" in done.err
    assert f"eqr-train: every checkpoint in {run}" in done.err
    assert "Traceback" not in done.err
    assert len(entries(run, "warning")) == 1


@pytest.mark.usefixtures("cluster")
def test_control_c_is_status_130_and_keeps_the_newest_checkpoint(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    address = f"address={get_runtime_context().gcs_address}"
    driver = Started("train", *ON_CPUS, f"data={data}", "workers=2", address, f"out={run}", log=tmp_path / "said")
    driver.when(checkpoint(run, EVERY).exists)
    driver.process.send_signal(signal.SIGINT)
    output = driver.ended(status=130)
    assert "Traceback" not in output
    kept = sorted((run / "checkpoints").glob("[0-9]" * 8))[-1]
    assert output.splitlines()[-1] == f"eqr-train: interrupted; {kept} is kept, resume={run} goes on from it"
    assert not (run / "summary.json").exists()
    assert not (run / "lock.json").exists()
    output = succeed("train", f"resume={run}", "workers=0")
    assert f"continuing from step {int(kept.name)}/{STEPS}" in output


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_there_are_cpus_is_said_at_once(data: Path, tmp_path: Path) -> None:
    keys = [key for key in ON_CPUS if not key.startswith("batch=")]
    done = call("train", *keys, f"data={data}", "batch=1000", "workers=1000", f"out={tmp_path / 'run'}")
    assert done.status == 2
    assert "workers=1000 needs 1000 CPUs; there are 2 GPUs" in done.err
    assert not (tmp_path / "run" / "config.json").exists()  # it has not begun: out= is still free


def test_workers_are_placed_node_by_node(data: Path, tmp_path: Path) -> None:
    """24 CPUs in three parts; and what a machine with one GPU can be asked."""
    head, node = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}
    team = place(experiment(data), [head, node, node])
    trainer = ray_trainer(experiment(data), tmp_path, tmp_path / "ray", team)
    assert (team.workers, trainer.scaling_config.resources_per_worker) == (2, {"CPU": 8.0, "GPU": 1.0})
    environment = trainer.run_config.worker_runtime_env["env_vars"]
    assert environment == {"OMP_NUM_THREADS": "8", "DS_ACCELERATOR": "cuda"}
    team = place(experiment(data, device="cpu"), [head, node, node])
    on_cpus = ray_trainer(experiment(data, device="cpu"), tmp_path, tmp_path / "ray", team)
    assert on_cpus.scaling_config.resources_per_worker == {"CPU": 8.0}
    with pytest.raises(UserError, match=r"workers=2 needs 2 GPUs; there are 1 GPUs, 8 CPUs; device=cpu"):
        place(experiment(data), [node])


def experiment(data: Path, **changes: Any) -> Experiment:
    options, _ = parse_arguments(TrainOptions, KEYS)
    task, data_hash = describe_data(data, None)
    return experiment_of(options.replace(**{"workers": 2, **changes}), task, data, data_hash)


def test_workers_that_cannot_be_placed_do_not_hang(
    cluster: dict[str, float], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPUs are there but taken: after some attempts that is said."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    taken = ray.util.placement_group([{"CPU": 2.0}])
    ray.get(taken.ready(), timeout=60)
    try:
        with pytest.raises(UserError, match="2 workers with 1 CPUs each could not be started in the cluster"):
            train_on_ray(experiment(data, device="cpu"), tmp_path)
    finally:
        ray.util.remove_placement_group(taken)


class Reserving:
    """Has a place for two workers, as Ray Train's controller has."""

    def reserve(self) -> None:
        self.group = ray.util.placement_group([{"CPU": 1.0}] * 2)
        ray.get(self.group.ready())


@pytest.mark.usefixtures("cluster")
def test_what_a_dead_actor_had_reserved_is_free_again() -> None:
    until_all_is_free()
    own = ray.util.placement_group([{"GPU": 1.0}])  # a driver's, such as Tune's: it has no actor that could be dead
    ray.get(own.ready(), timeout=240)
    living, dead = (ray.remote(Reserving).options(num_cpus=0).remote() for _ in range(2))
    ray.get(dead.reserve.remote(), timeout=240)
    ray.kill(dead)
    waiting = living.reserve.remote()
    assert ray.wait([waiting], timeout=3) == ([], [waiting])
    remove_orphaned_placement_groups()
    ray.get(waiting, timeout=240)
    remove_orphaned_placement_groups()
    assert free_cpus() == 0.0  # what the living hold, it left alone
    assert ray.util.placement_group_table(own)["state"] == "CREATED"
    ray.util.remove_placement_group(own)
    ray.kill(living)
    until_all_is_free()


def until_all_is_free() -> None:
    end_s = time.monotonic() + 120
    while free_cpus() < 2.0:
        assert time.monotonic() < end_s
        remove_orphaned_placement_groups()
        time.sleep(0.2)


def free_cpus() -> float:
    return sum(node.get("CPU", 0.0) for node in unused_resources())
