"""The prediction of cost, held against the published run and against what must hold of any."""

from __future__ import annotations

import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.evaluation.frontier import PUBLISHED_DEVICE_FLOPS, START_UP_S, CostConfig, predict, predictions
from tests.evaluation.test_frontier import point

PUBLISHED = point(depth=64, breadth=128, segments_mean=8192.0, segments_sd=0.0, flops_mean=8192 * 25.6e9)


def test_the_published_evaluation_takes_as_long_as_it_took() -> None:
    """64 x 128 segments for 422,786 puzzles on 8 GPUs: 33.6 h, which is 91.6 TFLOP/s of each GPU."""
    assert pytest.approx(9.16e13, rel=1e-3) == PUBLISHED_DEVICE_FLOPS
    cost = predict(PUBLISHED, CostConfig(puzzles=422_786, flops_per_segment=25.6e9, device_flops=9.163e13), 8)
    assert cost.hours - cost.tail_hours - START_UP_S / 3600 == pytest.approx(33.6, rel=1e-3)
    assert cost.hours == pytest.approx(33.6, rel=5e-3)


def test_more_gpus_divide_the_work_but_not_the_tail() -> None:
    one, many = (predict(PUBLISHED, CostConfig(puzzles=422_786), gpus) for gpus in (1, 64))
    fixed = one.tail_hours + START_UP_S / 3600
    assert one.tail_hours == many.tail_hours > 0
    assert (one.hours - fixed) / (many.hours - fixed) == pytest.approx(64)


def test_few_measured_puzzles_tell_less() -> None:
    spread = point(segments_mean=10.0, segments_sd=40.0, puzzles=1000)
    cost = predict(spread, CostConfig(puzzles=10**6, flops_per_segment=1e9, device_flops=1e12), 1)
    hours_per_segment = 10**6 * 1e9 / 1e12 / 3600
    assert cost.hours_high - cost.hours == pytest.approx(1.96 * 40 / 1000**0.5 * hours_per_segment, rel=1e-3)
    assert cost.hours - cost.hours_low == pytest.approx(cost.hours_high - cost.hours)


def test_a_prediction_for_every_number_of_gpus() -> None:
    assert predictions([PUBLISHED], CostConfig(gpus=(1, 8))) == []
    costs = predictions([PUBLISHED], CostConfig(puzzles=1000, gpus=(1, 8)))
    assert [cost.gpus for cost in costs] == [1, 8]
    named = {"flops_per_segment": 25.6e9, "device_flops": PUBLISHED_DEVICE_FLOPS}
    assert costs == predictions([PUBLISHED], CostConfig(puzzles=1000, gpus=(1, 8), **named))
    with pytest.raises(UserError, match=r"gpus\[1\]=0 is not allowed: should be greater than or equal to 1"):
        CostConfig(puzzles=1, gpus=(1, 0))
    with pytest.raises(UserError, match=r"device_flops=0\.0 is not allowed"):
        CostConfig(puzzles=1, gpus=(1,), device_flops=0.0)
