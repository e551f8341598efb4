"""A training run on Ray Train's workers: what is asked of the cluster, and what comes back.

run folder    everything that lasts: config, checkpoints, log, model (worker.py writes it; every node must see it)
run folder/ray    Ray Train's own record of one launch, under a name of its own: a name used twice would silently
              continue the older launch. Nothing in it is needed to resume
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from eqr_ray.config.errors import Failure, UserError
from eqr_ray.config.strict import to_dict
from eqr_ray.distributed.attempts import LOOK_EVERY_S, Patience, could_grow, place
from eqr_ray.distributed.cluster import (
    free,
    free_what_the_dead_hold,
    is_joined,
    nodes,
    request_nodes,
    start_ray,
    wait_for_nodes,
)
from eqr_ray.distributed.metrics import RayMetrics
from eqr_ray.distributed.resources import NotEnoughResources, ResourceRequest, describe_nodes
from eqr_ray.distributed.stop_request import RESTART, STOP, StopRequest
from eqr_ray.storage.run_dir import CHECKPOINTS
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.experiment import Experiment
from eqr_ray.training.loop import TrainingDiverged

UNPLACED = 2  # times that workers are placed in vain, a minute each, before an attempt has failed
LOST_S = 600.0  # at least so long a run that has begun waits for nodes, where it has too few left
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # Ray Train's own: one more process, of no use on one machine

log = logging.getLogger(__name__)


def scaling(team: ResourceRequest) -> ScalingConfig:
    """The team in Ray Train's words."""
    each = {"CPU": team.cpus_each, **({"GPU": team.gpus_each} if team.gpus_each else {})}
    return ScalingConfig(num_workers=team.workers, use_gpu=team.gpus_each > 0, resources_per_worker=each)


def environment(team: ResourceRequest) -> dict[str, str]:
    """Read by workers before they import anything."""
    return {
        "OMP_NUM_THREADS": str(team.threads),  # workers of one machine must not fight for its cores
        "DS_ACCELERATOR": team.device_type,  # else DeepSpeed guesses, aloud
    }


def train_on_ray(
    experiment: Experiment,
    folder: Path,
    team: ResourceRequest | None = None,
    interrupted: Callable[[], bool] = bool,
) -> dict[str, Any]:
    """Run to the end, through deaths of workers and changes of the cluster, and return the summary.

    `team`: who works; None: as many of the cluster's as the experiment wants. `interrupted`: a wish to end with a
    checkpoint after this step, which ends in a KeyboardInterrupt.
    UserError: the cluster is too small, or a worker found a mistake. TrainingDiverged: more of the same would not help.
    Failure: the workers died too often.
    """
    # What workers have to say comes by log.jsonl and by exceptions; Ray's own actors would fill the screen.
    joined = is_joined(experiment.address)
    with start_ray(experiment.address, log_to_driver=False):
        if joined and team is None:
            os.environ[WATCHER] = "1"
        stop_request, storage = StopRequest(folder), folder.resolve() / "ray"
        try:
            returned = _to_the_end(experiment, folder, storage, team, joined, interrupted, stop_request)
        finally:
            stop_request.remove()
            if joined and team is None:
                with suppress(RayError, OSError, RuntimeError):  # what ended the block counts
                    request_nodes([])
            shutil.rmtree(storage, ignore_errors=True)
    return _summary(returned)


def _to_the_end(
    experiment: Experiment,
    folder: Path,
    storage: Path,
    team: ResourceRequest | None,
    joined: bool,
    interrupted: Callable[[], bool],
    stop_request: StopRequest,
) -> dict[str, Any]:
    """One attempt after the other. Returns what the workers returned at the last."""
    patience, given, device, most = Patience(experiment.max_failures, _newest(folder)), team, None, None
    figures = RayMetrics(folder.name)
    wait_s = experiment.wait_minutes * 60 if joined else 0.0
    while True:
        if interrupted():
            raise KeyboardInterrupt
        if given is None:
            if joined:  # so that an autoscaler brings machines, for as long as fewer are there than wanted
                request_nodes([{"GPU" if "cuda" in (experiment.device, device) else "CPU": 1}] * experiment.workers)
            team = _team(experiment, folder, device, most, wait_s, interrupted)
            device, wait_s = team.device_type, max(wait_s, LOST_S) if joined else 0.0
        assert team is not None
        grown = partial(_could_grow, experiment, team) if given is None and joined else bool
        try:
            returned = _attempt(_trainer(experiment, folder, storage, team), interrupted, grown, stop_request)
        except (ControllerError, WorkerGroupError, RayActorError) as error:
            step, unplaced = _newest(folder), isinstance(error, ControllerError)
            begun = patience.failures > 0 or step > patience.step
            if unplaced and not begun and team.workers == experiment.least_workers:
                raise UserError(f"{_unplaced(team)} ({_reason(error)})") from error
            if not patience.lasts(step):
                words = f"the workers failed {patience.failures} times in a row ({_reason(error)})"
                raise Failure(f"{words}; resume={folder} goes on from the newest checkpoint") from error
            log.warning("%s: starting again from step %d", _reason(error), max(step, 0))
            most = max(team.workers - 1, experiment.least_workers) if unplaced else None
            figures.count("restarts")
            continue
        ended, most = returned.get("ended"), None
        if ended == STOP:
            raise KeyboardInterrupt
        if ended != RESTART:
            return returned
        log.warning("workers come or go: starting again from step %d", _newest(folder))
        figures.count("restarts")


