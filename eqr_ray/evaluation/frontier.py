"""The frontier: what every policy would have answered and spent, from one recorded run.

A grid of settings, each replayed over the same records, gives points of accuracy and cost on the same puzzles. A policy
that verifies asks for more than the method has, and is compared with its own kind only.

    P puzzles, L tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.records import Records
from eqr_ray.inference.replay import RecordedRun, Trace, replay
from eqr_ray.inference.scores import Scores, powers_of_two
from eqr_ray.inference.settings import REMOVED_POLICIES, PolicyName, ReplayOptions, Settings

SMALLEST_BUDGET = 4  # segments: fewer than a trajectory needs to settle
Shape = tuple[int, int, int | None]  # depth, breadth, budget


@dataclass(frozen=True)
class Point:
    """One policy on the puzzles of one run (`run`: what tells it from other runs; "" where there is one).

    Accuracies are over the puzzles whose answer is known, `exact_low` and `exact_high` the 95 % Wilson interval.
    Segments are per puzzle, all its restarts together; `seconds_mean` is `segments_mean` at the speed that the recorded
    run had on all its devices, None where that is not known. `on_front`: none of its kind (`verified` or not) is as
    cheap and as accurate, and better in one.
    """

    run: str
    policy: str
    depth: int
    breadth: int
    settle_below: float
    settle_for: int
    budget: int | None
    verified: bool
    puzzles: int
    answered: int
    exact_accuracy: float
    exact_low: float
    exact_high: float
    segments_mean: float
    segments_sd: float
    segments_median: int
    segments_p99: int
    flops_mean: float
    seconds_mean: float | None
    settled_share: float
    settled_accuracy: float | None
    on_front: bool = False


def grid(
    most: Settings, policies: Sequence[str], settle_below: Sequence[float], budgets: Sequence[int] | None, verifier: str
) -> list[Settings]:
    """The settings to compare, up to the depth and breadth of `most`, in powers of two.

    `full` at every depth and breadth; the others at every breadth, those that follow residuals with every threshold in
    `settle_below`. Restarts that follow each other (sequential, verify) also at every depth, which is how long a start
    that will not settle is waited for; sequential with `budgets` segments a puzzle too (None: powers of two).
    """
    depths, breadths = list(powers_of_two(most.depth)), list(powers_of_two(most.breadth))
    if budgets is None:
        budgets = [b for b in powers_of_two(most.depth * most.breadth) if b >= SMALLEST_BUDGET][:-1]
    wide: list[Shape] = [(most.depth, breadth, None) for breadth in breadths]
    deep: list[Shape] = [(depth, most.breadth, None) for depth in depths[:-1]]
    bounded: list[Shape] = [(most.depth, most.breadth, budget) for budget in budgets]
    square: list[Shape] = [(depth, breadth, None) for depth in depths for breadth in breadths]
    shapes = {"full": square, "sequential": [*wide, *deep, *bounded], "verify": [*wide, *deep]}
    thresholds = dict.fromkeys(("settle", "sequential", "race"), settle_below)
    return [
        most.replace(
            policy=policy,
            depth=depth,
            breadth=breadth,
            budget=budget,
            settle_below=threshold,
            snapshots=(),
            verifier=verifier if POLICIES[policy].verifies else "",
        )
        for policy in policies
        for threshold in thresholds.get(policy, [most.settle_below])
        for depth, breadth, budget in shapes.get(policy, wide)
    ]


class SegmentCounts:
    """How many puzzles took how many segments: the whole distribution, in constant memory."""

    def __init__(self, most: int) -> None:
        self._puzzles = np.zeros(most + 1, dtype=np.int64)

    def add(self, rows: Records) -> None:
        """Count ordered rows, one per trajectory, that hold all restarts of their puzzles."""
        _, first = np.unique(rows.puzzle, return_index=True)
        spent = np.add.reduceat(rows.segments.astype(np.int64), first)
        self._puzzles += np.bincount(spent, minlength=len(self._puzzles))

    def moments(self) -> tuple[float, float]:
        """(mean, standard deviation) over puzzles."""
        values = np.arange(len(self._puzzles))
        mean = float(np.average(values, weights=self._puzzles))
        return mean, float(np.average((values - mean) ** 2, weights=self._puzzles)) ** 0.5

    def quantile(self, share: float) -> int:
        """The least number of segments that was enough for this share of the puzzles."""
        below = np.cumsum(self._puzzles)
        return int(np.searchsorted(below, share * below[-1]))


class Replays:
    """Candidates measured over the blocks of one recorded run, each with all restarts of its puzzles.

    `inputs_PL`, `labels_PL`: of all puzzles of the run, by their number in its records. UserError: a candidate is
    deeper or wider than the records.
    """

    def __init__(
        self,
        candidates: Sequence[Settings],
        inputs_PL: npt.NDArray[np.uint8],
        labels_PL: npt.NDArray[np.uint8],
        select: str,
    ) -> None:
        self._inputs, self._labels = inputs_PL, labels_PL
        self._measured = [
            (one, Scores(depth=one.depth, breadth=one.breadth, select=select), SegmentCounts(one.depth * one.breadth))
            for one in candidates
        ]

    def add(self, block: Records) -> None:
        """Replay every candidate over a block of complete, ordered records."""
        trace = Trace(block)
        inputs = self._inputs[trace.first : trace.first + trace.puzzles]
        for settings, scores, counts in self._measured:
            rows = replay(trace, settings, inputs)
            scores.add(rows, self._labels[rows.puzzle])
            counts.add(rows)

    def points(self, run: str, flops_per_segment: float, row_segments_per_s: float | None) -> Iterator[Point]:
        """What has been measured, in the order of the candidates. At least one answer must be known."""
        for settings, scores, counts in self._measured:
            summary, (mean, deviation) = scores.summary(flops_per_segment), counts.moments()
            yield Point(
                run=run,
                **{name: getattr(settings, name) for name in _SETTINGS},
                **{name: summary[name] for name in _FIGURES},
                verified=bool(settings.verifier),
                segments_mean=mean,
                segments_sd=deviation,
                segments_median=counts.quantile(0.5),
                segments_p99=counts.quantile(0.99),
                seconds_mean=mean / row_segments_per_s if row_segments_per_s else None,
            )


_SETTINGS = ("policy", "depth", "breadth", "settle_below", "settle_for", "budget")
_COUNTED = ("puzzles", "answered", "exact_accuracy", "exact_low", "exact_high", "flops_mean")
_FIGURES = (*_COUNTED, "settled_share", "settled_accuracy")


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points with `on_front` set, those that verify and those that do not each among themselves."""
    flagged = list(points)
    for verified in (False, True):
        at = [number for number, point in enumerate(points) if point.verified is verified]
        front = on_front([points[n].flops_mean for n in at], [points[n].exact_accuracy for n in at])
        for number, flag in zip(at, front, strict=True):
            flagged[number] = dataclasses.replace(points[number], on_front=flag)
    return flagged


