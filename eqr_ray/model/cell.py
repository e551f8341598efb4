"""One cell call, the operator: the damped, noisy application of the blocks to a state and what is injected into it.

z' = (1 - g) z + g blocks(z + injection) + beta eps, with g = 1 - damping (EqR, arXiv 2605.21488; the reference's option
`lambda_` is g). A block is post-norm and mixes the tokens, then the channels. `cell` is what torch.compile
sees: it takes seconds to compile, where a whole segment of 21 calls takes minutes.

Shapes: B rows, T tokens, D channels, F hidden width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from eqr_ray.model.config import ModelConfig
from eqr_ray.model.layers import Rotary, attention, linear_weight, rms_norm, swiglu, wide


class BlockWeights(NamedTuple):
    """A block's weights, cast to the compute type. MLP mixing: `mix_in` (2F_T, T) and `mix_out` (T, F_T); attention:
    qkv (3D, D) and output (D, D)."""

    mix_in: Tensor
    mix_out: Tensor
    mlp_in: Tensor  # (2F, D), gate first
    mlp_out: Tensor  # (D, F)


class Noise(Protocol):
    """Draws beta * eps for one cell call; randomness is an argument, never ambient."""

    def __call__(self, call: Tensor, like: Tensor) -> Tensor:
        """`call` () int32 counts the cells of a segment; float32 of the shape of `like` (B, T, D)."""


class Block(nn.Module):
    """The parameters of one block, in float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, T = config.width, config.tokens
        if config.mixing == "mlp":
            hidden = config.hidden_width(T)
            self.mix_in, self.mix_out = linear_weight(2 * hidden, T), linear_weight(T, hidden)
        else:
            self.mix_in, self.mix_out = linear_weight(3 * D, D), linear_weight(D, D)
        hidden = config.hidden_width(D)
        self.mlp_in, self.mlp_out = linear_weight(2 * hidden, D), linear_weight(D, hidden)

    def cast(self, dtype: torch.dtype) -> BlockWeights:
        return BlockWeights(*(w.to(dtype) for w in (self.mix_in, self.mix_out, self.mlp_in, self.mlp_out)))


def block(x: Tensor, weights: BlockWeights, heads: int, rotaries: tuple[Rotary, ...]) -> Tensor:
    """x (B, T, D) -> (B, T, D). `heads` of attention, 0 for mixing by an MLP, which is normalised over the tokens."""
    if heads:
        x = rms_norm(x + attention(x, weights.mix_in, weights.mix_out, heads, rotaries))
    else:
        x_BDT = x.transpose(1, 2).contiguous()
        x_BDT = rms_norm(x_BDT + swiglu(x_BDT, weights.mix_in, weights.mix_out))
        x = x_BDT.transpose(1, 2).contiguous()
    return rms_norm(x + swiglu(x, weights.mlp_in, weights.mlp_out))


def cell(
    z: Tensor,
    injection: Tensor,
    weights: tuple[BlockWeights, ...],
    heads: int,
    rotaries: tuple[Rotary, ...],
    damping: float,
    noise: Noise | None,
    call: Tensor,
) -> Tensor:
    """z and injection (B, T, D) -> the next state, in the type of z."""
    u = z + injection
    for block_weights in weights:
        u = block(u, block_weights, heads, rotaries)
    if damping == 0.0 and noise is None:
        return u
    moved = damping * wide(z) + (1.0 - damping) * wide(u)
    if noise is not None:
        moved = moved + noise(call, z)
    return moved.to(z.dtype)
