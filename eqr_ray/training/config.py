"""How a training runs: batch, schedule, optimizer, halting. The paper's values are the defaults (arXiv 2605.21488)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eqr_ray.config.errors import UserError


@dataclass(frozen=True)
class TrainingConfig:
    """Everything of a training but its data, its network and its workers."""

    steps: int = 50_000  # optimizer steps
    minutes: float = 0.0  # stop after this many minutes of training; 0: no limit
    batch: int = 768  # rows of all workers together
    accumulation: int = 1  # micro-batches per worker and update
    schedule: Literal["sot", "vanilla", "trajectory"] = "sot"
    halting: Literal["learned", "oracle", "fixed"] = "learned"
    max_segments: int = 16  # a row is replaced after this many segments
    exploration: float = 0.1  # share of trajectories that must reach a random minimum length
    supervise_every: int = 4  # trajectory supervision: a loss after every so many segments
    learning_rate: float = 1e-4
    warmup: int = 2_000  # steps of linear warm-up, constant after it
    cooldown: float = 0.0  # share of `steps` at their end in which the rate falls to zero; `minutes` does not move it
    weight_decay: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    ema: float = 0.999
    gradient_clipping: float = 0.0  # 0: none
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    compile: bool = True
    augment: bool = True  # a random symmetry for every puzzle drawn
    seed: int = 0
    log_every: int = 20  # steps
    validate_every: int = 1_000  # steps; 0: only at the end
    validate_puzzles: int = 256
    validate_depth: int = 16  # segments
    checkpoint_every: int = 1_000  # steps
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch", "accumulation", "max_segments", "supervise_every", "log_every")
        for name in (*at_least_one, "validate_puzzles", "validate_depth", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: at least 1")
        for name in ("minutes", "warmup", "validate_every", "weight_decay", "gradient_clipping", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)} is not allowed: a finite number, 0 or more")
        if self.seed >= 2**63:
            raise UserError(f"seed={self.seed} is not allowed: less than 2**63")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"learning_rate={self.learning_rate} is not allowed: more than 0")
        for name in ("exploration", "cooldown"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: 0..1")
        for name in ("beta1", "beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: 0 <= {name} < 1")

    @property
    def supervised(self) -> tuple[bool, ...]:
        """Which segments of one update end with a loss: SOT has one segment, the others run whole trajectories."""
        if self.schedule == "sot":
            return (True,)
        last = self.max_segments
        if self.schedule == "vanilla":
            return (*(False for _ in range(last - 1)), True)
        return tuple(k % self.supervise_every == 0 or k == last for k in range(1, last + 1))

    @property
    def backwards_per_step(self) -> int:
        return self.accumulation * sum(self.supervised)
