"""Calibration keeps its guarantee: counts are exact, the choice is blind to the test, worlds of known risk agree."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from benchmarks.calibration_draws import calibration_draws
from eqr_ray.config.errors import UserError
from eqr_ray.evaluation.calibration import (
    Guarantee,
    beginning,
    binomial_tail,
    calibrate,
    chosen,
    highest_share,
    pilot_of,
    thresholds,
)
from eqr_ray.evaluation.outcomes import Outcomes, OutcomesAt, Replayed, divided, risk_coverage
from eqr_ray.inference.settings import Settings
from tests.evaluation import binomial
from tests.inference.planted import LABEL, OTHER, World, at_thresholds, records

given_many = hypothesis_settings(deadline=None, max_examples=60)
counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
shares = st.floats(1e-4, 0.999)
ROUNDING = 1e-9  # relative, of a sum over thousands of terms


@given_many
@given(counts, shares)
def test_the_tail_is_that_of_a_plain_sum(count: tuple[int, int], share: float) -> None:
    plain = binomial.binomial_tail(*count, share)
    assert binomial_tail(*count, share) == pytest.approx(plain, rel=1e-9, abs=1e-12)


def test_the_tail_at_its_edges() -> None:
    assert binomial_tail(0, 0, 0.1) == 1.0
    assert binomial_tail(3, 3, 0.1) == 1.0
    assert (binomial_tail(2, 3, 0.0), binomial_tail(2, 3, 1.0)) == (1.0, 0.0)
    plain = binomial.binomial_tail(5_000, 1_000_000, 0.005)
    assert binomial_tail(5_000, 1_000_000, 0.005) == pytest.approx(plain, rel=1e-7)


@given_many
@given(counts, st.sampled_from([0.8, 0.95, 0.999]))
def test_the_bound_is_clopper_and_pearsons(count: tuple[int, int], confidence: float) -> None:
    errors, total = count
    bound = highest_share(errors, total, confidence)
    assert bound == pytest.approx(binomial.highest_share(errors, total, confidence), rel=1e-9, abs=1e-12)
    two_sided = binomtest(errors, total).proportion_ci(1 - 2 * (1 - confidence), method="exact")
    assert bound == pytest.approx(two_sided.high, rel=1e-6)


@given_many
@given(counts, shares)
def test_more_errors_are_likelier_and_less_likely_where_the_share_is_greater(
    count: tuple[int, int], share: float
) -> None:
    errors, total = count
    tail = binomial_tail(errors, total, share)
    assert tail <= binomial_tail(min(errors + 1, total), total, share) * (1 + ROUNDING)
    assert tail >= binomial_tail(errors, total, (1 + share) / 2) * (1 - ROUNDING)
    assert tail >= binomial_tail(errors, total + 1, share) * (1 - ROUNDING)


@given_many
@given(st.integers(0, 6), st.floats(0.003, 0.5), st.floats(0.5, 0.999))
def test_fewest_is_enough_and_one_less_is_not(errors: int, share: float, confidence: float) -> None:
    enough = Guarantee(risk=share, confidence=confidence).settled_needed(errors)
    chances = [binomial.binomial_tail(errors, total, share) for total in (enough - 1, enough)]
    assume(min(abs(chance - (1 - confidence)) for chance in chances) > 1e-12)  # a tie falls as the last bit says
    assert enough == binomial.fewest(errors, share, confidence)
    assert binomial_tail(errors, enough, share) <= 1 - confidence
    assert binomial_tail(errors, enough - 1, share) > 1 - confidence
    if errors == 0:
        assert enough == np.ceil(np.log1p(-confidence) / np.log1p(-share))


def test_the_puzzles_that_a_promise_needs() -> None:
    goal = Guarantee(risk=0.005, confidence=0.95)
    assert goal.settled_needed() == 598
    goal.check_enough(747)
    with pytest.raises(
        UserError, match=r"746 puzzles are too few for risk=0.005 confidence=0.95: at least 747 \(598 th"
    ):
        goal.check_enough(746)
    assert goal.puzzles_needed(0.5) == pytest.approx(2 * 747, abs=2)


@given_many
@given(st.floats(0.005, 0.9), st.floats(0.5, 0.99))
def test_one_puzzle_less_cannot_pass(risk: float, confidence: float) -> None:
    goal = Guarantee(risk=risk, confidence=confidence)
    needed = goal.puzzles_needed()
    tested = [count - int(pilot_of(count, 0).sum()) for count in (needed - 1, needed)]
    assert tested[0] < goal.settled_needed() <= tested[1]


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.1, 1.0), (0.1, -0.5), (float("nan"), 0.9)])
def test_impossible_promises_are_refused(risk: float, confidence: float) -> None:
    words = r"(risk|confidence)=\S+ is not allowed: should be (greater than 0|less than 1|a finite number)"
    with pytest.raises(UserError, match=words):
        Guarantee(risk=risk, confidence=confidence)


@given_many
@given(st.integers(1, 400), st.integers(0, 5))
def test_the_pilot_is_a_keyed_fifth(puzzles: int, seed: int) -> None:
    pilot = pilot_of(puzzles, seed)
    assert (pilot.sum(), len(pilot)) == (max(1, puzzles // 5), puzzles)
    assert (pilot == pilot_of(puzzles, seed)).all()
    if puzzles > 100:
        assert (pilot != pilot_of(puzzles, seed + 1)).any()


@given_many
@given(st.lists(st.floats(2**-20, 2**20, width=32), min_size=1, max_size=5))
def test_thresholds_span_the_residuals_in_even_steps(residuals: list[float]) -> None:
    grid = thresholds(np.array([*residuals, np.inf, np.nan, 0.0], np.float32))
    assert grid == sorted(set(grid))
    assert grid[0] <= min(residuals) * 1.006
    assert grid[-1] >= max(residuals) * 0.994
    assert all(1.08 < loose / strict < 1.12 for strict, loose in pairwise(grid))


def test_without_a_residual_there_is_one_threshold() -> None:
    assert thresholds(np.full(3, np.inf, np.float32)) == [1.0]


@st.composite
def verdicts_by_threshold(draw: st.DrawFn) -> list[Outcomes]:
    """Arbitrary outcomes for each of some thresholds, not monotone in any way."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    puzzles, wrong = draw(st.integers(1, 400)), draw(st.sampled_from([0.0, 0.02, 0.3]))
    zeros = np.zeros(puzzles)
    return [
        Outcomes(generator.random(puzzles) < generator.random(), generator.random(puzzles) >= wrong, zeros, zeros)
        for _ in range(draw(st.integers(1, 8)))
    ]


