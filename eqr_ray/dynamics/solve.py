"""Iterate a map to its fixed point, each row stopping by itself.

Why here: the plain statement of what the breadth engine does with a queue and slots, for any map and any state; probes
of the attractor landscape and tests call it directly. Memory does not depend on `depth`.

    B rows; a state is a tuple of tensors, each (B, ...)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eqr_ray.dynamics.residual import WINDOW, RunningMean, latent_change

State = tuple[Tensor, ...]


class SolveInfo(NamedTuple):
    """Per row: steps taken (B,) int64, mean relative change over the last steps (B,) float32, settled (B,) bool."""

    steps: Tensor
    residual: Tensor
    settled: Tensor


def solve(
    step: Callable[[State, int], State],
    z0: State,
    *,
    depth: int,
    tol: float = 0.0,
    patience: int = 1,
    window: int = WINDOW,
) -> tuple[State, SolveInfo]:
    """Apply z <- step(z, k), k = 0 .. depth-1, to every row until it settles.

    A row settles when its residual, the mean over the last `window` steps of ||z' - z|| / ||z'||, has been at most
    `tol` after `patience` consecutive steps; from then on its state no longer changes. Rows of `step` must be
    independent. Returns (z_star, info). ValueError: depth or patience below 1, a negative tol.
    """
    if depth < 1 or patience < 1 or tol < 0:
        raise ValueError(f"depth={depth} and patience={patience} must be at least 1, tol={tol} at least 0")
    rows, device = z0[0].shape[0], z0[0].device
    running = RunningMean(rows, device, window)
    calm = torch.zeros(rows, dtype=torch.int64, device=device)
    steps = torch.zeros_like(calm)
    residual = torch.full((rows,), torch.inf, device=device)
    settled = torch.zeros(rows, dtype=torch.bool, device=device)
    z = z0
    for k in range(depth):
        z_next = step(z, k)
        running.push(latent_change(z_next, z))
        z = tuple(_keep(settled, old, new) for old, new in zip(z, z_next, strict=True))
        residual = torch.where(settled, residual, running.mean())
        steps = steps + (~settled).to(steps.dtype)
        calm = torch.where(residual <= tol, calm + 1, 0)
        settled = settled | (calm >= patience)
        if bool(settled.all()):
            break
    return z, SolveInfo(steps, residual, settled)


def _keep(mask_B: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(mask_B.view(-1, *[1] * (old.dim() - 1)), old, new)
