"""What one Ray Train worker does: build its backend, run the loop from the newest checkpoint, hand in the result.

The workers find the newest checkpoint in the run folder themselves, whoever wrote it. A mistake of the user and a loss
that diverged are returned, not raised: Ray would start the workers again, to the same end.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.attempts import StopPoll
from eqr_ray.distributed.deepspeed_backend import DeepSpeedBackend
from eqr_ray.distributed.metrics import RayMetrics
from eqr_ray.distributed.ray_internals import node_is_leaving
from eqr_ray.storage.run_dir import LOCK
from eqr_ray.storage.run_log import RunLog
from eqr_ray.training.backend import collective_call
from eqr_ray.training.experiment import Experiment, begin, build_model, finish, training_job
from eqr_ray.training.loop import TrainingDiverged, train


def work(task: dict[str, Any]) -> dict[str, Any] | None:
    """`task` holds `experiment`, `folder`, `threads`. Returns {"summary": ...} (the first worker), {"ended": the reason
    of a stop request}, or {"mistake" or "diverged": words}."""
    if task["threads"]:
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
        own = folder if first else None
        with RunLog(own, wandb=experiment.wandb, config=experiment.to_dict(), sinks=sinks) as log:
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
        where = socket.gethostname()
        raise UserError(f"out={folder} is not there on {where}: it must be on a disk that all workers share")
