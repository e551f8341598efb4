"""Calibration: the loosest residual threshold under which at most `risk` of settled answers are wrong.

The method is learn-then-test by fixed-sequence testing (Angelopoulos, Bates, Candes, Jordan and Lei 2021, arXiv
2110.01052). The pilot, a fifth of the puzzles, chooses the sequence of thresholds: a logarithmic grid between its own
residuals, from strict to loose, and where on it to begin. The other puzzles, which the choice has not seen, test one
threshold after the other until the first fails; the last that passed is chosen. The hypothesis of a threshold is "more
than `risk` of all puzzles that settle under it are answered wrong". Puzzles are drawn alike and each has one answer,
so the wrong ones among n settled are Binomial(n, share), and P(Binomial(n, risk) <= wrong) is an exact p-value. The
sequence is fixed and stops at the first failure, so the chance that a false threshold is chosen is at most 1 -
`confidence`, whatever the network, the policy or the dependence between thresholds.

The guarantee is for puzzles that are drawn as those of the calibration were; nothing here can check that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import option
from eqr_ray.data.sources import PuzzleSet
from eqr_ray.evaluation.outcomes import Outcomes, OutcomesAt, divided, risk_coverage
from eqr_ray.inference.records import is_answered
from eqr_ray.inference.replay import RecordedRun
from eqr_ray.inference.settings import REMOVED_POLICIES, ReplayOptions, Settings, conditions
from eqr_ray.tasks.keys import hash_words

PILOT = 5  # one puzzle in so many chooses the sequence
PILOT_DRAW = 0xCA11B  # tells this use of a seed from others
PER_DECADE = 24  # thresholds: steps of 10 %
# The sequence begins at the strictest threshold that, as far as the pilot tells, lets the test bear so many wrong
# answers: a stricter one fails by a single slip, a looser one is less safe. 4 was best on the whole in simulations with
# 1,000 to 5,000 puzzles of good and of poor networks; any number keeps the guarantee.
ROOM = 4
MARGIN = 1.1  # the pilot's share of settled puzzles is only nearly that of the test


def binomial_tail(errors: int, total: int, share: float) -> float:
    """P(Binomial(total, share) <= errors): the chance of so few errors where `share` is the true one."""
    return float(binom.cdf(errors, total, share))


def highest_share(errors: int, total: int, confidence: float) -> float:
    """The one-sided upper bound of Clopper and Pearson (1934): the largest true share at which so few errors are not
    rarer than 1 - `confidence`. 1 of nothing."""
    return 1.0 if errors == total else float(beta.ppf(confidence, errors + 1, total - errors))


def fewest(errors: int, share: float, confidence: float) -> int:
    """How many trials with `errors` errors show, with this confidence, that the true share is at most `share`."""
    low, high = errors, errors + 1  # `low` is too few: all of them errors
    while binomial_tail(errors, high, share) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_tail(errors, middle, share) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Goal:
    """At most `risk` of the settled answers are wrong: so in `confidence` of all draws of calibration puzzles."""

    risk: float
    confidence: float

    def __post_init__(self) -> None:
        for name in ("risk", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: 0 < {name} < 1")

    def settled_needed(self, wrong: int = 0) -> int:
        """How many settled answers the test needs where so many of them are wrong."""
        return fewest(wrong, self.risk, self.confidence)


@dataclass(frozen=True)
class Tested:
    """A threshold after its test: settled answers, the wrong ones among them, the chance of so few if the true share
    were `risk`, and whether that is small enough."""

    settle_below: float
    settled: int
    wrong: int
    p_value: float
    passed: bool


def puzzles_needed(goal: Goal, coverage: float = 1.0) -> int:
    """The least number of puzzles that could pass, without a wrong answer, where this share of them settles."""
    tested = int(np.ceil(goal.settled_needed() / coverage))
    return tested + max(1, (tested - 1) // (PILOT - 1))


def check_enough(puzzles: int, goal: Goal) -> None:
    """UserError where even an errorless test could not pass."""
    needed = puzzles_needed(goal)
    if puzzles < needed:
        raise UserError(
            f"{puzzles:,} puzzles are too few for risk={goal.risk:g} confidence={goal.confidence:g}: at least "
            f"{needed:,} ({goal.settled_needed():,} that settle without an error, and a fifth for the pilot)"
        )


def pilot_of(puzzles: int, seed: int) -> npt.NDArray[np.bool_]:
    """(puzzles,) which are the pilot: a fifth, by a keyed draw, at least one."""
    pilot = np.zeros(puzzles, dtype=np.bool_)
    pilot[np.argsort(hash_words(seed, PILOT_DRAW, np.arange(puzzles)))[: max(1, puzzles // PILOT)]] = True
    return pilot


def thresholds(residuals: npt.NDArray[np.float32]) -> list[float]:
    """Round numbers, from strict to loose, that span the finite residuals of the pilot; at least one."""
    known = residuals[np.isfinite(residuals) & (residuals > 0)].astype(np.float64)
    if len(known) == 0:
        return [1.0]
    low, high = np.floor(PER_DECADE * np.log10([known.min(), known.max()])).astype(int)
    return [float(f"{10 ** (step / PER_DECADE):.3g}") for step in range(low, high + 2)]


def beginning(pilot: OutcomesAt, candidates: Sequence[float], goal: Goal, puzzles: int) -> int:
    """Which candidate to test first on so many `puzzles`: from the pilot alone.

    The strictest under which enough of the pilot settles (see ROOM); where never enough does, the strictest under which
    the most does. The share that settles is taken to grow with the threshold; the guarantee does not depend on that.
    """

    def predicted(number: int) -> float:
        return float(pilot(candidates[number]).settled.mean()) * puzzles

    most = predicted(len(candidates) - 1)
    wanted = [MARGIN * goal.settled_needed(wrong) for wrong in range(ROOM, -1, -1)]
    enough = next((settled for settled in wanted if settled <= most), most)
    low, high = 0, len(candidates) - 1  # the answer is in low .. high
    while low < high:
        middle = (low + high) // 2
        if predicted(middle) >= enough:
            high = middle
        else:
            low = middle + 1
    return high


def tested(settle_below: float, outcomes: Outcomes, goal: Goal) -> Tested:
    """The counts of a threshold and what they show."""
    settled = int(outcomes.settled.sum())
    wrong = int((outcomes.settled & ~outcomes.right).sum())
    p_value = binomial_tail(wrong, settled, goal.risk)
    return Tested(settle_below, settled, wrong, p_value, p_value <= 1 - goal.confidence)


def calibrate(
    pilot: OutcomesAt, others: OutcomesAt, candidates: Sequence[float], goal: Goal, puzzles: int
) -> list[Tested]:
    """All thresholds that were tested, in order, on the `puzzles` that `others` tells the outcomes of.

    `candidates`: made of the pilot, from strict to loose.
    """
    tests: list[Tested] = []
    for settle_below in candidates[beginning(pilot, candidates, goal, puzzles) :]:
        tests.append(tested(settle_below, others(settle_below), goal))
        if not tests[-1].passed:
            break
    return tests


def chosen(tests: Sequence[Tested]) -> Tested | None:
    """The loosest threshold that passed before the first that did not."""
    passed = [one for one in tests if one.passed]
    return passed[-1] if passed else None


def report(tests: Sequence[Tested], outcomes: Outcomes, full: Outcomes, goal: Goal) -> dict[str, Any]:
    """The metrics of a calibration as JSON values, all of the puzzles that tested it.

    `outcomes`: under the chosen threshold, or where there is none under the one that failed. `full`: of the policy
    `full`, whose answers make the risk-coverage curve. Shares of nothing are None.
    """
    best = chosen(tests)
    shown, puzzles = best or tests[-1], len(outcomes.right)
    unsettled_right = int((outcomes.right & ~outcomes.settled).sum())
    return {
        "settle_below": best.settle_below if best else None,
        "tested": puzzles,
        "settled": shown.settled,
        "wrong": shown.wrong,
        "wrong_high": highest_share(shown.wrong, shown.settled, goal.confidence),
        "coverage": shown.settled / puzzles,
        "settled_accuracy": _share(shown.settled - shown.wrong, shown.settled),
        "unsettled_accuracy": _share(unsettled_right, puzzles - shown.settled),
        "exact_accuracy": float(outcomes.right.mean()),
        "segments_mean": float(outcomes.segments.mean()),
        "full_accuracy": float(full.right.mean()),
        "full_segments_mean": float(full.segments.mean()),
        "tests": [
            {**asdict(one), "wrong_high": highest_share(one.wrong, one.settled, goal.confidence)} for one in tests
        ],
        "curve": [
            {**point._asdict(), "coverage": point.answered / puzzles, "error": point.wrong / point.answered}
            for point in risk_coverage(full)
        ],
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class CalibrateConfig(ReplayOptions):
    """Chooses settle_below so that at most `risk` of settled answers are wrong, with the confidence asked for: runs the
    network once to the full depth and breadth, with every segment recorded, and replays the policy at threshold after
    threshold. The same command continues an interrupted run, and with another risk or policy it reuses the records.

    Example: python -m eqr_ray.calibrate checkpoint=runs/sudoku6 data=data/sudoku6 risk=0.02 depth=32 breadth=8
             python -m eqr_ray.infer checkpoint=runs/sudoku6 data=mine.csv depth=32 breadth=8 policy=sequential \\
                 calibration=runs/sudoku6/calibration
    """

    records: str | None = option(
        None,
        "instead of checkpoint: a run of infer with policy=full and all snapshots, e.g. the folder run/ that this "
        "command leaves",
    )
    out: str | None = option(
        None,
        "folder of results; null: calibration/ beside the checkpoint, runs/calibrate-NAME for zoo:NAME, "
        "calibration-POLICY-DEPTHxBREADTH in records=",
    )
    risk: float = option(0.005, "share of settled answers that may be wrong", gt=0, lt=1)
    confidence: float = option(0.95, "chance, over the draw of the puzzles, that the share is kept", gt=0, lt=1)
    policy: Literal["settle", "sequential", "race"] = option(
        "sequential", "as in infer: settle, sequential or race", removed=REMOVED_POLICIES
    )
    settle_for: int = option(2, "segments in a row with a residual of at most settle_below", ge=1)

    @property
    def goal(self) -> Goal:
        return Goal(self.risk, self.confidence)

    def settings(self, most: Settings) -> Settings:
        """What is calibrated, of a run that records `most`. UserError: it does not, or nothing could settle."""
        for name in ("depth", "breadth"):
            wanted, there = getattr(self, name), getattr(most, name)
            if wanted is not None and wanted > there:
                raise UserError(f"{name}={wanted} is more than the {there} that were recorded")
        depth = most.depth if self.depth is None else self.depth
        breadth = most.breadth if self.breadth is None else self.breadth
        settings = Settings(
            depth=depth, breadth=breadth, seed=most.seed, policy=self.policy, settle_for=self.settle_for
        )
        if depth <= self.settle_for:
            raise UserError(f"depth={depth} is not allowed: more than settle_for={self.settle_for}")
        return settings

    def check(self, puzzle_set: PuzzleSet, most: Settings) -> None:
        """UserError: what a run that records `most` of these puzzles cannot tell."""
        self.settings(most)
        missing = len(puzzle_set) if puzzle_set.labels is None else int((~is_answered(puzzle_set.labels)).sum())
        if missing:
            raise UserError(f"{missing:,} of the {len(puzzle_set):,} puzzles have no answer to compare with")
        check_enough(len(puzzle_set), self.goal)


def calibration_of(run: RecordedRun, settings: Settings, config: CalibrateConfig) -> dict[str, Any]:
    """What calibration.json holds."""
    goal, labels = config.goal, run.puzzle_set.labels
    assert labels is not None
    pilot_N = pilot_of(len(labels), settings.seed)
    pilot, others = divided(run.blocks(), labels, pilot_N, settings.depth, settings.breadth)
    at = others.at_thresholds(settings, config.select)
    candidates = thresholds(pilot.residuals)
    tests = calibrate(pilot.at_thresholds(settings, config.select), at, candidates, goal, len(others))
    outcomes = at((chosen(tests) or tests[-1]).settle_below)
    full = others.outcomes(settings.replace(policy="full"), config.select)
    made_for = conditions(run.manifest | settings.to_dict(), run.puzzle_set.task.name, config.select)
    counts = {"puzzles": len(labels), "pilot": len(pilot), "data_hash": run.puzzle_set.data_hash, "seed": settings.seed}
    goals = {"settle_for": settings.settle_for, **asdict(goal)}
    return {"settle_below": None, **goals, **made_for, **counts, **report(tests, outcomes, full, goal)}
