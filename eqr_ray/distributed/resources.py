"""Which resources workers ask for: breadth actors and training workers by the same rule, each worker on one node.

What counts is what a single node has: 8 + 8 + 8 CPUs are no place for two workers with 12 each. Knows no Ray.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from eqr_ray.config.errors import UserError

if TYPE_CHECKING:
    from eqr_ray.training.experiment import Experiment

RAY_PRECISION = 10_000  # Ray counts resources in these parts of one, rounded: 6 x 0.1667 GPUs do not fit on one

Node = Mapping[str, float]  # what one node has, in Ray's words: {"CPU": 8.0, "GPU": 1.0, ...}


class NotEnoughResources(UserError):
    """The nodes have no capacity for the workers; others may come."""


@dataclass(frozen=True)
class ResourceRequest:
    """How many workers, and what each is given of one node."""

    workers: int
    cpus_each: float
    gpus_each: float

    @property
    def device_type(self) -> str:
        return "cuda" if self.gpus_each else "cpu"

    @property
    def threads(self) -> int:
        """For the libraries of a worker, which must not fight with the others of its node for the cores."""
        return max(1, int(self.cpus_each))


def this_machine() -> list[Node]:
    """The one node that this machine is."""
    # macOS has no affinity
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [{"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}]


def describe_nodes(nodes: Sequence[Node]) -> str:
    """What there is: "2 GPUs, 24 CPUs on 3 nodes"."""
    total = ", ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}s" for name in ("GPU", "CPU"))
    return total if len(nodes) == 1 else f"{total} on {len(nodes)} nodes"


def uses_gpus(device: str, nodes: Sequence[Node]) -> bool:
    """`cuda` means GPUs, `auto` where there is one."""
    return device == "cuda" or (device == "auto" and places(nodes, use_gpus=True) > 0)


def places(nodes: Sequence[Node], use_gpus: bool, gpus_each: float = 1.0) -> int:
    """Workers at most: one per CPU, or as many as the GPUs of each node are divided into."""
    each = {"GPU": gpu_share(gpus_each)} if use_gpus else {"CPU": 1.0}
    return sum(_fitting(node, each) for node in nodes)


def capacity(nodes: Sequence[Node], request: ResourceRequest) -> int:
    """How many workers like those of the request fit on these nodes."""
    return sum(_fitting(node, {"CPU": request.cpus_each, "GPU": request.gpus_each}) for node in nodes)


def _fitting(node: Node, each: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0) / amount + 1e-6) for name, amount in each.items() if amount)


def gpu_share(gpus_each: float) -> float:
    """`gpus_each` as Ray can place it, 1/n rounded down. UserError: neither 1, 1/2, 1/3, ... nor 1, 2, 3, ..."""
    if gpus_each >= 1 and gpus_each % 1 == 0:
        return gpus_each
    count = round(1 / gpus_each) if 0 < gpus_each < 1 else 0
    if not (0 < count <= RAY_PRECISION and math.isclose(gpus_each * count, 1.0, rel_tol=0.02)):
        raise UserError(f"gpus_each={gpus_each:g} is not allowed: 1, 1/2, 1/3, ... of a GPU, or whole GPUs")
    return RAY_PRECISION // count / RAY_PRECISION


def share(
    nodes: Sequence[Node], workers: int, use_gpus: bool, key: str = "actors", gpus_each: float = 1.0
) -> ResourceRequest:
    """A request for `workers` (at least 1) that fits on these nodes: each with `gpus_each` GPUs and the whole CPUs that
    its node has per such share (none where there are fewer CPUs than shares), or with the most whole CPUs that fit
    `workers` times. `key` is what the user calls the number. NotEnoughResources: fewer GPUs or CPUs than workers."""
    if workers < 1:
        raise UserError(f"{key}={workers} is not allowed: at least 1, or 0 to work without Ray")
    if workers > places(nodes, use_gpus, gpus_each):
        each, kind = (gpus_each, "GPUs") if use_gpus else (1, "CPUs")
        shares = "" if each == 1 else f", gpus_each={each:g} on one node for each"
        way_out = f"; device=cpu lets {key} share the CPUs" if use_gpus else ""
        words = f"{key}={workers} needs {workers * each:g} {kind}{shares}"
        raise NotEnoughResources(f"{words}; there are {describe_nodes(nodes)}{way_out}")
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if use_gpus:
        gpus = gpu_share(gpus_each)
        counts = [_fitting(node, {"GPU": gpus}) for node in nodes]
        per_share = [own // count for own, count in zip(cpus, counts, strict=True) for _ in range(count)]
        return ResourceRequest(workers, float(sorted(per_share, reverse=True)[workers - 1]), gpus)
    most = next(c for c in range(max(cpus), 0, -1) if sum(own // c for own in cpus) >= workers)
    return ResourceRequest(workers, float(most), 0.0)


def place(
    experiment: Experiment, nodes: Sequence[Node], device: str | None = None, at_most: int | None = None
) -> ResourceRequest:
    """As many training workers as the nodes have capacity for, from `workers_min` to `workers`, so that the batch can
    be dealt out evenly. `device`: that of an earlier attempt; `at_most`: fewer, because more were not placed.
    NotEnoughResources: not even the least."""
    use_gpus, least = uses_gpus(device or experiment.device, nodes), experiment.least_workers
    most = max(min(at_most or experiment.workers, places(nodes, use_gpus)), least)
    count = next(number for number in range(most, least - 1, -1) if number == least or experiment.can_use(number))
    return share(nodes, count, use_gpus, "workers" if least == experiment.workers else "workers_min")


def could_grow(experiment: Experiment, now: ResourceRequest, nodes: Sequence[Node], unused: Sequence[Node]) -> bool:
    """Whether another attempt would have more workers than `now`; `unused`: what is free on each node."""
    try:
        wanted = place(experiment, nodes, now.device_type)
    except NotEnoughResources:
        return False
    return wanted.workers > now.workers and capacity(unused, wanted) >= wanted.workers - now.workers
