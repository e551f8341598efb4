"""A frontier from configuration to points, of runs that have been recorded.

Why here: what the door `frontier` does, apart from running the network, writing and printing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eqr_ray.config.errors import UserError
from eqr_ray.evaluation.cost import CostConfig
from eqr_ray.evaluation.frontier import Point, Replays, grid, with_front
from eqr_ray.inference.policies import policy_named
from eqr_ray.inference.recorded_run import RecordedRun
from eqr_ray.inference.selection import check_selection
from eqr_ray.inference.settings import Settings

THRESHOLDS = (0.5, 1.0, 2.0)  # times the settle_below that a run was recorded with
NO_DIFFERENCE = ("snapshots", "widths")  # parts of a manifest that follow from others, or from its history


@dataclass(frozen=True)
class FrontierConfig:
    """The keys of the door; each is described in conf/frontier.yaml."""

    records: str | tuple[str, ...] | None
    checkpoint: str | None
    data: str | None
    out: str | None
    policies: tuple[str, ...]
    select: str
    settle_below: float | tuple[float, ...] | None
    settle_for: int | None
    budgets: tuple[int, ...] | None
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
    cost: CostConfig

    def __post_init__(self) -> None:
        check_selection(self.select)
        for policy in self.policies:
            policy_named(policy)
        for name in ("policies", "settle_below", "budgets", "records"):
            if getattr(self, name) == ():
                raise UserError(f"{name}=[] is not allowed: at least one")
        for below in self.thresholds:
            Settings(settle_below=below)
        for budget in self.budgets or ():
            Settings(policy="sequential", budget=budget)
        if (self.checkpoint is None) == (self.records is None):
            raise UserError("either checkpoint= or records= must be given (--help shows an example)")
        if self.checkpoint is not None and self.data is None:
            raise UserError("data= must be given with checkpoint= (--help shows an example)")

    @property
    def folders(self) -> tuple[str, ...]:
        """The runs in `records`."""
        return (self.records,) if isinstance(self.records, str) else self.records or ()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those that were asked for."""
        below = () if self.settle_below is None else self.settle_below
        return below if isinstance(below, tuple) else (below,)

    def candidates(self, run: RecordedRun) -> list[Settings]:
        """What is compared on the records of a run. UserError: a value that no run could have."""
        given = {name: getattr(self, name) for name in ("depth", "breadth", "settle_for")}
        own = {name: value for name, value in given.items() if value is not None}
        most = dataclasses.replace(run.settings, snapshots=(), **own)
        around = tuple(factor * run.settings.settle_below for factor in THRESHOLDS)
        return grid(most, self.policies, self.thresholds or around, self.budgets, run.puzzle_set.task.name)


def points_of(runs: Sequence[RecordedRun], config: FrontierConfig, show: Callable[[str], None]) -> list[Point]:
    """The points of all runs with their common front; `show` is given a line of progress now and then."""
    check_same_puzzles(runs)
    points: list[Point] = []
    for run, label in zip(runs, labels_of(runs), strict=True):
        candidates, puzzle_set = config.candidates(run), run.puzzle_set
        assert puzzle_set.labels is not None
        replays = Replays(candidates, puzzle_set.inputs, puzzle_set.labels, config.select)
        for block in run.blocks():
            replays.add(block)
            show(f"{run.path}: {int(block.puzzle[-1]) + 1:,}/{len(puzzle_set):,} puzzles, {len(candidates)} settings")
        points += replays.points(label, run.flops_per_segment, run.row_segments_per_s)
    return with_front(points)


def check_same_puzzles(runs: Sequence[RecordedRun]) -> None:
    """UserError: runs that cannot be compared, for their puzzles differ."""
    first = runs[0]
    for run in runs[1:]:
        if run.puzzle_set.data_hash != first.puzzle_set.data_hash:
            raise UserError(f"records={run.path} are of other puzzles than records={first.path}")


def labels_of(runs: Sequence[RecordedRun]) -> list[str]:
    """What tells the runs from each other: the entries of their manifests that differ, else their folders; "" for a
    single run."""
    if len(runs) == 1:
        return [""]
    keys = dict.fromkeys(key for run in runs for key in run.manifest if key not in NO_DIFFERENCE)
    differing = [key for key in keys if any(run.manifest.get(key) != runs[0].manifest.get(key) for run in runs)]
    labels = [" ".join(f"{key}={str(run.manifest.get(key))[:12]}" for key in differing) for run in runs]
    return labels if len(set(labels)) == len(runs) else [str(run.path) for run in runs]
