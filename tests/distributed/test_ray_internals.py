"""What is private in Ray is still there by its name; without it, public calls take its place. No cluster is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from eqr_ray.distributed import ray_internals
from eqr_ray.distributed.ray_internals import HELPER_CALLBACKS, PLACEMENT_GROUP, STATE, TRAIN_CONTEXT, private


@pytest.mark.parametrize("address", [STATE, PLACEMENT_GROUP, TRAIN_CONTEXT, *HELPER_CALLBACKS])
def test_the_private_name_is_there(address: str) -> None:
    assert private(address) is not None, f"this Ray has no {address}"


@pytest.mark.parametrize("name", ["get_draining_nodes", "available_resources_per_node", "_connect_and_get_accessor"])
def test_the_private_state_has(name: str) -> None:
    assert callable(getattr(private(STATE), name, None)), f"ray._private.state.state has no {name}"


def test_the_private_accessor_lists_placement_groups() -> None:
    from ray._raylet import GlobalStateAccessor  # noqa: PLC0415

    assert callable(getattr(GlobalStateAccessor, "get_placement_group_table", None))


@pytest.mark.parametrize(
    "name",
    ["creator_actor_dead", "creator_actor_id", "creator_job_id", "is_detached", "placement_group_id", "state"],
)
def test_the_placement_group_table_has_the_column(name: str) -> None:
    table: Any = private(PLACEMENT_GROUP)
    assert name in table.DESCRIPTOR.fields_by_name, f"PlacementGroupTableData has no {name}"
    assert table.PlacementGroupState.Value("REMOVED") == table.REMOVED


def test_ray_train_makes_its_callbacks_by_the_private_method() -> None:
    from ray.train.v2.torch.torch_trainer import TorchTrainer  # noqa: PLC0415

    assert callable(getattr(TorchTrainer, "_create_default_callbacks", None))


def test_ray_train_tells_its_workers_of_preemption_by_the_private_context() -> None:
    from ray.train.v2._internal.execution.context import TrainContext  # noqa: PLC0415
    from ray.train.v2._internal.execution.preemption import PreemptionContext  # noqa: PLC0415

    assert "preemption_context" in TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None


# ---- without them


@pytest.fixture
def public_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ray_internals, "private", lambda address: None)
    return


@pytest.mark.usefixtures("public_only")
def test_what_is_unused_is_asked_of_the_whole_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_internals.ray, "available_resources", lambda: {"CPU": 3.0})
    assert ray_internals.unused_resources() == [{"CPU": 3.0}]
    assert ray_internals.draining_nodes() == set()


class Callbacks:
    """Stands for TorchTrainer."""

    def _create_default_callbacks(self) -> list[Any]:
        return [1, DatasetsCallback(), "other"]


class DatasetsCallback:
    pass


class Trainer(ray_internals.WithoutHelperProcesses, Callbacks):
    pass


def test_helpers_of_ray_train_are_left_out_where_their_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {STATE: Accessor(), PLACEMENT_GROUP: object(), HELPER_CALLBACKS[0]: DatasetsCallback}
    monkeypatch.setattr(ray_internals, "private", names.get)
    assert Trainer()._create_default_callbacks() == [1, "other"]
    del names[PLACEMENT_GROUP]  # then nobody else removes what a dead controller holds
    assert len(Trainer()._create_default_callbacks()) == 3


class Accessor:
    def _connect_and_get_accessor(self) -> None:
        raise AssertionError


@pytest.mark.usefixtures("public_only")
def test_groups_of_dead_actors_are_left_to_ray_and_preemption_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train  # noqa: PLC0415

    ray_internals.remove_orphaned_placement_groups()
    for info, leaving in ((None, False), (object(), True)):
        monkeypatch.setattr(ray.train, "get_preemption_info", lambda info=info: info, raising=False)
        assert ray_internals.node_is_leaving() is leaving


def test_the_private_context_says_whether_a_node_is_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        class preemption_context:
            preemption_info: object | None = None

    monkeypatch.setattr(ray_internals, "private", {TRAIN_CONTEXT: Context}.get)
    assert ray_internals.node_is_leaving() is False
    Context.preemption_context.preemption_info = object()
    assert ray_internals.node_is_leaving() is True
