"""What a run of the engine is: the settings that shape its records, checked once.

Why here: exactly these, with the data and the weights, decide every bit of the records; the manifest of a run folder
holds them and nothing else. How many actors work, and which restart is chosen afterwards, are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from eqr_ray.config.errors import UserError
from eqr_ray.model.pretrained import ModelCard

BUDGETED = ("sequential", "verify")  # policies whose restarts follow each other


@dataclass(frozen=True)
class Settings:
    """`depth` segments per trajectory at most, `breadth` trajectories per puzzle, `seed` of all draws.

    A trajectory counts as settled when its logit residual is at most `settle_below` after `settle_for` segments in a
    row. `snapshots`: numbers of segments at which every trajectory is recorded on its way, besides at its end.
    `budget`: segments per puzzle at most.
    `verifier`: the task whose rules may accept answers.
    """

    depth: int = 16
    breadth: int = 1
    seed: int = 0
    policy: str = "full"
    settle_below: float = 1.0
    settle_for: int = 2
    snapshots: tuple[int, ...] = ()
    budget: int | None = None
    verifier: str = ""

    def __post_init__(self) -> None:
        for name in ("depth", "breadth", "settle_for"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"seed={self.seed} is not allowed: 0 .. 2**63-1")
        if not self.settle_below >= 0:
            raise UserError(f"settle_below={self.settle_below} is not allowed: at least 0")
        if self.budget is not None and self.budget < 1:
            raise UserError(f"budget={self.budget} is not allowed: at least 1, or null for none")
        if self.budget is not None and self.policy not in BUDGETED:
            raise UserError(f"budget={self.budget} goes with policy={' or '.join(BUDGETED)}, not {self.policy}")
        if self.snapshots and self.policy == "race":
            raise UserError("snapshots= do not go with policy=race: its restarts end each other")
        wrong = [at for at in self.snapshots if not 1 <= at <= self.depth]
        if wrong:
            raise UserError(f"snapshots={wrong[0]} is not allowed: 1 .. depth={self.depth}")


def settling(asked: float | None, card: ModelCard | None) -> float:
    """`settle_below`: what was asked for, else what the model's card knows, else the default."""
    known = None if card is None else card.settle_below
    return next(value for value in (asked, known, Settings.settle_below) if value is not None)
