"""Who works where, without a cluster: every team fits node by node, and what does not fit is said."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.resources import (
    Node,
    ResourceRequest,
    capacity,
    gpu_share,
    places,
    share,
    this_machine,
    uses_gpus,
)

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
        UserError, match=r"^actors=3 with gpus_each=0.5 needs 1.5 GPUs; there are 1 GPUs, 8 CPUs; device=cpu lets "
    ):
        share([GPU_NODE], 3, use_gpus=True, gpus_each=0.5)
    with pytest.raises(
        UserError,
        match=r"^actors=1 with gpus_each=2 needs 2 GPUs, 2 on one node for each; there are 2 GPUs, 16 CPUs on 2",
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
