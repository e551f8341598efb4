"""When a training starts again and on how many workers, and how its workers are asked to end; without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.attempts import (
    FILE,
    POLL_EVERY_S,
    RESTART,
    STOP,
    Patience,
    StopPoll,
    StopRequest,
    could_grow,
    place,
)
from eqr_ray.distributed.resources import NotEnoughResources
from eqr_ray.tasks import task_named
from eqr_ray.training.experiment import Experiment, TrainOptions, experiment_of


def experiment(**changes: Any) -> Experiment:
    return experiment_of(
        TrainOptions(**{"batch": 24, "device": "cpu", **changes}), task_named("sudoku4"), Path("data"), "hash"
    )


def cpus(*counts: float) -> list[dict[str, float]]:
    return [{"CPU": count} for count in counts]


@pytest.mark.parametrize(
    ("there", "workers"),
    [(cpus(1, 1, 1, 1, 1, 1, 1, 1), 8), (cpus(*[1] * 7), 6), (cpus(1, 1, 1, 1, 1), 4), (cpus(1, 1), 2), (cpus(9), 8)],
)
def test_as_many_workers_as_there_is_room_for_and_the_batch_allows(there: list[dict[str, float]], workers: int) -> None:
    assert place(experiment(workers=8, workers_min=2), there).workers == workers


@given(
    nodes=st.lists(st.integers(0, 4), max_size=8),
    most=st.integers(1, 24),
    least=st.integers(1, 24),
    accumulation=st.sampled_from([1, 2, 3]),
)
def test_a_team_always_fits_and_divides_the_batch(nodes: list[int], most: int, least: int, accumulation: int) -> None:
    try:
        wanted = experiment(workers=most, workers_min=least, accumulation=accumulation)
    except UserError:
        return
    try:
        team = place(wanted, cpus(*nodes))
    except NotEnoughResources:
        assert sum(nodes) < least
        return
    assert least <= team.workers <= min(most, sum(nodes))
    assert 24 % (team.workers * accumulation) == 0
    assert sum(int(node / team.cpus_each) for node in nodes) >= team.workers
    larger = [n for n in range(team.workers + 1, min(most, sum(nodes)) + 1) if 24 % (n * accumulation) == 0]
    assert not larger


def test_fewer_than_the_least_are_refused_by_the_name_of_their_key() -> None:
    with pytest.raises(NotEnoughResources, match=r"^workers_min=2 needs 2 CPUs; there are 0 GPUs, 1 CPUs"):
        place(experiment(workers=4, workers_min=2), cpus(1))
    with pytest.raises(NotEnoughResources, match=r"^workers=4 needs 4 CPUs"):
        place(experiment(workers=4), cpus(1, 1, 1))


def test_an_attempt_on_gpus_is_not_followed_by_one_on_cpus() -> None:
    there = [{"CPU": 8.0, "GPU": 0.0}]
    assert place(experiment(workers=2, device="auto"), there).device_type == "cpu"
    with pytest.raises(NotEnoughResources, match="workers=2 needs 2 GPUs"):
        place(experiment(workers=2, device="auto"), there, "cuda")


@pytest.mark.parametrize(
    ("there", "free", "grows"),
    [
        (cpus(1, 1, 1), cpus(0, 0, 1), True),
        (cpus(1, 1, 1), cpus(0, 0, 0), False),  # another job has it
        (cpus(1, 1), cpus(1), False),
        (cpus(1, 1, 1, 1, 1), cpus(0, 0, 1, 1, 1), True),
        (cpus(), [], False),
    ],
)
def test_growth_wants_a_place_that_is_free(
    there: list[dict[str, float]], free: list[dict[str, float]], grows: bool
) -> None:
    wanted = experiment(workers=4, workers_min=1)
    assert could_grow(wanted, place(wanted, cpus(1, 1)), there, free) is grows


def test_growth_onto_nodes_of_another_size() -> None:
    wanted = experiment(workers=2, workers_min=1)
    assert could_grow(wanted, place(wanted, cpus(16)[:1], at_most=1), cpus(16, 8), cpus(0, 8))
    two = experiment(workers=3, workers_min=1)  # 2 + 2 free CPUs are no place for a share of 4
    assert not could_grow(two, place(two, cpus(4, 4)), cpus(4, 4, 3), cpus(2, 2))


def test_workers_that_could_not_be_placed_are_fewer_next_time() -> None:
    wanted = experiment(workers=3, workers_min=1)
    assert [place(wanted, cpus(1, 1, 1), at_most=most).workers for most in (None, 3, 2, 1)] == [3, 3, 2, 1]


def test_five_places_for_a_batch_that_four_divide_are_no_reason_to_start_again() -> None:
    wanted = experiment(workers=8, workers_min=1)
    assert not could_grow(wanted, place(wanted, cpus(1, 1, 1, 1)), cpus(*[1] * 5), cpus(1))


def test_failures_count_in_a_row_without_a_new_checkpoint() -> None:
    patience = Patience(max_failures=2)
    assert [patience.lasts(step) for step in (-1, -1)] == [True, True]
    assert [patience.lasts(step) for step in (10, 10, 20, 20)] == [True, True, True, True]
    assert patience.lasts(20) is False
    assert not Patience(max_failures=0).lasts(5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"workers": 2, "workers_min": 3}, r"workers_min=3 is not allowed: 1 to workers=2"),
        ({"workers": 2, "workers_min": 0}, r"workers_min=0 is not allowed"),
        ({"workers": 24, "workers_min": 5}, r"batch=24 cannot be dealt out to workers=5"),
        ({"workers": 8, "workers_min": 8, "accumulation": 2}, r"accumulation=2 does not divide the 3 rows"),
        ({"wait_minutes": -1.0}, r"wait_minutes=-1.0 is not allowed"),
    ],
)
def test_workers_that_the_batch_does_not_fit(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        experiment(**keys)


# ---- what workers are asked


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
    monkeypatch.setattr("eqr_ray.distributed.attempts.time.monotonic", lambda: now[0])
    return now


def test_workers_hear_the_driver_within_a_second(tmp_path: Path, clock: list[float]) -> None:
    stop_request, backend = StopRequest(tmp_path), Backends(1)
    stop_request.clear()
    stop_poll = StopPoll(backend, tmp_path, node_is_leaving=lambda: False)  # type: ignore[arg-type]
    assert not stop_poll()
    stop_request.send(RESTART)
    assert not stop_poll()  # it looks once a second
    clock[0] += POLL_EVERY_S
    assert stop_poll()
    assert stop_poll.reason == RESTART
    stop_request.send(STOP)
    stop_request.send(RESTART)  # stop is not taken back
    clock[0] += POLL_EVERY_S
    assert stop_poll()
    assert stop_poll.reason == STOP
    stop_request.clear()
    clock[0] += POLL_EVERY_S
    assert not stop_poll()
    stop_request.remove()
    clock[0] += POLL_EVERY_S
    assert not stop_poll()
    assert not (tmp_path / FILE).exists()


def test_one_worker_whose_node_goes_takes_all_along(tmp_path: Path) -> None:
    backend = Backends(2)
    StopRequest(tmp_path).clear()
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
    stop_request, backend = StopRequest(tmp_path), Backends(2)
    stop_request.clear()
    stop_request.send(STOP)
    backend.rank = 1
    assert not StopPoll(backend, tmp_path, node_is_leaving=lambda: False)()  # type: ignore[arg-type]
