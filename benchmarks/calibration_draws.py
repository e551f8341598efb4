"""Whether the guarantee of a calibration holds on puzzles that it has not seen.

    python benchmarks/calibration_draws.py records=FOLDER [puzzles=1500] [draws=20] [risk=0.005] [confidence=0.95]
        [policy=sequential] [depth=16] [breadth=8] [seed=0]

From the records of many puzzles with every segment (the folder run/ of `eqr_ray.calibrate` or `eqr_ray.frontier`),
draws calibration sets of `puzzles` each, calibrates on each, and counts the wrong among the settled answers of all
other puzzles. The guarantee is broken where their share is greater than `risk`; it may be so in 1 - `confidence` of the
draws. The share among a few thousand unseen puzzles strays around its true value, so 1 of 20 is a little stricter than
what was guaranteed. Draws without a threshold guarantee nothing, and are counted apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import option
from eqr_ray.evaluation.calibration import PILOT, Guarantee, calibrate, chosen, thresholds
from eqr_ray.evaluation.outcomes import OutcomesAt, Replayed
from eqr_ray.inference.records import concatenate
from eqr_ray.inference.replay import open_recorded
from eqr_ray.tasks.keys import hash_words

DRAW = 0xD4A3  # tells this use of a seed from others


class Words(Guarantee):
    """The words of the command line; null depth and breadth: all that were recorded."""

    records: str = option(..., "a recorded run")
    puzzles: int = 1500
    draws: int = 20
    policy: str = "sequential"
    select: str = "logit_residual"
    settle_for: int = 2
    depth: int | None = None
    breadth: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """A calibration, and what it is worth on the puzzles that it has not seen. No threshold: None and no counts."""

    settle_below: float | None
    unseen: int
    settled: int = 0
    wrong: int = 0

    @property
    def share(self) -> float:
        """Wrong among the settled; 0 of nothing."""
        return self.wrong / max(self.settled, 1)

    def line(self, risk: float) -> str:
        """For people."""
        if self.settle_below is None:
            return "no threshold keeps the guarantee"
        outcome = "broken" if self.share > risk else "held"
        counts = f"{self.settled:,} of {self.unseen:,} unseen settled, {self.wrong} wrong = {self.share:.3%}"
        return f"settle_below {self.settle_below:<7g} {counts}  {outcome}"


def calibration_draws(
    at: OutcomesAt, residuals_PN: npt.NDArray[np.float32], goal: Guarantee, puzzles: int, draws: int, seed: int
) -> Iterator[Draw]:
    """`draws` calibrations on so many of the P puzzles each, the first fifth of them as the pilot."""
    every = np.arange(len(residuals_PN))
    for draw in range(draws):
        order = np.argsort(hash_words(seed, DRAW, draw, every))
        pilot, others, unseen = np.split(order, [puzzles // PILOT, puzzles])
        tests = calibrate(
            lambda below, pilot=pilot: at(below).take(pilot),
            lambda below, others=others: at(below).take(others),
            thresholds(residuals_PN[pilot]),
            goal,
            len(others),
        )
        best = chosen(tests)
        if best is None:
            yield Draw(None, len(unseen))
            continue
        outcomes = at(best.settle_below).take(unseen)
        wrong = int((outcomes.settled & ~outcomes.right).sum())
        yield Draw(best.settle_below, len(unseen), int(outcomes.settled.sum()), wrong)


def main() -> None:
    """Draw and print."""
    options, _ = parse_arguments(Words, sys.argv[1:])
    run = open_recorded(Path(options.records))
    options.check_enough(options.puzzles)
    if options.puzzles >= len(run.puzzle_set):
        raise UserError(f"puzzles={options.puzzles} leaves none of the {len(run.puzzle_set):,} recorded ones unseen")
    assert run.puzzle_set.labels is not None
    depth, breadth = options.depth or run.settings.depth, options.breadth or run.settings.breadth
    rows = concatenate([one.take((one.segments <= depth) & (one.restart < breadth)) for one in run.blocks()])
    replayed = Replayed(rows, run.puzzle_set.labels)
    settings = run.settings.replace(
        depth=depth, breadth=breadth, policy=options.policy, settle_for=options.settle_for, snapshots=()
    )
    at = replayed.at_thresholds(settings, options.select)
    print(options)
    made = []
    for draw in calibration_draws(at, replayed.residuals, options, options.puzzles, options.draws, options.seed):
        made.append(draw)
        print(f"draw {len(made):3}  {draw.line(options.risk)}", flush=True)
    kept = [draw for draw in made if draw.settle_below is not None]
    broken = sum(draw.share > options.risk for draw in kept)
    print(
        f"the guarantee held in {len(made) - broken} of {len(made)} draws "
        f"({len(made) - len(kept)} without a threshold); "
        f"{sum(d.wrong for d in kept) / max(sum(d.settled for d in kept), 1):.3%} of all settled answers were wrong"
    )


if __name__ == "__main__":
    main()
