"""One training step, read top to bottom: segmented online training and its two alternatives.

SOT: replace the rows that halted, run one segment, take its loss backward, update the weights; the next step goes on
from the detached states under the new weights. The vanilla and trajectory schedules run whole trajectories under one
update, with a loss at the last segment or at several (TrainingConfig.supervised).

Shapes: B rows of this worker, L sequence length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eqr_ray.data.sampler import Sampler
from eqr_ray.model import Latent, Readout
from eqr_ray.model.noise import keyed_noise
from eqr_ray.training.backend import Backend
from eqr_ray.training.carry import Carry, halt, noise_keys, refill
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.loss import RowLosses, row_losses


class StepSums(NamedTuple):
    """Sums over the rows of this worker, () float64 each. Means are taken over all rows, not over halted rows only:
    easy rows halt early and often, and would flatter the means."""

    rows: Tensor
    loss: Tensor
    token_loss: Tensor
    halt_loss: Tensor
    exact: Tensor
    token_accuracy: Tensor
    halted: Tensor
    halted_exact: Tensor
    age: Tensor


def training_step(
    backend: Backend, carry: Carry, sampler: Sampler, config: TrainingConfig, step: int
) -> tuple[Carry, StepSums]:
    """Update the weights once; `step` counts updates from 0."""
    carry = refill(carry, sampler, backend.model, config)
    for segment, supervised in enumerate(config.supervised):
        parts = [
            _micro_batch(backend, carry, rows, noise_keys(carry, config, step, segment)[rows], supervised)
            for rows in _micro_batches(len(carry.rows), config.accumulation)
        ]
        latent = Latent(*(torch.cat([part[0].latent[i] for part in parts]) for i in range(2)))
        halt_logit = torch.cat([part[0].halt_logit for part in parts])
        losses = RowLosses(*(torch.cat(column) for column in zip(*(part[1] for part in parts), strict=True)))
        carry = halt(carry, latent, halt_logit, losses.exact, config)
    return carry, _sums(carry, losses)


def _micro_batch(
    backend: Backend, carry: Carry, rows: slice, keys: Tensor, supervised: bool
) -> tuple[Readout, RowLosses]:
    """Run some rows one segment on, and take their loss backward where this segment is supervised."""
    latent = Latent(carry.latent.z_H[rows], carry.latent.z_L[rows])
    noise = keyed_noise(keys, backend.model.config.noise_scale)
    with torch.set_grad_enabled(supervised):
        readout = backend.forward(carry.inputs[rows], latent, noise)
        losses = row_losses(readout.logits, readout.halt_logit, carry.labels[rows])
        if supervised:
            backend.accumulate(losses.total.mean())
    return (
        Readout(Latent(*(z.detach() for z in readout.latent)), readout.logits.detach(), readout.halt_logit.detach()),
        RowLosses(*(value.detach() for value in losses)),
    )


def _micro_batches(rows: int, count: int) -> list[slice]:
    size = rows // count
    return [slice(at, at + size) for at in range(0, rows, size)]


def _sums(carry: Carry, losses: RowLosses) -> StepSums:
    def total(x: Tensor) -> Tensor:
        return x.double().sum()

    return StepSums(
        rows=torch.tensor(float(len(carry.rows)), dtype=torch.float64, device=carry.rows.device),
        loss=total(losses.total),
        token_loss=total(losses.tokens),
        halt_loss=total(losses.halt),
        exact=total(losses.exact),
        token_accuracy=total(losses.token_accuracy),
        halted=total(carry.halted),
        halted_exact=total(carry.halted & losses.exact),
        age=total(carry.age),
    )
