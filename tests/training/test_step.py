"""One step: accumulation changes nothing, schedules put losses where they say, sums are over all rows."""

from __future__ import annotations

import pytest
import torch

from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.step import empty_carry, training_step


def steps(bench, count: int, **changes):
    config = bench.config.replace(**changes)
    backend = bench.backend(config)
    backend.set_learning_rate(1e-3)
    carry = empty_carry(backend.model, range(config.batch), torch.float32, backend.device)
    for step in range(count):
        carry, sums = training_step(backend, carry, bench.sampler(config), config, step)
    return backend, carry, sums


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_gives_the_same_update(bench, accumulation: int) -> None:
    # After one step the moments are the gradient itself; AdamATan2's first weights are its sign, and say less.
    whole, _, sums = steps(bench, 1)
    parts, _, other = steps(bench, 1, accumulation=accumulation)
    for name, value in whole.optimizer_state().items():
        scale = float(value.abs().max()) or 1.0
        assert float((parts.optimizer_state()[name] - value).abs().max()) / scale < 1e-6, name
    for name, value in whole.parameters().items():
        assert float((parts.parameters()[name] - value).abs().max()) < 1e-3 * 2 * 1.27
    assert float(other["loss"]) == pytest.approx(float(sums["loss"]), rel=1e-6)


def test_supervised_segments() -> None:
    def config(schedule: str) -> TrainingConfig:
        return TrainingConfig(schedule=schedule, max_segments=6, supervise_every=4, accumulation=3)  # type: ignore[arg-type]

    assert config("sot").supervised == (True,)
    assert config("vanilla").supervised == (False,) * 5 + (True,)
    assert config("trajectory").supervised == (False, False, False, True, False, True)
    assert [config(name).backwards_per_step for name in ("sot", "vanilla", "trajectory")] == [3, 3, 6]


@pytest.mark.parametrize("halting", ["fixed", "learned", "oracle"])
@pytest.mark.parametrize("schedule", ["vanilla", "trajectory"])
def test_whole_trajectories_make_one_update(bench, schedule: str, halting: str, monkeypatch) -> None:
    monkeypatch.setattr("eqr_ray.model.reasoner.Q_BIAS", 5.0)  # every row wants to halt at once, and may not
    backend, carry, sums = steps(bench, 3, schedule=schedule, halting=halting, supervise_every=2)
    assert {held["steps"] for held in backend.optimizer.state.values()} == {3}
    assert carry.age.tolist() == [4] * 8
    assert carry.draws.tolist() == [3] * 8
    assert float(sums["halted"]) == 8.0


def test_sums_are_over_all_rows(bench) -> None:
    _, carry, sums = steps(bench, 3)
    assert float(sums["rows"]) == 8.0
    assert float(sums["age"]) == float(carry.age.sum())
    assert float(sums["halted"]) == float(carry.halted.sum())


def test_the_loss_falls(bench) -> None:
    _, _, first = steps(bench, 1)
    _, _, last = steps(bench, 60)
    assert float(last["loss"]) < 0.95 * float(first["loss"])
