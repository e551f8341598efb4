"""The loss against slow twins written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from eqr_ray.training.step import HALT_WEIGHT, IGNORE, log_stablemax, row_losses


def stablemax(values: list[float]) -> list[float]:
    s = [x + 1 if x >= 0 else 1 / (1 - x) for x in values]
    return [x / sum(s) for x in s]


def test_log_stablemax_is_the_formula() -> None:
    values = [-300.0, -1.5, -1e-9, 0.0, 2.0, 700.0]
    found = log_stablemax(torch.tensor(values))
    assert found.dtype == torch.float64
    expected = [math.log(p) for p in stablemax(torch.tensor(values).tolist())]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_log_stablemax_has_finite_gradients_everywhere() -> None:
    logits = torch.tensor([[-1e30, -1.0, 0.0, 1.0, 1e30]], requires_grad=True)
    log_stablemax(logits)[0, 2].backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_row_losses_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator)
    labels = torch.randint(0, 5, (3, 4), generator=generator)
    labels[0, 1] = IGNORE
    labels[2] = logits[2].argmax(-1)
    halt_logit = torch.tensor([0.5, -2.0, 3.0])
    losses = row_losses(logits, halt_logit, labels)
    for row in range(3):
        asked = [place for place in range(4) if labels[row, place] != IGNORE]
        expected = sum(-math.log(stablemax(logits[row, p].tolist())[int(labels[row, p])]) for p in asked) / len(asked)
        assert float(losses.tokens[row]) == pytest.approx(expected, rel=1e-6)
        right = [int(logits[row, p].argmax()) == int(labels[row, p]) for p in asked]
        assert bool(losses.exact[row]) == all(right)
        assert float(losses.token_accuracy[row]) == pytest.approx(sum(right) / len(asked))
    assert losses.exact.tolist()[2] is True
    halt = F.binary_cross_entropy_with_logits(halt_logit, losses.exact.float(), reduction="none")
    assert torch.equal(losses.halt, halt)
    assert torch.equal(losses.total, losses.tokens + HALT_WEIGHT * halt)
