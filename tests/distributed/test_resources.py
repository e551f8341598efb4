"""Who works where, without a cluster: every team fits node by node, and what does not fit is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.resources import (
    Node,
    NotEnoughResources,
    ResourceRequest,
    capacity,
    could_grow,
    gpu_share,
    place,
    places,
    share,
    this_machine,
    uses_gpus,
)
from eqr_ray.tasks import task_named
from eqr_ray.training.experiment import Experiment, TrainOptions, experiment_of

HEAD, GPU_NODE, BIG = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpus", "team"),
    [
        ([HEAD, GPU_NODE, GPU_NODE], 2, True, ResourceRequest(2, 8.0, 1.0)),  # not 24 / 2 CPUs
        ([HEAD, GPU_NODE, GPU_NODE], 2, False, ResourceRequest(2, 8.0, 0.0)),
        ([HEAD, GPU_NODE, GPU_NODE], 4, False, ResourceRequest(4, 4.0, 0.0)),
        ([{"CPU": 4.0}, {"CPU": 2.0}], 3, False, ResourceRequest(3, 2.0, 0.0)),
        ([{"CPU": 5.0}, {"CPU": 3.0}], 2, False, ResourceRequest(2, 3.0, 0.0)),
        ([BIG], 1, True, ResourceRequest(1, 8.0, 1.0)),  # the CPUs of the other seven GPUs stay free
        ([BIG, GPU_NODE, {"CPU": 2.0, "GPU": 1.0}], 10, True, ResourceRequest(10, 2.0, 1.0)),
        ([{"CPU": 1.0, "GPU": 2.0}], 2, True, ResourceRequest(2, 0.0, 1.0)),
        ([{"GPU": 1.0}], 1, True, ResourceRequest(1, 0.0, 1.0)),
    ],
)
def test_a_team_by_hand(nodes: list[Node], workers: int, use_gpus: bool, team: ResourceRequest) -> None:
    assert share(nodes, workers, use_gpus) == team


NODES = st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 9), "GPU": st.integers(0, 3)}), min_size=1, max_size=4)


@settings(deadline=None)  # the machine may be busy with other processes
@given(NODES, st.booleans(), st.sampled_from([1.0, 0.5, 1 / 3, 0.2, 2.0]), st.data())
def test_every_team_fits_node_by_node(nodes: list[Node], use_gpus: bool, gpus_each: float, data: st.DataObject) -> None:
    most = places(nodes, use_gpus, gpus_each)
    if most == 0:
        return
    workers = data.draw(st.integers(1, most))
    team = share(nodes, workers, use_gpus, gpus_each=gpus_each)

    def fitting(cpus_each: float) -> int:
        by_gpu = [int(node["GPU"] / gpus_each + 1e-9) if use_gpus else 99 for node in nodes]
        by_cpu = [int(node["CPU"] // cpus_each) if cpus_each else 99 for node in nodes]
        return sum(min(pair) for pair in zip(by_gpu, by_cpu, strict=True))

    assert team.gpus_each == (pytest.approx(gpus_each, abs=1e-4) if use_gpus else 0)
    assert capacity(nodes, team) == fitting(team.cpus_each) >= workers
    if not use_gpus:
        assert team.cpus_each >= 1
        assert fitting(team.cpus_each + 1) < workers  # and no larger share does


def test_a_gpu_is_divided_among_actors() -> None:
    assert share([BIG], 16, True, gpus_each=0.5) == ResourceRequest(16, 4.0, 0.5)
    assert share([BIG, GPU_NODE], 18, True, gpus_each=0.5) == ResourceRequest(18, 4.0, 0.5)
    assert share([BIG], 3, True, gpus_each=2) == ResourceRequest(3, 16.0, 2.0)
    assert share([HEAD], 2, False, gpus_each=0.5) == ResourceRequest(2, 4.0, 0.0)  # of no meaning without GPUs
    for count in range(1, 101):
        assert count * gpu_share(1 / count) <= 1
        assert gpu_share(round(1 / count, 4)) == gpu_share(1 / count)
    assert gpu_share(0.33) == gpu_share(1 / 3) == 0.3333


@pytest.mark.parametrize("gpus_each", [0.0, -1.0, 0.3, 0.7, 1.5, 1e-9, float("nan"), float("inf")])
def test_a_share_that_does_not_divide_gpus_is_refused(gpus_each: float) -> None:
    with pytest.raises(UserError, match=r"^gpus_each=.* is not allowed: 1, 1/2, 1/3, \.\.\. of a GPU, or whole GPUs$"):
        share([BIG], 1, use_gpus=True, gpus_each=gpus_each)


def test_room_for_more_of_a_team() -> None:
    team = ResourceRequest(2, 4.0, 0.5)
    assert capacity([GPU_NODE], team) == 2
    assert capacity([GPU_NODE, BIG], team) == 18
    assert capacity([GPU_NODE, HEAD, {"CPU": 3.0, "GPU": 1.0}], team) == 2
    assert capacity([HEAD], ResourceRequest(1, 3.0, 0.0)) == 2


def test_what_does_not_fit_is_said_with_the_way_out() -> None:
    with pytest.raises(
        UserError, match=r"^actors=2 needs 2 GPUs; there are 1 GPUs, 8 CPUs; device=cpu lets actors share the CPUs$"
    ):
        share([GPU_NODE], 2, use_gpus=True)
    with pytest.raises(
        UserError,
        match=r"^actors=3 needs 1.5 GPUs, gpus_each=0.5 on one node for each; there are 1 GPUs, 8 CPUs; device=cpu",
    ):
        share([GPU_NODE], 3, use_gpus=True, gpus_each=0.5)
    with pytest.raises(
        UserError,
        match=r"^actors=1 needs 2 GPUs, gpus_each=2 on one node for each; there are 2 GPUs, 16 CPUs on 2",
    ):
        share([GPU_NODE, GPU_NODE], 1, use_gpus=True, gpus_each=2)
    with pytest.raises(UserError, match=r"^workers=17 needs 17 CPUs; there are 1 GPUs, 16 CPUs on 2 nodes$"):
        share([HEAD, GPU_NODE], 17, use_gpus=False, key="workers")
    with pytest.raises(UserError, match="actors=0 is not allowed"):
        share([HEAD], 0, use_gpus=False)


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert [uses_gpus(device, [HEAD]) for device in ("auto", "cpu", "cuda")] == [False, False, True]
    assert [uses_gpus(device, [HEAD, GPU_NODE]) for device in ("auto", "cpu", "cuda")] == [True, False, True]


def test_this_machine_with_and_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_machine()[0]["CPU"] >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert this_machine()[0]["CPU"] == 7


# ---- workers of a training


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


@settings(deadline=None)  # the first call compiles the schema of the options
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
