"""The picture of a calibration: what answering the surest puzzles only buys, and which thresholds keep the risk.

Left, the share of wrong answers against the share of puzzles that are answered, with 95 % Wilson intervals; marked,
what the chosen threshold answers. Right, every threshold that was tested: the share of wrong answers among the settled
ones, up to its upper bound, against the risk asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from eqr_ray.inference.scores import wilson

BLUE, GREEN, RED, GREY = "#1b6ca8", "#3c8d5a", "#d1495b", "#666666"
ERROR_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
MOST_LABELS = 7


def draw_calibration(report: Mapping[str, Any], title: str, path: Path) -> None:
    """Write the PNG. `report`: what `calibration.json` holds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curve(left, report)
    _tests(right, report)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _curve(axes: Axes, report: Mapping[str, Any]) -> None:
    curve = report["curve"]
    coverage, error = ([point[name] for point in curve] for name in ("coverage", "error"))
    low, high = zip(*(wilson(point["wrong"], point["answered"]) for point in curve), strict=True)
    axes.fill_between(coverage, low, high, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(coverage, error, color=BLUE, label="full depth and breadth, surest by residual first")
    highest = max(*error, report["risk"])
    if report["settle_below"] is not None:
        words = f"settled under {report['settle_below']:g} with policy={report['policy']}"
        _share(axes, report["coverage"], report, GREEN, words)
        highest = max(highest, report["wrong_high"])
    axes.set(xlabel="puzzles answered", ylabel="wrong among the answered", xlim=(0, 1.015))
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_title("what abstaining buys")
    _errors(axes, report["risk"], highest)


def _tests(axes: Axes, report: Mapping[str, Any]) -> None:
    tests = report["tests"]
    for test in tests:
        is_chosen = test["settle_below"] == report["settle_below"]
        colour = GREEN if is_chosen else BLUE if test["passed"] else RED
        words = "chosen" if is_chosen else "passed" if test["passed"] else "failed"
        _share(axes, test["settle_below"], test, colour, words)
    at = [test["settle_below"] for test in tests]
    axes.set(xscale="log", xlabel="settle_below (logit residual)", ylabel="wrong among the settled")
    axes.set_xlim(at[0] / 1.1, at[-1] * 1.1)
    ticks = at[:: -(-len(at) // MOST_LABELS)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(f"thresholds tested from left to right, {_percent(report['confidence'])} bounds")
    _errors(axes, report["risk"], max(report["risk"], *(test["wrong_high"] for test in tests)))


def _share(axes: Axes, at: float, counts: Mapping[str, Any], colour: str, words: str) -> None:
    """A share of wrong answers as a dot, with a bar to its upper bound."""
    share = counts["wrong"] / counts["settled"] if counts["settled"] else 0.0
    axes.plot([at, at], [share, counts["wrong_high"]], color=colour, marker="_", markevery=[1], clip_on=False)
    axes.plot(at, share, "o", color=colour, clip_on=False, zorder=3, label=words)


def _errors(axes: Axes, risk: float, highest: float) -> None:
    """A root scale, on which zero and half a percent can both be seen, the risk asked for, and the legend above all."""
    top = min(1.0, 2.2 * highest)
    axes.axhline(risk, color=GREY, linestyle="--", linewidth=1, label=f"risk asked for, {_percent(risk)}")
    axes.set_yscale("function", functions=(lambda y: np.sqrt(np.clip(y, 0, None)), np.square))
    axes.set_ylim(0, top)
    ticks = [0.0]
    for tick in ERROR_TICKS:
        if tick <= top and np.sqrt(tick) - np.sqrt(ticks[-1]) > 0.07 * np.sqrt(top):
            ticks.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.grid(alpha=0.3)
    handles, words = axes.get_legend_handles_labels()
    once = dict(zip(words, handles, strict=True))
    axes.legend(once.values(), once.keys(), loc="upper left", fontsize="small")


def _percent(share: float, _: int | None = None) -> str:
    return f"{100 * share:.3g} %"
