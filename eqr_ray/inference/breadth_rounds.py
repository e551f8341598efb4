"""Breadth rounds: a run that is widened adds restarts to those that it has.

A round is a range of restarts, divided into units like any run. What a round runs is a function of the records before
it, so an interrupted run finds its place again by reading them.

    N puzzles, L tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.record_dir import RecordDir
from eqr_ray.inference.records import ACCEPTED, SETTLED
from eqr_ray.inference.units import Unit

Inputs = npt.NDArray[np.uint8]


def later_units(first: Sequence[Unit], start: int, end: int) -> list[Unit]:
    """The blocks of puzzles of the `first` round, and as many restarts at a time, for restarts `start` .. `end`-1."""
    blocks = dict.fromkeys((unit.first, unit.last) for unit in first)
    chunk = max(unit.restart_last - unit.restart_first for unit in first)
    if len(blocks) == len(first):  # all restarts of a puzzle were in one unit
        chunk = max(chunk, end - start)
    return [
        Unit(*block, restart, min(restart + chunk, end)) for block in blocks for restart in range(start, end, chunk)
    ]


def breadth_rounds(folder: RecordDir, inputs_NL: Inputs, whole: bool) -> Iterator[tuple[list[Unit], Inputs]]:
    """(units, inputs) of every round of a run, which go to `folder.units`. `whole`: puzzles with a settled or accepted
    answer get no further restarts, and padding for inputs. The units of a round must all be in the folder before the
    next one is asked for."""
    first = units = list(folder.units)
    unanswered_N = np.ones(len(inputs_NL), dtype=np.bool_)
    yield first, inputs_NL
    for start, end in pairwise(folder.widths):
        for unit in units if whole else ():
            rows = folder.read(unit)
            unanswered_N[rows.puzzle[np.isin(rows.status, (SETTLED, ACCEPTED))]] = False
        if not unanswered_N.any():
            return
        units = later_units(first, start, end)
        folder.units += units
        yield units, inputs_NL if unanswered_N.all() else np.where(unanswered_N[:, None], inputs_NL, np.uint8(0))
