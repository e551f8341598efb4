"""One cell call: the damped, noisy application of the blocks to a state and what is injected into it.

z' = (1 - g) z + g blocks(z + injection) + beta eps, with g = 1 - damping (EqR, arXiv 2605.21488; the reference's option
`lambda_` is g). This function is the unit that torch.compile sees: everything between two matrix products is fused, and
compiling it takes seconds where a whole segment of 21 calls takes minutes.

Shapes: B rows, T tokens, D channels.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from eqr_ray.model.block import BlockWeights, Mixing, block
from eqr_ray.model.layers import wide


class Noise(Protocol):
    """Draws beta * eps for one cell call; randomness is an argument, never ambient."""

    def __call__(self, call: Tensor, like: Tensor) -> Tensor:
        """`call` () int32 counts the cell calls of a segment; float32 of the shape of `like` (B, T, D)."""
        ...


def cell(
    z: Tensor,
    injection: Tensor,
    weights: tuple[BlockWeights, ...],
    mixing: Mixing,
    damping: float,
    noise: Noise | None,
    call: Tensor,
) -> Tensor:
    """z and injection (B, T, D) -> the next state, in the type of z."""
    u = z + injection
    for block_weights in weights:
        u = block(u, block_weights, mixing)
    if damping == 0.0 and noise is None:
        return u
    moved = damping * wide(z) + (1.0 - damping) * wide(u)
    if noise is not None:
        moved = moved + noise(call, z)
    return moved.to(z.dtype)
