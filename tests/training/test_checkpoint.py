"""Checkpoints of several workers, and which one a resume takes: one choice for all, and what is wrong said by all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eqr_ray.config.errors import UserError
from eqr_ray.model import Readout
from eqr_ray.training.backend import Backend, Ema, collective_call
from eqr_ray.training.checkpoint import choose_checkpoint, load_checkpoint, newest_checkpoint
from eqr_ray.training.loop import train, validate

WAIT_S = 20


class Group:
    """Workers that are threads; a worker that waits in vain fails instead of hanging."""

    def __init__(self, workers: int) -> None:
        self.barrier, self.parts = threading.Barrier(workers), [torch.zeros(0)] * workers

    def sum(self, rank: int, values: Tensor) -> Tensor:
        self.parts[rank] = values
        self.barrier.wait(WAIT_S)
        total = torch.stack(self.parts).sum(0)
        self.barrier.wait(WAIT_S)
        return total


class Member(Backend):
    """One worker of a group."""

    def __init__(self, local: Backend, group: Group, rank: int) -> None:
        self.__dict__.update(local.__dict__)
        self.group, self.rank, self.workers = group, rank, group.barrier.parties  # type: ignore[misc]

    def sum(self, values: Tensor) -> Tensor:
        return self.group.sum(self.rank, values)

    def barrier(self) -> None:
        self.sum(torch.zeros(1))


def by_two(bench, work: Callable[[Member], Any]) -> list[Any]:
    """What `work` returns or raises on either worker."""
    group = Group(2)

    def outcome(rank: int) -> Any:
        try:
            return work(Member(bench.backend(), group, rank))
        except (UserError, OSError) as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(outcome, range(2)))


@pytest.mark.parametrize("faulty", [0, 1])
@pytest.mark.parametrize("error", [UserError("é is wrong"), FileNotFoundError("gone"), None])
def test_what_one_worker_finds_wrong_is_said_by_all(bench, faulty: int, error: Exception | None) -> None:
    def make(rank: int) -> int:
        if rank == faulty and error is not None:
            raise error
        return rank

    outcomes = by_two(bench, lambda backend: collective_call(backend, lambda: make(backend.rank)))
    if error is None:
        assert outcomes == [0, 1]
    else:
        assert all(str(error) in str(outcome) for outcome in outcomes)
        assert outcomes[faulty] is error
        assert isinstance(outcomes[1 - faulty], UserError) == isinstance(error, UserError)


def test_every_worker_resumes_from_the_step_that_the_first_one_chose(bench, tmp_path: Path) -> None:
    """The second worker's listing of the shared disk is newer."""
    first, second = tmp_path / "first", tmp_path / "second"
    bench.train(second)
    first.mkdir()
    shutil.copytree(second / "00000010", first / "00000010")

    def resume(backend: Member) -> tuple[int, list[int]]:
        checkpoint = choose_checkpoint((first, second)[backend.rank], "same", backend)
        assert checkpoint is not None
        ema = Ema(backend.parameters(), 0.9)
        rows = range(4 * backend.rank, 4 * backend.rank + 4)
        return checkpoint.step, load_checkpoint(checkpoint, backend, ema, rows).rows.tolist()

    assert by_two(bench, resume) == [(10, [0, 1, 2, 3]), (10, [4, 5, 6, 7])]
    empty = tmp_path / "empty"
    assert by_two(bench, lambda backend: choose_checkpoint((empty, second)[backend.rank], "same", backend)) == [
        None,
        None,
    ]


