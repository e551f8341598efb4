"""The frontier: what every policy would have answered and spent, from one recorded run; and what that would cost.

A grid of settings, each replayed over the same records, gives points of accuracy and cost on the same puzzles. A policy
that verifies asks for more than the method has, and is compared with its own kind only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from eqr_ray.config.schema import Options, option
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.replay import RecordedRun, Trace, replay
from eqr_ray.inference.scores import NORMAL_975, Scores, powers_of_two
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import plan
from eqr_ray.model.runtime import SLOTS_GPU

SETTLING = ("settle", "sequential", "race")  # policies that follow residuals
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

    @property
    def setting(self) -> str:
        """Depth x breadth, the threshold of settling, the budget: what tells it from the other points of its policy."""
        words = f"{self.depth} x {self.breadth}"
        if self.policy in SETTLING:
            words += f" at {self.settle_below:g}"
        return words if self.budget is None else f"{words}, {self.budget} at most"


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
    deep = [*wide, *((depth, most.breadth, None) for depth in depths[:-1])]
    shapes: dict[str, list[Shape]] = {
        "full": [(depth, breadth, None) for depth in depths for breadth in breadths],
        "sequential": [*deep, *((most.depth, most.breadth, budget) for budget in budgets)],
        "verify": deep,
    }
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
        for threshold in (settle_below if policy in SETTLING else [most.settle_below])
        for depth, breadth, budget in shapes.get(policy, wide)
    ]


def measured(
    run: RecordedRun,
    candidates: Sequence[Settings],
    select: str,
    name: str = "",
    show: Callable[[int], None] = lambda puzzles: None,
) -> list[Point]:
    """A point for each candidate, replayed over the records of a run, of which at least one answer must be known.

    `name`: of the run. `show` is given the number of puzzles that have been replayed. UserError: a candidate is deeper
    or wider than the records.
    """
    inputs, labels = run.puzzle_set.inputs, run.puzzle_set.labels
    assert labels is not None
    scores = [Scores(depth=one.depth, breadth=one.breadth, select=select) for one in candidates]
    spent = [np.zeros(one.depth * one.breadth + 1, dtype=np.int64) for one in candidates]  # puzzles by their segments
    for block in run.blocks():
        trace = Trace(block)
        for settings, score, puzzles in zip(candidates, scores, spent, strict=True):
            rows = replay(trace, settings, inputs[trace.first : trace.first + trace.puzzles])
            score.add(rows, labels[rows.puzzle])
            segments = np.bincount(rows.puzzle - trace.first, weights=rows.segments).astype(np.int64)
            puzzles += np.bincount(segments, minlength=len(puzzles))
        show(trace.first + trace.puzzles)
    points = []
    for settings, score, puzzles in zip(candidates, scores, spent, strict=True):
        values = {**settings.to_dict(), **score.summary(run.flops_per_segment), **distribution(puzzles), "run": name}
        rate = run.row_segments_per_s
        values |= {"verified": bool(settings.verifier), "on_front": False}
        values["seconds_mean"] = values["segments_mean"] / rate if rate else None
        points.append(Point(**{field.name: values[field.name] for field in dataclasses.fields(Point)}))
    return points


def distribution(puzzles: npt.NDArray[np.int64]) -> dict[str, float]:
    """Mean, deviation and quantiles of the segments, of which `puzzles`[n] puzzles took n each."""
    values, below = np.arange(len(puzzles)), np.cumsum(puzzles)
    mean = np.average(values, weights=puzzles)
    return {
        "segments_mean": float(mean),
        "segments_sd": float(np.average((values - mean) ** 2, weights=puzzles)) ** 0.5,
        "segments_median": int(np.searchsorted(below, 0.5 * below[-1])),
        "segments_p99": int(np.searchsorted(below, 0.99 * below[-1])),
    }


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points with `on_front` set, those that verify and those that do not each among themselves."""
    flags: dict[int, bool] = {}
    for verified in (False, True):
        kind = [at for at, point in enumerate(points) if point.verified is verified]
        costs, accuracies = [points[at].flops_mean for at in kind], [points[at].exact_accuracy for at in kind]
        flags.update(zip(kind, on_front(costs, accuracies), strict=True))
    return [dataclasses.replace(point, on_front=flags[at]) for at, point in enumerate(points)]


def on_front(cost: Sequence[float], accuracy: Sequence[float]) -> list[bool]:
    """Whether no other point is at most as costly and at least as accurate, and better in one (equal points: both)."""
    x, y = np.asarray(cost), np.asarray(accuracy)
    as_good = (x[:, None] <= x) & (y[:, None] >= y)  # of every point (row) in the place of every other (column)
    beaten = np.any(as_good & ((x[:, None] < x) | (y[:, None] > y)), axis=0)
    return [not flag for flag in beaten.tolist()]


