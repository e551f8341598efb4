"""What answering a whole test set costs, predicted from a policy's measured segments per puzzle.

One formula with its assumptions in the open, held against the one published run.

    seconds = START_UP_S + puzzles x segments x flops_per_segment / (gpus x device_flops) + tail

1. The puzzles are like the measured ones: the same mean of segments, known as well as a mean of so many puzzles is.
2. Every GPU sustains `device_flops` on these matrix products; but for the tail its slots are full.
3. START_UP_S pass before the first segment, whatever the number of GPUs: Ray, weights, compilation.
4. The tail is the worst case: one device fetches its last unit when all others are done. The unit's segments go through
   the slots, then one trajectory's whole depth, at the pace of full slots. Where restarts follow each other, idle slots
   run them ahead, so that they do not wait for each other in the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eqr_ray.evaluation.frontier import CostConfig, Point
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.scores import NORMAL_975
from eqr_ray.inference.units import plan
from eqr_ray.model.runtime import SLOTS_GPU

START_UP_S = 120.0

# The published evaluation (arXiv 2605.21488): Sudoku-Extreme's test set at depth 64 x breadth 128, 8 GPUs for 33.6 h.
PUBLISHED_PUZZLES, PUBLISHED_SEGMENTS = 422_786, 64 * 128
PUBLISHED_FLOPS_PER_SEGMENT = 25.6e9  # of the network of 5.03 M weights
PUBLISHED_GPUS, PUBLISHED_HOURS = 8, 33.6
# What each of its GPUs sustained: 9.16e13 FLOP/s.
PUBLISHED_DEVICE_FLOPS = (
    PUBLISHED_PUZZLES * PUBLISHED_SEGMENTS * PUBLISHED_FLOPS_PER_SEGMENT / (PUBLISHED_GPUS * PUBLISHED_HOURS * 3600)
)


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
    if config.puzzles is None:
        return []
    device_flops = config.device_flops or PUBLISHED_DEVICE_FLOPS
    return [
        predict(point, config.puzzles, gpus, config.flops_per_segment or flops_per_segment(point), device_flops)
        for point in points
        for gpus in config.gpus
    ]


def flops_per_segment(point: Point) -> float:
    """Of the network that was recorded."""
    return point.flops_mean / point.segments_mean


def predict(point: Point, puzzles: int, gpus: int, flops_per_segment: float, device_flops: float) -> Cost:
    """The cost of so many puzzles under the policy of a point."""
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