@given_many
@given(verdicts_by_threshold(), verdicts_by_threshold(), st.floats(0.005, 0.3), st.floats(0.6, 0.99))
def test_what_is_chosen_has_passed_and_so_has_all_before_it(
    pilot: list[Outcomes], others: list[Outcomes], risk: float, confidence: float
) -> None:
    count = min(len(pilot), len(others))
    candidates, goal = [float(number) for number in range(count)], Guarantee(risk=risk, confidence=confidence)
    tests = calibrate(lambda t: pilot[int(t)], lambda t: others[int(t)], candidates, goal, len(others[0].right))
    first = beginning(lambda t: pilot[int(t)], candidates, goal, len(others[0].right))
    assert [one.settle_below for one in tests] == candidates[first : first + len(tests)]
    assert all(one.passed for one in tests[:-1])
    assert tests[-1].passed == (chosen(tests) is tests[-1])
    assert tests[-1].passed <= (tests[-1].settle_below == candidates[-1])
    for one in tests:
        outcomes = others[int(one.settle_below)]
        assert (one.settled, one.wrong) == (outcomes.settled.sum(), (outcomes.settled & ~outcomes.right).sum())
        assert one.passed == (binom.cdf(one.wrong, one.settled, risk) <= 1 - confidence)
        high = highest_share(one.wrong, one.settled, confidence)
        assert one.passed == (high <= risk) or high == pytest.approx(risk, rel=1e-9)


@given_many
@given(verdicts_by_threshold(), st.integers(1, 2000))
def test_the_beginning_is_a_candidate(pilot: list[Outcomes], puzzles: int) -> None:
    candidates = [float(number) for number in range(len(pilot))]
    assert (
        0 <= beginning(lambda t: pilot[int(t)], candidates, Guarantee(risk=0.05, confidence=0.9), puzzles) < len(pilot)
    )


def test_the_beginning_leaves_room_for_errors_where_there_are_puzzles_enough() -> None:
    residual = np.linspace(0, 1, 1000, dtype=np.float32)
    drawn = Outcomes(residual > 2, residual < 2, residual, np.ones(1000, np.int64))
    goal, candidates = Guarantee(risk=0.05, confidence=0.95), [0.1 * n for n in range(1, 12)]
    first = [
        candidates[beginning(at_thresholds(drawn), candidates, goal, puzzles)] for puzzles in (10_000, 300, 70, 10)
    ]
    # 59 settled answers without an error would do, 181 with four
    assert first == pytest.approx([0.1, 0.7, 1.0, 1.0])


