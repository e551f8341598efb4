"""A Reasoner as the map that solvers iterate: keyed starts, one noisy segment, readout; compiled if possible.

Randomness is keyed by row (noise.py). On CPU the rows of a segment run in chunks that stay in a core's cache from the
first cell call to the last.

Shapes: B rows, L sequence length, T tokens of the state, D channels, V vocabulary.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from eqr_ray.model import Latent, ModelConfig, Readout, Reasoner, gate
from eqr_ray.model.cell import cell
from eqr_ray.model.noise import START_CALLS, keyed_noise, truncated_normal
from eqr_ray.model.reasoner import CellFn

log = logging.getLogger(__name__)
CPU_CHUNK = 64  # rows; measured in docs/results/speed.md
RECOMPILE_LIMIT = 64  # shapes and gradient modes of one process; torch's own limit of 8 ends in silent eager code


@functools.cache
def cell_function(device: torch.device, wanted: bool = True) -> CellFn:
    """The compiled cell where it is wanted and can be built for `device`, else the eager one: the same up to rounding.
    On CPU torch.compile needs a C++ compiler; triton comes with torch's CUDA builds."""
    if not wanted:
        return cell
    if device.type == "cpu" and gate.cxx() is None:
        log.warning("no C++ compiler found (g++ or clang++): torch.compile is off, the network runs eagerly and slower")
        return cell
    if device.type == "cpu":
        gate.build()
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    compiled: CellFn = torch.compile(cell, dynamic=False)
    return compiled


def start_latent(model: Reasoner, keys: Tensor, dtype: torch.dtype, init_std: float | None = None) -> Latent:
    """The start of trajectories with `keys` (B,) int64: random (RI of the paper), or the model's own fixed vectors.
    `init_std` replaces the standard deviation of both states."""
    c = model.config
    if c.start == "fixed":
        buffers = (model.get_buffer("z_H_init"), model.get_buffer("z_L_init"))
        z_H, z_L = (z.to(dtype).expand(len(keys), c.tokens, c.width).contiguous() for z in buffers)
        return Latent(z_H, z_L if c.states == "dual" else z_L[:, :0])
    std_H, std_L = (c.init_std_H, c.init_std_L) if init_std is None else (init_std, init_std)
    z_H = truncated_normal(keys, START_CALLS["z_H"], (c.tokens, c.width), std_H)
    z_L = truncated_normal(keys, START_CALLS["z_L"], (c.tokens if c.states == "dual" else 0, c.width), std_L)
    return Latent(z_H.to(dtype), z_L.to(dtype))


def flops_per_segment(config: ModelConfig) -> float:
    """Floating point operations of the matrix products of one segment of one row (a multiply-add counts two)."""
    T, D = config.tokens, config.width
    channel = 3 * config.hidden_width(D) * D * T
    mixing = 3 * config.hidden_width(T) * T * D if config.mixing == "mlp" else 4 * D * D * T + 2 * T * T * D
    cells = config.cells_per_segment * config.layers * (channel + mixing)
    return 2.0 * (cells + config.length * D * config.vocab_size)


class Network:
    """Iterates one model; the number of rows should not change between calls, for torch.compile's sake."""

    def __init__(
        self,
        model: Reasoner,
        noise_scale: float | None = None,
        init_std: float | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        compile: bool = True,
    ) -> None:
        self.model, self.dtype, self.device = model.eval(), dtype, model.embed.device
        self.noise_scale = model.config.noise_scale if noise_scale is None else noise_scale
        self.init_std = init_std
        self.length, self.vocab_size = model.config.length, model.config.vocab_size
        self.flops_per_segment = flops_per_segment(model.config)
        model.cell_fn = cell_function(self.device, compile)

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """inputs (B, L) integer tokens -> (B, T, D)."""
        return self.model.embed_inputs(inputs, self.dtype)

    def start(self, keys: Tensor) -> Latent:
        """keys (B,) int64 -> the start of these trajectories."""
        return start_latent(self.model, keys, self.dtype, self.init_std)

    @torch.no_grad()
    def segment(self, latent: Latent, embedding: Tensor, keys: Tensor) -> Readout:
        """One segment of all rows; keys (B,) int64 name its noise."""
        chunk = CPU_CHUNK if self.device.type == "cpu" else len(keys)
        parts = []
        for rows in (slice(at, at + chunk) for at in range(0, len(keys), chunk)):
            noise = keyed_noise(keys[rows], self.noise_scale)
            after = self.model.segment(Latent(latent.z_H[rows], latent.z_L[rows]), embedding[rows], noise)
            parts.append(self.model.readout(after))
        if len(parts) == 1:
            return parts[0]
        states = Latent(*(torch.cat([part.latent[i] for part in parts]) for i in range(2)))
        return Readout(states, torch.cat([p.logits for p in parts]), torch.cat([p.halt_logit for p in parts]))
