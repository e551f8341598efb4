"""Stages: a run that adds restarts to what it has, because it is widened or because a common budget is left.

Why here: a stage is a range of restarts for the puzzles that still need them, divided into units like any run. What a
stage runs is a function of the records before it, so an interrupted run finds its place again by reading them.

    N puzzles, L tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.inference.record_dir import RunFolder
from eqr_ray.inference.records import ACCEPTED, SETTLED
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit, plan

Inputs = npt.NDArray[np.uint8]


def first_units(puzzles: int, settings: Settings, widths: Sequence[int], whole: bool) -> list[Unit]:
    """The units of a run's first stage. UserError: a common budget that does not pay for it."""
    if settings.budget_total is None:
        return plan(puzzles, widths[0], settings.depth, whole=whole)
    least = puzzles * settings.depth
    if settings.budget_total < least:
        raise UserError(
            f"budget_total={settings.budget_total} is not allowed: at least {least:,}, one restart of depth="
            f"{settings.depth} for each of the {puzzles:,} puzzles"
        )
    return plan(puzzles, 1, settings.depth, whole=whole)


def later_units(first: Sequence[Unit], start: int, end: int) -> list[Unit]:
    """The same blocks of puzzles, and as many restarts at a time, for the restarts `start` .. `end`-1."""
    width = max(unit.restart_last - unit.restart_first for unit in first)
    chunk = max(width, end - start) if len({(u.first, u.last) for u in first}) == len(first) else width
    blocks = dict.fromkeys((unit.first, unit.last) for unit in first)
    return [
        Unit(*block, restart, min(restart + chunk, end)) for block in blocks for restart in range(start, end, chunk)
    ]


def allowance(budget: int, unanswered: int, start: int, settings: Settings) -> tuple[int, int]:
    """(restarts each, puzzles) that `budget` segments pay for when every trajectory may take the full depth: at most as
    many restarts as each has had, so that what the early ones save is dealt out again; less than one restart for all
    is one for the first puzzles."""
    trajectories = max(0, budget) // settings.depth
    each = min(trajectories // unanswered, max(1, start), settings.breadth - start)
    return (each, unanswered) if each else (1, min(trajectories, unanswered))


class Stages:
    """Iterates (units, inputs) of a run. `inputs` (N, L) hold padding where a puzzle is not to be run. The units of a
    stage must all be in the folder before the next one is asked for."""

    def __init__(self, folder: RunFolder, inputs_NL: Inputs, settings: Settings, whole: bool) -> None:
        self._folder, self._inputs, self._settings, self._whole = folder, inputs_NL, settings, whole
        self._answered = np.zeros(len(inputs_NL), dtype=np.bool_)
        self._spent, self._partial = 0, False

    def __iter__(self) -> Iterator[tuple[list[Unit], Inputs]]:
        first = list(self._folder.units)
        end = max(unit.restart_last for unit in first)
        yield first, self._inputs
        units = first
        while (stage := self._next(end, units)) is not None:
            start, end, wanted = stage
            units = later_units(first, start, end)
            self._folder.units += units
            yield units, self._inputs if wanted.all() else np.where(wanted[:, None], self._inputs, np.uint8(0))

    def _next(self, start: int, units: Sequence[Unit]) -> tuple[int, int, npt.NDArray[np.bool_]] | None:
        """(first restart, last, puzzles) of the stage after restart `start`-1; None: that was the last."""
        settings = self._settings
        if start >= settings.breadth or self._partial:
            return None
        if self._whole:
            self._read(units)
        wanted = ~self._answered
        unanswered = int(wanted.sum())
        if not unanswered:
            return None
        if settings.budget_total is None:
            return start, min(width for width in self._folder.widths if width > start), wanted
        each, puzzles = allowance(settings.budget_total - self._spent, unanswered, start, settings)
        if not puzzles:
            return None
        if puzzles < unanswered:
            wanted &= np.cumsum(wanted) <= puzzles
            self._partial = True  # the last stage: from here on puzzles differ in their restarts
        return start, start + each, wanted

    def _read(self, units: Sequence[Unit]) -> None:
        for unit in units:
            rows = self._folder.read(unit)
            self._answered[rows.puzzle[np.isin(rows.status, (SETTLED, ACCEPTED))]] = True
            self._spent += int(rows.segments.sum())
