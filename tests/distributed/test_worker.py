"""How the workers of a training are asked to end; without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eqr_ray.distributed.worker import POLL_EVERY_S, RESTART, STOP, STOP_REQUEST, StopPoll


class Backends:
    """Workers in one thread: each `sum` is over what all of them would say."""

    def __init__(self, workers: int) -> None:
        self.workers, self.device = workers, torch.device("cpu")
        self.rank = 0
        self.others = torch.zeros(2)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.others


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("eqr_ray.distributed.worker.time.monotonic", lambda: now[0])
    return now


def test_workers_hear_the_driver_within_a_second(tmp_path: Path, clock: list[float]) -> None:
    request, backend = tmp_path / STOP_REQUEST, Backends(1)
    request.write_text("")
    stop_poll = StopPoll(backend, tmp_path, node_is_leaving=lambda: False)  # type: ignore[arg-type]
    assert not stop_poll()
    request.write_text(RESTART)
    assert not stop_poll()  # it looks once a second
    clock[0] += POLL_EVERY_S
    assert stop_poll()
    assert stop_poll.reason == RESTART
    request.write_text(STOP)
    clock[0] += POLL_EVERY_S
    assert stop_poll()
    assert stop_poll.reason == STOP
    for gone in (lambda: request.write_text(""), request.unlink):
        gone()
        clock[0] += POLL_EVERY_S
        assert not stop_poll()


def test_one_worker_whose_node_goes_takes_all_along(tmp_path: Path) -> None:
    backend = Backends(2)
    (tmp_path / STOP_REQUEST).write_text("")
    leaving = StopPoll(backend, tmp_path, node_is_leaving=lambda: True)  # type: ignore[arg-type]
    assert leaving()
    assert leaving.reason == RESTART
    other = StopPoll(backend, tmp_path, node_is_leaving=lambda: False)  # type: ignore[arg-type]
    assert not other()
    backend.others = torch.tensor([0.0, 1.0])
    assert other()
    assert other.reason == RESTART
    backend.others = torch.tensor([1.0, 1.0])
    assert other()
    assert other.reason == STOP


def test_only_the_first_worker_reads_the_file(tmp_path: Path) -> None:
    backend = Backends(2)
    (tmp_path / STOP_REQUEST).write_text(STOP)
    backend.rank = 1
    assert not StopPoll(backend, tmp_path, node_is_leaving=lambda: False)()  # type: ignore[arg-type]
