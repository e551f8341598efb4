"""What an inference search is after: the least cost at an accuracy, or the best accuracy at a cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eqr_ray.config.errors import UserError

OUT_OF_REACH = 100.0  # below every score of what meets the bound: no puzzle costs 10^100 operations
TIE = 1e-6  # of equally accurate settings the cheaper one: per power of ten


@dataclass(frozen=True)
class AnswerGoal:
    """Exactly one bound: an `accuracy` (share of 1) to be reached at the least cost, or the mean `flops` per puzzle
    that are not to be passed, at the best accuracy."""

    accuracy: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        if (self.accuracy is None) == (self.flops is None):
            raise UserError("objective: either accuracy: (least FLOPs at it) or flops: (best accuracy at it)")
        if self.accuracy is not None and not 0 < self.accuracy <= 1:
            raise UserError(f"objective.accuracy={self.accuracy:g} is not allowed: above 0, at most 1")
        if self.flops is not None and not 0 < self.flops < math.inf:
            raise UserError(f"objective.flops={self.flops:g} is not allowed: a finite number above 0")

    def meets(self, accuracy: float, flops: float) -> bool:
        """Whether the bound is kept."""
        return accuracy >= self.accuracy if self.accuracy is not None else flops <= float(self.flops or 0)

    def score(self, accuracy: float, flops: float) -> float:
        """More is better. What misses the bound is below all that meets it, and better the less it misses."""
        cost = math.log10(flops)
        if self.accuracy is not None:
            return -cost if self.meets(accuracy, flops) else accuracy - 1 - OUT_OF_REACH
        if self.meets(accuracy, flops):
            return accuracy - TIE * cost
        return math.log10(float(self.flops or 0)) - cost - OUT_OF_REACH

    def __str__(self) -> str:
        if self.accuracy is not None:
            return f"least FLOPs at {self.accuracy:.2%} or more"
        return f"best accuracy at {self.flops:.3g} FLOPs a puzzle or fewer"
