"""The network: embedding, one segment of the recursion, readout (EqR, arXiv 2605.21488). Read it top to bottom.

All parameters belong to this one module, so that ZeRO 3 gathers them once a segment instead of once a layer. It holds
no state between calls and draws nothing itself: starts and noise are arguments.

Shapes: B rows, L sequence length, P puzzle tokens, T = P + L, D channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eqr_ray.model.cell import Block, BlockWeights, Noise, cell
from eqr_ray.model.config import ModelConfig
from eqr_ray.model.layers import Rotary, linear_weight, rotary_table, wide

Q_BIAS = -5.0  # halting starts almost surely off
CellFn = Callable[..., Tensor]


class Latent(NamedTuple):
    """`z_H` (B, T, D) is read out; `z_L` (B, T, D) is the fast state, with T = 0 where the network has one state."""

    z_H: Tensor
    z_L: Tensor


class Readout(NamedTuple):
    """What a segment says: the next state, `logits` (B, L, V) float32 and `halt_logit` (B,) float32."""

    latent: Latent
    logits: Tensor
    halt_logit: Tensor


class Reasoner(nn.Module):
    """EqR and its relatives, by configuration."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        D = config.width
        self.embed = linear_weight(config.vocab_size, D, std=1.0 / math.sqrt(D))
        self.lm_head = linear_weight(config.vocab_size, D)
        self.q_head = nn.Linear(D, 2)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, Q_BIAS)
        distinct = config.cells_per_segment if config.weights == "distinct" else 1
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers * distinct))
        if config.start == "fixed":  # one drawn vector per state, never trained
            self.register_buffer("z_H_init", linear_weight(1, D, std=1.0).detach()[0])
            self.register_buffer("z_L_init", linear_weight(1, D, std=1.0).detach()[0])
        if config.puzzle_tokens:
            self.puzzle_embed = nn.Parameter(torch.zeros(config.puzzle_ids, config.puzzle_width))
        self._rotaries = _rotaries(config)
        self.cell_fn: CellFn = cell  # a compiled cell may take its place (network.py)

    def forward(
        self, inputs: Tensor, latent: Latent, noise: Noise | None = None, puzzle_ids: Tensor | None = None
    ) -> Readout:
        """One segment from `inputs` (B, L) integer tokens; the state type is the compute type."""
        embedding = self.embed_inputs(inputs, latent.z_H.dtype, puzzle_ids)
        return self.readout(self.segment(latent, embedding, noise))

    def segment(self, latent: Latent, embedding: Tensor, noise: Noise | None = None) -> Latent:
        """H_cycles recursions; only the last `grad_cycles` of them carry a gradient."""
        weights = tuple(block.cast(latent.z_H.dtype) for block in self.blocks if isinstance(block, Block))
        free = self.config.h_cycles - self.config.grad_cycles
        for recursion in range(self.config.h_cycles):
            with torch.set_grad_enabled(torch.is_grad_enabled() and recursion >= free):
                latent = self._recursion(recursion, latent, embedding, weights, noise)
        return latent

    def _recursion(
        self, recursion: int, latent: Latent, embedding: Tensor, weights: tuple[BlockWeights, ...], noise: Noise | None
    ) -> Latent:
        c, (z_H, z_L) = self.config, latent
        first = recursion * (c.l_cycles + 1)
        last = first + c.l_cycles
        if c.states == "single":
            for call in range(first, last + 1):
                z_H = self._cell(call, z_H, embedding, weights, noise)
            return Latent(z_H, z_L)
        injection = z_H + embedding
        for call in range(first, last):
            z_L = self._cell(call, z_L, injection, weights, noise)
        return Latent(self._cell(last, z_H, z_L, weights, noise), z_L)

    def _cell(
        self, call: int, z: Tensor, injection: Tensor, weights: tuple[BlockWeights, ...], noise: Noise | None
    ) -> Tensor:
        c = self.config
        own = weights[call * c.layers : (call + 1) * c.layers] if c.weights == "distinct" else weights
        if self._rotaries and self._rotaries[0].cos.device != z.device:
            self._rotaries = tuple(Rotary(r.cos.to(z.device), r.sin.to(z.device)) for r in self._rotaries)
        heads = c.heads if c.mixing == "attention" else 0
        number = torch.tensor(call, dtype=torch.int32)
        return self.cell_fn(z, injection, own, heads, self._rotaries, c.damping, noise, number)

    def embed_inputs(self, inputs: Tensor, dtype: torch.dtype, puzzle_ids: Tensor | None = None) -> Tensor:
        """inputs (B, L) integer tokens -> (B, T, D) in `dtype`, scaled by sqrt(D)."""
        c = self.config
        embedding = F.embedding(inputs.long(), self.embed)
        if c.puzzle_tokens:
            ids = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device) if puzzle_ids is None else puzzle_ids
            stored = F.pad(self.puzzle_embed[ids], (0, c.puzzle_tokens * c.width - c.puzzle_width))
            embedding = torch.cat([stored.view(-1, c.puzzle_tokens, c.width), embedding], dim=1)
        return (math.sqrt(c.width) * embedding).to(dtype)

    def readout(self, latent: Latent) -> Readout:
        """What z_H says, in at least float32."""
        z_H = latent.z_H
        logits = wide(F.linear(z_H[:, self.config.puzzle_tokens :], self.lm_head.to(z_H.dtype)))
        return Readout(latent, logits, self.q_head(wide(z_H[:, 0]))[:, 0])


def _rotaries(config: ModelConfig) -> tuple[Rotary, ...]:
    if config.mixing == "mlp" or config.positions == "none":
        return ()
    head = config.width // config.heads
    if config.positions == "rope":
        return (rotary_table(torch.arange(config.tokens), head),)
    # Puzzle tokens have no cell: they sit at row 0 and column 0, the grid's own start at 1.
    place = torch.arange(config.length)
    shift = 1 if config.puzzle_tokens else 0
    front = torch.zeros(config.puzzle_tokens, dtype=torch.long)
    rows = torch.cat([front, place // config.grid[1] + shift])
    columns = torch.cat([front, place % config.grid[1] + shift])
    return rotary_table(rows, head // 2), rotary_table(columns, head // 2)
