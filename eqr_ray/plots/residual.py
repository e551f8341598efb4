"""The picture of a run: does a small residual tell a right answer, and what do depth and breadth buy?

Left, the trajectories of each recorded depth in ten equal groups by residual, with the share of right answers in each;
right, exact accuracy against depth for each breadth. Bars are 95 % Wilson intervals.

    N trajectories, L tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import read_json
from eqr_ray.data.arrow_store import Split
from eqr_ray.inference.records import concatenate, is_exact, read_part
from eqr_ray.inference.scores import wilson


class Trajectories(NamedTuple):
    """All trajectories at one depth: logit residual and whether the answer was right, both (N,)."""

    residual: npt.NDArray[np.float32]
    exact: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RunByDepth:
    """Trajectories by depth (the snapshots and the full depth), and the depth x breadth table of the summary."""

    at_depth: dict[int, Trajectories]
    table: list[dict[str, Any]]


def read_run(folder: Path, data: Path) -> RunByDepth:
    """The run in `folder` on the Arrow file `data`, which must have answers."""
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
        there = rows.take(rows.last_at(depth, summary["breadth"]))
        at_depth[depth] = Trajectories(there.logit_residual, is_exact(there.prediction, labels[there.puzzle]))
    return RunByDepth(at_depth, summary["table"])


GROUPS = 10
SMALLEST = 1e-6  # a logarithmic axis has no zero
COLOURS = ("#1b6ca8", "#d1495b", "#3c8d5a", "#7a5195")


def draw_run(run: RunByDepth, title: str, path: Path) -> None:
    """Write the PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _by_residual(left, run.at_depth)
    _by_depth(right, run.table)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def residual_groups(
    residual_N: npt.NDArray[np.float32], exact_N: npt.NDArray[np.bool_]
) -> list[tuple[float, int, int]]:
    """(median residual, right, all) of equal groups in the order of the residual; trajectories without one left out."""
    known = np.isfinite(residual_N)
    order = np.argsort(residual_N[known], kind="stable")
    parts = np.array_split(order, min(GROUPS, max(len(order), 1)))
    residual, exact = residual_N[known], exact_N[known]
    return [(float(np.median(residual[part])), int(exact[part].sum()), len(part)) for part in parts if len(part)]


def _by_residual(axes: Axes, at_depth: Mapping[int, Trajectories]) -> None:
    for colour, (depth, trajectories) in zip(COLOURS, list(at_depth.items())[::-1], strict=False):
        groups = residual_groups(trajectories.residual, trajectories.exact)
        if not groups:  # one segment has no residual yet
            continue
        medians = [max(median, SMALLEST) for median, _, _ in groups]
        shares = [right / count for _, right, count in groups]
        bars = _bars([(right, count) for _, right, count in groups])
        axes.errorbar(medians, shares, yerr=bars, marker="o", capsize=3, color=colour, label=f"depth {depth}")
    axes.set(xscale="log", xlabel="logit residual (median of the group)", ylabel="right answers", ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("accuracy against residual")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
    axes.grid(alpha=0.3)


def _by_depth(axes: Axes, table: Sequence[Mapping[str, Any]]) -> None:
    for colour, breadth in zip(COLOURS, sorted({cell["breadth"] for cell in table}), strict=False):
        cells = [cell for cell in table if cell["breadth"] == breadth and cell["exact_accuracy"] is not None]
        accuracy = np.array([cell["exact_accuracy"] for cell in cells])
        low, high = (np.array([cell[name] for cell in cells]) for name in ("exact_low", "exact_high"))
        bars = np.clip(np.stack([accuracy - low, high - accuracy]), 0.0, None)
        depths = [cell["depth"] for cell in cells]
        axes.errorbar(depths, accuracy, yerr=bars, marker="o", capsize=3, color=colour, label=f"breadth {breadth}")
    axes.set_xscale("log", base=2)
    ticks = sorted({cell["depth"] for cell in table})
    axes.set_xticks(ticks, [str(depth) for depth in ticks])
    axes.set(xlabel="depth (segments)", ylabel="exact accuracy", ylim=(-0.03, 1.03))
    axes.set_title("what depth and breadth buy")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _bars(counts: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """(2, groups) distances to the ends of the Wilson intervals."""
    spans = [(right / n, *wilson(right, n)) for right, n in counts]
    return np.array([[max(share - low, 0.0), max(high - share, 0.0)] for share, low, high in spans]).T
