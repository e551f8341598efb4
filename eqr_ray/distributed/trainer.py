"""A training run on Ray Train's workers, through deaths of workers and changes of the cluster.

A run is a chain of attempts, each from the newest checkpoint and on the workers that the cluster has capacity for. Ray
Train runs one attempt. Its own files lie in `ray/` of the run folder, under a new name for every attempt (a name used
twice would silently continue the older one); nothing in them is needed to resume.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from eqr_ray.config.errors import Failure, UserError
from eqr_ray.distributed.cluster import RayMetrics, is_joined, nodes, request_nodes, start_ray, wait_for_nodes
from eqr_ray.distributed.ray_internals import (
    WithoutHelperProcesses,
    remove_orphaned_placement_groups,
    unused_resources,
)
from eqr_ray.distributed.resources import NotEnoughResources, ResourceRequest, could_grow, describe_nodes, place
from eqr_ray.distributed.worker import RESTART, STOP, STOP_REQUEST, work
from eqr_ray.storage.run_dir import CHECKPOINTS
from eqr_ray.storage.run_log import RunLog
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.experiment import Experiment
from eqr_ray.training.loop import TrainingDiverged

PLACEMENTS = 2  # times that workers are placed in vain, a minute each, before an attempt has failed
LOST_NODES_WAIT_S = 600.0  # at least so long a run that has begun waits for nodes, where too few are left
LOOK_EVERY_S = 5.0  # at the nodes of the cluster
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # Ray Train's own: one more process, of no use on one machine

log = logging.getLogger(__name__)


def train_on_ray(
    experiment: Experiment,
    folder: Path,
    request: ResourceRequest | None = None,
    interrupted: Callable[[], bool] = bool,
) -> dict[str, Any]:
    """Run to the end and return the summary.

    `request`: the workers; None: as many of the cluster's as the experiment wants. `interrupted`: whether to end with a
    checkpoint after this step, which ends in a KeyboardInterrupt.
    UserError: the cluster is too small, or a worker found a mistake. TrainingDiverged: more of the same would not help.
    Failure: the workers died too often.
    """
    elastic = request is None and is_joined(experiment.address)
    # Workers speak through log.jsonl and exceptions; Ray's own actors would fill the screen.
    with RunLog(folder), start_ray(experiment.address, log_to_driver=False):
        if elastic:
            os.environ[WATCHER] = "1"
        attempts = _Attempts(experiment, folder, request, elastic, interrupted)
        try:
            return attempts.to_the_end()
        finally:
            attempts.clean_up()


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


@dataclass
class _Attempts:
    """The attempts of one run, one after the other. `elastic`: the cluster's nodes come and go."""

    experiment: Experiment
    folder: Path
    fixed_request: ResourceRequest | None
    elastic: bool
    interrupted: Callable[[], bool]
    asked: str = ""  # of the workers that run
    device: str | None = None  # of the earlier attempts
    at_most: int | None = None  # workers, where more could not be placed

    def __post_init__(self) -> None:
        self.patience = Patience(self.experiment.max_failures, self._newest_step())
        self.metrics = RayMetrics(self.folder.name)
        self.wait_s = self.experiment.wait_minutes * 60 if self.elastic else 0.0  # for nodes
        self.stop_request, self.ray_files = self.folder / STOP_REQUEST, self.folder.resolve() / "ray"

    def to_the_end(self) -> dict[str, Any]:
        """The summary that the first worker of the last attempt returned; errors: see `train_on_ray`."""
        while True:
            if self.interrupted():
                raise KeyboardInterrupt
            request = self.fixed_request or self._place()
            try:
                result = self._attempt(request)
            except (TrainingFailedError, RayActorError) as error:
                reason = self._why_again(error, request)
            else:
                if "summary" in result:
                    return dict(result["summary"])
                if "mistake" in result:
                    raise UserError(result["mistake"])
                if "diverged" in result:
                    raise TrainingDiverged(result["diverged"])
                if result["ended"] == STOP:
                    raise KeyboardInterrupt
                self.at_most, reason = None, "workers come or go"
            log.warning("%s: starting again from step %d", reason, max(self._newest_step(), 0))
            self.metrics.count("restarts")

    def clean_up(self) -> None:
        """Leave no request and no file of Ray's behind."""
        self.stop_request.unlink(missing_ok=True)
        if self.elastic:
            with suppress(RayError, OSError, RuntimeError):  # the error that ended the run counts
                request_nodes(0)
        shutil.rmtree(self.ray_files, ignore_errors=True)

    def _place(self) -> ResourceRequest:
        """Who works at the next attempt. Not enough in time: NotEnoughResources at the first, then Failure."""
        experiment = self.experiment
        if self.elastic:  # so that an autoscaler brings machines, for as long as fewer are there than wanted
            request_nodes(experiment.workers, gpus="cuda" in (experiment.device, self.device))
        choose = partial(place, experiment, device=self.device, at_most=self.at_most)
        try:
            request = wait_for_nodes(choose, self.wait_s, self.interrupted)
        except NotEnoughResources as error:
            if self.device is None:
                raise
            raise Failure(f"{error}; {self._way_on()}") from error
        self.device = request.device_type
        self.wait_s = max(self.wait_s, LOST_NODES_WAIT_S) if self.elastic else 0.0
        return request

    def _attempt(self, request: ResourceRequest) -> dict[str, Any]:
        """Run Ray Train in a thread, where it leaves signals alone, and watch for reasons to end it."""
        trainer = ray_trainer(self.experiment, self.folder, self.ray_files, request)
        self.asked = ""
        self.stop_request.write_text("")  # there before the workers are: a shared disk is slow to show a new file
        outcome: Future[Any] = Future()

        def fit() -> None:
            try:
                outcome.set_result(trainer.fit())
            except BaseException as error:  # noqa: BLE001 - raised below
                outcome.set_exception(error)

        threading.Thread(target=fit, daemon=True).start()
        looked_s = time.monotonic()
        while not wait([outcome], timeout=0.2).done:
            if self.interrupted():
                self._ask(STOP)
            elif time.monotonic() - looked_s >= LOOK_EVERY_S:
                looked_s = time.monotonic()
                self._look_at_cluster(request)
        result: dict[str, Any] = outcome.result().return_value
        return result

    def _ask(self, reason: str) -> None:
        """Ask the workers to end, once or more often; STOP is never taken back."""
        if self.asked not in (reason, STOP):
            self.asked = reason
            self.stop_request.write_text(reason)

    def _look_at_cluster(self, request: ResourceRequest) -> None:
        try:
            remove_orphaned_placement_groups()
            if self.elastic and could_grow(self.experiment, request, nodes(), unused_resources()):
                self._ask(RESTART)
        except (RayError, OSError, RuntimeError) as error:  # the head is busy, or away for a while
            log.info("the cluster does not answer (%s)", error)

    def _why_again(self, error: Exception, request: ResourceRequest) -> str:
        """Why the attempt failed. UserError or Failure: another one would not help."""
        step, not_placed, reason = self._newest_step(), isinstance(error, ControllerError), cause(error)
        has_begun = self.patience.failures > 0 or step > self.patience.step
        least = self.experiment.least_workers
        if not_placed and not has_begun and request.workers == least:
            each = f"{request.cpus_each:g} CPUs" + (" and a GPU" if request.gpus_each else "")
            words = f"{request.workers} workers with {each} each could not be started in the cluster"
            raise UserError(f"{words}, which has {describe_nodes(nodes())} ({reason})") from error
        if not self.patience.lasts(step):
            words = f"the workers failed {self.patience.failures} times in a row ({reason})"
            raise Failure(f"{words}; {self._way_on()}") from error
        self.at_most = max(request.workers - 1, least) if not_placed else None
        return reason

    def _newest_step(self) -> int:
        """The step of the newest checkpoint; -1 where there is none."""
        checkpoints = complete_checkpoints(self.folder / CHECKPOINTS)
        return int(checkpoints[-1].name) if checkpoints else -1

    def _way_on(self) -> str:
        return f"resume={self.folder} goes on from the newest checkpoint"