def on_front(cost: Sequence[float], accuracy: Sequence[float]) -> list[bool]:
    """Whether no other point is at most as costly and at least as accurate, and better in one (equal points: both)."""
    flags = [False] * len(cost)
    best, best_cost = float("-inf"), float("inf")
    for at in sorted(range(len(cost)), key=lambda n: (cost[n], -accuracy[n])):
        if accuracy[at] > best:
            best, best_cost = accuracy[at], cost[at]
        flags[at] = (accuracy[at], cost[at]) == (best, best_cost)
    return flags


def recommended(points: Sequence[Point], run: str) -> list[Point]:
    """Of each policy of a run, the cheapest point that is at least as accurate as `full` with everything; where there
    is none, the most accurate one."""
    here = [point for point in points if point.run == run]
    full = [point for point in here if point.policy == "full"]
    goal = max(full, key=_cost).exact_accuracy if full else float("inf")
    chosen = []
    for policy in dict.fromkeys(point.policy for point in here):
        own = [point for point in here if point.policy == policy]
        enough = [point for point in own if point.exact_accuracy >= goal]
        most = max(point.exact_accuracy for point in own)
        chosen.append(min(enough or [point for point in own if point.exact_accuracy == most], key=_cost))
    return chosen


def _cost(point: Point) -> float:
    return point.segments_mean


