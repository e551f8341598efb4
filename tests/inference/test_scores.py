"""Scores against plain loops over the same records, whole and block by block."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.inference.records import STATUSES, Records
from eqr_ray.inference.scores import Scores, pass_at_k, powers_of_two, wilson
from eqr_ray.inference.selection import SELECTIONS, choose
from tests.inference.synthetic import labels, records


def plain(rows: Records, answers: np.ndarray, depth: int, breadth: int, select: str) -> dict:
    """The figures, one puzzle after the other."""
    last: dict = {}
    for i in range(len(rows)):
        if rows.segments[i] <= depth and rows.restart[i] < breadth:
            last[int(rows.puzzle[i]), int(rows.restart[i])] = i  # rows are ordered by segments
    own: dict[int, list[int]] = {}
    for (puzzle, _), i in last.items():
        own.setdefault(puzzle, []).append(i)

    def is_right(i: int) -> bool:
        return all(a in (0, p) for p, a in zip(rows.prediction[i], answers[rows.puzzle[i]], strict=True))

    chosen = {p: ids[choose(select, rows.take(np.array(ids)))[0]] for p, ids in own.items()}
    known = {p: ids for p, ids in own.items() if answers[p].any()}
    right = sum(is_right(chosen[p]) for p in known)
    vote = 0
    for ids in known.values():
        count = Counter(rows.prediction[i].tobytes() for i in ids)
        best = min(ids, key=lambda i: (-count[rows.prediction[i].tobytes()], rows.logit_residual[i], rows.restart[i]))
        vote += is_right(best)
    tokens = [(p, a) for q, i in chosen.items() for p, a in zip(rows.prediction[i], answers[q], strict=True) if a]
    settled = [i for i in chosen.values() if rows.settled[i]]
    known_settled = [chosen[p] for p in known if rows.settled[chosen[p]]]
    finite = [rows.logit_residual[i] for i in chosen.values() if np.isfinite(rows.logit_residual[i])]
    latent = [rows.latent_residual[i] for i in chosen.values()]
    residual = rows.latent_residual if select == "latent_residual" else rows.logit_residual
    top = [sum(map(is_right, sorted(ids, key=lambda i: (residual[i], i))[:4])) / 4 for ids in known.values()]
    counts = [(sum(map(is_right, ids)), len(ids)) for ids in known.values()]
    complete = all(n == breadth for _, n in counts)
    wrong_above = [
        float(rows.logit_residual[w] > rows.logit_residual[r])
        + 0.5 * (rows.logit_residual[w] == rows.logit_residual[r])
        for ids in known.values()
        for w in ids
        if not is_right(w)
        for others in known.values()
        for r in others
        if is_right(r)
    ]
    n = len(known)
    return {
        "puzzles": len(own),
        "answered": n,
        "exact_accuracy": right / n,
        "exact_low": wilson(right, n)[0],
        "exact_high": wilson(right, n)[1],
        "token_accuracy": sum(p == a for p, a in tokens) / len(tokens),
        "pass_at": {
            k: np.mean([pass_at_k(np.array([c]), np.array([m]), k)[0] for c, m in counts])
            for k in powers_of_two(breadth)
        }
        if complete
        else None,
        "any_correct": sum(c > 0 for c, _ in counts) / n,
        "majority_vote": vote / n,
        "mean_restart_accuracy": sum(c for c, _ in counts) / sum(m for _, m in counts),
        "top4_accuracy": np.mean(top) if complete and breadth >= 4 else None,
        "residual_auroc": np.mean(wrong_above) if wrong_above else None,
        "mean_residual": np.mean(finite) if finite else None,
        "mean_latent_residual": np.mean(latent),
        "settled_share": len(settled) / len(own),
        "settled_accuracy": sum(map(is_right, known_settled)) / len(known_settled) if known_settled else None,
        "trajectories": len(last),
        "segments_mean": sum(int(rows.segments[i]) for i in last.values()) / len(own),
        "segments_total": sum(int(rows.segments[i]) for i in last.values()),
        "flops_mean": 7.0 * sum(int(rows.segments[i]) for i in last.values()) / len(own),
    }


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(SELECTIONS),
    st.sampled_from([(8, 4), (8, 1), (2, 3), (1, 4)]),
    st.booleans(),
    st.lists(st.integers(1, 4)),
)
def test_every_figure_equals_its_plain_twin(
    seed: int, select: str, at: tuple[int, int], early: bool, missing: list[int]
) -> None:
    depth, breadth = at
    rows, answers = records(seed, 5, 4, 8, snapshots=(1, 2), early=early), labels(seed, 5)
    answers[missing] = 0
    answers[0, 0] = 1  # one is known for certain
    scores = Scores(depth=depth, breadth=breadth, select=select)
    for first, last in ((0, 2), (2, 3), (3, 5)):  # blocks of whole puzzles
        block = rows.take((rows.puzzle >= first) & (rows.puzzle < last))
        scores.add(block, answers[block.puzzle])
    summary = scores.summary(7.0)
    expected = plain(rows, answers, depth, breadth, select)
    for name, value in expected.items():
        assert summary[name] == (value if value is None else pytest.approx(value)), name
    assert summary["selected"][select] == pytest.approx(expected["exact_accuracy"])


def test_without_answers_accuracies_are_none_and_the_rest_is_there() -> None:
    scores = Scores(depth=8, breadth=4)
    scores.add(records(0, 5, 4, 8, early=False), None)
    summary = scores.summary(1.0)
    with_answers = Scores(depth=8, breadth=4)
    with_answers.add(records(0, 5, 4, 8, early=False), labels(0, 5)[np.repeat(np.arange(5), 4)])
    unknown = {name for name, value in summary.items() if value is None}
    assert unknown == {
        *("exact_accuracy", "exact_low", "exact_high", "token_accuracy", "pass_at", "any_correct", "majority_vote"),
        *("mean_restart_accuracy", "residual_auroc", "settled_accuracy", "top4_accuracy"),
    }
    assert summary["answered"] == 0
    same = {"puzzles", "settled_share", "segments_total", "mean_residual", "mean_latent_residual"}
    assert {name: summary[name] for name in same} == {name: with_answers.summary(1.0)[name] for name in same}


def test_powers_of_two_end_with_the_limit() -> None:
    assert [list(powers_of_two(n)) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_cancelled_restarts_cost_and_do_not_answer() -> None:
    rows, answers = records(5, 5, 4, 8), labels(5, 5)
    cancelled = np.arange(len(rows)) % 4 != 1
    status = np.where(cancelled, STATUSES.index("cancelled"), STATUSES.index("settled")).astype(np.uint8)
    right = np.where(cancelled[:, None], np.uint8(0), answers[rows.puzzle])
    scores = Scores(depth=8, breadth=4)
    scores.add(dataclasses.replace(rows, status=status, prediction=right), answers[rows.puzzle])
    figures = scores.summary(1.0)
    assert set(figures["selected"].values()) == {1.0}
    assert (figures["puzzles"], figures["mean_restart_accuracy"]) == (5, 1.0)
    assert figures["segments_total"] == rows.segments.sum()
    assert figures["pass_at"] is None
    first = Scores(depth=8, breadth=1)
    first.add(dataclasses.replace(rows, status=status, prediction=right), answers[rows.puzzle])
    assert (first.puzzles, first.summary(1.0)["segments_mean"]) == (0, None)
