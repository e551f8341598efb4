"""What is used of Ray that is not public: the one file to open when another release of Ray breaks something.

Where a release lacks a name, a public call takes its place, or the work is left undone where no public call does it.
tests/distributed/test_ray_internals.py fails by the name that has gone. Ray Train is imported by those who use it only.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any

import ray
from ray import ActorID, PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from eqr_ray.distributed.resources import Node

STATE = "ray._private.state:state"
PLACEMENT_GROUP = "ray.core.generated.gcs_pb2:PlacementGroupTableData"
TRAIN_CONTEXT = "ray.train.v2._internal.execution.context:get_train_context"
HELPER_CALLBACKS = (
    "ray.train.v2._internal.callbacks.datasets:DatasetsCallback",
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
)
TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"  # warns at every start that tokens are on

log = logging.getLogger(__name__)


@cache
def private(address: str) -> Any | None:
    """The object at "module:name"; None where this Ray has no such thing."""
    module, _, name = address.partition(":")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def draining_nodes() -> set[str]:
    """Ids of nodes that will be taken away soon. Without the private state: none is known."""
    get_draining_nodes = getattr(private(STATE), "get_draining_nodes", dict)
    return set(get_draining_nodes())


def unused_resources() -> list[Node]:
    """What is unused on each node. Without the private state: on all of them together, as if they were one."""
    per_node = getattr(private(STATE), "available_resources_per_node", None)
    return list(per_node().values()) if per_node else [ray.available_resources()]  # type: ignore[no-untyped-call]


def remove_orphaned_placement_groups() -> None:
    """Remove the placement groups of this job's actors that have died, such as Ray Train's controller. Ray keeps them
    until the job ends; Ray Train's own helper for it asks the dashboard, which may not be there."""
    if not _can_remove_groups():
        return
    state: Any = private(STATE)
    Group: Any = private(PLACEMENT_GROUP)
    job = ray.get_runtime_context().get_job_id()
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = Group.FromString(entry)
        # a driver's group has no actor as its creator
        is_orphan = group.creator_actor_dead and not ActorID(group.creator_actor_id).is_nil()
        is_there = group.state != Group.REMOVED and not group.is_detached
        if is_orphan and is_there and group.creator_job_id.hex() == job:
            log.info("removing placement group %s of a dead actor", group.placement_group_id.hex())
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _can_remove_groups() -> bool:
    return private(PLACEMENT_GROUP) is not None and hasattr(private(STATE), "_connect_and_get_accessor")


class WithoutHelperProcesses:
    """Mixin for TorchTrainer: without the process for data sets that come through Ray, and the one that removes what a
    dead controller held. The latter asks the dashboard, and where there is none each run ended ten seconds late;
    `remove_orphaned_placement_groups` does its work."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        unwanted = [private(address) for address in HELPER_CALLBACKS] if _can_remove_groups() else []
        return [callback for callback in callbacks if type(callback) not in unwanted]


def node_is_leaving() -> bool:
    """Whether Ray Train has told this worker that a node is about to be taken away. Call it on all workers."""
    context: Any = private(TRAIN_CONTEXT)
    preemption = getattr(context(), "preemption_context", None) if context else None
    if preemption is not None:
        return preemption.preemption_info is not None
    # public, but too slow for every step: it asks all workers through an actor
    get_preemption_info: Any = importlib.import_module("ray.train").get_preemption_info
    return get_preemption_info() is not None