def test_a_checkpoint_that_one_worker_cannot_read_stops_both(bench, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    bench.train(first)
    second.mkdir()
    shutil.copytree(first / "00000010", second / "00000010")  # the second worker's listing is older
    outcomes = by_two(bench, lambda backend: choose_checkpoint((first, second)[backend.rank], "same", backend))
    assert all(isinstance(outcome, OSError) and "00000020" in str(outcome) for outcome in outcomes)
    shutil.copytree(first / "00000020", second / "00000020")
    (second / "00000020" / "optimizer.safetensors").write_bytes(b"")

    def resume(backend: Member) -> None:
        checkpoint = choose_checkpoint((first, second)[backend.rank], "same", backend)
        assert checkpoint is not None
        load_checkpoint(checkpoint, backend, Ema(backend.parameters(), 0.9), range(8))

    outcomes = by_two(bench, resume)
    assert all("optimizer.safetensors has changed" in str(outcome) for outcome in outcomes)
    refusals = by_two(bench, lambda backend: choose_checkpoint(first, "other", backend))
    assert all("written by another experiment" in str(refusal) for refusal in refusals)


def test_a_worker_reads_only_the_carry_files_that_hold_its_rows(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by two workers; rows 2-5 lie in both files, rows 0-3 in the first, by any number of workers."""
    outcomes = by_two(bench, lambda backend: train(backend, bench.job(tmp_path)))
    assert all(isinstance(outcome, dict) for outcome in outcomes), outcomes
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    whole = load_checkpoint(checkpoint, bench.backend(), Ema(bench.backend().parameters(), 0.9), range(8)).tensors()
    opened: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read_bytes(path))
    first, second = "carry-000000-000004.safetensors", "carry-000004-000008.safetensors"
    for rows, carries in ((range(4), [first]), (range(4, 8), [second]), (range(2, 6), [first, second])):
        opened.clear()
        backend = bench.backend()
        carry = load_checkpoint(checkpoint, backend, Ema(backend.parameters(), 0.9), rows)
        assert opened == ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", *carries]
        for name, value in carry.tensors().items():
            assert torch.equal(value, whole[name][rows.start : rows.stop]), name
    (checkpoint.folder / second).write_bytes(b"")
    backend = bench.backend()
    load_checkpoint(checkpoint, backend, Ema(backend.parameters(), 0.9), range(4))
    with pytest.raises(OSError, match=f"{second} has changed"):
        load_checkpoint(checkpoint, backend, Ema(backend.parameters(), 0.9), range(3, 5))
    with pytest.raises(OSError, match="does not hold the rows 8 to 9"):
        load_checkpoint(checkpoint, backend, Ema(backend.parameters(), 0.9), range(8, 10))
    assert newest_checkpoint(tmp_path).step < checkpoint.step  # type: ignore[union-attr]  # the first worker looks at all


def test_fixed_starts_come_back(bench, tmp_path: Path) -> None:
    fixed = {"start": "fixed"}
    backend = bench.backend(**fixed)
    train(backend, bench.job(tmp_path))
    other = bench.backend(**fixed)
    with torch.no_grad():
        for _, buffer in other.model.named_buffers():
            buffer.zero_()
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    load_checkpoint(checkpoint, other, Ema(other.parameters(), 0.9), range(8))
    buffers = dict(backend.model.named_buffers())
    assert set(buffers) == {"z_H_init", "z_L_init"}
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in other.model.named_buffers())


def test_damaged_ones_are_set_aside_and_the_new_one_is_kept(bench, tmp_path: Path) -> None:
    bench.train(tmp_path, checkpoint_every=5, keep_checkpoints=4)
    for name in ("00000015", "00000020"):
        (tmp_path / name / "ema.safetensors").write_bytes(b"")
    bench.train(tmp_path, checkpoint_every=1, keep_checkpoints=1, steps=11)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00000011", "00000015.damaged", "00000020.damaged"]
    bench.train(tmp_path, checkpoint_every=1, keep_checkpoints=3, steps=21)  # past the damaged ones
    assert sorted(path.name for path in tmp_path.glob("[0-9]" * 8)) == ["00000019", "00000020", "00000021"]


def test_the_one_just_written_is_never_pruned(bench, tmp_path: Path) -> None:
    bench.train(tmp_path, steps=10)

    def steps_later(figures: dict[str, Any]) -> None:  # another's folder with a larger number, while the run goes on
        shutil.copytree(tmp_path / f"{figures['step']:08d}", tmp_path / "00000099", dirs_exist_ok=True)

    config = bench.config.replace(steps=14, checkpoint_every=1, keep_checkpoints=1)
    train(bench.backend(config), bench.job(tmp_path, config, report=steps_later))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000014", "00000099"]


class Says:
    """A network that answers every place with the token 2."""

    device = torch.device("cpu")

    def embed(self, inputs: Tensor) -> Tensor:
        return inputs

    def start(self, keys: Tensor) -> None:
        return None

    def segment(self, latent: None, embedding: Tensor, keys: Tensor) -> Readout:
        logits = torch.nn.functional.one_hot(torch.full_like(embedding, 2), 4).float()
        return Readout(latent, logits, torch.ones(len(embedding)))  # type: ignore[arg-type]


def test_padding_is_not_asked_in_validation() -> None:
    labels = np.array([[2, 2, 2, 0], [2, 2, 3, 0], [2, 2, 2, 2]], dtype=np.uint8)
    split = SimpleNamespace(inputs=labels, labels=labels)
    sums = validate(Says(), split, range(3), 1)
    accuracy = pytest.approx(1 + 2 / 3 + 1)
    assert sums == {"puzzles": 3, "exact": 2, "token_accuracy": accuracy, "halted": 3, "halted_exact": 2}
