"""Selection against a plain loop over puzzles."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.inference.records import ACCEPTED, DEPTH, Records
from eqr_ray.inference.selection import SCORED, choose, votes


def candidates(seed: int, puzzles: int, restarts: int) -> Records:
    """Few different values, so that ties are common; puzzles have different numbers of restarts."""
    generator = np.random.default_rng(seed)
    rows = [(p, r) for p in range(puzzles) for r in range(generator.integers(1, restarts + 1))]
    generator.shuffle(rows)
    n = len(rows)
    numbers = [np.array([0.1, 0.2, np.inf, np.nan], np.float32)[generator.integers(0, 4, n)] for _ in range(3)]
    puzzle, restart = np.array(rows).T
    answers = generator.integers(0, 2, (n, 2), dtype=np.uint8)
    return made(puzzle * 300, restart, *numbers, answers, generator.random(n) < 0.2)


def made(puzzle, restart, logit_residual, latent_residual, halt_logit, prediction, accepted) -> Records:
    return Records(
        puzzle=puzzle.astype(np.int64),
        restart=restart.astype(np.int32),
        segments=np.ones(len(puzzle), np.int32),
        settled=np.zeros(len(puzzle), np.bool_),
        logit_residual=logit_residual,
        latent_residual=latent_residual,
        halt_logit=halt_logit,
        prediction=prediction,
        status=np.where(accepted, ACCEPTED, DEPTH).astype(np.uint8),
    )


def plain(method: str, rows: Records) -> list[int]:
    chosen = []
    for puzzle in sorted(set(rows.puzzle.tolist())):
        own = [i for i in range(len(rows.puzzle)) if rows.puzzle[i] == puzzle]
        count = Counter(rows.prediction[i].tobytes() for i in own)

        def key(i: int, count: Counter = count) -> tuple:
            score = {
                "logit_residual": rows.logit_residual[i],
                "latent_residual": rows.latent_residual[i],
                "halt": -rows.halt_logit[i],
                "vote": -count[rows.prediction[i].tobytes()],
            }[method]
            worst = [np.inf if np.isnan(x) else x for x in (score, rows.logit_residual[i])]
            return (rows.status[i] != ACCEPTED, *worst, rows.restart[i])

        chosen.append(min(own, key=key))
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SCORED))
def test_every_rule_is_the_best_row_of_each_puzzle(seed: int, method: str) -> None:
    rows = candidates(seed, 4, 6)
    assert choose(method, rows).tolist() == plain(method, rows)


def test_votes_count_equal_answers_of_the_same_puzzle_only() -> None:
    answers = np.array([[1, 2], [1, 2], [2, 1], [1, 2]], np.uint8)
    zeros = np.zeros(4, np.float32)
    rows = made(np.array([0, 0, 0, 7]), np.array([0, 1, 2, 0]), zeros, zeros, zeros, answers, zeros > 0)
    assert votes(rows).tolist() == [2, 2, 1, 1]
