"""Segmented online training, top to bottom: the loss of a segment, the rows carried from step to step, the step.

SOT: replace the rows that halted, run one segment, take its loss backward, update the weights; the next step goes on
from the detached states under the new weights. The vanilla and trajectory schedules run whole trajectories under one
update, with a loss at the last segment or at several (TrainingConfig.supervised).

The carry is per global row, so that a checkpoint of it can be cut for any number of workers. All draws are keyed by
(seed, row, number of the draw) or (seed, step, row, segment), never by worker.

Shapes: B rows of this worker, L sequence length, T tokens of the state, D channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eqr_ray.data.sampler import Sampler
from eqr_ray.model import Latent, Readout, Reasoner
from eqr_ray.model.network import start_latent
from eqr_ray.model.noise import keyed_noise, row_keys
from eqr_ray.training.backend import Backend
from eqr_ray.training.config import TrainingConfig

IGNORE = -100
HALT_WEIGHT = 0.5
MIN_EXPLORED = 2  # shortest minimum length that exploration asks for
START, NOISE, EXPLORE = 1, 2, 3  # what a key is for: draws of different streams never meet


class RowLosses(NamedTuple):
    """Per row (B,): token loss (float64), halting loss, and what was right."""

    tokens: Tensor
    halt: Tensor
    exact: Tensor  # bool: every token that has a label is right
    token_accuracy: Tensor

    @property
    def total(self) -> Tensor:
        return self.tokens + HALT_WEIGHT * self.halt


def log_stablemax(logits: Tensor) -> Tensor:
    """log(s(x) / sum s(x)), s(x) = x + 1 for x >= 0 and 1 / (1 - x) below; (..., V), in float64 as in the reference."""
    x = logits.double()
    s = torch.where(x < 0, 1.0 / (1.0 - x.clamp(max=0.0)), x + 1.0)
    return s.log() - s.sum(-1, keepdim=True).log()


def row_losses(logits: Tensor, halt_logit: Tensor, labels: Tensor) -> RowLosses:
    """Per row: mean over tokens of -log stablemax(logits)[label], and BCE(q, [row exactly right]) (EqR, 2605.21488).

    logits (B, L, V), halt_logit (B,), labels (B, L) int64 with IGNORE where nothing is asked.
    """
    asked = labels != IGNORE
    count = asked.sum(-1).clamp(min=1)
    log_p = log_stablemax(logits).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    right = (logits.argmax(-1) == labels) & asked
    exact = right.sum(-1) == asked.sum(-1)
    halt = F.binary_cross_entropy_with_logits(halt_logit, exact.to(halt_logit.dtype), reduction="none")
    return RowLosses((-log_p * asked).sum(-1) / count, halt, exact, right.sum(-1) / count)


@dataclass(frozen=True)
class Carry:
    """The rows of the batch as trajectories of different ages. All (B,) int64 where nothing else is said."""

    rows: Tensor  # the global rows
    z_H: Tensor  # (B, T, D)
    z_L: Tensor
    inputs: Tensor  # (B, L)
    labels: Tensor  # (B, L), IGNORE where nothing is asked
    puzzle: Tensor  # row number in the training split
    age: Tensor  # segments run on the current puzzle
    minimum: Tensor  # age before which the row may not halt
    draws: Tensor  # puzzles taken, the current one included
    halted: Tensor  # bool: replaced before the next segment

    @property
    def latent(self) -> Latent:
        return Latent(self.z_H, self.z_L)

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, for checkpoints."""
        return dict(vars(self))


def empty_carry(model: Reasoner, rows: range, dtype: torch.dtype, device: torch.device) -> Carry:
    """The carry before the first step: every row has halted and waits for its first puzzle."""
    B, c = len(rows), model.config
    number = torch.zeros(B, dtype=torch.int64, device=device)
    tokens = torch.zeros(B, c.length, dtype=torch.int64, device=device)
    return Carry(
        rows=torch.tensor(list(rows), dtype=torch.int64, device=device),
        z_H=torch.zeros(B, c.tokens, c.width, dtype=dtype, device=device),
        z_L=torch.zeros(B, c.tokens if c.states == "dual" else 0, c.width, dtype=dtype, device=device),
        inputs=tokens,
        labels=tokens.clone(),
        puzzle=number,
        age=number.clone(),
        minimum=number.clone(),
        draws=number.clone(),
        halted=torch.ones(B, dtype=torch.bool, device=device),
    )


