"""Pictures of what a residual tells: of a run, and of a calibration. Intervals are 95 % Wilson intervals.

N trajectories
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import read_json
from eqr_ray.data.arrow_store import Split
from eqr_ray.inference.records import concatenate, is_exact, read_part
from eqr_ray.inference.scores import wilson
from eqr_ray.plots import BLUE, GREEN, GREY, PERCENT, RED, VIOLET, bars, log_ticks, panels

GROUPS = 10  # of equal size, by residual
SMALLEST = 1e-6  # a logarithmic axis has no zero
COLOURS = (BLUE, RED, GREEN, VIOLET)
MOST_TICKS = 7
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
AtDepth = dict[int, tuple[Floats, Flags]]  # depth -> logit residual and rightness, both (N,), of all trajectories


def read_run(folder: Path, data: Path) -> tuple[AtDepth, list[dict[str, Any]]]:
    """Of the run in `folder` on the Arrow file `data`, which must have answers: the trajectories at its snapshots and
    at the full depth, and the depth x breadth table of its summary."""
    parts = sorted((folder / "records").glob("*.parquet"))
    if not parts:
        raise UserError(f"{folder} holds no records of a run")
    labels = Split.open(data).labels
    if labels is None:
        raise UserError(f"{data} has no answers to compare with")
    summary = read_json(folder / "summary.json")
    rows = concatenate([read_part(path) for path in parts]).in_order()
    at_depth = {}
    for depth in sorted({cell["depth"] for cell in summary["table"]}):
        last = rows.take(rows.last_at(depth, summary["breadth"]))
        at_depth[depth] = last.logit_residual, is_exact(last.prediction, labels[last.puzzle])
    return at_depth, summary["table"]


def draw_run(at_depth: AtDepth, table: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Write the PNG of a run, from `read_run`. Left, the trajectories of each recorded depth in equal groups by
    residual, with the share of right answers in each; right, exact accuracy against depth for each breadth."""
    figure, (left, right) = panels(2, 2, 5, 4, title)
    _by_residual(left, at_depth)
    _by_depth(right, table)
    figure.savefig(path, dpi=120)


def residual_groups(residual_N: Floats, exact_N: Flags) -> list[tuple[float, int, int]]:
    """(median residual, right, all) of equal groups in the order of the residual; trajectories without one left out."""
    known = np.isfinite(residual_N)
    residual, exact = residual_N[known], exact_N[known]
    parts = np.array_split(np.argsort(residual, kind="stable"), min(GROUPS, max(len(residual), 1)))
    return [(float(np.median(residual[part])), int(exact[part].sum()), len(part)) for part in parts if len(part)]


def _by_residual(axes: Axes, at_depth: AtDepth) -> None:
    for colour, depth in zip(COLOURS, reversed(at_depth), strict=False):
        groups = residual_groups(*at_depth[depth])
        if groups:  # one segment has no residual yet
            medians, right, count = (np.array(column) for column in zip(*groups, strict=True))
            low, high = zip(*(wilson(part, whole) for _, part, whole in groups), strict=True)
            _line(axes, colour, f"depth {depth}", np.maximum(medians, SMALLEST), right / count, low, high)
            axes.legend(loc="lower left")
    axes.set(xscale="log", xlabel="logit residual (median of the group)", ylabel="right answers", ylim=(-0.03, 1.03))
    log_ticks(axes.xaxis)
    axes.set_title("accuracy against residual")


def _by_depth(axes: Axes, table: Sequence[Mapping[str, Any]]) -> None:
    for colour, breadth in zip(COLOURS, sorted({cell["breadth"] for cell in table}), strict=False):
        cells = [cell for cell in table if cell["breadth"] == breadth and cell["exact_accuracy"] is not None]
        names = ("depth", "exact_accuracy", "exact_low", "exact_high")
        _line(axes, colour, f"breadth {breadth}", *([cell[name] for cell in cells] for name in names))
    axes.set_xscale("log", base=2)
    ticks = sorted({cell["depth"] for cell in table})
    axes.set_xticks(ticks, [str(depth) for depth in ticks])
    axes.set(xlabel="depth (segments)", ylabel="exact accuracy", ylim=(-0.03, 1.03))
    axes.set_title("what depth and breadth buy")
    axes.legend(loc="lower right")


def _line(axes: Axes, colour: str, label: str, x: Any, share: Any, low: Any, high: Any) -> None:
    axes.errorbar(x, share, yerr=bars(share, low, high), marker="o", capsize=3, color=colour, label=label)


def draw_calibration(report: Mapping[str, Any], title: str, path: Path) -> None:
    """Write the PNG of a calibration; `report`: what `calibration.json` holds. Left, the share of wrong answers against
    the share of puzzles that are answered, and what the chosen threshold answers. Right, every threshold that was
    tested: the share of wrong answers among the settled ones, up to its upper bound, against the risk asked for."""
    figure, (left, right) = panels(2, 2, 5, 4, title)
    curve, tests, below = report["curve"], report["tests"], report["settle_below"]
    coverage, error = ([point[name] for point in curve] for name in ("coverage", "error"))
    low, high = zip(*(wilson(point["wrong"], point["answered"]) for point in curve), strict=True)
    left.fill_between(coverage, low, high, color=BLUE, alpha=0.15, linewidth=0)
    left.plot(coverage, error, color=BLUE, label="full depth and breadth, surest by residual first")
    if below is not None:
        _errors(left, "coverage", [report], GREEN, f"settled under {below:g} with policy={report['policy']}")
    left.set(xlabel="puzzles answered", ylabel="wrong among the answered", xlim=(0, 1.015))
    left.xaxis.set_major_formatter(PERCENT)
    left.set_title("what abstaining buys")
    passed = [test for test in tests if test["passed"] and test["settle_below"] != below]
    _errors(right, "settle_below", [test for test in tests if not test["passed"]], RED, "failed")
    _errors(right, "settle_below", passed, BLUE, "passed")
    _errors(right, "settle_below", [test for test in tests if test["settle_below"] == below], GREEN, "chosen")
    at = [test["settle_below"] for test in tests]
    right.set(xscale="log", xlabel="settle_below (logit residual)", ylabel="wrong among the settled")
    right.set_xlim(at[0] / 1.1, at[-1] * 1.1)
    ticks = at[:: -(-len(at) // MOST_TICKS)]
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_xticks([], minor=True)
    right.set_title(f"thresholds tested from left to right, {PERCENT(report['confidence'])} bounds")
    asked = f"risk asked for, {PERCENT(report['risk'])}"
    for axes, highest in ((left, max(*error, report["wrong_high"])), (right, max(one["wrong_high"] for one in tests))):
        axes.axhline(report["risk"], color=GREY, linestyle="--", linewidth=1, label=asked)
        # a root scale, on which zero and half a percent can both be seen
        axes.set_yscale("function", functions=(lambda y: np.sqrt(np.clip(y, 0, None)), np.square))
        axes.set_ylim(0, min(1.0, 2.2 * max(highest, report["risk"])))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=120)


def _errors(axes: Axes, at: str, counts: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    """Shares of wrong answers as dots, with bars to their upper bounds."""
    if counts:
        x, high = ([one[name] for one in counts] for name in (at, "wrong_high"))
        share = [one["wrong"] / max(one["settled"], 1) for one in counts]
        axes.errorbar(x, share, bars(share, share, high), fmt="o", capsize=3, color=colour, label=label, clip_on=False)
