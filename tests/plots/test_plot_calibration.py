"""The picture of a calibration, of good, poor and empty ones."""

import numpy as np
import pytest

from eqr_ray.evaluation.calibration import Guarantee, calibrate, chosen, report, thresholds
from eqr_ray.plots.residual import draw_calibration
from tests.inference.planted import World, at_thresholds


@pytest.mark.parametrize(
    ("world", "is_kept"), [(World(), True), (World(right=0.5, high=0.3), False), (World(right=1.0), True)]
)
def test_curve_and_thresholds_are_drawn(tmp_path, saved, world, is_kept):
    goal, drawn = Guarantee(risk=0.05, confidence=0.9), world.draw(np.random.default_rng(0), 400)
    at = at_thresholds(drawn)
    tests = calibrate(at, at, thresholds(drawn.residual), goal, 400)
    assert (chosen(tests) is not None) == is_kept
    found = {**report(tests, at(tests[-1].settle_below), drawn), "risk": 0.05, "confidence": 0.9}
    draw_calibration({**found, "policy": "settle"}, "title", tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()
    left, right = saved[0].axes
    assert left.get_lines()[0].get_ydata().tolist() == [point["error"] for point in found["curve"]]
    dots = {x for line in right.get_lines() if line.get_marker() == "o" for x in line.get_xdata()}
    assert dots == {test["settle_below"] for test in found["tests"]}
    words = {text.get_text() for text in right.get_legend().get_texts()}
    assert ("chosen" in words) == is_kept
    assert "risk asked for, 5 %" in words
    assert right.get_xlabel() == "settle_below (logit residual)"


def test_nothing_settled(tmp_path, saved):
    drawn = World().draw(np.random.default_rng(0), 30)
    goal = Guarantee(risk=0.05, confidence=0.9)
    tests = calibrate(lambda _: drawn, lambda _: drawn, [1.0], goal, 30)
    found = {**report(tests, drawn, drawn), "risk": 0.05, "confidence": 0.9, "policy": "settle"}
    assert (found["settle_below"], found["settled_accuracy"], found["wrong_high"]) == (None, None, 1.0)
    draw_calibration(found, "title", tmp_path / "x.png")
    (words, _) = ({text.get_text() for text in axes.get_legend().get_texts()} for axes in saved[0].axes)
    assert not [word for word in words if word.startswith("settled under")]
