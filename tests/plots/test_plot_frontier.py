"""The picture of a frontier, from planted points."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("runs", "seconds", "size"), [(1, 1.0, (990, 726)), (1, None, (990, 726)), (3, 1.0, (1980, 1452))]
)
def test_the_picture_appears(tmp_path: Path, runs: int, seconds: float | None, size: tuple[int, int]) -> None:
    planted = [one for run in range(runs) for one in points(f"seed={run}" if runs > 1 else "", seconds)]
    draw_frontier(with_front(planted), "title", tmp_path / "frontier.png")
    written = (tmp_path / "frontier.png").read_bytes()
    assert struct.unpack(">II", written[16:24]) == size
    assert len(written) > 20_000


def test_a_single_point_is_a_picture_too(tmp_path: Path) -> None:
    draw_frontier(with_front([point()]), "title", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
