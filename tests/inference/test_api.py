"""`load` and `solve` on a real (tiny) network, against the parts they are made of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.inference.api import Model, load, solve
from eqr_ray.model.network import Network
from eqr_ray.model.noise import row_keys
from tests.inference.tiny import TASK, save_tiny, sudokus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(str(save_tiny(tmp_path_factory.mktemp("tiny"))))


def test_the_answer_is_that_of_the_restart_of_least_residual(model: Model) -> None:
    puzzles = sudokus(3)
    answers = solve(model, puzzles.inputs, depth=5, breadth=4, seed=9, dtype="float32", slots=6)
    network = Network(model.reasoner, dtype=torch.float32, compile=False)
    for puzzle, answer in enumerate(answers):
        found = []
        for restart in range(4):
            word = torch.tensor([puzzle]), torch.tensor([restart])
            latent = network.start(row_keys(9, *word, -1))
            embedding = network.embed(torch.from_numpy(puzzles.inputs[puzzle : puzzle + 1]))
            logits = []
            for k in range(5):
                latent, one, _ = network.segment(latent, embedding, row_keys(9, *word, k))
                logits.append(one)
            changes = [(b - a).norm(dim=-1).mean().item() for a, b in itertools.pairwise(logits)]
            found.append((np.mean(changes[-3:]), logits[-1].argmax(dim=-1)[0].tolist()))
        best = min(range(4), key=lambda restart: found[restart][0])
        assert answer.restart == best
        assert answer.residual == pytest.approx(found[best][0], rel=1e-4)
        assert answer.tokens.tolist() == found[best][1]
        assert answer.text == TASK.decode(answer.tokens)
        assert (answer.segments, answer.status, answer.settled) == (20, "depth", False)


def test_strings_and_tokens_are_the_same_puzzles(model: Model) -> None:
    inputs = sudokus(4).inputs
    by_text = solve(model, [TASK.decode(one) for one in inputs], depth=2, breadth=2)
    by_tokens = solve(model, inputs.astype(np.int64).tolist(), depth=2, breadth=2)
    assert [one.text for one in by_text] == [one.text for one in by_tokens]
    assert [one.residual for one in by_text] == [one.residual for one in by_tokens]
    assert solve(model, []) == []


def test_policies_and_selections_reach_the_engine(model: Model) -> None:
    inputs = sudokus(6).inputs
    spent = {
        policy: [one.segments for one in solve(model, inputs, depth=6, breadth=3, policy=policy, settle_below=1e9)]
        for policy in ("full", "settle", "sequential", "race", "verify")
    }
    each = {"full": 18, "settle": 9, "sequential": 3, "race": 9, "verify": 18}
    assert spent == {policy: [segments] * 6 for policy, segments in each.items()}
    within = solve(model, inputs, depth=6, breadth=3, policy="sequential", settle_below=0, budget=8)
    assert [one.segments for one in within] == [8] * 6
    known = model._replace(card=model.card.replace(settle_below=1e9))
    assert [one.segments for one in solve(known, inputs, depth=6, breadth=3, policy="settle")] == [9] * 6
    halted = solve(model, inputs, depth=6, breadth=3, policy="halt")
    assert "halted" in {one.status for one in halted}
    chosen = {
        rule: [one.restart for one in solve(model, inputs, depth=4, select=rule)] for rule in ("halt", "logit_residual")
    }
    assert chosen["halt"] != chosen["logit_residual"]


def test_noise_and_starts_can_be_set(model: Model) -> None:
    inputs = sudokus(2).inputs

    def residuals(**options: float) -> list[float]:
        return [one.residual for one in solve(model, inputs, depth=3, breadth=1, **options)]

    assert residuals() == residuals(noise_scale=0.01)
    assert residuals(noise_scale=0.5) != residuals()
    assert residuals(init_std=0.1) != residuals()
    assert residuals(seed=1) != residuals()


@pytest.mark.parametrize(
    ("puzzles", "options", "message"),
    [
        ("1234" * 4, {}, "one string; give a list"),
        (["123"], {}, "3 characters where sudoku4 has 16"),
        (["x" * 16], {}, "character 'x'"),
        (np.zeros((2, 81), int), {}, r"shape \(2, 81\) where the model takes \(N, 16\)"),
        (np.full((1, 16), 6), {}, r"not tokens 0\.\.5"),
        (np.zeros((1, 16)), {}, "float64 values"),
        (["." * 16], {"policy": "best"}, "policy=\"best\" is not allowed: should be 'full'"),
        (["." * 16], {"select": "best"}, "select=\"best\" is not allowed: should be 'logit_residual'"),
        (["." * 16], {"depth": 0}, "depth=0"),
        (["." * 16], {"slots": 0}, "slots=0"),
        (["." * 16], {"dtype": "int8"}, "dtype=\"int8\" is not allowed: should be 'auto'"),
        (["." * 16], {"device": "abacus"}, "device=abacus is not allowed"),
        (["." * 16], {"device": "cuda:99"}, "device=cuda:99 is not there; this machine has"),
    ],
)
def test_mistakes_are_named(model: Model, puzzles: object, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve(model, puzzles, **options)


def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises(UserError, match="nowhere"):
        load("nowhere")