def cause(error: Exception) -> str:
    """What Ray Train, or a worker, died of. That a worker's process is gone explains what the others say of it."""
    deaths = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for rank, death in sorted(deaths.items(), key=lambda item: not isinstance(item[1], RayActorError)):
        if lines := str(death).strip().splitlines():
            return f"worker {rank}: {lines[0 if isinstance(death, RayActorError) else -1]}"
    return str(error).strip().splitlines()[0]


class _Trainer(WithoutHelperProcesses, TorchTrainer):
    """Ray Train without the processes that this package does not use."""


def ray_trainer(experiment: Experiment, folder: Path, ray_files: Path, request: ResourceRequest) -> TorchTrainer:
    """Ray Train for one attempt, which ends at the first loss of a worker: the next one may have other workers."""
    task = {"experiment": experiment.to_dict(), "folder": str(folder.resolve()), "threads": request.threads}
    use_gpu = request.gpus_each > 0
    each = {"CPU": request.cpus_each, **({"GPU": request.gpus_each} if use_gpu else {})}
    environment = {  # read by workers before they import anything
        "OMP_NUM_THREADS": str(request.threads),  # workers of one machine must not fight for its cores
        "DS_ACCELERATOR": request.device_type,  # else DeepSpeed guesses, aloud
    }
    return _Trainer(
        work,
        train_loop_config=task,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=request.workers, use_gpu=use_gpu, resources_per_worker=each),
        run_config=RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns()}",
            storage_path=str(ray_files),
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=PLACEMENTS - 1
            ),
            worker_runtime_env={"env_vars": environment},
        ),
    )
