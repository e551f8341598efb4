"""The picture of a calibration, of good, poor and empty ones."""

import struct

import numpy as np
import pytest

from eqr_ray.evaluation.calibration import Goal, calibrate, chosen, report, thresholds
from eqr_ray.plots.calibration import draw_calibration
from tests.inference.planted import World, at_thresholds


@pytest.mark.parametrize(
    ("world", "is_kept"), [(World(), True), (World(right=0.5, high=0.3), False), (World(right=1.0), True)]
)
def test_the_picture_appears(tmp_path, world, is_kept):
    goal, drawn = Goal(0.05, 0.9), world.draw(np.random.default_rng(0), 400)
    at = at_thresholds(drawn)
    tests = calibrate(at, at, thresholds(drawn.residual), goal, 400)
    assert (chosen(tests) is not None) == is_kept
    found = {**report(tests, at(tests[-1].settle_below), drawn, goal), "risk": 0.05, "confidence": 0.9}
    draw_calibration({**found, "policy": "settle"}, "title", tmp_path / "x.png")
    assert struct.unpack(">II", (tmp_path / "x.png").read_bytes()[16:24]) == (1200, 480)


def test_nothing_settled(tmp_path):
    drawn = World().draw(np.random.default_rng(0), 30)
    goal = Goal(0.05, 0.9)
    tests = calibrate(lambda _: drawn, lambda _: drawn, [1.0], goal, 30)
    found = {**report(tests, drawn, drawn, goal), "risk": 0.05, "confidence": 0.9, "policy": "settle"}
    assert (found["settle_below"], found["settled_accuracy"], found["wrong_high"]) == (None, None, 1.0)
    draw_calibration(found, "title", tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()
