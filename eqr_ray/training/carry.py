"""The rows of the batch as trajectories of different ages: what segmented online training carries from step to step.

Everything here is per global row, so that a checkpoint of it can be cut for any number of workers. All draws are keyed
by (seed, row, number of the draw) or (seed, step, row, segment), never by worker.

Shapes: B rows of this worker, L sequence length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqr_ray.data.sampler import Sampler
from eqr_ray.model import Latent, Reasoner
from eqr_ray.model.network import start_latent
from eqr_ray.model.noise import row_keys
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.loss import IGNORE

MIN_EXPLORED = 2  # shortest minimum length that exploration asks for


class Stream(IntEnum):
    """What a key is for: draws of different streams never meet."""

    START = 1
    NOISE = 2
    EXPLORE = 3


@dataclass(frozen=True)
class Carry:
    """`rows` (B,) are the global rows; `draws` (B,) counts the puzzles a row has taken, the current one included."""

    rows: Tensor  # int64
    latent: Latent
    inputs: Tensor  # (B, L) int64
    labels: Tensor  # (B, L) int64, IGNORE where nothing is asked
    puzzle: Tensor  # int64, row number in the training split
    age: Tensor  # int64, segments run on the current puzzle
    minimum: Tensor  # int64, age before which the row may not halt
    draws: Tensor  # int64
    halted: Tensor  # bool: replaced before the next segment

    def tensors(self) -> dict[str, Tensor]:
        """All parts by name, for checkpoints."""
        parts = {name: getattr(self, name) for name in CARRY_PARTS}
        return {"z_H": self.latent.z_H, "z_L": self.latent.z_L, **parts}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> Carry:
        """The inverse of `tensors`."""
        parts: dict[str, Any] = {name: tensors[name] for name in CARRY_PARTS}
        return Carry(latent=Latent(tensors["z_H"], tensors["z_L"]), **parts)


CARRY_PARTS = ("rows", "inputs", "labels", "puzzle", "age", "minimum", "draws", "halted")


def empty_carry(model: Reasoner, rows: range, dtype: torch.dtype, device: torch.device) -> Carry:
    """The carry before the first step: every row has halted and waits for its first puzzle."""
    B, c = len(rows), model.config
    number = torch.zeros(B, dtype=torch.int64, device=device)
    tokens = torch.zeros(B, c.length, dtype=torch.int64, device=device)
    z_H = torch.zeros(B, c.tokens, c.width, dtype=dtype, device=device)
    z_L = z_H.clone() if c.states == "dual" else z_H[:, :0].clone()
    return Carry(
        rows=torch.tensor(list(rows), dtype=torch.int64, device=device),
        latent=Latent(z_H, z_L),
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
    start = start_latent(model, row_keys(config.seed, Stream.START, rows, counts), carry.latent.z_H.dtype)
    device = rows.device
    labels = torch.from_numpy(draw.labels.astype(np.int64))
    return replace(
        carry,
        latent=Latent(*(old.index_copy(0, index, new) for old, new in zip(carry.latent, start, strict=True))),
        inputs=carry.inputs.index_copy(0, index, torch.from_numpy(draw.inputs.astype(np.int64)).to(device)),
        labels=carry.labels.index_copy(0, index, labels.masked_fill(labels == 0, IGNORE).to(device)),
        puzzle=carry.puzzle.index_copy(0, index, torch.from_numpy(draw.puzzle.astype(np.int64)).to(device)),
        age=carry.age.index_fill(0, index, 0),
        minimum=carry.minimum.index_copy(0, index, exploration_minimum(rows, counts, config)),
        draws=carry.draws.index_copy(0, index, counts + 1),
        halted=torch.zeros_like(carry.halted),
    )


def exploration_minimum(rows: Tensor, counts: Tensor, config: TrainingConfig) -> Tensor:
    """(B,) int64: 0, or with probability `exploration` a length drawn uniformly from 2..max_segments."""
    key = row_keys(config.seed, Stream.EXPLORE, rows, counts)
    unit = (key & 0xFFFFFF).double() / (1 << 24)
    span = max(config.max_segments - MIN_EXPLORED + 1, 1)
    length = MIN_EXPLORED + ((key >> 24) & 0xFFFFFF) % span
    return torch.where(unit < config.exploration, length.clamp(max=config.max_segments), 0)


def noise_keys(carry: Carry, config: TrainingConfig, step: int, segment: int) -> Tensor:
    """(B,) int64 keys of the noise of one segment."""
    return row_keys(config.seed, Stream.NOISE, step, carry.rows, segment)


def halt(carry: Carry, latent: Latent, halt_logit: Tensor, exact: Tensor, config: TrainingConfig) -> Carry:
    """Move every row one segment on and decide which rows halt."""
    age = carry.age + 1
    wants = {"learned": halt_logit > 0, "oracle": exact, "fixed": torch.zeros_like(exact)}[config.halting]
    halted = (age >= config.max_segments) | (wants & (age >= carry.minimum))
    return replace(carry, latent=Latent(*(z.detach() for z in latent)), age=age, halted=halted)
