"""What a run of the engine is: the settings that shape its records, checked once.

Why here: exactly these, with the data and the weights, decide every bit of the records; the manifest of a run folder
holds them and nothing else. How many actors work, and which restart is chosen afterwards, are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from eqr_ray.errors import UserError


@dataclass(frozen=True)
class Settings:
    """`depth` segments per trajectory at most, `breadth` trajectories per puzzle, `seed` of all draws.

    A trajectory counts as settled when its logit residual is at most `settle_below` after `settle_for` segments in a
    row. `snapshots`: numbers of segments at which every trajectory is recorded on its way, besides at its end.
    """

    depth: int = 16
    breadth: int = 1
    seed: int = 0
    policy: str = "full"
    settle_below: float = 1.0
    settle_for: int = 2
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("depth", "breadth", "settle_for"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"seed={self.seed} is not allowed: 0 .. 2**63-1")
        if not self.settle_below >= 0:
            raise UserError(f"settle_below={self.settle_below} is not allowed: at least 0")
        wrong = [at for at in self.snapshots if not 1 <= at <= self.depth]
        if wrong:
            raise UserError(f"snapshots={wrong[0]} is not allowed: 1 .. depth={self.depth}")
