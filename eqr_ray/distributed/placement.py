"""Who works where: workers divided among the nodes of a cluster, each of them on one node.

Why here: breadth actors and training workers ask for the same things by the same rule. What counts is what a single
node has: 8 + 8 + 8 CPUs are no place for two workers with 12 each. Nothing here knows Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from eqr_ray.errors import UserError

Node = Mapping[str, float]  # what one node has, in Ray's words: {"CPU": 8.0, "GPU": 1.0, ...}


@dataclass(frozen=True)
class Team:
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


def uses_gpus(device: str, nodes: Sequence[Node]) -> bool:
    """`cuda` means GPUs, `auto` where there is one."""
    return device == "cuda" or (device == "auto" and places(nodes, use_gpus=True) > 0)


def places(nodes: Sequence[Node], use_gpus: bool) -> int:
    """Workers at most: one per GPU or per CPU."""
    return sum(int(node.get("GPU" if use_gpus else "CPU", 0)) for node in nodes)


def share(nodes: Sequence[Node], workers: int, use_gpus: bool, key: str = "actors") -> Team:
    """A team of `workers` (at least 1) that fits on these nodes: each with a GPU and the whole CPUs that its node has
    per GPU (none where there are fewer CPUs than GPUs), or with the most whole CPUs of which there are `workers` times
    so many.

    `key` is what the user calls the number. UserError: fewer GPUs or CPUs than workers; it says what is there.
    """
    if workers < 1:
        raise UserError(f"{key}={workers} is not allowed: at least 1, or 0 to work without Ray")
    if workers > places(nodes, use_gpus):
        way_out = f"; device=cpu lets {key} share the CPUs" if use_gpus else ""
        wanted = f"{key}={workers} needs {workers} {'GPU' if use_gpus else 'CPU'}s"
        raise UserError(f"{wanted}; there are {in_words(nodes)}{way_out}")
    if use_gpus:
        gpus = [(node.get("CPU", 0), int(node.get("GPU", 0))) for node in nodes]
        cpus_per_gpu = sorted((int(cpus) // count for cpus, count in gpus for _ in range(count)), reverse=True)
        return Team(workers, float(cpus_per_gpu[workers - 1]), 1.0)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    each = next(c for c in range(max(cpus), 0, -1) if sum(count // c for count in cpus) >= workers)
    return Team(workers, float(each), 0.0)


def in_words(nodes: Sequence[Node]) -> str:
    """What is there: "2 GPUs, 24 CPUs on 3 nodes"."""
    total = ", ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}s" for name in ("GPU", "CPU"))
    return total if len(nodes) == 1 else f"{total} on {len(nodes)} nodes"
