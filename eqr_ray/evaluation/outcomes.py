"""Outcomes: of every puzzle, whether its answer has settled, whether it is right, and what it cost.

They come from a replay of recorded puzzles, so from the very code of the policy and of the selection.

    P puzzles, R restarts, K segments, L tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.records import Records, concatenate, is_exact
from eqr_ray.inference.replay import Trace, replay
from eqr_ray.inference.selection import answers_of
from eqr_ray.inference.settings import Settings

Flags = npt.NDArray[np.bool_]
Tokens = npt.NDArray[np.uint8]


class Outcomes(NamedTuple):
    """Of the chosen answer of each puzzle, (P,): has its trajectory settled, is it right, its logit residual (inf:
    none); and the segments that all restarts of the puzzle took."""

    settled: Flags
    right: Flags
    residual: npt.NDArray[np.float32]
    segments: npt.NDArray[np.int64]

    def take(self, puzzles: npt.NDArray[np.generic]) -> Outcomes:
        """Those of a mask (P,) bool or of puzzle numbers."""
        return Outcomes(*(column[puzzles] for column in self))


OutcomesAt = Callable[[float], Outcomes]  # of a threshold, settle_below


class Replayed:
    """Puzzles with all their segments recorded, and their answers (P, L). `rows`: complete, ordered, any numbers of
    puzzles, which are counted from 0 here."""

    def __init__(self, rows: Records, labels_PL: Tokens) -> None:
        numbers = np.cumsum(np.diff(rows.puzzle, prepend=rows.puzzle[:1]) != 0)
        self._trace, self._labels = Trace(dataclasses.replace(rows, puzzle=numbers)), labels_PL
        assert len(labels_PL) == self._trace.puzzles

    def __len__(self) -> int:
        return self._trace.puzzles

    @property
    def residuals(self) -> npt.NDArray[np.float32]:
        """The logit residuals (P, R * K) of all segments."""
        return self._trace.columns.logit_residual.reshape(len(self), -1)

    def outcomes(self, settings: Settings, select: str) -> Outcomes:
        """What a run with these settings would have answered, chosen by `select`."""
        rows, _, segments = answers_of(replay(self._trace, settings.replace(snapshots=())), select)
        residual = np.where(np.isnan(rows.logit_residual), np.float32(np.inf), rows.logit_residual)
        return Outcomes(rows.settled, is_exact(rows.prediction, self._labels), residual, segments)

    def at_thresholds(self, settings: Settings, select: str) -> OutcomesAt:
        """`outcomes` by threshold, each replayed once."""
        return cache(lambda below: self.outcomes(settings.replace(settle_below=below), select))


def divided(blocks: Iterable[Records], labels_PL: Tokens, apart_P: Flags, most: Settings) -> tuple[Replayed, Replayed]:
    """The puzzles that are set `apart` and the others, up to the depth and breadth of `most`. `blocks`: ordered records
    of all segments of all P puzzles, each with all restarts of its own."""
    inside = [block.take((block.segments <= most.depth) & (block.restart < most.breadth)) for block in blocks]
    rows = concatenate(inside)
    pilot, others = (Replayed(rows.take(mask[rows.puzzle]), labels_PL[mask]) for mask in (apart_P, ~apart_P))
    return pilot, others


def risk_coverage(outcomes: Outcomes, points: int = 100) -> list[dict[str, Any]]:
    """The curve of answering fewer and fewer puzzles, from the surest on; equal residuals go together. A point: the
    puzzles of least residual, up to `residual` (None: all there are), how many and which share of all they are, and how
    many and which share of them are wrong."""
    order = np.argsort(outcomes.residual, kind="stable")
    residual, wrong = outcomes.residual[order], np.cumsum(~outcomes.right[order])
    wanted = np.unique(np.linspace(1, len(order), points).round().astype(np.int64))
    ends = np.unique(np.searchsorted(residual, residual[wanted - 1], side="right"))
    return [
        {
            "residual": float(residual[end - 1]) if np.isfinite(residual[end - 1]) else None,
            "answered": int(end),
            "wrong": int(wrong[end - 1]),
            "coverage": int(end) / len(order),
            "error": int(wrong[end - 1]) / int(end),
        }
        for end in ends
    ]
