"""One calibration from configuration to figures, of a run that has been recorded.

Why here: what the door `calibrate` does, apart from running the network, writing and printing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.data.puzzle_set import PuzzleSet
from eqr_ray.evaluation.calibration import Goal, calibrate, check_enough, chosen, pilot_of, report, thresholds
from eqr_ray.evaluation.outcomes import divided
from eqr_ray.inference.calibration_artifact import conditions
from eqr_ray.inference.policies import POLICIES, policy_named
from eqr_ray.inference.recorded_run import RecordedRun
from eqr_ray.inference.records import is_answered
from eqr_ray.inference.selection import check_selection
from eqr_ray.inference.settings import Settings


@dataclass(frozen=True)
class CalibrateConfig:
    """The keys of the door; each is described in conf/calibrate.yaml."""

    checkpoint: str | None
    records: str | None
    data: str | None
    out: str | None
    risk: float
    confidence: float
    policy: str
    select: str
    settle_for: int
    depth: int | None
    breadth: int | None
    noise_scale: float | None
    init_std: float | None
    seed: int
    limit: int | None
    slots: int | None
    actors: int | None
    gpus_each: float
    address: str | None
    device: str
    dtype: str
    compile: bool | None

    def __post_init__(self) -> None:
        Goal(self.risk, self.confidence)
        check_selection(self.select)
        settling = [name for name, kind in POLICIES.items() if kind.stop_status == "settled"]
        if policy_named(self.policy).name not in settling:
            raise UserError(f"policy={self.policy} is not allowed: {', '.join(settling)} stop what has settled")
        if (self.checkpoint is None) == (self.records is None):
            raise UserError("either checkpoint= or records= must be given (--help shows an example)")
        if self.checkpoint is not None and self.data is None:
            raise UserError("data= must be given with checkpoint= (--help shows an example)")

    @property
    def goal(self) -> Goal:
        return Goal(self.risk, self.confidence)

    def settings(self, most: Settings) -> Settings:
        """What is calibrated, of a run that records `most`. UserError: it does not, or nothing could settle."""
        for name in ("depth", "breadth"):
            wanted, there = getattr(self, name), getattr(most, name)
            if wanted is not None and wanted > there:
                raise UserError(f"{name}={wanted} is more than the {there} that were recorded")
        depth = most.depth if self.depth is None else self.depth
        breadth = most.breadth if self.breadth is None else self.breadth
        settings = Settings(depth, breadth, most.seed, self.policy, settle_for=self.settle_for)
        if depth <= self.settle_for:
            raise UserError(f"depth={depth} is not allowed: more than settle_for={self.settle_for}")
        return settings

    def check(self, puzzle_set: PuzzleSet, most: Settings) -> None:
        """UserError: what a run that records `most` of these puzzles cannot tell."""
        self.settings(most)
        missing = len(puzzle_set) if puzzle_set.labels is None else int((~is_answered(puzzle_set.labels)).sum())
        if missing:
            raise UserError(f"{missing:,} of the {len(puzzle_set):,} puzzles have no answer to compare with")
        check_enough(len(puzzle_set), self.goal)


def calibration_of(run: RecordedRun, settings: Settings, config: CalibrateConfig) -> dict[str, Any]:
    """What calibration.json holds."""
    goal, labels, manifest = config.goal, run.puzzle_set.labels, run.manifest
    assert labels is not None
    pilot_N = pilot_of(len(labels), settings.seed)
    pilot, others = divided(run.blocks(), labels, pilot_N, settings.depth, settings.breadth)
    at = others.at_thresholds(settings, config.select)
    candidates = thresholds(pilot.residuals)
    tests = calibrate(pilot.at_thresholds(settings, config.select), at, candidates, goal, len(others))
    outcomes = at((chosen(tests) or tests[-1]).settle_below)
    full = others.outcomes(replace(settings, policy="full"), config.select)
    network = ("checkpoint_hash", "noise_scale", "init_std", "dtype")
    made_for = conditions(
        settings, task=run.puzzle_set.task.name, select=config.select, **{name: manifest[name] for name in network}
    )
    counts = {"puzzles": len(labels), "pilot": len(pilot), "data_hash": run.puzzle_set.data_hash, "seed": settings.seed}
    promise = {"settle_for": settings.settle_for, **asdict(goal)}
    return {"settle_below": None, **promise, **made_for, **counts, **report(tests, outcomes, full, goal)}
