"""Slots: a fixed number of trajectories on a device, advanced together.

All shapes are fixed, so that the network can be compiled; of a trajectory the slots keep the state, the last logits and
a few numbers, never its past. They know neither policies nor units.

    S slots, F slots being filled, L tokens, V vocabulary, D channels
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from eqr_ray.inference.policies import Signals
from eqr_ray.inference.records import Tokens
from eqr_ray.inference.settings import Settings
from eqr_ray.model.network import Network
from eqr_ray.model.noise import row_keys
from eqr_ray.model.residual import RunningMean, latent_change, logit_change

Numbers = npt.NDArray[np.int64]

START = -1  # the segment number in the key of a start


class SlotsLike(Protocol):
    """What the engine asks of its slots (`Slots`, or records that are played back)."""

    def fill(self, slots: Numbers, puzzles: Numbers, restarts: Numbers, inputs_FL: Tokens, /) -> None: ...
    def advance(self) -> Signals: ...


class Slots:
    """`count` trajectories side by side. A trajectory's draws are keyed by (seed, puzzle, restart, segment) alone."""

    @torch.no_grad()
    def __init__(self, network: Network, count: int, settings: Settings) -> None:
        device = network.device
        self.network, self._settings = network, settings
        self._puzzle, self._restart, self._segments, self._settled_streak = (
            torch.zeros(count, dtype=torch.int64, device=device) for _ in range(4)
        )
        # Slots that were never filled iterate a puzzle of padding; nobody reads them.
        self._inputs = torch.zeros(count, network.length, dtype=torch.uint8, device=device)
        self._embedding = network.embed(self._inputs)
        self._latent = network.start(self._puzzle)
        self._logits = torch.zeros(count, network.length, network.vocab_size, device=device)
        self._logit_window, self._latent_window = RunningMean(count, device), RunningMean(count, device)

    @torch.no_grad()
    def fill(self, slots: Numbers, puzzles: Numbers, restarts: Numbers, inputs_FL: Tokens) -> None:
        """Start trajectories in these slots: puzzle and restart numbers (F,), inputs (F, L)."""
        device = self.network.device
        at, puzzle, restart, inputs = (torch.from_numpy(a).to(device) for a in (slots, puzzles, restarts, inputs_FL))
        # The network's tensors are fresh after every segment, so starts may be written into them.
        start = self.network.start(row_keys(self._settings.seed, puzzle, restart, START))
        for state, fresh in zip(self._latent, start, strict=True):
            state.index_copy_(0, at, fresh)
        self._inputs.index_copy_(0, at, inputs)
        self._embedding.index_copy_(0, at, self.network.embed(inputs))
        self._puzzle.index_copy_(0, at, puzzle)
        self._restart.index_copy_(0, at, restart)
        self._segments.index_fill_(0, at, 0)
        self._settled_streak = self._settled_streak.index_fill(0, at, 0)
        self._logit_window.reset(at)
        self._latent_window.reset(at)

    @torch.no_grad()
    def advance(self) -> Signals:
        """One segment of every slot."""
        key = row_keys(self._settings.seed, self._puzzle, self._restart, self._segments)
        segment = self.network.segment(self._latent, self._embedding, key)
        self._latent_window.push(latent_change(segment.latent, self._latent))
        self._logit_window.push(logit_change(segment.logits, self._logits), self._segments > 0)
        self._latent, self._logits = segment.latent, segment.logits
        self._segments += 1
        residual = self._logit_window.mean()
        self._settled_streak = torch.where(residual <= self._settings.settle_below, self._settled_streak + 1, 0)
        return Signals(
            logit_residual=residual,
            latent_residual=self._latent_window.mean(),
            halt_logit=segment.halt_logit,
            settled=self._settled_streak >= self._settings.settle_for,
            inputs=self._inputs,
            prediction=segment.logits.argmax(dim=-1).to(torch.uint8),
        )
