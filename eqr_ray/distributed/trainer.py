"""A training run on Ray Train's workers: what is asked of the cluster, and what comes back.

run folder    everything that lasts: config, checkpoints, log, model (worker.py writes it; every node must see it)
run folder/ray    Ray Train's own record of one launch, under a name of its own: a name used twice would silently
              continue the older launch. Nothing in it is needed to resume
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from eqr_ray.distributed.cluster import nodes, start_ray
from eqr_ray.distributed.placement import Node, Team, in_words, share, uses_gpus
from eqr_ray.errors import UserError
from eqr_ray.experiment import Experiment
from eqr_ray.strict import to_dict
from eqr_ray.training.loop import TrainingDiverged

UNPLACED = 2  # attempts to place the workers, a minute each, before the run gives up


def place(experiment: Experiment, there: Sequence[Node]) -> Team:
    """The workers on the nodes that are `there`. UserError: fewer GPUs or CPUs than workers; it says what there is."""
    return share(there, experiment.workers, uses_gpus(experiment.device, there), "workers")


def scaling(team: Team) -> ScalingConfig:
    """The team in Ray Train's words."""
    each = {"CPU": team.cpus_each, **({"GPU": team.gpus_each} if team.gpus_each else {})}
    return ScalingConfig(num_workers=team.workers, use_gpu=team.gpus_each > 0, resources_per_worker=each)


def environment(team: Team) -> dict[str, str]:
    """Read by workers before they import anything."""
    return {
        "OMP_NUM_THREADS": str(team.threads),  # workers of one machine must not fight for its cores
        "DS_ACCELERATOR": team.device_type,  # else DeepSpeed guesses, aloud
    }


def train_on_ray(
    experiment: Experiment, folder: Path, callbacks: Sequence[UserCallback] = (), team: Team | None = None
) -> dict[str, Any]:
    """Run to the end, through deaths of workers, and return the summary. `team`: who works; None: all the cluster's.

    UserError: the cluster is too small, or a worker found a mistake. TrainingDiverged: more of the same would not help.
    """
    # What workers have to say comes by log.jsonl and by exceptions; Ray's own actors would fill the screen.
    with start_ray(experiment.address, log_to_driver=False):
        team = team or place(experiment, nodes())
        storage, name = folder.resolve() / "ray", f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "experiment": to_dict(experiment),
                "folder": str(folder.resolve()),
                "threads": 0 if team.gpus_each else team.threads,
            },
            torch_config=TorchConfig(backend="nccl" if team.gpus_each else "gloo"),
            scaling_config=scaling(team),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=FailureConfig(
                    max_failures=experiment.max_failures, controller_failure_limit=UNPLACED - 1
                ),
                callbacks=list(callbacks),
                worker_runtime_env={"env_vars": environment(team)},
            ),
        )
        try:
            with interruptible():
                result: Any = trainer.fit()
        except ControllerError as error:
            each = f"{team.cpus_each:g} CPUs" + (" and a GPU" if team.gpus_each else "")
            raise UserError(
                f"{team.workers} workers with {each} each could not be started in the cluster, "
                f"which has {in_words(nodes())} ({error})"
            ) from error
        except WorkerGroupError as error:
            deaths = f"the workers failed {experiment.max_failures + 1} times"
            raise RuntimeError(f"{deaths}; resume={folder} goes on from the newest checkpoint") from error
    shutil.rmtree(storage, ignore_errors=True)
    return _summary(result.return_value)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block as KeyboardInterrupt.

    Ray Train answers Ctrl-C by `sys.exit(0)` and leaves its handler behind; Ray answers SIGTERM by `sys.exit(15)`, at
    which its own threads abort the process.
    """
    if threading.current_thread() is not threading.main_thread():  # signals do not come here
        yield
        return
    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _work(task: dict[str, Any]) -> dict[str, Any] | None:
    # lazy: DeepSpeed takes seconds and memory to import, and the driver does not need it
    from eqr_ray.distributed.worker import work  # noqa: PLC0415

    return work(task)


def _summary(returned: Any) -> dict[str, Any]:
    assert isinstance(returned, dict)
    if "mistake" in returned:
        raise UserError(returned["mistake"])
    if "diverged" in returned:
        raise TrainingDiverged(returned["diverged"])
    summary: dict[str, Any] = returned["summary"]
    return summary
