"""Outcomes: of every puzzle, whether its answer has settled, whether it is right, and what it cost.

They come from a replay of recorded puzzles, so from the very code of the policy and of the selection.

    P puzzles, R restarts, K segments, L tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.records import Records, concatenate, is_exact
from eqr_ray.inference.replay import Trace, replay
from eqr_ray.inference.selection import choose
from eqr_ray.inference.settings import Settings


class Outcomes(NamedTuple):
    """Of the chosen answer of each puzzle, (P,): has its trajectory settled, is it right, its logit residual (inf:
    none); and the segments that all restarts of the puzzle took."""

    settled: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    residual: npt.NDArray[np.float32]
    segments: npt.NDArray[np.int64]

    def take(self, puzzles: npt.NDArray[np.generic]) -> Outcomes:
        """Those of a mask (P,) bool or of puzzle numbers."""
        return Outcomes(*(column[puzzles] for column in self))


OutcomesAt = Callable[[float], Outcomes]  # of a threshold, settle_below


class Replayed:
    """Puzzles with all their segments recorded, and their answers (P, L). `rows`: complete, ordered, any numbers of
    puzzles, which are counted from 0 here."""

    def __init__(self, rows: Records, labels_PL: npt.NDArray[np.uint8]) -> None:
        numbers = np.cumsum(np.diff(rows.puzzle, prepend=rows.puzzle[:1]) != 0)
        self._trace = Trace(dataclasses.replace(rows, puzzle=numbers))
        assert len(labels_PL) == self._trace.puzzles
        self._labels = labels_PL

    def __len__(self) -> int:
        return self._trace.puzzles

    @property
    def residuals(self) -> npt.NDArray[np.float32]:
        """The logit residuals (P, R * K) of all segments."""
        return self._trace.columns.logit_residual.reshape(len(self), -1)

    def outcomes(self, settings: Settings, select: str) -> Outcomes:
        """What a run with these settings would have answered, chosen by `select`."""
        rows = replay(self._trace, settings.replace(snapshots=()))
        _, first = np.unique(rows.puzzle, return_index=True)
        at = choose(select, rows)
        return Outcomes(
            settled=rows.settled[at],
            right=is_exact(rows.prediction[at], self._labels),
            residual=np.where(np.isnan(rows.logit_residual[at]), np.float32(np.inf), rows.logit_residual[at]),
            segments=np.add.reduceat(rows.segments.astype(np.int64), first),
        )

    def at_thresholds(self, settings: Settings, select: str) -> OutcomesAt:
        """`outcomes` by threshold, each replayed once."""
        return cache(lambda below: self.outcomes(settings.replace(settle_below=below), select))


def divided(
    blocks: Iterable[Records],
    labels_PL: npt.NDArray[np.uint8],
    apart_P: npt.NDArray[np.bool_],
    depth: int,
    breadth: int,
) -> tuple[Replayed, Replayed]:
    """The puzzles that are set `apart` and the others, up to this depth and breadth. `blocks`: ordered records of all
    segments of all P puzzles, each with all restarts of its own."""
    parts: tuple[list[Records], list[Records]] = ([], [])
    for block in blocks:
        inside = (block.segments <= depth) & (block.restart < breadth)
        apart = apart_P[block.puzzle]
        for part, mask in zip(parts, (apart, ~apart), strict=True):
            part.append(block.take(mask & inside))
    pilot, others = (concatenate(part) for part in parts)
    return Replayed(pilot, labels_PL[apart_P]), Replayed(others, labels_PL[~apart_P])


class CoveragePoint(NamedTuple):
    """Answering the `answered` puzzles of least residual, up to `residual` (None: all there are), `wrong` of which are
    wrong."""

    residual: float | None
    answered: int
    wrong: int


def risk_coverage(outcomes: Outcomes, points: int = 100) -> list[CoveragePoint]:
    """The curve of answering fewer and fewer puzzles, from the surest on; equal residuals go together."""
    order = np.argsort(outcomes.residual, kind="stable")
    residual, wrong = outcomes.residual[order], np.cumsum(~outcomes.right[order])
    wanted = np.unique(np.linspace(1, len(order), points).round().astype(np.int64))
    ends = np.unique(np.searchsorted(residual, residual[wanted - 1], side="right"))
    known = [float(residual[end - 1]) if np.isfinite(residual[end - 1]) else None for end in ends]
    return [CoveragePoint(at, int(end), int(wrong[end - 1])) for at, end in zip(known, ends, strict=True)]
