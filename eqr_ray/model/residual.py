"""Residuals: how far a trajectory still moves, the quantity that the method selects by. Two go under this name.

- logit residual (the reference code's): mean over positions of the L2 norm, over the vocabulary, of the difference
  between the logits of consecutive segments. Unit: logits. Undefined, here `inf`, before the second segment.
- latent residual (the paper's ||f(z; x) - z||): ||z' - z|| / ||z'|| over z_H and z_L together, a share. Noise and
  damping are part of f.

Shapes: B rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOW = 3  # segments averaged, as in the reference's selection score


def logit_change(new_BLV: Tensor, old_BLV: Tensor) -> Tensor:
    """(B,) mean over L of the L2 norm over V of the difference of two logit tensors."""
    distance_BL: Tensor = torch.linalg.vector_norm(new_BLV - old_BLV, dim=-1)
    return distance_BL.mean(dim=-1)


def latent_change(new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """(B,) ||new - old|| / ||new|| over all tensors of the state, each (B, ...); computed in float32 at least."""
    moved = torch.zeros(new[0].shape[0], device=new[0].device)
    size = torch.zeros_like(moved)
    for new_part, old_part in zip(new, old, strict=True):
        moved = moved + _square_sum(new_part - old_part)
        size = size + _square_sum(new_part)
    return torch.sqrt(moved / size.clamp_min(torch.finfo(torch.float32).tiny))


def _square_sum(part: Tensor) -> Tensor:
    dtype = torch.promote_types(part.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(part.flatten(1), dim=1, dtype=dtype)
    return norm.square()


class RunningMean:
    """Per-row mean of the last `window` values pushed since the row was reset; `inf` where there is none."""

    def __init__(self, rows: int, device: torch.device, window: int = WINDOW) -> None:
        self._values = [torch.zeros(rows, device=device) for _ in range(window)]  # newest first
        self._count = torch.zeros(rows, device=device)

    def push(self, value_B: Tensor, where_B: Tensor | None = None) -> None:
        """Add one value per row; rows that `where_B` (B,) bool leaves out must be empty and stay so."""
        if where_B is None:
            where_B = torch.ones_like(self._count, dtype=torch.bool)
        self._values = [torch.where(where_B, value_B, 0.0), *self._values[:-1]]
        self._count = (self._count + where_B).clamp_max(len(self._values))

    def mean(self) -> Tensor:
        """(B,) float32. The sum has one fixed order, so that a row's value does not depend on its place."""
        total = sum(self._values[1:], self._values[0])
        return torch.where(self._count > 0, total / self._count.clamp_min(1), torch.inf)

    def reset(self, rows: Tensor) -> None:
        """Empty the window of these rows: int64 indices (F,)."""
        self._count = self._count.index_fill(0, rows, 0.0)
        self._values = [value.index_fill(0, rows, 0.0) for value in self._values]
