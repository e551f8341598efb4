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

    P puzzles
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom, nbinom

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.evaluation.outcomes import Outcomes, OutcomesAt, divided, risk_coverage
from eqr_ray.inference.replay import RecordedRun
from eqr_ray.inference.settings import Settings, conditions
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


class Guarantee(Options):
    """What is guaranteed:

    At most `risk` of the settled answers are wrong, so in `confidence` of all draws of calibration puzzles."""

    risk: float = option(0.005, "share of settled answers that may be wrong", gt=0, lt=1)
    confidence: float = option(0.95, "chance, over the draw of the puzzles, that the share is kept", gt=0, lt=1)

    def settled_needed(self, wrong: int = 0) -> int:
        """How many settled answers the test needs where so many of them are wrong: the least n at which
        P(Binomial(n, risk) <= wrong), the chance of more than n - wrong - 1 right ones before the next wrong one, is
        at most 1 - confidence."""
        return wrong + 1 + int(nbinom.isf(1 - self.confidence, wrong + 1, self.risk))

    def puzzles_needed(self, coverage: float = 1.0) -> int:
        """The least number of puzzles that could pass, without a wrong answer, where this share of them settles."""
        tested = int(np.ceil(self.settled_needed() / coverage))
        return tested + max(1, (tested - 1) // (PILOT - 1))

    def check_enough(self, puzzles: int) -> None:
        """UserError where even an errorless test could not pass."""
        needed = self.puzzles_needed()
        if puzzles < needed:
            raise UserError(
                f"{puzzles:,} puzzles are too few for risk={self.risk:g} confidence={self.confidence:g}: at least "
                f"{needed:,} ({self.settled_needed():,} that settle without an error, and a fifth for the pilot)"
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


def beginning(pilot: OutcomesAt, candidates: Sequence[float], goal: Guarantee, puzzles: int) -> int:
    """Which candidate to test first on so many `puzzles`: from the pilot alone.

    The strictest under which enough of the pilot settles (see ROOM); where never enough does, the strictest under which
    the most does. The share that settles is taken to grow with the threshold; the guarantee does not depend on that.
    """

    def predicted(at: int) -> float:
        return float(pilot(candidates[at]).settled.mean()) * puzzles

    last = len(candidates) - 1
    wanted = [MARGIN * goal.settled_needed(wrong) for wrong in range(ROOM, -1, -1)]
    enough = next((settled for settled in wanted if settled <= predicted(last)), predicted(last))
    return bisect_left(range(last), enough, key=predicted)


@dataclass(frozen=True)
class Tested:
    """A threshold after its test: settled answers, the wrong ones among them, the chance of so few if the true share
    were `risk`, whether that is small enough, and the upper bound of the true share."""

    settle_below: float
    settled: int
    wrong: int
    p_value: float
    passed: bool
    wrong_high: float


def calibrate(
    pilot: OutcomesAt, others: OutcomesAt, candidates: Sequence[float], goal: Guarantee, puzzles: int
) -> list[Tested]:
    """All thresholds that were tested, in order, on the `puzzles` that `others` tells the outcomes of.

    `candidates`: made of the pilot, from strict to loose.
    """
    tests: list[Tested] = []
    for settle_below in candidates[beginning(pilot, candidates, goal, puzzles) :]:
        outcomes = others(settle_below)
        settled, wrong = int(outcomes.settled.sum()), int((outcomes.settled & ~outcomes.right).sum())
        p_value, high = binomial_tail(wrong, settled, goal.risk), highest_share(wrong, settled, goal.confidence)
        tests.append(Tested(settle_below, settled, wrong, p_value, p_value <= 1 - goal.confidence, high))
        if not tests[-1].passed:
            break
    return tests


def chosen(tests: Sequence[Tested]) -> Tested | None:
    """The loosest threshold that passed before the first that did not."""
    passed = [one for one in tests if one.passed]
    return passed[-1] if passed else None


def report(tests: Sequence[Tested], outcomes: Outcomes, full: Outcomes) -> dict[str, Any]:
    """The metrics of a calibration as JSON values, all of the puzzles that tested it.

    `outcomes`: under the chosen threshold, or where there is none under the one that failed. `full`: of the policy
    `full`, whose answers make the risk-coverage curve. Shares of nothing are None.
    """
    best, puzzles = chosen(tests), len(outcomes.right)
    shown = best or tests[-1]
    unsettled, unsettled_right = puzzles - shown.settled, int((outcomes.right & ~outcomes.settled).sum())
    return {
        "settle_below": best.settle_below if best else None,
        "tested": puzzles,
        "settled": shown.settled,
        "wrong": shown.wrong,
        "wrong_high": shown.wrong_high,
        "coverage": shown.settled / puzzles,
        "settled_accuracy": (shown.settled - shown.wrong) / shown.settled if shown.settled else None,
        "unsettled_accuracy": unsettled_right / unsettled if unsettled else None,
        "exact_accuracy": float(outcomes.right.mean()),
        "segments_mean": float(outcomes.segments.mean()),
        "full_accuracy": float(full.right.mean()),
        "full_segments_mean": float(full.segments.mean()),
        "tests": [asdict(one) for one in tests],
        "curve": risk_coverage(full),
    }


def calibration_of(run: RecordedRun, settings: Settings, select: str, goal: Guarantee) -> dict[str, Any]:
    """What calibration.json holds."""
    labels = run.puzzle_set.labels
    assert labels is not None
    pilot, others = divided(run.blocks(), labels, pilot_of(len(labels), settings.seed), settings)
    at = others.at_thresholds(settings, select)
    tests = calibrate(pilot.at_thresholds(settings, select), at, thresholds(pilot.residuals), goal, len(others))
    outcomes = at((chosen(tests) or tests[-1]).settle_below)
    return {
        **{"risk": goal.risk, "confidence": goal.confidence, "settle_for": settings.settle_for, "seed": settings.seed},
        **conditions(run.manifest | settings.to_dict(), run.puzzle_set.task.name, select),
        **{"data_hash": run.puzzle_set.data_hash, "puzzles": len(labels), "pilot": len(pilot)},
        **report(tests, outcomes, others.outcomes(settings.replace(policy="full"), select)),
    }


def calibration_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """What `status` tells of a finished calibration."""
    try:
        goal = f"risk {summary['risk']:g} with confidence {summary['confidence']:g}"
        below, counts = summary["settle_below"], f"{summary['settled']:,} of {summary['tested']:,} puzzles"
        threshold = f"none keeps {goal}" if below is None else f"settle_below={below:g} keeps {goal}"
        return {"threshold": threshold, "settled": f"{counts}, {summary['wrong']:,} of them wrong"}
    except (KeyError, TypeError, ValueError):  # not finished, or not what was written
        return {}
