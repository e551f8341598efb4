"""When a training starts again, and on how many workers: machines come and go, the global batch stays.

Decisions only; trainer.py acts on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eqr_ray.distributed.resources import (
    Node,
    NotEnoughResources,
    ResourceRequest,
    capacity,
    places,
    share,
    uses_gpus,
)
from eqr_ray.training.experiment import Experiment


def place(
    experiment: Experiment, nodes: Sequence[Node], device: str | None = None, at_most: int | None = None
) -> ResourceRequest:
    """As many workers as the nodes have capacity for, from `workers_min` to `workers`, so that the batch can be dealt
    out evenly. `device`: that of an earlier attempt; `at_most`: fewer, because more were not placed.
    NotEnoughResources: not even the least."""
    use_gpus = uses_gpus(device or experiment.device, nodes)
    least = experiment.least_workers
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


@dataclass
class Patience:
    """How often in a row an attempt may fail without a new checkpoint: then more of the same would not help."""

    max_failures: int
    step: int = -1  # of the newest checkpoint, -1 where there is none: at the beginning, then at the last failure
    failures: int = 0

    def lasts(self, step: int) -> bool:
        """Count a failure with the newest checkpoint at `step`; whether another attempt is allowed."""
        self.failures = 1 if step > self.step else self.failures + 1
        self.step = step
        return self.failures <= self.max_failures
