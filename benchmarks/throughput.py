"""How fast one process trains and answers, beside the matrix-product peak of the same machine.

    python benchmarks/throughput.py [threads=2] [width=128] [layers=2] [batch=64] [chunk=64] [compile=true]

prints rows/s of whole training steps (refill, a segment, loss, backward, update, EMA) and row-segments/s at inference,
in a plain loop over the network and through the engine (with refills and records, at depth 8), for 9x9 Sudoku with MLP
mixing in bfloat16, the operations they make, and what share of the measured peak that is. Medians of timed repetitions,
for the engine the mean of 24 steps; run it on an otherwise idle machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.schema import Options
from eqr_ray.data.arrow_store import Split, write_split
from eqr_ray.data.sampler import Sampler
from eqr_ray.inference.engine import BreadthEngine
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model import network as networks
from eqr_ray.model.network import Network, cell_function, flops_per_segment
from eqr_ray.model.noise import row_keys
from eqr_ray.tasks.registry import task_named
from eqr_ray.training.backend import Backend, Ema
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.step import empty_carry, training_step

REPETITIONS = 9
PUZZLES = 256


class Words(Options):
    """The words of the command line."""

    threads: int = 2
    width: int = 128
    layers: int = 2
    batch: int = 64
    chunk: int = 64  # rows that run through a segment together
    compile: bool = True


def median_seconds(call: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Median wall time of a call, after two calls to warm up."""
    for _ in range(2):
        call()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def matrix_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the best of a few large matrix products in this process."""
    best = 0.0
    for m, k, n in ((4096, 1024, 4096), (5184, 128, 1024), (8192, 512, 512)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        seconds = median_seconds(lambda a=a, b=b: torch.nn.functional.linear(a, b))
        best = max(best, 2.0 * m * k * n / seconds)
    return best


def training_rows_per_s(config: ModelConfig, options: Words, folder: Path) -> float:
    """Rows a second through whole training steps: refill, forward, loss, backward, AdamATan2, halting, EMA."""
    task = task_named("sudoku9")
    write_split(folder / "train.arrow", task, task.generate(PUZZLES, seed=0), source="generate", seed=0)
    training = TrainingConfig(batch=options.batch, accumulation=max(1, options.batch // options.chunk))
    engine = Backend(Reasoner(config), training, torch.device("cpu"))
    engine.model.cell_fn = cell_function(engine.device, options.compile)
    engine.set_learning_rate(training.learning_rate)
    sampler = Sampler(Split.open(folder / "train.arrow"), options.batch, seed=0, augment=True)
    ema = Ema(engine.parameters(), training.ema)
    state: dict[str, Any] = {
        "carry": empty_carry(engine.model, range(options.batch), torch.bfloat16, engine.device),
        "step": 0,
    }

    def step() -> None:
        state["carry"], _ = training_step(engine, state["carry"], sampler, training, state["step"])
        ema.update(engine.parameters())
        state["step"] += 1

    return options.batch / median_seconds(step)


def inference_rows_per_s(config: ModelConfig, options: Words) -> float:
    """Row-segments a second, readout included."""
    networks.CPU_CHUNK = options.chunk
    network = Network(Reasoner(config), compile=options.compile)
    keys = row_keys(0, torch.arange(options.batch))
    embedding = network.embed(torch.randint(1, config.vocab_size, (options.batch, config.length)))
    latent = network.start(keys)
    return options.batch / median_seconds(lambda: network.segment(latent, embedding, keys))


def engine_rows_per_s(config: ModelConfig, options: Words, policy: str) -> float:
    """Row-segments a second of the engine while it has work for all slots."""
    network = Network(Reasoner(config), compile=options.compile)
    engine = BreadthEngine(network, Settings(depth=8, policy=policy), options.batch)
    inputs = np.random.default_rng(0).integers(1, config.vocab_size, (6 * options.batch, config.length), dtype=np.uint8)
    engine.add(Unit(0, len(inputs), 0, 1), inputs)
    for _ in range(8):
        engine.step()
    before, started_s = engine.row_segments, time.perf_counter()
    for _ in range(24):
        engine.step()
    return (engine.row_segments - before) / (time.perf_counter() - started_s)


def main() -> None:
    """Measure and print."""
    options, _ = parse_arguments(Words, sys.argv[1:])
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=11, length=81, grid=(9, 9), width=options.width, layers=options.layers)
    forward = flops_per_segment(config)
    training = forward * (1 + 2 * config.grad_cycles / config.h_cycles)  # backward costs two forwards of its part
    peak = matrix_peak(torch.bfloat16)
    print(options)
    print(f"matrix products       {peak / 1e9:7.0f} GFLOP/s bfloat16, {matrix_peak(torch.float32) / 1e9:.0f} float32")
    with tempfile.TemporaryDirectory() as folder:
        trained = training_rows_per_s(config, options, Path(folder))
    for name, rows, flops in (
        ("training step", trained, training),
        ("segments, plain loop", inference_rows_per_s(config, options), forward),
        ("engine, full", engine_rows_per_s(config, options, "full"), forward),
        ("engine, settle", engine_rows_per_s(config, options, "settle"), forward),
    ):
        print(
            f"{name:<20} {rows:8.1f} rows/s, {rows * flops / 1e9:5.0f} GFLOP/s, {rows * flops / peak:.0%} of the peak"
        )


if __name__ == "__main__":
    main()
