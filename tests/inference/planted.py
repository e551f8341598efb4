"""Made-up puzzles whose residuals tell right from wrong as well as is asked for, and whose true risks are known.

P puzzles, R restarts, K segments
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eqr_ray.evaluation.outcomes import Outcomes, OutcomesAt
from eqr_ray.inference.records import STATUSES, Records

LABEL, OTHER = 2, 1  # the tokens of a right and of a wrong answer; every label is LABEL


@dataclass(frozen=True)
class World:
    """A share `right` of answers is right. Log residuals are normal: around `low` for right answers, around `high` for
    wrong ones, both with deviation `spread`."""

    right: float = 0.9
    low: float = 0.3
    high: float = 2.0
    spread: float = 0.4

    def settled(self, settle_below: float) -> tuple[float, float]:
        """The shares of puzzles that are right and settled, and wrong and settled, under a threshold."""
        shares = [
            0.5 * (1 + math.erf(math.log(settle_below / centre) / self.spread / math.sqrt(2)))
            for centre in (self.low, self.high)
        ]
        return self.right * shares[0], (1 - self.right) * shares[1]

    def risk(self, settle_below: float) -> float:
        """The true share of wrong answers among those that settle."""
        right, wrong = self.settled(settle_below)
        return wrong / (right + wrong)

    def draw(self, generator: np.random.Generator, puzzles: int) -> Outcomes:
        """Outcomes at no threshold yet: a puzzle settles where its residual is at most that."""
        right = generator.random(puzzles) < self.right
        residual = np.where(right, self.low, self.high) * np.exp(self.spread * generator.normal(size=puzzles))
        none = np.zeros(puzzles, dtype=np.bool_)
        return Outcomes(none, right, residual.astype(np.float32), np.full(puzzles, 2))


def at_thresholds(drawn: Outcomes) -> OutcomesAt:
    return lambda settle_below: drawn._replace(settled=drawn.residual <= settle_below)


def records(generator: np.random.Generator, puzzles: int, restarts: int, depth: int, world: World) -> Records:
    """All segments of trajectories whose residual falls from 10 to that of the world, a factor of 3 a segment; all
    restarts of a puzzle are right, or all wrong."""
    shape = (puzzles, restarts, depth)
    drawn = world.draw(generator, puzzles)
    own = drawn.residual[:, None] * np.exp(0.1 * generator.normal(size=(puzzles, restarts)))
    segment = np.arange(1, depth + 1)
    path = np.maximum(own[..., None], 10.0 * 3.0 ** -(segment - 2)) * np.exp(0.02 * generator.normal(size=shape))
    path[..., 0] = np.inf
    flat = np.broadcast_to(segment, shape).reshape(-1)
    token = np.where(drawn.right, LABEL, OTHER).astype(np.uint8)
    return Records(
        puzzle=np.repeat(np.arange(puzzles), restarts * depth),
        restart=np.tile(np.repeat(np.arange(restarts, dtype=np.int32), depth), puzzles),
        segments=flat.astype(np.int32),
        settled=np.zeros(flat.shape, dtype=np.bool_),
        logit_residual=path.reshape(-1).astype(np.float32),
        latent_residual=np.ones(flat.shape, dtype=np.float32),
        halt_logit=np.zeros(flat.shape, dtype=np.float32),
        prediction=np.repeat(token, restarts * depth)[:, None],
        status=np.where(flat < depth, STATUSES.index("running"), STATUSES.index("depth")).astype(np.uint8),
    )
