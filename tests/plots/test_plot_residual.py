"""The picture of a run, from planted trajectories."""

import numpy as np
import pytest

from eqr_ray.plots.residual import draw_run, residual_groups


def cells():
    return [
        {"depth": d, "breadth": b, "exact_accuracy": a, "exact_low": a - 0.05, "exact_high": a + 0.05}
        for d, b, a in [(1, 1, 0.1), (16, 1, 0.6), (1, 8, 0.1), (16, 8, 0.9)]
    ]


def test_groups_are_equal_ordered_and_complete():
    residual = np.linspace(1, 0, 103, dtype=np.float32)
    exact = residual < 0.5
    groups = residual_groups(residual, exact)
    assert [right / count for _, right, count in groups[:4]] == [1.0] * 4
    assert [right for _, right, _ in groups[-4:]] == [0] * 4
    assert sum(count for _, _, count in groups) == 103
    assert [median for median, _, _ in groups] == sorted(median for median, _, _ in groups)


def test_trajectories_without_a_residual_are_left_out():
    residual = np.array([np.inf, 0.1, 0.2], dtype=np.float32)
    assert sum(count for _, _, count in residual_groups(residual, np.ones(3, dtype=bool))) == 2


@pytest.mark.parametrize("count", [0, 1, 500])
def test_groups_and_depths_are_drawn(tmp_path, saved, count):
    rng = np.random.default_rng(0)
    early = np.full(count, np.inf, dtype=np.float32), rng.random(count) < 0.1
    late = rng.random(count).astype(np.float32), rng.random(count) < 0.5
    draw_run({1: early, 16: late}, cells(), "title", tmp_path / "run.png")
    assert (tmp_path / "run.png").exists()
    left, right = saved[0].axes
    groups = residual_groups(*late)
    bars = [bar.lines[0].get_ydata().tolist() for bar in left.containers]
    assert bars == ([[right / of for _, right, of in groups]] if count else [])  # depth 1 has no residual yet
    assert [bar.get_label() for bar in right.containers] == ["breadth 1", "breadth 8"]
    assert [bar.lines[0].get_ydata().tolist() for bar in right.containers] == [[0.1, 0.6], [0.1, 0.9]]
    assert (left.get_xlabel(), right.get_xlabel()) == ("logit residual (median of the group)", "depth (segments)")
