"""Trajectories of different ages: refill, halting, exploration, draws that do not know the number of workers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eqr_ray.training.backend import Backend
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.loop import rows_of
from eqr_ray.training.step import Carry, empty_carry, exploration_minimum, halt, noise_keys, refill, training_step


def start(bench, rows: range | None = None) -> Carry:
    model = bench.model()
    carry = empty_carry(model, rows or range(bench.config.batch), torch.float32, torch.device("cpu"))
    return refill(carry, bench.sampler(bench.config), model, bench.config)


def test_refill_replaces_halted_rows_only(bench) -> None:
    before = start(bench)
    assert before.draws.tolist() == [1] * 8
    assert not before.halted.any()
    halted = torch.tensor([True, False] * 4)
    moved = replace(before, halted=halted, age=torch.full((8,), 3), z_H=before.z_H + 1, z_L=before.z_L + 1)
    after = refill(moved, bench.sampler(bench.config), bench.model(), bench.config)
    assert after.draws.tolist() == [2, 1] * 4
    assert after.age.tolist() == [0, 3] * 4
    for name in ("z_H", "z_L", "inputs", "puzzle"):
        old, new = moved.tensors()[name], after.tensors()[name]
        assert torch.equal(old[1::2], new[1::2])
    assert not torch.equal(moved.latent.z_H[::2], after.latent.z_H[::2])
    assert not after.halted.any()


def test_a_start_is_keyed_by_row_and_draw(bench) -> None:
    whole, half = start(bench), start(bench, range(4, 8))
    for name, value in half.tensors().items():
        assert torch.equal(value, whole.tensors()[name][4:])


@pytest.mark.parametrize(
    ("halting", "expected"), [("learned", [1, 0, 0, 1]), ("oracle", [0, 1, 0, 1]), ("fixed", [0, 0, 0, 1])]
)
def test_halting_rules(bench, halting: str, expected: list[int]) -> None:
    config = bench.config.replace(halting=halting, max_segments=4)
    carry = start(bench, range(4))
    carry = replace(carry, age=torch.tensor([0, 0, 0, 3]), minimum=torch.zeros(4, dtype=torch.int64))
    halt_logit, exact = torch.tensor([1.0, -1.0, -1.0, -1.0]), torch.tensor([False, True, False, False])
    after = halt(carry, carry.latent, halt_logit, exact, config)
    assert after.age.tolist() == [1, 1, 1, 4]
    assert after.halted.int().tolist() == expected


def test_a_row_that_explores_does_not_halt_before_its_minimum(bench) -> None:
    carry = replace(start(bench, range(2)), minimum=torch.tensor([2, 1]), age=torch.tensor([0, 0]))
    yes = torch.tensor([True, True])
    assert halt(carry, carry.latent, yes.float(), yes, bench.config).halted.tolist() == [False, True]


def test_exploration_has_the_share_and_the_lengths_of_the_paper() -> None:
    config = TrainingConfig(exploration=0.1, max_segments=16)
    minimum = exploration_minimum(torch.arange(50_000), torch.zeros(50_000, dtype=torch.int64), config)
    explored = minimum[minimum > 0]
    assert len(explored) / len(minimum) == pytest.approx(0.1, abs=0.005)
    assert sorted(set(explored.tolist())) == list(range(2, 17))
    counts = torch.bincount(explored)[2:].double()
    assert float((counts / counts.mean() - 1).abs().max()) < 0.25
    assert not exploration_minimum(
        torch.arange(99), torch.zeros(99, dtype=torch.int64), config.replace(exploration=0.0)
    ).any()


def test_noise_keys_differ_by_row_step_and_segment(bench) -> None:
    carry = start(bench)
    keys = torch.cat([noise_keys(carry, bench.config, step, segment) for step in range(5) for segment in range(3)])
    assert len(set(keys.tolist())) == 5 * 3 * 8


def test_two_workers_draw_what_one_draws(bench) -> None:
    """Without updates the trajectories of a row are the same, whoever holds it."""

    class Still(Backend):
        def accumulate(self, loss: torch.Tensor) -> None:
            return

    def run(rank: int, workers: int) -> Carry:
        config = bench.config
        backend = Still(bench.model(), config, torch.device("cpu"))
        carry = empty_carry(backend.model, rows_of(rank, workers, config.batch), torch.float32, backend.device)
        for step in range(7):
            carry, _ = training_step(backend, carry, bench.sampler(config), config, step)
        return carry

    whole, parts = run(0, 1), [run(rank, 2) for rank in range(2)]
    for name, value in whole.tensors().items():
        together = torch.cat([part.tensors()[name] for part in parts])
        if value.is_floating_point():
            assert torch.allclose(together, value, atol=1e-5)
        else:
            assert torch.equal(together, value), name
    assert whole.draws.max() > 1
