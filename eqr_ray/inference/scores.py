"""Scores: what a run's records say, block by block in constant memory, after the run and while it goes on.

Every number of `summary.json` and every cell of a depth x breadth table comes from here. Only rows that were run are
counted. Accuracies are over the puzzles whose answer is known: a row of labels that is all zeros asks nothing.

    N rows (puzzle, restart), P puzzles, L tokens
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.engine import EngineReport
from eqr_ray.inference.records import CANCELLED, PRUNED, Records, Tokens, is_answered, is_exact
from eqr_ray.inference.selection import SCORED, choose
from eqr_ray.inference.units import Unit
from eqr_ray.storage.progress import Rate

NORMAL_975 = 1.959963984540054  # the 97.5 % quantile of the normal distribution: two-sided 95 %
TOP = 4  # the reference reports the mean of so many restarts of least residual
FEW = 0.1  # of all puzzles: too few to tell the time left


def wilson(right: int, total: int, z: float = NORMAL_975) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927, score interval), 95 % by default. `total` at least 1."""
    assert 0 <= right <= total
    assert total > 0
    share, shrink = right / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # at the ends the formula is 0 or 1 up to rounding
    return (0.0 if right == 0 else centre - half), (1.0 if right == total else centre + half)


def pass_at_k(right: npt.NDArray[np.integer], total: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """(P,) unbiased chance that one of k restarts drawn without repetition is right: 1 - C(n-c, k) / C(n, k) for c
    right of n (Chen et al. 2021, arXiv 2107.03374, eq. 1). `total` at least k."""
    assert (total >= k).all()
    # C(n-c, k) / C(n, k) = prod over i < k of (n - c - i) / (n - i), with no large binomials
    wrong = (total - right).astype(np.float64)
    miss = np.ones(len(total))
    for i in range(k):
        miss *= np.maximum(wrong - i, 0.0) / (total - i)
    return 1.0 - miss


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... and `limit` itself."""
    return [*(1 << i for i in range((limit - 1).bit_length())), limit]


class RunningAuroc:
    """How well a residual tells wrong from right: the chance that a wrong row has the greater one, ties counted half.

    Constant memory: values are counted by the upper 16 bits of their float32 form, a relative precision of 1/256;
    within such a bin values count as ties. Values are not negative; `inf` is allowed.
    """

    def __init__(self) -> None:
        self._right, self._wrong = np.zeros((2, 1 << 16), dtype=np.int64)

    def add(self, residual_N: npt.NDArray[np.float32], right_N: npt.NDArray[np.bool_]) -> None:
        # The bit patterns of non-negative floats order as the floats do.
        bins = np.ascontiguousarray(residual_N, dtype=np.float32).view(np.uint32) >> 16
        self._right += np.bincount(bins[right_N], minlength=1 << 16)
        self._wrong += np.bincount(bins[~right_N], minlength=1 << 16)

    def value(self) -> float | None:
        """None where there are no right rows, or no wrong ones."""
        below = np.cumsum(self._right) - self._right  # right rows with a smaller residual
        pairs = int(self._right.sum()) * int(self._wrong.sum())
        return _ratio(float((self._wrong * (below + 0.5 * self._right)).sum()), pairs)


class Mean:
    """Running mean of what is finite; None of nothing."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, values_N: npt.NDArray[np.float32]) -> None:
        finite = values_N[np.isfinite(values_N)]
        self._sum, self._count = self._sum + float(finite.sum(dtype=np.float64)), self._count + len(finite)

    def value(self) -> float | None:
        return _ratio(self._sum, self._count)


class Scores:
    """Accuracy and cost of answering with `select` at up to `depth` segments and `breadth` restarts.

    `add` takes blocks of ordered records, each with all restarts of its puzzles.
    """

    def __init__(self, *, depth: int, breadth: int, select: str = "logit_residual") -> None:
        self.depth, self.breadth, self.select = depth, breadth, select
        self.puzzles = self.settled = self.segments = self.rows = 0
        self.answered = self.answered_settled = self.answered_rows = 0
        self.settled_right = self.rows_right = self.any_right = self.tokens = self.tokens_right = 0
        self.selected_right = dict.fromkeys(SCORED, 0)
        self._logit_residual, self._latent_residual, self._auroc = Mean(), Mean(), RunningAuroc()
        self._all_restarts = True  # were run; else the next two are not known
        self._pass_sum, self._top_sum = dict.fromkeys(powers_of_two(breadth), 0.0), 0.0

    def add(self, block: Records, labels_NL: Tokens | None) -> None:
        """Count a block; `labels_NL` (N, L) the right answer of each row's puzzle, zeros where it is not
        known, None without answers."""
        at = block.last_at(self.depth, self.breadth)
        if len(at) == 0:
            return
        self.rows += len(at)
        self.segments += int(block.segments[at].sum())
        at = at[block.status[at] != CANCELLED]  # those have cost, and no answer
        rows = block.take(at)
        chosen = choose(self.select, rows)
        self.puzzles += len(chosen)
        self.settled += int(rows.settled[chosen].sum())
        self._logit_residual.add(rows.logit_residual[chosen])
        self._latent_residual.add(rows.latent_residual[chosen])
        if labels_NL is not None and (known := is_answered(labels_NL[at])).any():
            self._add_answers(rows.take(known), labels_NL[at][known])

    def _add_answers(self, rows: Records, labels_NL: Tokens) -> None:
        right, chosen = is_exact(rows.prediction, labels_NL), choose(self.select, rows)
        self.answered += len(chosen)
        self.answered_rows += len(rows)
        self.answered_settled += int(rows.settled[chosen].sum())
        self.rows_right += int(right.sum())
        self.settled_right += int((rows.settled & right)[chosen].sum())
        asked = labels_NL[chosen] != 0
        self.tokens += int(asked.sum())
        self.tokens_right += int((asked & (rows.prediction[chosen] == labels_NL[chosen])).sum())
        for method in SCORED:
            self.selected_right[method] += int(right[choose(method, rows)].sum())
        _, first, run = np.unique(rows.puzzle, return_index=True, return_counts=True)
        per_puzzle = np.add.reduceat(right.astype(np.int64), first)
        self.any_right += int((per_puzzle > 0).sum())
        complete = bool((run == self.breadth).all()) and not (rows.status == PRUNED).any()
        self._all_restarts = self._all_restarts and complete
        if self._all_restarts:
            for k in self._pass_sum:
                self._pass_sum[k] += float(pass_at_k(per_puzzle, run, k).sum())
            residual = rows.latent_residual if self.select == "latent_residual" else rows.logit_residual
            order = np.lexsort((rows.restart, residual, rows.puzzle)).reshape(-1, self.breadth)  # NaN sorts last
            self._top_sum += float(right[order[:, :TOP]].sum()) / TOP
        self._auroc.add(rows.logit_residual, right)

    def accuracy(self) -> dict[str, float | None]:
        """The share of exactly right answers with its 95 % Wilson interval; None without known answers."""
        right, n = self.selected_right[self.select], self.answered
        low, high = wilson(right, n) if n else (None, None)
        return {"exact_accuracy": _ratio(right, n), "exact_low": low, "exact_high": high}

    def summary(self, flops_per_segment: float) -> dict[str, Any]:
        """All metrics that records give, by the names of `summary.json`. Ratios of nothing are None."""
        n = self.answered
        complete = n > 0 and self._all_restarts
        return {
            "puzzles": self.puzzles,
            "answered": n,
            **self.accuracy(),
            "token_accuracy": _ratio(self.tokens_right, self.tokens),
            # only where every restart was run: restarts that a policy left out were not left out at random
            "pass_at": {k: v / n for k, v in self._pass_sum.items()} if complete else None,
            "top4_accuracy": self._top_sum / n if complete and self.breadth >= TOP else None,
            "any_correct": _ratio(self.any_right, n),
            "majority_vote": _ratio(self.selected_right["vote"], n),
            "selected": {name: _ratio(right, n) for name, right in self.selected_right.items()},
            "mean_restart_accuracy": _ratio(self.rows_right, self.answered_rows),
            "residual_auroc": self._auroc.value(),
            "mean_residual": self._logit_residual.value(),
            "mean_latent_residual": self._latent_residual.value(),
            "settled_share": _ratio(self.settled, self.puzzles),
            "settled_accuracy": _ratio(self.settled_right, self.answered_settled),
            "trajectories": self.rows,
            "segments_mean": _ratio(self.segments, self.puzzles),
            "segments_total": self.segments,
            "flops_mean": _ratio(flops_per_segment * self.segments, self.puzzles),
        }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


class LiveScores:
    """How far a run is: counts reports. `puzzles` in all; `scores` judges finished units (each with all restarts of its
    puzzles)."""

    def __init__(self, puzzles: int, scores: Scores, clock: Callable[[], float] = time.monotonic) -> None:
        self.puzzles, self.scores, self.row_segments = puzzles, scores, 0
        self._before, self._restarts = 0, 0  # puzzles of earlier sittings; restarts of answered puzzles in this one
        self._open: dict[Unit, int] = {}  # puzzles that are answered in units that are not finished
        self._segment_rate, self._puzzle_rate = Rate(clock=clock), Rate(clock=clock)
        self._count()

    def resume(self, block: Records, labels_NL: Tokens | None) -> None:
        """Count a part of an earlier sitting: towards the accuracy, not towards the speed."""
        self.scores.add(block, labels_NL)
        self._before = self.scores.puzzles

    def report(self, report: EngineReport, labels_NL: Tokens | None) -> None:
        """Count a report; `labels_NL` is indexed by row number of the data."""
        self.row_segments += report.row_segments
        for unit, answered in report.answered.items():
            self._open[unit] = max(answered, self._open.get(unit, 0))
        for unit, rows in report.finished:
            self._open = {part: answered for part, answered in self._open.items() if not part.is_in(unit)}
            self._restarts += unit.rows
            if unit.restarts == self.scores.breadth:
                self.scores.add(rows, None if labels_NL is None else labels_NL[rows.puzzle])
        self._count()

    def _count(self) -> None:
        self._segment_rate.add(self.row_segments)
        self._puzzle_rate.add(self.answered)

    @property
    def answered(self) -> int:
        """Puzzles with all their restarts done, of all sittings, whether or not their unit is finished."""
        restarts = self._restarts + sum(answered * unit.restarts for unit, answered in self._open.items())
        return min(self.puzzles, self._before + restarts // self.scores.breadth)

    def seconds_left(self) -> float | None:
        """From the segments that a puzzle has taken so far, at most depth x breadth. None before the first step; and
        where puzzles take less than that, while only a few are done (the easy ones end first) and after more segments
        than were expected (some may have been run ahead in vain)."""
        scores, rate, most = self.scores, self._segment_rate.per_s(), float(self.scores.depth * self.scores.breadth)
        per_puzzle = scores.segments / scores.puzzles if scores.puzzles else most
        left = per_puzzle * (self.puzzles - self._before) - self.row_segments
        is_early = per_puzzle < most and scores.puzzles < FEW * self.puzzles
        if rate is None or is_early or (left <= 0 and scores.puzzles < self.puzzles):
            return None
        return max(0.0, left) / rate

    def metrics(self) -> dict[str, Any]:
        """For the log and for Ray, of all sittings: shares are over the puzzles of finished units."""
        left_s = self.seconds_left()
        return {
            "puzzles": self.answered,
            "settled_share": _ratio(self.scores.settled, self.scores.puzzles),
            **self.scores.accuracy(),
            "row_segments_per_s": self._segment_rate.per_s(),
            "left_s": None if left_s is None else round(left_s, 1),
        }

    def words(self) -> str:
        """For people, behind the number of puzzles."""
        exact, low, high = self.scores.accuracy().values()
        settled = _ratio(self.scores.settled, self.scores.puzzles)
        puzzles_per_s, row_segments_per_s = self._puzzle_rate.per_s() or 0, self._segment_rate.per_s() or 0
        words = f"{puzzles_per_s:,.1f} puzzles/s  {row_segments_per_s:,.0f} row-segments/s"
        words += "" if settled is None else f"  settled {settled:.1%}"
        return words + ("" if exact is None else f"  exact {exact:.1%} [{low:.1%}, {high:.1%}]")