THRESHOLDS = (0.5, 1.0, 2.0)  # times the settle_below that a run was recorded with
NO_DIFFERENCE = ("snapshots", "widths")  # parts of a manifest that follow from others, or from its history


Count = Annotated[int, Field(ge=1)]
Threshold = Annotated[float, Field(ge=0)]


class CostConfig(Options):
    """What to predict."""

    puzzles: int | None = option(
        None, "predict what so many puzzles would cost, e.g. 422786 (Sudoku-Extreme); null: nothing", ge=1
    )
    gpus: tuple[Count, ...] = option((1, 8, 64), "on so many GPUs", min_length=1)
    flops_per_segment: float | None = option(
        None, "of one trajectory; null: of the recorded network (the published one: 25.6e9)", gt=0
    )
    device_flops: float | None = option(
        None, "FLOP/s that a GPU sustains; null: 9.16e13, as in the published evaluation", gt=0
    )


class FrontierConfig(ReplayOptions):
    """Draws accuracy against cost for every policy, depth and breadth, from one run that recorded every segment. Each
    policy is replayed over the records and does what it would have done; the network runs once, or not at all with
    records=.

    Example: python -m eqr_ray.frontier checkpoint=zoo:sudoku6 data=data/sudoku6 depth=32 breadth=16
             python -m eqr_ray.frontier records=[runs/quiet/run,runs/noisy/run] policies=[full,sequential,race]
    """

    records: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = option(
        None,
        "instead of checkpoint: finished runs with every segment recorded, one or a [list]: e.g. the folder run/ that "
        "this command leaves",
    )
    out: str | None = option(None, "folder of results; null: runs/frontier-HASH, named by these keys")
    policies: tuple[PolicyName, ...] = option(
        get_args(PolicyName), "what is compared", min_length=1, removed=REMOVED_POLICIES
    )
    settle_below: Threshold | Annotated[tuple[Threshold, ...], Field(min_length=1)] | None = option(
        None, "thresholds of settling, a number or a [list]; null: 0.5, 1 and 2 times that of the recorded run"
    )
    settle_for: int | None = option(None, "segments in a row under it; null: as recorded", ge=1)
    budgets: Annotated[tuple[Count, ...], Field(min_length=1)] | None = option(
        None, "sequential: segments per puzzle at most, a [list]; null: powers of two"
    )
    cost: CostConfig = option(CostConfig(), "what to predict")

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
        for name in own.keys() & {"depth", "breadth"}:
            if own[name] > getattr(run.settings, name):
                raise UserError(f"{name}={own[name]} is more than the {getattr(run.settings, name)} that were recorded")
        most = run.settings.replace(snapshots=(), **own)
        around = tuple(factor * run.settings.settle_below for factor in THRESHOLDS)
        return grid(most, self.policies, self.thresholds or around, self.budgets, run.puzzle_set.task.name)


def points_of(runs: Sequence[RecordedRun], config: FrontierConfig, show: Callable[[int], None]) -> list[Point]:
    """The points of all runs with their common front; `show` is given the number of puzzles that have been replayed."""
    check_same_puzzles(runs)
    points: list[Point] = []
    done = 0  # puzzles of earlier runs
    for run, label in zip(runs, labels_of(runs), strict=True):
        candidates, puzzle_set = config.candidates(run), run.puzzle_set
        assert puzzle_set.labels is not None
        replays = Replays(candidates, puzzle_set.inputs, puzzle_set.labels, config.select)
        for block in run.blocks():
            replays.add(block)
            show(done + int(block.puzzle[-1]) + 1)
        done += len(puzzle_set)
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
