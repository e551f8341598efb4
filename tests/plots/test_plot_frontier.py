"""The picture of a frontier, from planted points."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from eqr_ray.evaluation.frontier import with_front
from eqr_ray.inference.policies import POLICIES
from eqr_ray.plots.frontier import STYLES, draw_frontier
from tests.evaluation.test_frontier import point


def points(run: str = "", seconds: float | None = 1.0) -> list:
    return [
        point(
            run=run,
            policy=policy,
            depth=depth,
            verified=policy == "verify",
            segments_mean=float(depth * (number + 1)),
            flops_mean=float(10 * depth * (number + 1)),
            exact_accuracy=1 - 1 / depth,
            exact_low=max(0.0, 0.9 - 1 / depth),
            exact_high=1.0,
            seconds_mean=seconds,
        )
        for number, policy in enumerate(POLICIES)
        for depth in (1, 4, 16)
    ]


def test_every_policy_has_a_style() -> None:
    assert STYLES.keys() == POLICIES.keys()


@pytest.mark.parametrize(("runs", "seconds"), [(1, 1.0), (1, None), (3, 1.0)])
def test_every_policy_of_every_run_is_drawn(
    tmp_path: Path, saved: list[Figure], runs: int, seconds: float | None
) -> None:
    planted = [one for run in range(runs) for one in points(f"seed={run}" if runs > 1 else "", seconds)]
    draw_frontier(with_front(planted), "title", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").exists()
    panels = saved[0].axes
    assert len(panels) == runs
    for number, axes in enumerate(panels):
        assert axes.get_title() == (f"seed={number}" if runs > 1 else "")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("mean segments per puzzle", "exact accuracy")
        assert POLICIES.keys() <= {text.get_text() for text in axes.get_legend().get_texts()}
        assert len(axes.containers) == len(POLICIES)  # error bars: one line of `full`, one of each other policy
        below = [other.get_xlabel() for other in axes.child_axes]
        assert below[0] == "FLOPs per puzzle"
        assert [label.startswith("seconds per puzzle") for label in below[1:]] == [True] * (seconds is not None)


def test_points_stand_where_they_cost(tmp_path: Path, saved: list[Figure]) -> None:
    draw_frontier(with_front(points()), "title", tmp_path / "frontier.png")
    (axes,) = saved[0].axes
    costs = sorted(axes.containers[0].lines[0].get_xdata().tolist())  # those of `full`
    assert costs == sorted(one.segments_mean for one in points() if one.policy == "full")


def test_a_single_point_is_a_picture_too(tmp_path: Path, saved: list[Figure]) -> None:
    draw_frontier(with_front([point()]), "title", tmp_path / "frontier.png")
    assert len(saved[0].axes[0].containers) == 1