def _team(
    experiment: Experiment,
    folder: Path,
    device: str | None,
    most: int | None,
    wait_s: float,
    interrupted: Callable[[], bool],
) -> ResourceRequest:
    """Who works at the next attempt. Not enough within `wait_s`: NotEnoughResources at the first, then Failure."""
    try:
        return wait_for_nodes(partial(place, experiment, device=device, at_most=most), wait_s, interrupted)
    except NotEnoughResources as error:
        if device is None:
            raise
        raise Failure(f"{error}; resume={folder} goes on from the newest checkpoint") from error


def _attempt(
    trainer: TorchTrainer, interrupted: Callable[[], bool], grown: Callable[[], bool], stop_request: StopRequest
) -> dict[str, Any]:
    """Run Ray Train in a thread of its own, where it leaves signals alone, and watch."""
    stop_request.clear()
    outcome: Future[Any] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    looked_s = time.monotonic()
    while not wait([outcome], timeout=0.2).done:
        if interrupted():
            stop_request.send(STOP)
        elif time.monotonic() - looked_s >= LOOK_EVERY_S:
            looked_s = time.monotonic()
            with _unless_away():
                free_what_the_dead_hold()
                if grown():
                    stop_request.send(RESTART)
    returned = outcome.result().return_value
    assert isinstance(returned, dict)
    return returned


class _LeanTrainer(TorchTrainer):
    """Ray Train without two of its processes: one for data sets that come through Ray, and one that removes what a dead
    controller held. The latter asks the dashboard, and where there is none each run ended ten seconds late;
    `free_what_the_dead_hold` does its work."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        unwanted = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in callbacks if not isinstance(callback, unwanted)]


def _trainer(experiment: Experiment, folder: Path, storage: Path, team: ResourceRequest) -> TorchTrainer:
    return _LeanTrainer(
        _work,
        train_loop_config={
            "experiment": to_dict(experiment),
            "folder": str(folder.resolve()),
            "threads": 0 if team.gpus_each else team.threads,
        },
        torch_config=TorchConfig(backend="nccl" if team.gpus_each else "gloo"),
        scaling_config=scaling(team),
        run_config=RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns()}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=UNPLACED - 1),
            worker_runtime_env={"env_vars": environment(team)},
        ),
    )


def _could_grow(experiment: Experiment, team: ResourceRequest) -> bool:
    return could_grow(experiment, team, nodes(), free())


@contextmanager
def _unless_away() -> Iterator[None]:
    """The head may be busy, or away for a while: then what is asked of it waits for another time."""
    try:
        yield
    except (RayError, OSError, RuntimeError) as error:
        log.info("the cluster does not answer (%s)", error)


def _newest(folder: Path) -> int:
    """The step of the newest checkpoint; -1 where there is none."""
    kept = complete_checkpoints(folder / CHECKPOINTS)
    return int(kept[-1].name) if kept else -1


def _unplaced(team: ResourceRequest) -> str:
    each = f"{team.cpus_each:g} CPUs" + (" and a GPU" if team.gpus_each else "")
    there = describe_nodes(nodes())
    return f"{team.workers} workers with {each} each could not be started in the cluster, which has {there}"


def _reason(error: Exception) -> str:
    """What Ray Train, or a worker, died of. That a worker's process is gone explains what the others say of it."""
    deaths = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for rank, death in sorted(deaths.items(), key=lambda item: not isinstance(item[1], RayActorError)):
        if lines := str(death).strip().splitlines():
            return f"worker {rank}: {lines[0 if isinstance(death, RayActorError) else -1]}"
    return str(error).strip().splitlines()[0]


def _work(task: dict[str, Any]) -> dict[str, Any] | None:
    # lazy: DeepSpeed takes seconds and memory to import, and the driver does not need it
    from eqr_ray.distributed.worker import work  # noqa: PLC0415

    return work(task)


def _summary(returned: dict[str, Any]) -> dict[str, Any]:
    if "mistake" in returned:
        raise UserError(returned["mistake"])
    if "diverged" in returned:
        raise TrainingDiverged(returned["diverged"])
    summary: dict[str, Any] = returned["summary"]
    return summary
