"""DeepSpeed's stages against the single-process backend: the same losses, the same weights, and what a step costs.

    python benchmarks/zero_parity.py                    # 50 steps, workers 1 and 2, ZeRO 0-3
    python benchmarks/zero_parity.py --steps 200
    python benchmarks/zero_parity.py --width 64 --batch 64 --threads 1   # step times of a larger network

Float32. Workers are plain processes joined by torch.distributed (gloo); no Ray is started. Columns:

    loss      largest relative difference of a step's loss from one process with the whole batch at once
    ordered   the same from one process with the batch in as many micro-batches as there are workers, which adds the
              gradients in the workers' order: what remains is not the order of a sum
    weights   largest difference of a weight at the end from that twin
    handed    as `ordered`, when one process's state is handed over half-way: weights, moments, number of updates
    ms        median milliseconds of a step

Halting is a threshold and the optimizer's step is a sign where gradients are small: the rounding of another order of
summation grows with the number of steps (`loss`), and says nothing about the backend.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from eqr_ray.data.arrow_store import Split, write_split
from eqr_ray.data.sampler import Sampler
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.network import cell_function
from eqr_ray.tasks import task_named
from eqr_ray.training.backend import Backend, learning_rate
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.loop import rows_of
from eqr_ray.training.step import Carry, empty_carry, training_step

TASK = task_named("sudoku4")
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Setting:
    """What is run everywhere."""

    steps: int
    width: int
    batch: int
    threads: int
    rate: float
    clipping: float
    schedule: str
    compile: bool
    data: str

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(
            steps=self.steps,
            batch=self.batch,
            dtype="float32",
            compile=self.compile,
            gradient_clipping=self.clipping,
            schedule=self.schedule,  # type: ignore[arg-type]
            learning_rate=self.rate,
            warmup=10,
            weight_decay=0.1,
            max_segments=4,
        )

    def model(self) -> Reasoner:
        torch.manual_seed(0)
        shape = ModelConfig(
            vocab_size=TASK.vocab_size,
            length=TASK.length,
            grid=TASK.grid,
            width=self.width,
            layers=1,
            hidden_multiple=16,
            h_cycles=2,
            l_cycles=2,
        )
        model = Reasoner(shape)
        model.cell_fn = cell_function(torch.device("cpu"), self.compile)
        return model


@dataclass(frozen=True)
class Course:
    """A run: the loss of every step, seconds of every step, weights at the end."""

    losses: list[float]
    seconds: list[float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """One process's state half-way, for others to go on from."""

    carry: Carry
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def course(backend: Backend, setting: Setting, config: TrainingConfig, carry: Carry, first: int, last: int) -> Course:
    """Steps first..last-1; losses are means over the global batch."""
    sampler = Sampler(Split.open(setting.data), config.batch, config.seed, config.augment)
    losses, seconds = [], []
    for step in range(first, last):
        start = time.perf_counter()
        backend.set_learning_rate(learning_rate(step, config))
        carry, sums = training_step(backend, carry, sampler, config, step)
        seconds.append(time.perf_counter() - start)
        losses.append(float(backend.sum(sums["loss"])) / config.batch)
    return Course(losses, seconds, {name: p.detach().clone() for name, p in backend.parameters().items()})


def fresh(backend: Backend, config: TrainingConfig) -> Carry:
    """The carry before the first step."""
    return empty_carry(
        backend.model, rows_of(backend.rank, backend.workers, config.batch), torch.float32, backend.device
    )


def local(setting: Setting, accumulation: int) -> Course:
    """One process's course, its batch in so many micro-batches."""
    config = setting.training.replace(accumulation=accumulation)
    backend = Backend(setting.model(), config, torch.device("cpu"))
    return course(backend, setting, config, fresh(backend, config), 0, setting.steps)


def half_way(setting: Setting, accumulation: int) -> State:
    """One process after half of the steps, as a checkpoint would hold it."""
    config = setting.training.replace(accumulation=accumulation)
    backend = Backend(setting.model(), config, torch.device("cpu"))
    sampler = Sampler(Split.open(setting.data), config.batch, config.seed, config.augment)
    carry = fresh(backend, config)
    for step in range(setting.steps // 2):
        backend.set_learning_rate(learning_rate(step, config))
        carry, _ = training_step(backend, carry, sampler, config, step)
    return State(carry, backend.parameters(), backend.optimizer_state())


def worker(rank: int, workers: int, store: str, setting: Setting, results: Queue[dict[str, Any]]) -> None:
    """All stages, one after the other, in one process group. Rank 0 hands in the rows."""
    torch.set_num_threads(setting.threads)
    os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    # DeepSpeed reads its device from the environment when it is imported
    from eqr_ray.distributed.deepspeed_backend import DeepSpeedBackend, Stage  # noqa: PLC0415

    config, middle = setting.training, setting.steps // 2
    whole, twin, state = local(setting, 1), local(setting, workers), half_way(setting, workers)
    rows = rows_of(rank, workers, config.batch)
    stage: Stage
    for stage in STAGES:
        backend = DeepSpeedBackend(setting.model(), config, stage, torch.device("cpu"))
        ours = course(backend, setting, config, fresh(backend, config), 0, setting.steps)
        backend = DeepSpeedBackend(setting.model(), config, stage, torch.device("cpu"))
        backend.load(state.weights, state.moments, middle)
        given = backend.parameters() | backend.optimizer_state()
        assert all(torch.equal(given[name], value) for name, value in (state.weights | state.moments).items())
        carry = Carry(**{name: value[rows.start : rows.stop] for name, value in state.carry.tensors().items()})
        handed = course(backend, setting, config, carry, middle, setting.steps)
        row = {
            "workers": workers,
            "zero": stage,
            "loss": difference(ours.losses, whole.losses),
            "ordered": difference(ours.losses, twin.losses),
            "weights": max(float((ours.weights[name] - w).abs().max()) for name, w in twin.weights.items()),
            "handed": difference(handed.losses, twin.losses[middle:]),
            "ms": 1e3 * statistics.median(ours.seconds),
            "local_ms": 1e3 * statistics.median(whole.seconds),
        }
        if rank == 0:
            results.put(row)
    dist.destroy_process_group()


def difference(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def measure(setting: Setting, worker_counts: list[int]) -> list[dict[str, Any]]:
    """The rows of the table."""
    rows = []
    context = mp.get_context("spawn")
    for workers in worker_counts:
        with tempfile.TemporaryDirectory() as folder:
            results = context.Queue()
            arguments = (workers, f"{folder}/store", setting, results)
            processes = [context.Process(target=worker, args=(rank, *arguments)) for rank in range(workers)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise SystemExit("a worker failed")
            rows += [results.get() for _ in STAGES]
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--clipping", type=float, default=0.0)
    parser.add_argument("--schedule", choices=["sot", "vanilla", "trajectory"], default="sot")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.arrow"
        write_split(data, TASK, TASK.generate(32, 0), source="generate", seed=0)
        chosen = {name: value for name, value in vars(given).items() if name not in ("workers", "json")}
        setting = Setting(**chosen, data=str(data))
        rows = measure(setting, given.workers)
    print(json.dumps({name: value for name, value in asdict(setting).items() if name != "data"}))
    print("workers  ZeRO  loss      ordered   weights   handed    ms     (one process ms)")
    for row in rows:
        figures = "  ".join(f"{row[name]:8.1e}" for name in ("loss", "ordered", "weights", "handed"))
        print(f"{row['workers']:7}  {row['zero']:4}  {figures}  {row['ms']:5.1f}  ({row['local_ms']:.1f})")
    if given.json:
        given.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
