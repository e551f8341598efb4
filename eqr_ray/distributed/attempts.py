"""When a training starts again, on how many workers, and how the running ones are asked to write a checkpoint and end.

The driver asks through a file of the run folder, which all workers see; Ray Train tells a worker that its node is about
to be taken away. A request to one worker is a request to all, since they end together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eqr_ray.distributed.resources import (
    Node,
    NotEnoughResources,
    ResourceRequest,
    capacity,
    places,
    share,
    uses_gpus,
)
from eqr_ray.training.backend import Backend
from eqr_ray.training.experiment import Experiment

STOP, RESTART = "stop", "restart"  # end the run; make room for a start on other workers
REASONS = (STOP, RESTART)
FILE = ".stop_request"
POLL_EVERY_S = 1.0


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


class StopRequest:
    """The driver's side. The file is there, empty, before the workers are: a shared disk is slow to show a new one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._reason = ""

    def clear(self) -> None:
        """A new attempt: nothing is asked of it yet."""
        self._reason = ""
        self._file.write_text("")

    def send(self, reason: str) -> None:
        """Ask, once or more often; STOP is never taken back."""
        if self._reason not in (reason, STOP):
            self._reason = reason
            self._file.write_text(reason)

    def remove(self) -> None:
        """The workers have ended."""
        self._file.unlink(missing_ok=True)


class StopPoll:
    """The workers' side: called after every step, true when they must end; `reason` says why. Collective: costs one
    small sum over the workers. `node_is_leaving`: this worker's node is about to be taken away."""

    reason = ""

    def __init__(self, backend: Backend, folder: Path, node_is_leaving: Callable[[], bool]) -> None:
        self._backend, self._file, self._node_is_leaving = backend, folder / FILE, node_is_leaving
        self._read_s = -POLL_EVERY_S
        self._content = ""

    def __call__(self) -> bool:
        mine = {self._read(), RESTART if self._node_is_leaving() else ""}
        votes = torch.tensor([reason in mine for reason in REASONS], dtype=torch.float32, device=self._backend.device)
        counts = self._backend.sum(votes).tolist()
        self.reason = next((reason for reason, count in zip(REASONS, counts, strict=True) if count), "")
        return bool(self.reason)

    def _read(self) -> str:
        """The content of the file, which the first worker reads at most once in POLL_EVERY_S."""
        if self._backend.rank == 0 and time.monotonic() - self._read_s >= POLL_EVERY_S:
            self._read_s = time.monotonic()
            try:
                self._content = self._file.read_text()
            except OSError:  # the driver has gone
                self._content = ""
        return self._content
