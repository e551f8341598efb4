"""eqr_ray trains Equilibrium Reasoners on Ray and answers with the restart of least residual.

As a library, in plain PyTorch without Ray:

    from eqr_ray import load, solve
    answers = solve(load("zoo:sudoku9"), puzzles, depth=16, breadth=8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eqr_ray.inference.api import load, solve

__all__ = ["load", "solve"]


def __getattr__(name: str) -> Any:
    # Looked up on first use: `eqr_ray.tasks` and the commands' --help should not wait for torch.
    if name in __all__:
        return getattr(importlib.import_module("eqr_ray.inference.api"), name)
    raise AttributeError(f"module 'eqr_ray' has no attribute '{name}'")
