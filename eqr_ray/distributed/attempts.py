"""When a training starts again, and on how many workers: machines come and go, the global batch stays.

Why here: a run is a chain of attempts, each on workers that are there at the time and from the newest checkpoint. Ray
Train runs one attempt; what ends it (a death, a node that is taken away, a place for one more worker) decides about the
next. Nothing here starts anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eqr_ray.distributed.resources import Node, NotEnoughResources, ResourceRequest, capacity, places, share, uses_gpus
from eqr_ray.training.experiment import Experiment

LOOK_EVERY_S = 5.0  # at the nodes of the cluster


def place(
    experiment: Experiment, there: Sequence[Node], device: str | None = None, at_most: int | None = None
) -> ResourceRequest:
    """As many workers as the nodes that are `there` have room for, from `workers_min` to `workers`, so that the batch
    can be dealt out evenly. `device`: the one of an earlier attempt; `at_most`: fewer, for more were not placed.
    NotEnoughResources: not even the least; it says what there is."""
    use_gpus = uses_gpus(device or experiment.device, there)
    least = experiment.least_workers
    most = max(min(at_most or experiment.workers, places(there, use_gpus)), least)
    count = next(number for number in range(most, least - 1, -1) if number == least or experiment.can_use(number))
    return share(there, count, use_gpus, "workers" if least == experiment.workers else "workers_min")


def could_grow(experiment: Experiment, team: ResourceRequest, there: Sequence[Node], free: Sequence[Node]) -> bool:
    """Whether another attempt would have more workers than `team`; `free`: what is unused on each node."""
    try:
        wanted = place(experiment, there, team.device_type)
    except NotEnoughResources:
        return False
    return wanted.workers > team.workers and capacity(free, wanted) >= wanted.workers - team.workers


@dataclass
class Patience:
    """How often in a row an attempt may fail without a new checkpoint: then more of the same would not help."""

    max_failures: int
    step: int = -1  # of the newest checkpoint, -1 where there is none: at the beginning, then at the last failure
    failures: int = 0

    def lasts(self, step: int) -> bool:
        """After one more failure, with the newest checkpoint at `step`."""
        self.failures = 1 if step > self.step else self.failures + 1
        self.step = step
        return self.failures <= self.max_failures
