"""What one Ray Train worker does: build its engine, run the loop from the newest checkpoint, hand in the result.

Recovery is here and not in Ray: a restarted group of workers finds the run folder's newest complete checkpoint by
itself, which is also what a new driver's workers do. A mistake of the user and a loss that diverged are values, not
exceptions: Ray would start the workers again, to the same end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from eqr_ray.distributed.deepspeed_engine import DeepSpeedEngine
from eqr_ray.errors import UserError
from eqr_ray.experiment import Experiment, build_model, finish, training_job
from eqr_ray.strict import from_dict, to_dict
from eqr_ray.training.loop import TrainingDiverged, TrainingJob, train
from eqr_ray.training.tracking import NoTracker, RunTracker, Tracker


def work(task: dict[str, Any]) -> dict[str, Any] | None:
    """`task` holds `experiment`, `folder`, `threads`. Returns {"summary": ...}, or {"mistake" or "diverged": words}."""
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    experiment, folder = from_dict(Experiment, task["experiment"]), Path(task["folder"])
    first = dist.get_rank() == 0
    tracker: Tracker = RunTracker(folder, experiment.wandb, to_dict(experiment)) if first else NoTracker()
    try:
        with warnings_tracked(tracker):
            return _train(experiment, folder, tracker)
    finally:
        tracker.close()


def _train(experiment: Experiment, folder: Path, tracker: Tracker) -> dict[str, Any] | None:
    try:
        job, mistake = _job(experiment, folder, tracker)
        if job is None:
            return {"mistake": mistake}
        engine = DeepSpeedEngine(
            build_model(experiment), experiment.training, experiment.zero, ray.train.torch.get_device()
        )
        result = train(engine, job)
        return {"summary": finish(experiment, folder, result)} if engine.rank == 0 else None
    except TrainingDiverged as error:  # raised on every worker: it follows from a sum over all of them
        return {"diverged": str(error)}
    except UserError as error:  # likewise: of the configuration and of files that all workers read
        return {"mistake": str(error)}


@contextmanager
def warnings_tracked(tracker: Tracker) -> Iterator[None]:
    """Our own warnings (a damaged checkpoint, no compiler) go into log.jsonl, from where the driver shows them."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: tracker.log("warning", 0, {"message": record.getMessage()})  # type: ignore[method-assign]
    logger = logging.getLogger("eqr_ray")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _job(experiment: Experiment, folder: Path, tracker: Tracker) -> tuple[TrainingJob | None, str]:
    """The job, or None and what is wrong on any worker: one without the data must not leave the others waiting."""
    job, mistake = None, ""
    try:
        job = training_job(experiment, folder, tracker, ray.train.report)
    except UserError as error:
        mistake = str(error)
    mistakes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(mistakes, mistake)
    found = next((words for words in mistakes if words), "")
    return (None if found else job), found
