"""The pictures of a sweep: how the best came about, what each parameter does, and what pairs of them do.

best.png        every trial in the order of its beginning, and the best so far
parameters.png  each parameter against the objective, with its share of importance
pairs.png       heat maps of two parameters at a time: the best of the trials in a cell, finished or not
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqr_ray.search.outcome import Trial
from eqr_ray.search.space import Parameter, Value
from eqr_ray.search.study import SearchConfig

BLUE, RED, GREY = "#1b6ca8", "#d1495b", "#8c8c8c"
COLUMNS = 3
CELLS = 6  # of a range in a heat map
MOST_PAIRS = 9


@dataclass(frozen=True)
class View:
    """What stands on the axis of the objective. `of`: of a trial, None where it has none."""

    label: str
    highest: bool
    of: Callable[[Trial], float | None]


def view_of(config: SearchConfig) -> View:
    """The first goal of trainings; of answers the figure that the bound leaves free, where the bound is kept."""
    if config.door == "train":
        goal = config.goals[0]
        return View(goal.figure, goal.highest, lambda trial: _figure(trial, goal.figure))
    bound = config.answer_goal

    def kept(trial: Trial) -> dict[str, float] | None:
        figures = trial.reports[-1].figures if trial.reports else {}
        meets = bool(figures) and bound.meets(figures["exact_accuracy"], figures["flops_mean"])
        return figures if meets else None

    def cost(trial: Trial) -> float | None:
        figures = kept(trial)
        return math.log10(figures["flops_mean"]) if figures else None

    def accuracy(trial: Trial) -> float | None:
        figures = kept(trial)
        return figures["exact_accuracy"] if figures else None

    if bound.accuracy is not None:
        return View(f"log10 FLOPs a puzzle, where {bound.accuracy:.0%} are right", False, cost)
    return View(f"exact accuracy, up to {bound.flops:.3g} FLOPs a puzzle", True, accuracy)


def draw_search(config: SearchConfig, trials: Sequence[Trial], shares: Mapping[str, float], folder: Path) -> list[Path]:
    """Write the pictures that there is something for; `shares`: importance by parameter. Returns them."""
    view = view_of(config)
    drawn = [(trial, value) for trial in trials if (value := view.of(trial)) is not None]
    if not drawn:
        return []
    paths = [_best(view, drawn, folder), _parameters(config, view, drawn, shares, folder)]
    return paths + ([_pairs(config, view, drawn, folder)] if len(config.space.parameters) > 1 else [])


Drawn = Sequence[tuple[Trial, float]]


def best_so_far(view: View, drawn: Drawn) -> list[float | None]:
    """After each trial, the best of the finished ones; None before there is one."""
    line: list[float | None] = []
    best: float | None = None
    for trial, value in drawn:
        if trial.status == "finished" and (best is None or (value > best if view.highest else value < best)):
            best = value
        line.append(best)
    return line


def _best(view: View, drawn: Drawn, folder: Path) -> Path:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    _dots(axes, [trial.number for trial, _ in drawn], drawn)
    line = [math.nan if value is None else value for value in best_so_far(view, drawn)]
    axes.step([trial.number for trial, _ in drawn], line, where="post", color=RED, label="best finished so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=view.label)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(folder / "best.png", dpi=110)
    return folder / "best.png"


def _dots(axes: Axes, at: Sequence[float], drawn: Drawn) -> None:
    """Finished trials are full, the others hollow: their figures are of shorter trainings, or of lost ones."""
    for finished, colour, words in ((False, "none", "ended early"), (True, BLUE, "finished")):
        own = [
            (x, value) for x, (trial, value) in zip(at, drawn, strict=True) if (trial.status == "finished") == finished
        ]
        if own:
            x, y = zip(*own, strict=True)
            axes.scatter(x, y, s=24, facecolors=colour, edgecolors=BLUE if finished else GREY, label=words, zorder=3)


def _parameters(config: SearchConfig, view: View, drawn: Drawn, shares: Mapping[str, float], folder: Path) -> Path:
    parameters = list(config.space)
    rows = -(-len(parameters) // COLUMNS)
    columns = min(len(parameters), COLUMNS)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, one in zip(panels, parameters, strict=False):
        own = [(trial, value) for trial, value in drawn if one.name in trial.values]
        _dots(axes, [position(one, trial.values[one.name]) for trial, _ in own], own)
        _scale(axes, one)
        share = f", importance {shares[one.name]:.0%}" if one.name in shares else ""
        axes.set_title(f"{one.name}{share}", fontsize=10)
        axes.grid(alpha=0.3)
    for axes in panels[len(parameters) :]:
        axes.remove()
    figure.supylabel(view.label, fontsize=10)
    dots, words = panels[0].get_legend_handles_labels()
    if len(words) > 1:
        figure.legend(dots, words, loc="outside lower center", ncols=len(words), fontsize="small")
    figure.savefig(folder / "parameters.png", dpi=110)
    return folder / "parameters.png"


def position(one: Parameter, value: Value) -> float:
    """Where a value stands on the axis of its parameter: a choice at its number."""
    if one.kind == "choice":
        return float(next(at for at, own in enumerate(one.choices) if type(own) is type(value) and own == value))
    assert isinstance(value, int | float)
    return float(value)


def _scale(axes: Axes, one: Parameter) -> None:
    if one.kind == "choice":
        axes.set_xticks(range(len(one.choices)), [str(choice) for choice in one.choices])
        axes.set_xlim(-0.5, len(one.choices) - 0.5)
    elif one.kind == "log":
        axes.set_xscale("log")
    elif one.kind == "integer":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


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


def _pairs(config: SearchConfig, view: View, drawn: Drawn, folder: Path) -> Path:
    pairs = list(combinations(config.space, 2))[:MOST_PAIRS]
    rows, columns = -(-len(pairs) // COLUMNS), min(len(pairs), COLUMNS)
    figure = Figure(figsize=(4.4 * columns, 3.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    values = [value for _, value in drawn]
    for axes, (x, y) in zip(panels, pairs, strict=False):
        grid = np.full((cells(y), cells(x)), np.nan)
        for trial, value in drawn:
            if x.name in trial.values and y.name in trial.values:
                at = cell_of(y, trial.values[y.name]), cell_of(x, trial.values[x.name])
                better = max if view.highest else min
                grid[at] = value if math.isnan(grid[at]) else better(grid[at], value)
        colours = "viridis" if view.highest else "viridis_r"
        image = axes.imshow(grid, origin="lower", aspect="auto", cmap=colours, vmin=min(values), vmax=max(values))
        axes.set_xticks(*_ends(x))
        axes.set_yticks(*_ends(y))
        axes.set(xlabel=x.name, ylabel=y.name)
    for axes in panels[len(pairs) :]:
        axes.remove()
    figure.colorbar(image, ax=panels[: len(pairs)].tolist(), label=f"best {view.label}")
    figure.savefig(folder / "pairs.png", dpi=110)
    return folder / "pairs.png"


def _ends(one: Parameter) -> tuple[list[float], list[str]]:
    """Ticks of a heat map: the choices, or both ends of a range."""
    if one.kind == "choice":
        return [float(at) for at in range(len(one.choices))], [str(choice) for choice in one.choices]
    return [-0.5, cells(one) - 0.5], [f"{one.low:g}", f"{one.high:g}"]


def _figure(trial: Trial, name: str) -> float | None:
    value = trial.reports[-1].figures.get(name, math.nan) if trial.reports else math.nan
    return value if math.isfinite(value) else None
