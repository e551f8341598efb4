"""How the driver and the cluster ask the workers of a training to write a checkpoint and end.

The driver asks through a file of the run folder, which all workers see; Ray Train tells a worker that its node is about
to be taken away. A request to one worker is a request to all, since they end together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from eqr_ray.training.backend import Backend

STOP, RESTART = "stop", "restart"  # end the run; make room for a start on other workers
REASONS = (STOP, RESTART)
FILE = ".stop_request"
POLL_EVERY_S = 1.0


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