def recommended(points: Sequence[Point]) -> list[Point]:
    """Of each policy of each run, the cheapest point that is at least as accurate as `full` with everything; where
    there is none, the most accurate one."""
    chosen = []
    for run, policy in dict.fromkeys((point.run, point.policy) for point in points):
        full = [point for point in points if (point.run, point.policy) == (run, "full")]
        own = [point for point in points if (point.run, point.policy) == (run, policy)]
        goal = max(point.exact_accuracy for point in own)
        if full:
            goal = min(goal, max(full, key=lambda point: point.segments_mean).exact_accuracy)
        enough = [point for point in own if point.exact_accuracy >= goal]
        chosen.append(min(enough, key=lambda point: point.segments_mean))
    return chosen


def frontier_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """What `status` tells of a finished frontier: of its recommended points the most accurate that does not verify."""
    try:
        points = [Point(**row) for row in summary["recommended"] if not row["verified"]]
        best = max(points, key=lambda point: (point.exact_accuracy, -point.segments_mean))
        words = f"{best.policy} {best.setting} {best.run}".strip()
        return {"best": f"{words}: {best.exact_accuracy:.2%} right, {best.segments_mean:.1f} segments a puzzle"}
    except (KeyError, TypeError, ValueError):  # not finished, or not what was written
        return {}


# What answering a whole test set costs: one formula with its assumptions, held against the one published run.
#
#     seconds = START_UP_S + puzzles x segments x flops_per_segment / (gpus x device_flops) + tail
#
# 1. The puzzles are like the measured ones: the same mean of segments, known as well as a mean of so many puzzles is.
# 2. Every GPU sustains `device_flops` on these matrix products; but for the tail its slots are full.
# 3. START_UP_S pass before the first segment, whatever the number of GPUs: Ray, weights, compilation.
# 4. The tail is the worst case: one device fetches its last unit when all others are done. The unit's segments go
#    through the slots, then one trajectory's whole depth, at the pace of full slots. Where restarts follow each other,
#    idle slots run them ahead, so that they do not wait for each other in the tail.
START_UP_S = 120.0
# The published evaluation (arXiv 2605.21488): Sudoku-Extreme's test set, 422,786 puzzles at depth 64 x breadth 128 with
# a network of 5.03 M weights, 25.6e9 FLOP a segment, on 8 GPUs for 33.6 h: each sustained 9.16e13 FLOP/s.
PUBLISHED_DEVICE_FLOPS = 422_786 * (64 * 128) * 25.6e9 / (8 * 33.6 * 3600)


class CostConfig(Options):
    """What to predict."""

    puzzles: int | None = option(None, "predict what so many would cost (422786: Sudoku-Extreme); null: nothing", ge=1)
    gpus: tuple[Annotated[int, Field(ge=1)], ...] = option((1, 8, 64), "on so many GPUs", min_length=1)
    flops_per_segment: float | None = option(None, "of one trajectory; null: of the recorded network", gt=0)
    device_flops: float | None = option(None, "FLOP/s that a GPU sustains; null: 9.16e13, as was published", gt=0)


@dataclass(frozen=True)
class Cost:
    """Hours from start to end, start-up and tail included, of a policy on `gpus`. `hours_low`, `hours_high`: the 95 %
    interval that comes with the number of measured puzzles alone."""

    run: str
    policy: str
    gpus: int
    hours: float
    hours_low: float
    hours_high: float
    tail_hours: float


def predictions(points: Sequence[Point], config: CostConfig) -> list[Cost]:
    """What `config` asks for, of every point; empty where it asks for nothing."""
    return [predict(point, config, gpus) for point in points for gpus in config.gpus if config.puzzles is not None]


def predict(point: Point, config: CostConfig, gpus: int) -> Cost:
    """The cost of `config.puzzles` puzzles under the policy of a point."""
    assert config.puzzles is not None
    puzzles, device_flops = config.puzzles, config.device_flops or PUBLISHED_DEVICE_FLOPS
    flops_per_segment = config.flops_per_segment or point.flops_mean / point.segments_mean
    step_s = SLOTS_GPU * flops_per_segment / device_flops  # one segment of all slots
    unit = plan(puzzles, point.breadth, point.depth, whole=POLICIES[point.policy].restarts.whole)[0]
    unit_segments = point.segments_mean * unit.rows / point.breadth
    tail_s = step_s * (unit_segments / SLOTS_GPU + point.depth)
    margin = NORMAL_975 * point.segments_sd / point.puzzles**0.5

    def hours(segments_mean: float) -> float:
        bulk_s = puzzles * segments_mean * flops_per_segment / (gpus * device_flops)
        return (START_UP_S + bulk_s + tail_s) / 3600

    mean = point.segments_mean
    low, high = hours(max(0.0, mean - margin)), hours(mean + margin)
    return Cost(point.run, point.policy, gpus, hours(mean), low, high, tail_s / 3600)
