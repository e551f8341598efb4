"""The hyper-parameters of a network, validated where they are made.

EqR, TRM, the plain weight-tied and the feed-forward network are values of this one configuration; the presets that the
doors offer lie in `conf/model/*.yaml`. Defaults are those of the EqR paper (arXiv 2605.21488).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eqr_ray.config.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Shape and dynamics of one network.

    `length`, `vocab_size` and `grid` (rows, columns) belong to the task; the rest is the model's own.
    """

    vocab_size: int
    length: int
    grid: tuple[int, int]
    width: int = 512
    layers: int = 2
    expansion: float = 4.0
    hidden_multiple: int = 256  # SwiGLU widths are rounded up to a multiple of this
    mixing: Literal["mlp", "attention"] = "mlp"
    heads: int = 8  # attention only
    positions: Literal["none", "rope", "rope2d"] = "none"  # attention only
    states: Literal["dual", "single"] = "dual"  # dual: z_H and z_L; single: one state
    weights: Literal["tied", "distinct"] = "tied"  # distinct: every cell call has its own blocks (feed-forward)
    h_cycles: int = 3
    l_cycles: int = 6
    grad_cycles: int = 1  # how many of the last recursions carry the gradient
    start: Literal["random", "fixed"] = "random"  # random: RI of the paper; fixed: one vector per state, as in TRM
    damping: float = 0.05  # lambda of the paper: the share of the old state that a cell keeps
    noise_scale: float = 0.01  # beta of the paper, at every cell call
    init_std_H: float = 1.0  # sigma0 of the paper, per state
    init_std_L: float = 1.0
    puzzle_tokens: int = 0  # learned tokens in front of the sequence
    puzzle_ids: int = 1  # rows of the table that puzzle tokens come from
    puzzle_width: int = 0  # numbers stored per puzzle id; zero-padded to puzzle_tokens * width

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "length",
            "width",
            "layers",
            "h_cycles",
            "l_cycles",
            "hidden_multiple",
            "puzzle_ids",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)} is not allowed: at least 1")
        if not 0.0 <= self.damping < 1.0:
            raise UserError(f"model.damping={self.damping} is not allowed: 0 <= damping < 1 (0.05 in the paper)")
        for name in ("noise_scale", "init_std_H", "init_std_L"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UserError(f"model.{name}={getattr(self, name)} is not allowed: a finite number, 0 or more")
        if self.expansion <= 0:
            raise UserError(f"model.expansion={self.expansion} is not allowed: more than 0")
        if not 1 <= self.grad_cycles <= self.h_cycles:
            raise UserError(f"model.grad_cycles={self.grad_cycles} is not allowed: 1..h_cycles={self.h_cycles}")
        if self.mixing == "attention":
            self._check_heads()
        if self.grid[0] * self.grid[1] != self.length:
            raise UserError(f"model.grid={self.grid} is not allowed: rows * columns must be length={self.length}")
        if not 0 <= self.puzzle_width <= self.puzzle_tokens * self.width:
            raise UserError(f"model.puzzle_width={self.puzzle_width} is not allowed: 0..puzzle_tokens * width")

    def _check_heads(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"model.heads={self.heads} is not allowed: a divisor of width={self.width}")
        parts = {"none": 1, "rope": 2, "rope2d": 4}[self.positions]
        if (self.width // self.heads) % parts:
            raise UserError(
                f"model.positions={self.positions} is not allowed: "
                f"the head width {self.width // self.heads} must be a multiple of {parts}"
            )

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
