"""AdamATan2, the learning rate and the average of the weights, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from eqr_ray.training.backend import Ema, build_optimizer, learning_rate
from eqr_ray.training.config import TrainingConfig

CONFIG = TrainingConfig(steps=100, learning_rate=0.01, warmup=10, weight_decay=0.5)
A = 1.27  # of Everett et al. 2024, appendix


def test_adam_atan2_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    parameter = Parameter(start.clone())
    optimizer = build_optimizer([parameter], CONFIG)
    w, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 6):
        grad = torch.randn(7, generator=generator, dtype=torch.float64)
        grad[0] = 0.0  # atan2(0, 0) = 0: only the decay moves it
        parameter.grad = grad
        optimizer.step()
        m = CONFIG.beta1 * m + (1 - CONFIG.beta1) * grad
        v = CONFIG.beta2 * v + (1 - CONFIG.beta2) * grad**2
        m_hat, v_hat = m / (1 - CONFIG.beta1**step), v / (1 - CONFIG.beta2**step)
        w = w * (1 - CONFIG.learning_rate * CONFIG.weight_decay)
        w = w - CONFIG.learning_rate * A * torch.atan2(m_hat, v_hat.sqrt())
    assert torch.allclose(parameter.detach(), w, rtol=1e-12, atol=0)


def test_learning_rate_warms_up_stays_and_cools_down() -> None:
    assert learning_rate(0, CONFIG) == pytest.approx(0.001)
    assert learning_rate(9, CONFIG) == learning_rate(99, CONFIG) == 0.01
    cooling = CONFIG.replace(cooldown=0.2)
    assert learning_rate(79, cooling) == 0.01
    assert learning_rate(90, cooling) == pytest.approx(0.005)
    assert learning_rate(99, cooling) == pytest.approx(0.0005)


def test_ema_is_the_recursion_and_copies_back() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    ema = Ema(dict(layer.named_parameters()), 0.9)
    expected = layer.weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            layer.weight.add_(1.0)
        ema.update(dict(layer.named_parameters()))
        expected = 0.9 * expected + 0.1 * layer.weight.detach()
    # Three steps, three roundings on either side, each at most half of the 2^-22 between numbers below 4.
    assert torch.allclose(ema.shadow["weight"], expected, rtol=0, atol=3 * 2 * 3 * 2.0**-23)
    ema.copy_to(layer)
    assert torch.equal(layer.weight, ema.shadow["weight"])
