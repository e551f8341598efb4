"""The hyper-parameters of a network, validated where they are made.

EqR, TRM, the plain weight-tied and the feed-forward network are values of this one configuration; the presets that
`model=` offers lie in config/presets/model. Defaults are those of the EqR paper (arXiv 2605.21488).
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option


class ModelOptions(Options):
    """What a network has of its own, whatever its task."""

    mixing: Literal["mlp", "attention"] | None = option(None, "null: mlp for sudoku, attention for mazes")
    positions: Literal["none", "rope", "rope2d"] | None = option(None, "of attention; null: rope")
    width: int = option(512, "channels", ge=1)
    layers: int = option(2, "blocks of a cell", ge=1)
    expansion: float = option(4.0, "of the SwiGLUs", gt=0)
    hidden_multiple: int = option(256, "SwiGLU widths are rounded up to a multiple of this", ge=1)
    heads: int = option(8, "of attention")
    states: Literal["dual", "single"] = option("dual", "dual: z_H and z_L; single: one state")
    weights: Literal["tied", "distinct"] = option(
        "tied", "tied: one cell for all calls; distinct: blocks of its own for each (feed-forward)"
    )
    h_cycles: int = option(3, "recursions of a segment", ge=1)
    l_cycles: int = option(6, "fast cell calls of a recursion", ge=1)
    grad_cycles: int = option(1, "how many of the last recursions carry the gradient")
    start: Literal["random", "fixed"] = option("random", "random starts, or one fixed vector per state")
    damping: float = option(0.05, "share of the old state that a cell keeps (lambda)", ge=0, lt=1)
    noise_scale: float = option(0.01, "noise of every cell call (beta)", ge=0)
    init_std_H: float = option(1.0, "standard deviation of random starts (sigma0)", ge=0)
    init_std_L: float = option(1.0, "the same of z_L", ge=0)
    puzzle_tokens: int = option(0, "learned tokens in front of the sequence")
    puzzle_width: int = option(0, "numbers that they are made of")


class ModelConfig(ModelOptions):
    """Shape and dynamics of one network. `length`, `vocab_size` and `grid` (rows, columns) belong to the task."""

    vocab_size: int = option(..., "tokens", ge=1)
    length: int = option(..., "cells of a puzzle", ge=1)
    grid: tuple[int, int] = option(..., "rows and columns of a puzzle")
    mixing: Literal["mlp", "attention"] = option("mlp", "how cells see each other")
    positions: Literal["none", "rope", "rope2d"] = option("none", "of attention")
    puzzle_ids: int = option(1, "rows of the table that puzzle tokens come from", ge=1)

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        head_width, parts = self.width // max(self.heads, 1), {"none": 1, "rope": 2, "rope2d": 4}[self.positions]
        if not 1 <= self.grad_cycles <= self.h_cycles:
            raise UserError(f"model.grad_cycles={self.grad_cycles} is not allowed: 1..h_cycles={self.h_cycles}")
        if self.mixing == "attention" and (self.heads < 1 or self.width % self.heads):
            raise UserError(f"model.heads={self.heads} is not allowed: a divisor of width={self.width}")
        if self.mixing == "attention" and head_width % parts:
            allowed = f"the head width {head_width} must be a multiple of {parts}"
            raise UserError(f"model.positions={self.positions} is not allowed: {allowed}")
        if self.grid[0] * self.grid[1] != self.length:
            raise UserError(f"model.grid={self.grid} is not allowed: rows * columns must be length={self.length}")
        if not 0 <= self.puzzle_width <= self.puzzle_tokens * self.width:
            raise UserError(f"model.puzzle_width={self.puzzle_width} is not allowed: 0..puzzle_tokens * width")
        return self

    @property
    def tokens(self) -> int:
        """Positions of the latent state: the puzzle tokens and the sequence."""
        return self.puzzle_tokens + self.length

    @property
    def cells_per_segment(self) -> int:
        return self.h_cycles * (self.l_cycles + 1)

    def hidden_width(self, size: int) -> int:
        """Width of the SwiGLU that acts on `size` channels (or positions, in MLP mixing)."""
        wanted = round(self.expansion * size * 2 / 3)
        return -(-wanted // self.hidden_multiple) * self.hidden_multiple
