"""The pictures of a sweep.

best.png        every trial in the order of its beginning, and the best so far
parameters.png  each parameter against the objective, with its share of importance
pairs.png       heat maps of two parameters at a time: the best of the trials in a cell, finished or not
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import binned_statistic_2d

from eqr_ray.plots import BLUE, GREY, RED, panels
from eqr_ray.search.space import Parameter, Value
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.trials import Trial

COLUMNS = 3
CELLS = 6  # of a range in a heat map
MOST_PAIRS = 9
Points = Sequence[tuple[Trial, float]]  # trials with their value of the objective


def objective_of(config: SearchConfig) -> tuple[str, bool]:
    """What stands on the axis of the objective, and whether more of it is better: the goal of trainings; of answers
    the metric that the bound leaves free."""
    if config.command == "train":
        return config.goal.metric, config.goal.highest
    bound = config.answer_goal
    if bound.accuracy is not None:
        return f"log10 FLOPs a puzzle, where {bound.accuracy:.0%} are right", False
    return f"exact accuracy, up to {bound.flops:.3g} FLOPs a puzzle", True


def value_of(config: SearchConfig, trial: Trial) -> float | None:
    """The objective of a trial; None where it has none, or does not keep the bound."""
    metrics = trial.reports[-1].metrics if trial.reports else {}
    if config.command == "train":
        value = metrics.get(config.goal.metric, math.nan)
        return value if math.isfinite(value) else None
    bound = config.answer_goal
    if not metrics or not bound.meets(metrics["exact_accuracy"], metrics["flops_mean"]):
        return None
    return metrics["exact_accuracy"] if bound.accuracy is None else math.log10(metrics["flops_mean"])


def draw_search(config: SearchConfig, trials: Sequence[Trial], shares: Mapping[str, float], folder: Path) -> list[Path]:
    """Write the pictures that there is something for; `shares`: importance by parameter. Returns them."""
    points = [(trial, value) for trial in trials if (value := value_of(config, trial)) is not None]
    if not points:
        return []
    figures = {"best.png": _best(config, points), "parameters.png": _parameters(config, points, shares)}
    if len(config.space.parameters) > 1:
        figures["pairs.png"] = _pairs(config, points)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def best_so_far(points: Points, highest: bool) -> list[float]:
    """After each trial, the best of the finished ones; NaN before there is one."""
    values = [value if trial.status == "finished" else math.nan for trial, value in points]
    return list((np.fmax if highest else np.fmin).accumulate(values))


def _best(config: SearchConfig, points: Points) -> Figure:
    (label, highest), (figure, (axes,)) = objective_of(config), panels(1, 1, 8, 4)
    numbers = [trial.number for trial, _ in points]
    _dots(axes, numbers, points)
    axes.step(numbers, best_so_far(points, highest), where="post", color=RED, label="best finished so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=label)
    axes.legend(fontsize="small")
    return figure


def _dots(axes: Axes, at: Sequence[float], points: Points) -> None:
    """Finished trials are full, the others hollow: their metrics are of shorter trainings, or of lost ones."""
    for finished, fill, edge, label in ((False, "none", GREY, "ended early"), (True, BLUE, BLUE, "finished")):
        chosen = [(trial.status == "finished") == finished for trial, _ in points]
        if any(chosen):
            x, y = np.array(at)[chosen], np.array([value for _, value in points])[chosen]
            axes.scatter(x, y, s=24, facecolors=fill, edgecolors=edge, label=label, zorder=3)


def _parameters(config: SearchConfig, points: Points, shares: Mapping[str, float]) -> Figure:
    figure, every = panels(len(config.space.parameters), COLUMNS, 4.2, 3.4, sharey=True)
    for axes, one in zip(every, config.space, strict=True):
        own = [(trial, value) for trial, value in points if one.name in trial.values]
        _dots(axes, [position(one, trial.values[one.name]) for trial, _ in own], own)
        _scale(axes, "x", one)
        share = f", importance {shares[one.name]:.0%}" if one.name in shares else ""
        axes.set_title(f"{one.name}{share}", fontsize=10)
    figure.supylabel(objective_of(config)[0], fontsize=10)
    dots, words = every[0].get_legend_handles_labels()
    if len(words) > 1:
        figure.legend(dots, words, loc="outside lower center", ncols=len(words), fontsize="small")
    return figure


def _pairs(config: SearchConfig, points: Points) -> Figure:
    label, highest = objective_of(config)
    pairs = list(combinations(config.space, 2))[:MOST_PAIRS]
    figure, every = panels(len(pairs), COLUMNS, 4.4, 3.8)
    best, colours = ("max", "viridis") if highest else ("min", "viridis_r")
    every_value = [value for _, value in points]
    for axes, (x, y) in zip(every, pairs, strict=True):
        own = [(trial.values, value) for trial, value in points if {x.name, y.name} <= trial.values.keys()]
        at_y, at_x = ([position(one, values[one.name]) for values, _ in own] for one in (y, x))
        bins = [edges(y), edges(x)]
        grid = binned_statistic_2d(at_y, at_x, [value for _, value in own], best, bins).statistic
        image = axes.pcolormesh(bins[1], bins[0], grid, cmap=colours, vmin=min(every_value), vmax=max(every_value))
        axes.grid(visible=False)
        _scale(axes, "x", x)
        _scale(axes, "y", y)
        axes.set(xlabel=x.name, ylabel=y.name)
    figure.colorbar(image, ax=every, label=f"best {label}")
    return figure


def position(one: Parameter, value: Value) -> float:
    """Where a value stands on the axis of its parameter: a choice at its number."""
    if one.kind == "choice":
        return float([(type(choice), choice) for choice in one.choices].index((type(value), value)))  # True == 1
    assert isinstance(value, int | float)
    return float(value)


def edges(one: Parameter) -> npt.NDArray[np.float64]:
    """Of a parameter's cells in a heat map: one for each choice, CELLS at most of a range."""
    if one.kind == "choice":
        return np.arange(len(one.choices) + 1, dtype=np.float64) - 0.5
    cells = min(CELLS, int(one.high - one.low) + 1) if one.kind == "integer" else CELLS
    spaced = np.geomspace if one.kind == "log" else np.linspace
    return np.asarray(spaced(one.low, one.high, cells + 1), dtype=np.float64)


def _scale(axes: Axes, side: Literal["x", "y"], one: Parameter) -> None:
    """The axis of a parameter."""
    axis: Axis = getattr(axes, f"{side}axis")
    if one.kind == "choice":
        axis.set_ticks(range(len(one.choices)), [str(choice) for choice in one.choices])
        axes.set(**{f"{side}lim": (-0.5, len(one.choices) - 0.5)})
    elif one.kind == "log":
        axes.set(**{f"{side}scale": "log"})
    elif one.kind == "integer":
        axis.set_major_locator(MaxNLocator(integer=True))
