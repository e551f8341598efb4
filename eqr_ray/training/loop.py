"""The training loop: steps, metrics, validation, checkpoints, time limit, resume. One loop for every backend.

Everything that reaches outside is passed in. All workers take every decision together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import Split
from eqr_ray.data.sampler import Sampler
from eqr_ray.model import Reasoner
from eqr_ray.model.network import Network, cell_function
from eqr_ray.model.noise import row_keys
from eqr_ray.model.runtime import dtype_named
from eqr_ray.storage.progress import Rate
from eqr_ray.storage.run_log import RunLog
from eqr_ray.training.backend import Backend, Ema, learning_rate
from eqr_ray.training.checkpoint import choose_checkpoint, load_checkpoint, save_checkpoint
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.step import IGNORE, Carry, empty_carry, row_losses, training_step

ReportMetrics = Callable[[dict[str, Any]], None]
VALIDATION_BATCH = 32  # rows; a multiple of nothing, but the same shape for every call
VALIDATION_SEED = 20_260_521  # validation draws are the same for every run, so that runs compare


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number: a smaller learning rate is needed, not a retry."""


@dataclass(frozen=True)
class TrainingJob:
    """What one worker needs besides its backend."""

    config: TrainingConfig
    sampler: Sampler
    validation: Split
    checkpoints: Path
    experiment: str  # hash of what a resume may not change
    log: RunLog
    report: ReportMetrics  # called with the metrics at every checkpoint
    interrupted: Callable[[], bool] = bool  # whether to end after this step; collective


@dataclass
class _Clock:
    """Training time of all attempts together, and the steps of this one."""

    before_s: float
    first_step: int
    started: float = field(default_factory=time.monotonic)
    rate: Rate = field(default_factory=Rate)  # steps; the first one, which may compile, does not count

    def elapsed_s(self) -> float:
        return self.before_s + time.monotonic() - self.started


def rows_of(rank: int, workers: int, batch: int) -> range:
    """The global rows of a worker. UserError: the batch cannot be dealt out evenly."""
    if batch % workers:
        raise UserError(f"batch={batch} cannot be dealt out to workers={workers}: it must be a multiple")
    share = batch // workers
    return range(rank * share, (rank + 1) * share)


def train(backend: Backend, job: TrainingJob) -> dict[str, Any]:
    """Run to the last step or the time limit, from the newest checkpoint if there is one.

    Returns the last metrics with `step`, `seconds`, `parameters`, and `ema`: the state dict of the averaged weights.
    TrainingDiverged; KeyboardInterrupt after a checkpoint, where the job is interrupted.
    """
    config = job.config
    backend.model.cell_fn = cell_function(backend.device, config.compile)
    ema = Ema(backend.parameters(), config.ema)
    carry, done, before_s = _begin(backend, ema, job)
    shadow = Reasoner(backend.model.config).to(backend.device)  # validation runs it with the averaged weights
    shadow.load_state_dict(dict(backend.model.named_buffers()), strict=False)
    network = Network(shadow, dtype=dtype_named(config.dtype), compile=config.compile)
    clock = _Clock(before_s, done)
    sums: list[dict[str, Tensor]] = []
    metrics: dict[str, Any] = {"step": done}
    stop = done >= config.steps
    if stop:  # killed between its last checkpoint and its end: only the metrics are missing
        metrics |= _validate(backend, job, ema, network, done)
    while not stop:
        backend.set_learning_rate(learning_rate(done, config))
        carry, step_sums = training_step(backend, carry, job.sampler, config, done)
        ema.update(backend.parameters())
        sums.append(step_sums)
        done += 1
        if done == clock.first_step + 1:
            clock.rate.add(done)
        if done % config.log_every == 0 or done == config.steps:
            metrics = _log(backend, job, sums, done, clock)
            sums = []
            stop = done == config.steps or _time_is_up(backend, config, clock)
        if stop or (config.validate_every and done % config.validate_every == 0):
            metrics |= _validate(backend, job, ema, network, done)
        interrupted = job.interrupted()
        if stop or interrupted or done % config.checkpoint_every == 0:
            elapsed_s, keep = clock.elapsed_s(), config.keep_checkpoints
            save_checkpoint(job.checkpoints, backend, ema, carry, done, elapsed_s, job.experiment, keep)
            job.report({**metrics, "step": done})
        if interrupted:
            raise KeyboardInterrupt
    ema.copy_to(network.model)
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    ends = {"step": done, "seconds": round(clock.elapsed_s(), 1), "ema": network.model.state_dict()}
    return {"parameters": parameters, **metrics, **ends}


def _begin(backend: Backend, ema: Ema, job: TrainingJob) -> tuple[Carry, int, float]:
    """The carry, the steps done and the time spent, from the newest checkpoint or from nothing."""
    rows = rows_of(backend.rank, backend.workers, job.config.batch)
    checkpoint = choose_checkpoint(job.checkpoints, job.experiment, backend)
    if checkpoint is None:
        return empty_carry(backend.model, rows, dtype_named(job.config.dtype), backend.device), 0, 0.0
    carry = load_checkpoint(checkpoint, backend, ema, rows)
    job.log.log("resume", checkpoint.step, checkpoint=checkpoint.folder.name, workers=backend.workers)
    return carry, checkpoint.step, checkpoint.elapsed_s


