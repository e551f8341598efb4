"""The parts that blocks are made of: exact-variance linear maps, RMS norm, SwiGLU and rotary attention, without bias.

Weights are float32 and arrive here cast to the compute type, once per segment: it applies each of them 21 times.

Shapes: B rows, T tokens, D channels, F hidden width, N heads, H channels of a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eqr_ray.model.gate import gate

NORM_EPS = 1e-5
ROPE_BASE = 10_000.0
EXPLICIT_TOKENS = 256  # at most, where attention keeps (T, T) weights for its backward pass on CPU (docs/results)
TRUNCATED_STD = 0.8796256610342398  # std of a unit normal truncated at +-2


def linear_weight(out_features: int, in_features: int, std: float | None = None) -> nn.Parameter:
    """A (out, in) weight, truncated normal at two deviations with the exact `std` (1/sqrt(in) unless given)."""
    std = 1.0 / math.sqrt(in_features) if std is None else std
    weight = torch.empty(out_features, in_features)
    nn.init.trunc_normal_(weight, std=1.0, a=-2.0, b=2.0)
    return nn.Parameter(weight.mul_(std / TRUNCATED_STD))


def wide(x: Tensor) -> Tensor:
    """x in at least float32; float64 stays, for the checks that measure float32's own rounding."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last axis to a root mean square of one, in float32, without a weight."""
    x32 = wide(x)
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + NORM_EPS)).to(x.dtype)


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """x (..., D), gate_up (2F, D) with the gate first, down (D, F)."""
    rows = x.reshape(-1, x.shape[-1])  # one matrix product instead of a batched one
    return F.linear(gate(F.linear(rows, gate_up)), down).view_as(x)


class Rotary(NamedTuple):
    """cos and sin, both (T, H) float32: the angle of every position and channel of a head."""

    cos: Tensor
    sin: Tensor


def rotary_table(positions_T: Tensor, head_width: int) -> Rotary:
    """Angles of 1-D rotary positions: the two halves of a head rotate against each other."""
    inverse = ROPE_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(positions_T.float(), inverse).repeat(1, 2)
    return Rotary(angles.cos(), angles.sin())


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """x (B, T, N, H) turned by its position, in float32."""
    x32 = wide(x)
    first, second = x32.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x32 * rotary.cos[:, None] + turned * rotary.sin[:, None]).to(x.dtype)


def rotate_grid(x: Tensor, rows: Rotary, columns: Rotary) -> Tensor:
    """The first half of a head turns by row, the second by column."""
    by_row, by_column = x.chunk(2, dim=-1)
    return torch.cat([rotate(by_row, rows), rotate(by_column, columns)], dim=-1)


def attention(x: Tensor, qkv: Tensor, out: Tensor, heads: int, rotaries: tuple[Rotary, ...]) -> Tensor:
    """Full (not causal) self-attention. x (B, T, D), qkv (3D, D), out (D, D); no, one or two rotary tables."""
    B, T, D = x.shape
    q, k, v = F.linear(x, qkv).view(B, T, 3 * heads, D // heads).chunk(3, dim=2)
    if len(rotaries) == 1:
        q, k = rotate(q, rotaries[0]), rotate(k, rotaries[0])
    elif len(rotaries) == 2:
        q, k = rotate_grid(q, *rotaries), rotate_grid(k, *rotaries)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if x.device.type == "cpu" and torch.is_grad_enabled() and T <= EXPLICIT_TOKENS:
        # As torch's fused one, by plain products: on CPU their backward is the faster one.
        mixed = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    return F.linear(mixed.transpose(1, 2).reshape(B, T, D), out)
