"""Slots: a fixed number of trajectories on a device, advanced together.

Why here: the tensor half of the engine. All shapes are fixed, so that the network can be compiled; of a trajectory it
keeps the state, the last logits and a few numbers, never its past. It knows neither policies nor units.

    S slots, F slots being filled or read, L tokens, V vocabulary, D channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eqr_ray.inference.policies import Signals
from eqr_ray.inference.settings import Settings
from eqr_ray.model.noise import row_keys
from eqr_ray.model.residual import RunningMean, latent_change, logit_change

START = -1  # the segment number in the key of a start


class SegmentLike(Protocol):
    """`network.Segment`: latent (a tuple of tensors (B, ...)), logits (B, L, V) float32, halt_logit (B,) float32."""

    @property
    def latent(self) -> Any: ...
    @property
    def logits(self) -> Tensor: ...
    @property
    def halt_logit(self) -> Tensor: ...


class NetworkLike(Protocol):
    """What the engine asks of a network (`network.Network`, or a stand-in in tests). Rows are independent, and the
    tensors of a segment are fresh: the engine writes new starts into `latent`."""

    @property
    def device(self) -> torch.device: ...
    @property
    def length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def flops_per_segment(self) -> float: ...
    def embed(self, inputs_BL: Tensor, /) -> Tensor: ...
    def start(self, keys_B: Tensor, /) -> Any: ...
    def segment(self, latent: Any, embedding_BLD: Tensor, keys_B: Tensor, /) -> SegmentLike: ...


class Readings(NamedTuple):
    """What is recorded of F trajectories, on the host: scores (F,) and the answer (F, L) uint8."""

    settled: npt.NDArray[np.bool_]
    logit_residual: npt.NDArray[np.float32]
    latent_residual: npt.NDArray[np.float32]
    halt_logit: npt.NDArray[np.float32]
    prediction: npt.NDArray[np.uint8]


class Parked(NamedTuple):
    """A trajectory taken out of its slot, to go on later: its state, and what is known of its past."""

    latent: tuple[Tensor, ...]
    logits: Tensor
    segments: Tensor
    calm: Tensor
    logit_window: Tensor
    latent_window: Tensor


class SlotsLike(Protocol):
    """What the engine asks of its slots (`Slots`, or records that are played back)."""

    def fill(
        self,
        slots: npt.NDArray[np.int64],
        puzzles: npt.NDArray[np.int64],
        restarts: npt.NDArray[np.int64],
        inputs_FL: npt.NDArray[np.uint8],
        parked: Sequence[Any],
        /,
    ) -> None: ...
    def advance(self) -> Signals: ...
    def read(self, slots: npt.NDArray[np.int64], /) -> Readings: ...
    def park(self, slots: npt.NDArray[np.int64], /) -> Sequence[Any]: ...


class Slots:
    """`count` trajectories side by side. A trajectory's draws are keyed by (seed, puzzle, restart, segment) alone."""

    @torch.no_grad()
    def __init__(self, network: NetworkLike, count: int, settings: Settings) -> None:
        device = network.device
        self.network, self._settings = network, settings
        self._puzzle, self._restart, self._segments, self._calm = (
            torch.zeros(count, dtype=torch.int64, device=device) for _ in range(4)
        )
        # Slots that were never filled iterate a puzzle of padding; nobody reads them.
        self._inputs = torch.zeros(count, network.length, dtype=torch.uint8, device=device)
        self._embedding = network.embed(self._inputs)
        self._latent = network.start(self._puzzle)
        self._logits = torch.zeros(count, network.length, network.vocab_size, device=device)
        self._logit_window, self._latent_window = RunningMean(count, device), RunningMean(count, device)
        self._signals: Signals | None = None

    @torch.no_grad()
    def fill(
        self,
        slots: npt.NDArray[np.int64],
        puzzles: npt.NDArray[np.int64],
        restarts: npt.NDArray[np.int64],
        inputs_FL: npt.NDArray[np.uint8],
        parked: Sequence[Parked] = (),
    ) -> None:
        """Start trajectories in these slots: puzzle and restart numbers (F,), inputs (F, L). The last ones are not
        started but go on from where they were `parked`."""
        device = self.network.device
        at, puzzle, restart = (torch.from_numpy(words).to(device) for words in (slots, puzzles, restarts))
        start = self.network.start(row_keys(self._settings.seed, puzzle, restart, START))
        for state, fresh in zip(self._latent, start, strict=True):
            state.index_copy_(0, at, fresh)
        inputs = torch.from_numpy(inputs_FL).to(device)
        self._inputs.index_copy_(0, at, inputs)
        self._embedding.index_copy_(0, at, self.network.embed(inputs))
        self._puzzle.index_copy_(0, at, puzzle)
        self._restart.index_copy_(0, at, restart)
        self._segments.index_fill_(0, at, 0)
        self._calm = self._calm.index_fill(0, at, 0)
        self._logit_window.reset(at)
        self._latent_window.reset(at)
        if parked:
            self._go_on(at[len(at) - len(parked) :], parked)

    def _go_on(self, at: Tensor, parked: Sequence[Parked]) -> None:
        for state, *parts in zip(self._latent, *(one.latent for one in parked), strict=True):
            state.index_copy_(0, at, torch.stack(parts))
        self._logits.index_copy_(0, at, torch.stack([one.logits for one in parked]))
        self._segments.index_copy_(0, at, torch.stack([one.segments for one in parked]))
        self._calm = self._calm.index_copy(0, at, torch.stack([one.calm for one in parked]))
        self._logit_window.put(at, torch.stack([one.logit_window for one in parked]))
        self._latent_window.put(at, torch.stack([one.latent_window for one in parked]))

    @torch.no_grad()
    def park(self, slots: npt.NDArray[np.int64]) -> list[Parked]:
        """Copies of what these slots (F,) hold, on the device."""
        at = torch.from_numpy(slots).to(self.network.device)
        latent = [state.index_select(0, at) for state in self._latent]
        rest = [tensor.index_select(0, at) for tensor in (self._logits, self._segments, self._calm)]
        windows = [self._logit_window.take(at), self._latent_window.take(at)]
        return [
            Parked(tuple(state[row] for state in latent), *(tensor[row] for tensor in (*rest, *windows)))
            for row in range(len(slots))
        ]

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
        self._calm = torch.where(residual <= self._settings.settle_below, self._calm + 1, 0)
        settled = self._calm >= self._settings.settle_for
        prediction = segment.logits.argmax(dim=-1).to(torch.uint8)
        self._signals = Signals(
            segments=self._segments,
            logit_residual=residual,
            latent_residual=self._latent_window.mean(),
            halt_logit=segment.halt_logit,
            settled=settled,
            inputs=self._inputs,
            prediction=prediction,
        )
        return self._signals

    @torch.no_grad()
    def read(self, slots: npt.NDArray[np.int64]) -> Readings:
        """What these slots (F,) show after the last segment. The answer is the most likely token of each position."""
        assert self._signals is not None
        at = torch.from_numpy(slots).to(self.network.device)
        signals = self._signals
        numbers = torch.stack([signals.logit_residual, signals.latent_residual, signals.halt_logit.float()])
        numbers_3F = numbers.index_select(1, at).cpu().numpy()
        settled = signals.settled.index_select(0, at).cpu().numpy()
        prediction = signals.prediction.index_select(0, at).cpu().numpy()
        return Readings(settled, numbers_3F[0], numbers_3F[1], numbers_3F[2], prediction)
