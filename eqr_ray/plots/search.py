"""The pictures of a sweep.

best.png        every trial in the order of its beginning, and the best so far
parameters.png  each parameter against the objective, with its share of importance
pairs.png       heat maps of two parameters at a time: the best of the trials in a cell, finished or not
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqr_ray.search.space import Parameter, Value
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.trial import Trial

BLUE, RED, GREY = "#1b6ca8", "#d1495b", "#8c8c8c"
COLUMNS = 3
CELLS = 6  # of a range in a heat map
MOST_PAIRS = 9


class Objective(NamedTuple):
    """What stands on the axis of the objective. `value`: of a trial, None where it has none."""

    label: str
    highest: bool
    value: Callable[[Trial], float | None]


def objective_of(config: SearchConfig) -> Objective:
    """The goal of trainings; of answers the metric that the bound leaves free, where the bound is kept."""
    if config.command == "train":
        metric = config.goal.metric

        def of_training(trial: Trial) -> float | None:
            value = trial.reports[-1].metrics.get(metric, math.nan) if trial.reports else math.nan
            return value if math.isfinite(value) else None

        return Objective(metric, config.goal.highest, of_training)
    bound = config.answer_goal

    def of_answers(trial: Trial) -> float | None:
        metrics = trial.reports[-1].metrics if trial.reports else {}
        if not metrics or not bound.meets(metrics["exact_accuracy"], metrics["flops_mean"]):
            return None
        return math.log10(metrics["flops_mean"]) if bound.accuracy is not None else metrics["exact_accuracy"]

    if bound.accuracy is not None:
        return Objective(f"log10 FLOPs a puzzle, where {bound.accuracy:.0%} are right", False, of_answers)
    return Objective(f"exact accuracy, up to {bound.flops:.3g} FLOPs a puzzle", True, of_answers)


Points = Sequence[tuple[Trial, float]]  # trials with their value of the objective


def draw_search(config: SearchConfig, trials: Sequence[Trial], shares: Mapping[str, float], folder: Path) -> list[Path]:
    """Write the pictures that there is something for; `shares`: importance by parameter. Returns them."""
    objective = objective_of(config)
    points = [(trial, value) for trial in trials if (value := objective.value(trial)) is not None]
    if not points:
        return []
    figures = {"best.png": _best(objective, points), "parameters.png": _parameters(config, objective, points, shares)}
    if len(config.space.parameters) > 1:
        figures["pairs.png"] = _pairs(config, objective, points)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def best_so_far(objective: Objective, points: Points) -> list[float]:
    """After each trial, the best of the finished ones; NaN before there is one."""
    values = [value if trial.status == "finished" else math.nan for trial, value in points]
    return list((np.fmax if objective.highest else np.fmin).accumulate(values))


def _best(objective: Objective, points: Points) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    numbers = [trial.number for trial, _ in points]
    _dots(axes, numbers, points)
    axes.step(numbers, best_so_far(objective, points), where="post", color=RED, label="best finished so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=objective.label)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return figure


def _dots(axes: Axes, at: Sequence[float], points: Points) -> None:
    """Finished trials are full, the others hollow: their metrics are of shorter trainings, or of lost ones."""
    for finished, colour, words in ((False, "none", "ended early"), (True, BLUE, "finished")):
        chosen = [(trial.status == "finished") == finished for trial, _ in points]
        x = np.array(at)[chosen]
        y = np.array([value for _, value in points])[chosen]
        if len(x):
            axes.scatter(x, y, s=24, facecolors=colour, edgecolors=BLUE if finished else GREY, label=words, zorder=3)


def _parameters(config: SearchConfig, objective: Objective, points: Points, shares: Mapping[str, float]) -> Figure:
    figure, panels = _panels(len(config.space.parameters), 4.2, 3.4, sharey=True)
    for axes, one in zip(panels, config.space, strict=True):
        own = [(trial, value) for trial, value in points if one.name in trial.values]
        _dots(axes, [position(one, trial.values[one.name]) for trial, _ in own], own)
        if one.kind == "choice":
            axes.set_xticks(range(len(one.choices)), [str(choice) for choice in one.choices])
            axes.set_xlim(-0.5, len(one.choices) - 0.5)
        elif one.kind == "log":
            axes.set_xscale("log")
        elif one.kind == "integer":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        share = f", importance {shares[one.name]:.0%}" if one.name in shares else ""
        axes.set_title(f"{one.name}{share}", fontsize=10)
        axes.grid(alpha=0.3)
    figure.supylabel(objective.label, fontsize=10)
    dots, words = panels[0].get_legend_handles_labels()
    if len(words) > 1:
        figure.legend(dots, words, loc="outside lower center", ncols=len(words), fontsize="small")
    return figure


def _pairs(config: SearchConfig, objective: Objective, points: Points) -> Figure:
    pairs = list(combinations(config.space, 2))[:MOST_PAIRS]
    figure, panels = _panels(len(pairs), 4.4, 3.8)
    values = [value for _, value in points]
    better, colours = (np.fmax, "viridis") if objective.highest else (np.fmin, "viridis_r")
    for axes, (x, y) in zip(panels, pairs, strict=True):
        grid = np.full((cells(y), cells(x)), np.nan)
        for trial, value in points:
            if x.name in trial.values and y.name in trial.values:
                at = cell_of(y, trial.values[y.name]), cell_of(x, trial.values[x.name])
                grid[at] = better(grid[at], value)
        image = axes.imshow(grid, origin="lower", aspect="auto", cmap=colours, vmin=min(values), vmax=max(values))
        axes.set_xticks(*_ticks(x))
        axes.set_yticks(*_ticks(y))
        axes.set(xlabel=x.name, ylabel=y.name)
    figure.colorbar(image, ax=panels, label=f"best {objective.label}")
    return figure


def _panels(count: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=sharey, squeeze=False).ravel().tolist()
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def position(one: Parameter, value: Value) -> float:
    """Where a value stands on the axis of its parameter: a choice at its number."""
    if one.kind == "choice":
        return float(next(at for at, own in enumerate(one.choices) if type(own) is type(value) and own == value))
    assert isinstance(value, int | float)
    return float(value)


def cell_of(one: Parameter, value: Value) -> int:
    """The cell of a heat map that a value belongs to, from 0."""
    if one.kind == "choice":
        return int(position(one, value))
    low, high, at = one.low, one.high, position(one, value)
    if one.kind == "log":
        low, high, at = math.log(low), math.log(high), math.log(at)
    return min(int((at - low) / (high - low) * cells(one)), cells(one) - 1)


def cells(one: Parameter) -> int:
    """How many cells a parameter has."""
    if one.kind == "choice":
        return len(one.choices)
    return min(CELLS, int(one.high - one.low) + 1) if one.kind == "integer" else CELLS


def _ticks(one: Parameter) -> tuple[list[float], list[str]]:
    """Of a heat map: the choices, or both ends of a range."""
    if one.kind == "choice":
        return [float(at) for at in range(len(one.choices))], [str(choice) for choice in one.choices]
    return [-0.5, cells(one) - 0.5], [f"{one.low:g}", f"{one.high:g}"]
