"""The frontier: exact accuracy against what a puzzle costs, a panel for every recorded run.

Grey, the depth x breadth grid of `full`, a line for each breadth. In colour, the other policies: every point faintly,
and joined those that no other of the same policy beats. The broad band is the Pareto front of all policies and runs
that do not verify; a policy that does is dashed. Bars are 95 % Wilson intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from eqr_ray.evaluation.frontier import Point, on_front
from eqr_ray.plots import BLUE, BROWN, GREEN, GREY, NUMBER, ORANGE, PERCENT, RED, bars, log_ticks, panels

STYLES = {  # policy -> colour, marker
    "full": (GREY, "."),
    "halt": (ORANGE, "v"),
    "settle": (BLUE, "s"),
    "sequential": (GREEN, "o"),
    "race": (RED, "^"),
    "verify": (BROWN, "x"),
}
TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)
Scale = Callable[[npt.ArrayLike], npt.NDArray[np.float64]]


def draw_frontier(points: Sequence[Point], title: str, path: Path) -> None:
    """Write the PNG. At least one point."""
    runs = list(dict.fromkeys(point.run for point in points))
    figure, every = panels(len(runs), 2, 9, 6.6, title, sharex=True, sharey=True)
    for axes, run in zip(every, runs, strict=True):
        own = [point for point in points if point.run == run]
        flops = own[0].flops_mean / own[0].segments_mean
        _scale(axes, points, flops)
        front = sorted((p for p in points if p.on_front and not p.verified), key=lambda p: p.flops_mean)
        x, y = [p.flops_mean / flops for p in front], [p.exact_accuracy for p in front]
        axes.plot(x, y, color="black", linewidth=6, alpha=0.2, solid_capstyle="round", zorder=1, label="Pareto front")
        for policy in STYLES:
            _policy(axes, policy, [point for point in own if point.policy == policy])
        axes.set(title=run, xlabel="mean segments per puzzle", ylabel="exact accuracy")
        axes.legend(loc="lower right", fontsize=9)
        axes.secondary_xaxis("top", functions=_times(flops)).set_xlabel("FLOPs per puzzle")
        if own[0].seconds_mean is not None:
            each_s = own[0].seconds_mean / own[0].segments_mean
            below = axes.secondary_xaxis(-0.13, functions=_times(each_s))
            below.xaxis.set_major_formatter(NUMBER)
            below.set_xlabel(f"seconds per puzzle, at the recorded run's {1 / each_s:,.0f} row-segments/s")
    figure.savefig(path, dpi=110)


def _scale(axes: Axes, points: Sequence[Point], flops: float) -> None:
    """Accuracy by the logarithm of the errors, where good policies differ; no errors at all stay on the page."""
    floor = 0.5 / max(point.answered for point in points)

    def height(accuracy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return -np.log10(np.maximum(1 + floor - np.asarray(accuracy), 1e-12))  # a logarithm has no zero

    def accuracy(height: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return 1 + floor - 10.0 ** -np.asarray(height)

    low, high = height([min(point.exact_low for point in points), max(point.exact_high for point in points)])
    axes.set_yscale("function", functions=(height, accuracy))
    axes.set_ylim(float(accuracy(low)), float(accuracy(high + 0.04 * (high - low))))
    told = [tick for tick in TICKS if tick == 1 or 1 - tick >= 2 * floor]  # what so many puzzles can tell apart
    axes.set_yticks([tick for tick in told if low <= height(tick) <= high])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PERCENT)
    costs = [point.flops_mean / flops for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.3, max(costs) * 1.7)
    log_ticks(axes.xaxis)


def _policy(axes: Axes, policy: str, points: Sequence[Point]) -> None:
    """`full`: a line for each breadth; another policy: its best points joined, all of them faintly."""
    colour, marker = STYLES[policy]
    if policy == "full":
        for breadth in sorted({point.breadth for point in points}):
            line = sorted((point for point in points if point.breadth == breadth), key=lambda point: point.depth)
            label = policy if breadth == points[0].breadth else None
            _line(axes, line, color=colour, marker=marker, linewidth=0.8, elinewidth=0.6, label=label)
            end = (line[-1].segments_mean, line[-1].exact_accuracy)
            words = f"breadth {breadth}" if label else str(breadth)
            axes.annotate(words, end, xytext=(4, -10), textcoords="offset points", color=colour, fontsize=8)
    elif points:
        costs, accuracies = [point.segments_mean for point in points], [point.exact_accuracy for point in points]
        axes.plot(costs, accuracies, marker, color=colour, alpha=0.25, markersize=4)
        best = sorted(compress(points, on_front(costs, accuracies)), key=lambda point: point.segments_mean)
        style = {"linestyle": "--" if best[0].verified else "-", "markersize": 5, "linewidth": 1.6, "elinewidth": 0.8}
        _line(axes, best, color=colour, marker=marker, label=policy, **style)


def _line(axes: Axes, line: Sequence[Point], **style: Any) -> None:
    share, low, high = ([getattr(p, name) for p in line] for name in ("exact_accuracy", "exact_low", "exact_high"))
    axes.errorbar([point.segments_mean for point in line], share, yerr=bars(share, low, high), **style)


def _times(factor: float) -> tuple[Scale, Scale]:
    """To another unit and back."""
    return lambda values: np.asarray(values) * factor, lambda values: np.asarray(values) / factor
