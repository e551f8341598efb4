"""The frontier: exact accuracy against what a puzzle costs, a panel for every recorded run.

Grey, the depth x breadth grid of `full`, a line for each breadth. In colour, the other policies: every point faintly,
and joined those that no other of the same policy beats. The broad band is the Pareto front of all policies and runs
that do not verify; a policy that does is dashed. Bars are 95 % Wilson intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from eqr_ray.evaluation.frontier import Point, on_front

PANELS_IN_A_ROW = 2
GREY = "#8c8c8c"
STYLES = {  # policy -> colour, marker
    "full": (GREY, "."),
    "halt": ("#e08e0b", "v"),
    "settle": ("#1b6ca8", "s"),
    "sequential": ("#3c8d5a", "o"),
    "race": ("#d1495b", "^"),
    "verify": ("#5b3a1e", "x"),
}
TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)
SMALLEST = 1e-12  # a logarithm has no zero
HEADROOM = 0.17  # of the height, for the names
NAME_WIDTH = 0.12  # of the width of the panel, at most
LEVELS = 4  # of names above each other
NUMBER = FuncFormatter(lambda value, _: f"{value:g}")
Values = npt.NDArray[np.float64]
Scale = Callable[[npt.ArrayLike], Values]


def draw_frontier(points: Sequence[Point], title: str, path: Path) -> None:
    """Write the PNG. At least one point."""
    runs = list(dict.fromkeys(point.run for point in points))
    columns = min(len(runs), PANELS_IN_A_ROW)
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(9 * columns, 6.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, run in zip(panels, runs, strict=False):
        _panel(axes, [point for point in points if point.run == run], points)
        axes.set_title(run, pad=10, fontsize=11)
    for axes in panels[len(runs) :]:
        axes.remove()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, own: Sequence[Point], everything: Sequence[Point]) -> None:
    flops = own[0].flops_mean / own[0].segments_mean
    _scale(axes, everything, flops)
    front = sorted((p for p in everything if p.on_front and not p.verified), key=lambda p: p.flops_mean)
    x, y = [point.flops_mean / flops for point in front], [point.exact_accuracy for point in front]
    axes.plot(x, y, color="black", linewidth=6, alpha=0.2, solid_capstyle="round", zorder=1, label="Pareto front")
    ends = []
    for policy in STYLES:
        mine = [point for point in own if point.policy == policy]
        if mine:
            ends.append(_full_grid(axes, mine) if policy == "full" else _policy(axes, mine))
    _name(axes, ends)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9)
    _other_costs(axes, own[0], flops)


def _scale(axes: Axes, points: Sequence[Point], flops: float) -> None:
    """Accuracy by the logarithm of the errors, where good policies differ; no errors at all stay on the page."""
    floor = 0.5 / max(point.answered for point in points)

    def height(accuracy: npt.ArrayLike) -> Values:
        return -np.log10(np.maximum(1 + floor - np.asarray(accuracy), SMALLEST))

    def accuracy(height: npt.ArrayLike) -> Values:
        return 1 + floor - 10.0 ** -np.asarray(height)

    low, high = height([min(point.exact_low for point in points), max(point.exact_high for point in points)])
    axes.set_yscale("function", functions=(height, accuracy))
    axes.set_ylim(float(accuracy(low)), float(accuracy(low + (high - low) / (1 - HEADROOM))))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= height(tick) <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    costs = [point.flops_mean / flops for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.3, max(costs) * 1.7)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(NUMBER)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="mean segments per puzzle", ylabel="exact accuracy")


def _full_grid(axes: Axes, points: Sequence[Point]) -> Point:
    """Draw it; returns the point with everything."""
    breadths = sorted({point.breadth for point in points})
    for breadth in breadths:
        line = sorted((point for point in points if point.breadth == breadth), key=lambda point: point.depth)
        _bars(axes, line, color=GREY, marker=".", linewidth=0.8, elinewidth=0.6)
        end = (line[-1].segments_mean, line[-1].exact_accuracy)
        words = f"breadth {breadth}" if breadth == breadths[0] else str(breadth)
        axes.annotate(words, end, xytext=(4, -10), textcoords="offset points", color=GREY, fontsize=8)
    return line[-1]


def _policy(axes: Axes, points: Sequence[Point]) -> Point:
    """Draw it; returns the last of its best points."""
    colour, marker = STYLES[points[0].policy]
    costs, accuracies = [point.segments_mean for point in points], [point.exact_accuracy for point in points]
    axes.plot(costs, accuracies, marker, color=colour, alpha=0.25, markersize=4)
    flags = on_front(costs, accuracies)
    best = sorted((p for p, flag in zip(points, flags, strict=True) if flag), key=lambda p: p.segments_mean)
    style = "--" if points[0].verified else "-"
    _bars(axes, best, color=colour, marker=marker, linestyle=style, markersize=5, linewidth=1.6, elinewidth=0.8)
    return best[-1]


def _bars(axes: Axes, line: Sequence[Point], **style: Any) -> None:
    spans = [(p.exact_accuracy - p.exact_low, p.exact_high - p.exact_accuracy) for p in line]
    bars = np.clip(np.array(spans).T, 0.0, None)
    axes.errorbar([p.segments_mean for p in line], [p.exact_accuracy for p in line], yerr=bars, **style)


def _name(axes: Axes, ends: Sequence[Point]) -> None:
    """The policies' names above their ends, none upon another."""
    left, right = (log10(limit) for limit in axes.get_xlim())
    taken = [-1.0] * LEVELS  # where the last name of each level ends, in parts of the width
    for point in sorted(ends, key=lambda point: point.segments_mean):
        colour, _ = STYLES[point.policy]
        at = (log10(point.segments_mean) - left) / (right - left)
        at = min(max(at, NAME_WIDTH / 2), 1 - NAME_WIDTH / 2)
        level = next((number for number in range(LEVELS) if taken[number] <= at - NAME_WIDTH / 2), LEVELS - 1)
        taken[level] = at + NAME_WIDTH / 2
        axes.annotate(
            point.policy,
            (point.segments_mean, point.exact_high),
            xytext=(at, 1 - HEADROOM * (0.7 - 0.55 * level / (LEVELS - 1))),
            textcoords="axes fraction",
            color=colour,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.1", "color": "white"},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "linestyle": ":", "shrinkB": 3},
        )


def _other_costs(axes: Axes, point: Point, flops: float) -> None:
    top = axes.secondary_xaxis("top", functions=_times(flops))
    top.set_xlabel("FLOPs per puzzle")
    if point.seconds_mean is not None:
        each_s = point.seconds_mean / point.segments_mean
        below = axes.secondary_xaxis(-0.13, functions=_times(each_s))
        below.xaxis.set_major_formatter(NUMBER)
        below.set_xlabel(f"seconds per puzzle, at the recorded run's {1 / each_s:,.0f} row-segments/s")


def _times(factor: float) -> tuple[Scale, Scale]:
    """To another unit and back."""
    return lambda values: np.asarray(values) * factor, lambda values: np.asarray(values) / factor
