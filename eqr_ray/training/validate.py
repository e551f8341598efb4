"""Validation during training: the exact accuracy of the EMA weights on unseen puzzles, never on the test split.

Shapes: B rows of a batch, L sequence length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from eqr_ray.data.arrow_store import Split
from eqr_ray.model.network import Network
from eqr_ray.model.noise import row_keys
from eqr_ray.training.loss import IGNORE, row_losses

BATCH = 32  # rows; a multiple of nothing, but the same shape for every call
SEED = 20_260_521  # validation draws are the same for every run, so that runs compare


class ValidationSums(NamedTuple):
    """Sums over the puzzles seen: how many, exactly right, token accuracy, halted, halted and right."""

    puzzles: float
    exact: float
    token_accuracy: float
    halted: float
    halted_exact: float


def validate(network: Network, split: Split, puzzles: range, depth: int) -> ValidationSums:
    """Run `puzzles` (row numbers of the split) for `depth` segments from one start each."""
    assert split.labels is not None
    total = np.zeros(len(ValidationSums._fields))
    for at in range(0, len(puzzles), BATCH):
        index = np.array(puzzles[at : at + BATCH], dtype=np.int64)
        total += _batch(network, split, index, depth)
    return ValidationSums(*total.tolist())


def _batch(network: Network, split: Split, index: np.ndarray[tuple[int], np.dtype[np.int64]], depth: int) -> np.ndarray:
    """One batch, filled up to BATCH rows by repeating the first puzzle; the filling is not counted.

    What is right is what training counts as right: padding (token 0 of the labels) is not asked.
    """
    assert split.labels is not None
    full = np.concatenate([index, np.repeat(index[:1], BATCH - len(index))])
    inputs = torch.from_numpy(split.inputs[full].astype(np.int64)).to(network.device)
    labels = torch.from_numpy(split.labels[index].astype(np.int64)).to(network.device)
    puzzle = torch.from_numpy(full.astype(np.int64)).to(network.device)
    embedding, latent = network.embed(inputs), network.start(row_keys(SEED, puzzle, 0))
    for k in range(1, depth + 1):
        segment = network.segment(latent, embedding, row_keys(SEED, puzzle, k))
        latent = segment.latent
    logits, halt_logit = segment.logits[: len(index)], segment.halt_logit[: len(index)]
    rows, halted = row_losses(logits, halt_logit, labels.masked_fill(labels == 0, IGNORE)), halt_logit > 0
    exact, accuracy = rows.exact, rows.token_accuracy.double()
    sums = (len(index), exact.sum(), accuracy.sum(), halted.sum(), (halted & exact).sum())
    return np.array([float(value) for value in sums])