def _log(backend: Backend, job: TrainingJob, sums: list[dict[str, Tensor]], done: int, clock: _Clock) -> dict[str, Any]:
    """Means over all rows of all workers since the last time."""
    local: Tensor = torch.stack([torch.stack(list(step.values())) for step in sums]).sum(0)
    total = dict(zip(sums[0], backend.sum(local).tolist(), strict=True))
    if not math.isfinite(total["loss"]):
        words = f"the loss became {total['loss']} before step {done}"
        job.log.log("diverged", done, message=words)
        raise TrainingDiverged(words)
    config, mean = job.config, {name: round(value / total["rows"], 5) for name, value in total.items()}
    clock.rate.add(done)
    speed = clock.rate.per_s() or (done - clock.first_step) / max(time.monotonic() - clock.started, 1e-9)
    left_s = (config.steps - done) / speed
    if config.minutes:
        left_s = min(left_s, config.minutes * 60 - clock.elapsed_s())
    metrics = {
        "loss": mean["loss"],
        "token_loss": mean["token_loss"],
        "halt_loss": mean["halt_loss"],
        "exact_accuracy": mean["exact"],
        "token_accuracy": mean["token_accuracy"],
        "halted_share": mean["halted"],
        "halted_exact": round(total["halted_exact"] / max(total["halted"], 1.0), 5),
        "mean_age": round(total["age"] / total["rows"], 3),
        "learning_rate": learning_rate(done - 1, config),
        "segments_per_s": round(speed * len(config.supervised), 3),
        "rows_per_s": round(speed * config.batch * len(config.supervised), 1),
        "elapsed_s": round(clock.elapsed_s(), 1),
        "left_s": round(max(left_s, 0.0), 1),
    }
    job.log.log("train", done, **metrics)
    return metrics


def _time_is_up(backend: Backend, config: TrainingConfig, clock: _Clock) -> bool:
    """Whether any worker's clock has passed the limit: one decision for all."""
    if not config.minutes:
        return False
    mine = float(clock.elapsed_s() >= config.minutes * 60)
    return bool(backend.sum(torch.tensor([mine], dtype=torch.float64, device=backend.device))[0] > 0)


def _validate(backend: Backend, job: TrainingJob, ema: Ema, network: Network, done: int) -> dict[str, float]:
    """Accuracy of the EMA weights on the validation split, every worker on its share of the puzzles."""
    config = job.config
    count = min(config.validate_puzzles, len(job.validation))
    if count == 0:
        return {}
    ema.copy_to(network.model)
    sums = validate(network, job.validation, range(backend.rank, count, backend.workers), config.validate_depth)
    local = torch.tensor(list(sums.values()), dtype=torch.float64, device=backend.device)
    total = dict(zip(sums, backend.sum(local).tolist(), strict=True))
    metrics = {
        "validation_exact": round(total["exact"] / total["puzzles"], 5),
        "validation_token_accuracy": round(total["token_accuracy"] / total["puzzles"], 5),
        "validation_halted_share": round(total["halted"] / total["puzzles"], 5),
        "validation_halted_exact": round(total["halted_exact"] / max(total["halted"], 1.0), 5),
    }
    job.log.log("validation", done, **metrics, puzzles=int(total["puzzles"]), depth=config.validate_depth)
    return metrics


def validate(network: Network, split: Split, puzzles: range, depth: int) -> dict[str, float]:
    """Run `puzzles` (row numbers of the split) for `depth` segments from one start each; sums over them.

    A batch is filled up to VALIDATION_BATCH rows by repeating its first puzzle; the filling is not counted. What is
    right is what training counts as right: padding (token 0 of the labels) is not asked.
    """
    assert split.labels is not None
    names = ("puzzles", "exact", "token_accuracy", "halted", "halted_exact")
    total = np.zeros(len(names))
    for at in range(0, len(puzzles), VALIDATION_BATCH):
        index = np.array(puzzles[at : at + VALIDATION_BATCH], dtype=np.int64)
        count = len(index)
        full = np.concatenate([index, np.repeat(index[:1], VALIDATION_BATCH - count)])
        arrays = (split.inputs[full], split.labels[index], full)
        inputs, labels, puzzle = (torch.from_numpy(array.astype(np.int64)).to(network.device) for array in arrays)
        embedding, latent = network.embed(inputs), network.start(row_keys(VALIDATION_SEED, puzzle, 0))
        for k in range(1, depth + 1):
            segment = network.segment(latent, embedding, row_keys(VALIDATION_SEED, puzzle, k))
            latent = segment.latent
        halt_logit = segment.halt_logit[:count]
        rows = row_losses(segment.logits[:count], halt_logit, labels.masked_fill(labels == 0, IGNORE))
        exact, halted = rows.exact, halt_logit > 0
        sums = (exact.sum(), rows.token_accuracy.double().sum(), halted.sum(), (halted & exact).sum())
        total += [count, *map(float, sums)]
    return dict(zip(names, total.tolist(), strict=True))