def refill(carry: Carry, sampler: Sampler, model: Reasoner, config: TrainingConfig) -> Carry:
    """Give every halted row its next puzzle and a new start; the others go on."""
    (index,) = torch.nonzero(carry.halted, as_tuple=True)
    if not len(index):
        return carry
    rows, counts = carry.rows[index], carry.draws[index]
    draw = sampler.draw(rows.cpu().numpy(), counts.cpu().numpy())
    parts = (draw.inputs, draw.labels, draw.puzzle)
    inputs, labels, puzzle = (torch.from_numpy(part.astype(np.int64)).to(rows.device) for part in parts)
    start = start_latent(model, row_keys(config.seed, START, rows, counts), carry.z_H.dtype)
    return replace(
        carry,
        z_H=carry.z_H.index_copy(0, index, start.z_H),
        z_L=carry.z_L.index_copy(0, index, start.z_L),
        inputs=carry.inputs.index_copy(0, index, inputs),
        labels=carry.labels.index_copy(0, index, labels.masked_fill(labels == 0, IGNORE)),
        puzzle=carry.puzzle.index_copy(0, index, puzzle),
        age=carry.age.index_fill(0, index, 0),
        minimum=carry.minimum.index_copy(0, index, exploration_minimum(rows, counts, config)),
        draws=carry.draws.index_copy(0, index, counts + 1),
        halted=torch.zeros_like(carry.halted),
    )


def exploration_minimum(rows: Tensor, counts: Tensor, config: TrainingConfig) -> Tensor:
    """(B,) int64: 0, or with probability `exploration` a length drawn uniformly from 2..max_segments."""
    key = row_keys(config.seed, EXPLORE, rows, counts)
    unit = (key & 0xFFFFFF).double() / (1 << 24)
    span = max(config.max_segments - MIN_EXPLORED + 1, 1)
    length = MIN_EXPLORED + ((key >> 24) & 0xFFFFFF) % span
    return torch.where(unit < config.exploration, length.clamp(max=config.max_segments), 0)


def noise_keys(carry: Carry, config: TrainingConfig, step: int, segment: int) -> Tensor:
    """(B,) int64 keys of the noise of one segment."""
    return row_keys(config.seed, NOISE, step, carry.rows, segment)


def halt(carry: Carry, latent: Latent, halt_logit: Tensor, exact: Tensor, config: TrainingConfig) -> Carry:
    """Move every row one segment on and decide which rows halt."""
    age = carry.age + 1
    wants = {"learned": halt_logit > 0, "oracle": exact, "fixed": torch.zeros_like(exact)}[config.halting]
    halted = (age >= config.max_segments) | (wants & (age >= carry.minimum))
    return replace(carry, z_H=latent.z_H.detach(), z_L=latent.z_L.detach(), age=age, halted=halted)


def training_step(
    backend: Backend, carry: Carry, sampler: Sampler, config: TrainingConfig, step: int
) -> tuple[Carry, dict[str, Tensor]]:
    """Update the weights once; `step` counts updates from 0.

    Returns sums over the rows of this worker too, () float64 each. They are over all rows, not over halted rows only:
    easy rows halt early and often, and would flatter the means.
    """
    carry = refill(carry, sampler, backend.model, config)
    size = len(carry.rows) // config.accumulation
    for segment, supervised in enumerate(config.supervised):
        keys = noise_keys(carry, config, step, segment)
        parts = [
            _micro_batch(backend, carry, slice(at, at + size), keys, supervised)
            for at in range(0, len(carry.rows), size)
        ]
        latent = Latent(*(torch.cat([readout.latent[i] for readout, _ in parts]) for i in range(2)))
        halt_logit = torch.cat([readout.halt_logit for readout, _ in parts])
        losses = RowLosses(*(torch.cat(column) for column in zip(*(row for _, row in parts), strict=True)))
        carry = halt(carry, latent, halt_logit, losses.exact, config)
    sums = {
        "rows": torch.ones_like(carry.age),
        "loss": losses.total,
        "token_loss": losses.tokens,
        "halt_loss": losses.halt,
        "exact": losses.exact,
        "token_accuracy": losses.token_accuracy,
        "halted": carry.halted,
        "halted_exact": carry.halted & losses.exact,
        "age": carry.age,
    }
    return carry, {name: column.double().sum() for name, column in sums.items()}


def _micro_batch(
    backend: Backend, carry: Carry, rows: slice, keys: Tensor, supervised: bool
) -> tuple[Readout, RowLosses]:
    """Run some rows one segment on, and take their loss backward where this segment is supervised."""
    noise = keyed_noise(keys[rows], backend.model.config.noise_scale)
    with torch.set_grad_enabled(supervised):
        readout = backend.forward(carry.inputs[rows], Latent(carry.z_H[rows], carry.z_L[rows]), noise)
        losses = row_losses(readout.logits, readout.halt_logit, carry.labels[rows])
        if supervised:
            backend.accumulate(losses.total.mean())
    latent = Latent(*(z.detach() for z in readout.latent))
    readout = Readout(latent, readout.logits.detach(), readout.halt_logit.detach())
    return readout, RowLosses(*(value.detach() for value in losses))