def failures(world: World, goal: Guarantee, puzzles: int, draws: int) -> tuple[float, float]:
    """The shares of draws that chose a threshold with too great a true risk, and that chose none."""
    generator = np.random.default_rng(0)
    broken = none = 0
    for draw in range(draws):
        pilot = pilot_of(puzzles, draw)
        drawn = world.draw(generator, puzzles)
        of_pilot, others = drawn.take(pilot), drawn.take(~pilot)
        candidates = thresholds(of_pilot.residual)
        tests = calibrate(at_thresholds(of_pilot), at_thresholds(others), candidates, goal, len(others.right))
        best = chosen(tests)
        none += best is None
        broken += best is not None and world.risk(best.settle_below) > goal.risk
    return broken / draws, none / draws


WORLDS = {
    "aligned": World(),
    "overlapping": World(right=0.8, high=0.8),
    "no better than chance": World(right=0.895, high=0.3),  # every threshold is just too risky
    "settled and wrong": World(right=0.9, low=0.5, high=0.2),  # strict thresholds are the worst
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_promise_holds_as_often_as_it_says(name: str) -> None:
    draws, goal = 400, Guarantee(risk=0.1, confidence=0.9)
    broken, none = failures(WORLDS[name], goal, puzzles=300, draws=draws)
    # at most 10 % of draws, and what 400 draws of such a chance may show in all but one of a thousand cases
    assert broken * draws <= binom.ppf(0.999, draws, 1 - goal.confidence)
    assert none < 0.05 if name == "aligned" else True


def test_a_plain_share_would_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above has teeth: so often would the share itself, instead of its p-value, be wrong."""
    plain = lambda wrong, settled, risk: 0.0 if settled and wrong <= risk * settled else 1.0  # noqa: E731
    monkeypatch.setattr("eqr_ray.evaluation.calibration.binomial_tail", plain)
    broken, _ = failures(WORLDS["no better than chance"], Guarantee(risk=0.1, confidence=0.9), puzzles=300, draws=100)
    assert broken > 0.3


def test_a_promise_of_half_a_percent() -> None:
    broken, none = failures(WORLDS["aligned"], Guarantee(risk=0.005, confidence=0.95), puzzles=1500, draws=200)
    assert broken * 200 <= binom.ppf(0.999, 200, 0.05)
    assert none < 0.2


GENERATOR_SEED = 5
WORLD = World(right=0.8, high=1.5)
DEPTH, BREADTH = 8, 3


def replayed(puzzles: int, seed: int = GENERATOR_SEED) -> Replayed:
    rows = records(np.random.default_rng(seed), puzzles, BREADTH, DEPTH, WORLD)
    return Replayed(rows, np.full((puzzles, 1), LABEL, np.uint8))


def settings(policy: str, settle_below: float) -> Settings:
    return Settings(depth=DEPTH, breadth=BREADTH, policy=policy, settle_below=settle_below)


@pytest.mark.parametrize("policy", ["settle", "sequential"])
def test_the_promise_holds_for_replayed_policies(policy: str) -> None:
    def at(part: Replayed) -> OutcomesAt:
        return part.at_thresholds(settings(policy, 1.0), "logit_residual")

    unseen, goal, broken = at(replayed(3000, seed=99)), Guarantee(risk=0.05, confidence=0.9), 0
    thresholds_chosen = []
    for draw in range(8):
        pilot, others = replayed(60, seed=2 * draw), replayed(240, seed=2 * draw + 1)
        tests = calibrate(at(pilot), at(others), thresholds(pilot.residuals), goal, len(others))
        best = chosen(tests)
        if best is not None:
            thresholds_chosen.append(best.settle_below)
            outcomes = unseen(best.settle_below)
            broken += int((outcomes.settled & ~outcomes.right).sum()) > goal.risk * int(outcomes.settled.sum())
    assert len(thresholds_chosen) >= 4
    assert broken <= binom.ppf(0.999, 8, 0.1)


def test_verdicts_of_a_trace_worked_out_by_hand() -> None:
    # two puzzles, two restarts, three segments; residuals by (puzzle, restart, segment)
    rows = records(np.random.default_rng(0), 2, 2, 3, WORLD)
    residual = np.array([[[9, 0.5, 0.4], [9, 9, 0.1]], [[9, 3, 2], [9, 0.3, 0.3]]], np.float32)
    tokens = np.array([[LABEL, OTHER], [OTHER, LABEL]], np.uint8)
    rows = dataclasses.replace(
        rows, logit_residual=residual.reshape(-1), prediction=np.repeat(tokens.reshape(-1), 3)[:, None]
    )
    two = Replayed(rows, np.full((2, 1), LABEL, np.uint8))
    one_calm = Settings(depth=3, breadth=2, policy="sequential", settle_below=0.5, settle_for=1)
    outcomes = two.outcomes(one_calm, "logit_residual")
    assert outcomes.settled.tolist() == [True, True]
    assert outcomes.right.tolist() == [True, True]
    assert outcomes.residual == pytest.approx([0.5, 0.3])
    assert outcomes.segments.tolist() == [2, 5]
    # all restarts: the least residual of puzzle 0 has been calm for one segment only, and is wrong
    all_of_them = two.outcomes(one_calm.replace(policy="settle", settle_for=2), "logit_residual")
    assert all_of_them.settled.tolist() == [False, True]
    assert all_of_them.right.tolist() == [False, True]
    assert all_of_them.segments.tolist() == [6, 6]


def test_puzzles_set_apart_keep_their_own_records_and_answers() -> None:
    puzzles = 10
    rows = records(np.random.default_rng(1), puzzles, BREADTH, DEPTH, WORLD)
    labels = np.full((puzzles, 1), LABEL, np.uint8)
    labels[7] = OTHER
    apart = np.isin(np.arange(puzzles), [2, 7, 8])
    blocks = [rows.take(rows.puzzle < 4), rows.take(rows.puzzle >= 4)]
    pilot, others = divided(blocks, labels, apart, settings("settle", 0.5).replace(depth=6, breadth=2))
    assert (len(pilot), len(others)) == (3, 7)
    narrow = settings("settle", 0.5).replace(depth=6, breadth=2)
    whole = Replayed(rows, labels).outcomes(narrow, "logit_residual")
    for part, mask in ((pilot, apart), (others, ~apart)):
        assert part.residuals.shape == (len(part), 12)
        for one, same in zip(part.outcomes(narrow, "logit_residual"), whole.take(mask), strict=True):
            assert one.tolist() == same.tolist()


@given_many
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 3.0, np.inf]), st.booleans()), min_size=1, max_size=40))
def test_the_abstention_curve_counts_the_surest(rows: list[tuple[float, bool]]) -> None:
    residual, right = np.array([r for r, _ in rows], np.float32), np.array([ok for _, ok in rows])
    curve = risk_coverage(Outcomes(right, right, residual, np.ones(len(rows), np.int64)), points=100)
    assert [point["answered"] for point in curve] == sorted({int((residual <= limit).sum()) for limit in residual})
    assert curve[-1]["answered"] == len(rows)
    for point in curve:
        limit = np.inf if point["residual"] is None else np.float32(point["residual"])
        assert point["answered"] == (residual <= limit).sum()
        assert point["wrong"] == ((residual <= limit) & ~right).sum()


def test_a_long_curve_is_thinned() -> None:
    many = World().draw(np.random.default_rng(0), 5000)
    curve = risk_coverage(many, points=50)
    assert len(curve) == 50
    assert (curve[0]["answered"], curve[-1]["answered"]) == (1, 5000)


def test_draws_of_the_benchmark_keep_the_promise() -> None:
    """The core of benchmarks/calibration_draws.py, on a pool whose risk is known."""
    goal, pool = Guarantee(risk=0.05, confidence=0.9), WORLDS["overlapping"].draw(np.random.default_rng(3), 5000)
    draws = list(calibration_draws(at_thresholds(pool), pool.residual[:, None], goal, 400, 60, seed=1))
    made = [draw for draw in draws if draw.settle_below is not None]
    assert {draw.unseen for draw in draws} == {4600}
    assert len(made) > 10
    assert sum(draw.share > goal.risk for draw in made) <= binom.ppf(0.999, 60, 0.1)
    for draw in made:
        settled = pool.residual <= draw.settle_below
        assert draw.wrong <= (settled & ~pool.right).sum()
        assert draw.share == pytest.approx(WORLDS["overlapping"].risk(draw.settle_below), abs=0.02)
    again = calibration_draws(at_thresholds(pool), pool.residual[:, None], goal, 400, 2, seed=1)
    assert list(again) == draws[:2]
