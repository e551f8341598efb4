"""Selection against a plain loop over puzzles."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.inference.selection import SELECTIONS, Candidates, choose, votes


def candidates(seed: int, puzzles: int, restarts: int) -> Candidates:
    """Few different values, so that ties are common; puzzles have different numbers of restarts."""
    generator = np.random.default_rng(seed)
    rows = [(p, r) for p in range(puzzles) for r in range(generator.integers(1, restarts + 1))]
    generator.shuffle(rows)
    n = len(rows)
    numbers = [np.array([0.1, 0.2, np.inf, np.nan], np.float32)[generator.integers(0, 4, n)] for _ in range(3)]
    puzzle, restart = np.array(rows).T
    return Candidates(
        puzzle.astype(np.int64) * 300,
        restart.astype(np.int32),
        *numbers,
        generator.integers(0, 2, (n, 2), dtype=np.uint8),
        generator.random(n) < 0.2,
    )


def plain(method: str, rows: Candidates) -> list[int]:
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
            return (not rows.accepted[i], *worst, rows.restart[i])

        chosen.append(min(own, key=key))
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SELECTIONS))
def test_every_rule_is_the_best_row_of_each_puzzle(seed: int, method: str) -> None:
    rows = candidates(seed, 4, 6)
    assert choose(method, rows).tolist() == plain(method, rows)


def test_votes_count_equal_answers_of_the_same_puzzle_only() -> None:
    answers = np.array([[1, 2], [1, 2], [2, 1], [1, 2]], np.uint8)
    zeros = np.zeros(4, np.float32)
    rows = Candidates(np.array([0, 0, 0, 7]), np.array([0, 1, 2, 0], np.int32), zeros, zeros, zeros, answers, zeros > 0)
    assert votes(rows).tolist() == [2, 2, 1, 1]


def test_an_unknown_rule_names_the_allowed_ones() -> None:
    with pytest.raises(UserError, match="select=best is not allowed: logit_residual, latent_residual, halt, vote"):
        choose("best", candidates(0, 1, 1))
