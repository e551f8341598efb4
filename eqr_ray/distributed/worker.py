"""What one Ray Train worker does: run the loop from the newest checkpoint of the run folder, and hand in the result.

Workers end together, after a checkpoint, when the driver asks for it through a file of the run folder, or when Ray
Train tells one of them that its node is about to be taken away.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train.torch
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.cluster import RayMetrics
from eqr_ray.distributed.ray_internals import node_is_leaving
from eqr_ray.storage.run_dir import LOCK
from eqr_ray.storage.run_log import RunLog
from eqr_ray.training.backend import Backend, collective_call
from eqr_ray.training.experiment import Experiment, begin, build_model, finish, training_job
from eqr_ray.training.loop import TrainingDiverged, train

STOP_REQUEST = ".stop_request"  # a file of the run folder, which the first worker reads every POLL_EVERY_S; it holds
STOP, RESTART = "stop", "restart"  # end the run; make room for a start on other workers
POLL_EVERY_S = 1.0


def work(task: dict[str, Any]) -> dict[str, Any] | None:
    """`task` holds `experiment`, `folder`, `threads`. Returns {"summary": ...} (the first worker), {"ended": the reason
    of a stop request}, or {"mistake" or "diverged": words}: raised, they would count as the death of a worker."""
    # lazy: DeepSpeed takes seconds and memory to import, and the driver does not need it
    from eqr_ray.distributed.deepspeed_backend import DeepSpeedBackend  # noqa: PLC0415

    torch.set_num_threads(task["threads"])
    experiment, folder = Experiment.parse(task["experiment"]), Path(task["folder"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # nccl and DeepSpeed take the current one
    backend = DeepSpeedBackend(build_model(experiment), experiment, experiment.zero, device)
    first = backend.rank == 0
    stop_poll = StopPoll(backend, folder, node_is_leaving)
    try:
        collective_call(backend, lambda: check_shared(folder))
        sinks = [RayMetrics(folder.name).show] if first else []
        with RunLog(folder if first else None, wandb=experiment.wandb, config=experiment.to_dict(), sinks=sinks) as log:
            job = collective_call(backend, lambda: training_job(experiment, folder, log, ray.train.report, stop_poll))
            if first:
                begin(experiment, folder)
            result = train(backend, job)
            return {"summary": finish(experiment, folder, result)} if first else None
    # Each of these is raised on every worker: it follows from what all of them know.
    except KeyboardInterrupt:  # after a checkpoint
        if not stop_poll.reason:
            raise
        return {"ended": stop_poll.reason}
    except TrainingDiverged as error:
        return {"diverged": str(error)}
    except UserError as error:
        return {"mistake": str(error)}


def check_shared(folder: Path) -> None:
    """UserError where the driver's folder is not seen from this machine."""
    if not (folder / LOCK).is_file():
        words = "it must be on a disk that all workers share"
        raise UserError(f"out={folder} is not there on {socket.gethostname()}: {words}")


class StopPoll:
    """Called after every step on every worker, true when they must end; `reason` says why. Collective, one small sum: a
    request to one worker is a request to all. `node_is_leaving`: whether this worker's node is."""

    reason = ""

    def __init__(self, backend: Backend, folder: Path, node_is_leaving: Callable[[], bool]) -> None:
        self._backend, self._file, self._node_is_leaving = backend, folder / STOP_REQUEST, node_is_leaving
        self._read_s, self._content = -POLL_EVERY_S, ""

    def __call__(self) -> bool:
        reasons = (STOP, RESTART)
        mine = {self._read(), RESTART if self._node_is_leaving() else ""}
        votes = torch.tensor([reason in mine for reason in reasons], dtype=torch.float32, device=self._backend.device)
        counts = self._backend.sum(votes).tolist()
        self.reason = next((reason for reason, count in zip(reasons, counts, strict=True) if count), "")
        return bool(self.reason)

    def _read(self) -> str:
        if self._backend.rank == 0 and time.monotonic() - self._read_s >= POLL_EVERY_S:
            self._read_s = time.monotonic()
            try:
                self._content = self._file.read_text()
            except OSError:  # the driver has gone
                self._content = ""
        return self._content
