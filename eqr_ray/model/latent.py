"""The latent state that a segment maps to its successor.

Shapes: B rows, T tokens (puzzle tokens and sequence), D channels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Latent(NamedTuple):
    """`z_H` (B, T, D) is read out; `z_L` (B, T, D) is the fast state, with T = 0 where the network has one state."""

    z_H: Tensor
    z_L: Tensor
