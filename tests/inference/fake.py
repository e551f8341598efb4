"""A stand-in network: a contractive keyed random map, exact per row, with answers that depend on the start.

B rows, L tokens, V vocabulary, D channels
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqr_ray.model.noise import truncated_normal

L, V, D = 5, 4, 3


class FakeLatent(NamedTuple):
    z_H: Tensor
    z_L: Tensor


class FakeSegment(NamedTuple):
    latent: FakeLatent
    logits: Tensor
    halt_logit: Tensor


class FakeNetwork:
    """z <- rate z + (1 - rate) pull(x) + noise. Every row counts its segments in `row_segments`, padding included."""

    def __init__(self, noise: float = 0.05) -> None:
        self.device, self.length, self.vocab_size, self.flops_per_segment = torch.device("cpu"), L, V, 10.0
        self.noise, self.calls = noise, 0

    def embed(self, inputs_BL: Tensor) -> Tensor:
        return torch.stack([torch.sin(inputs_BL.float() * (channel + 1)) for channel in range(D)], dim=-1)

    def start(self, keys_B: Tensor) -> FakeLatent:
        return FakeLatent(truncated_normal(keys_B, -1, (L, D), 1.0), truncated_normal(keys_B, -2, (L, D), 1.0))

    def segment(self, latent: FakeLatent, embedding_BLD: Tensor, keys_B: Tensor) -> FakeSegment:
        self.calls += 1
        z_H, z_L = latent
        rate = 0.3 + 0.5 * torch.sigmoid(z_H[:, :1, :1])  # some rows settle sooner than others
        z_L = 0.5 * z_L + 0.25 * z_H + 0.25 * embedding_BLD + self.noise * truncated_normal(keys_B, 0, (L, D), 1.0)
        z_H = rate * torch.tanh(3 * z_H) + (1 - rate) * z_L
        logits = torch.cat([z_H, z_L[..., :1]], dim=-1)
        return FakeSegment(FakeLatent(z_H, z_L), logits, 3 * z_H[:, 0, 0])


class SlowFake(FakeNetwork):
    """Takes its time, so that a test can kill the process in the middle of a unit."""

    def segment(self, latent: FakeLatent, embedding_BLD: Tensor, keys_B: Tensor) -> FakeSegment:
        time.sleep(0.01)
        return super().segment(latent, embedding_BLD, keys_B)


class DyingFake(FakeNetwork):
    """Ends its own process, as kill -9 does, after five segments; `times` processes do so, each leaving its name."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__()
        self.folder, self.times = folder, times

    def segment(self, latent: FakeLatent, embedding_BLD: Tensor, keys_B: Tensor) -> FakeSegment:
        if self.calls == 5 and any(self._takes_turn(number) for number in range(self.times)):
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), 9)
        return super().segment(latent, embedding_BLD, keys_B)

    def _takes_turn(self, number: int) -> bool:
        """Whether this process is the one that dies as number so-and-so: two that come at once are told apart."""
        try:
            self.folder.with_name(f"{self.folder.name}.{number}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def puzzles(count: int) -> np.ndarray:
    """(count, L) uint8 tokens."""
    return np.random.default_rng(7).integers(1, V, (count, L), dtype=np.uint8)
