"""Choose one restart per puzzle.

The method answers with the trajectory of least residual; other rules are judged beside it on the same records. Every
rule is one sort: by puzzle, by the rule's own score, then by logit residual, then by restart number, so that ties fall
the same way whatever order the rows came in.

    N rows (puzzle, restart), L tokens, P puzzles
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.inference.records import ACCEPTED, CANCELLED, Records

SELECTIONS = ("logit_residual", "latent_residual", "halt")
SCORED = (*SELECTIONS, "vote")  # rules that every run is scored by
REMOVED = "select=vote was removed: summary.json has the majority vote of every run (docs/log.md)"


def check_selection(name: str) -> str:
    """The name of a rule that may be selected by. UserError otherwise."""
    if name == "vote":
        raise UserError(REMOVED)
    if name not in SELECTIONS:
        raise UserError(f"select={name} is not allowed: {', '.join(SELECTIONS)}")
    return name


def votes(rows: Records) -> npt.NDArray[np.int64]:
    """(N,) how many restarts of the same puzzle give exactly the same answer, the row itself included."""
    named = np.concatenate([rows.puzzle.astype("<i8")[:, None].view(np.uint8), rows.prediction], axis=1)
    whole = np.ascontiguousarray(named).view(np.dtype((np.void, named.shape[1])))[:, 0]
    _, inverse, count = np.unique(whole, return_inverse=True, return_counts=True)
    return np.asarray(count[inverse], dtype=np.int64)


def choose(method: str, rows: Records) -> npt.NDArray[np.int64]:
    """(P,) row number of the chosen restart of each puzzle, in the order of puzzle numbers.

    `logit_residual` and `latent_residual`: the least. `halt`: the greatest halting logit. `vote`: the most frequent
    answer, of its rows the one of least logit residual. NaN counts as the worst. Whatever the method, accepted rows go
    before the others of their puzzle.
    """
    logit_residual = _worst_if_nan(rows.logit_residual)
    if method == "logit_residual":
        score = logit_residual
    elif method == "latent_residual":
        score = _worst_if_nan(rows.latent_residual)
    elif method == "halt":
        score = _worst_if_nan(-rows.halt_logit)
    else:
        assert method == "vote"
        score = -votes(rows).astype(np.float64)
    order = np.lexsort((rows.restart, logit_residual, score, rows.status != ACCEPTED, rows.puzzle))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = np.diff(rows.puzzle[order]) != 0
    return np.asarray(order[first], dtype=np.int64)


def _worst_if_nan(score: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(score), np.inf, score).astype(np.float64)


class Chosen(NamedTuple):
    """The answers of P puzzles: the row of the chosen restart, the residual that it was selected by (the logit residual
    with `halt`), and the segments that all restarts took."""

    rows: Records
    residual: npt.NDArray[np.float32]
    spent: npt.NDArray[np.int64]


def answers_of(rows: Records, select: str) -> Chosen:
    """Choose among ordered rows, one per trajectory, that hold all restarts of their puzzles."""
    answers = rows.take(rows.status != CANCELLED)
    chosen = answers.take(choose(select, answers))
    _, first = np.unique(rows.puzzle, return_index=True)
    residual = chosen.latent_residual if select == "latent_residual" else chosen.logit_residual
    return Chosen(chosen, residual, np.add.reduceat(rows.segments.astype(np.int64), first))
