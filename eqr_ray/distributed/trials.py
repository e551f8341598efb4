"""Ray Tune runs the trials of a sweep: it places them, keeps their actors busy and starts again what died.

What is tried, what is given up and what counts is decided in eqr_ray.search, from the sweep's folder. Nothing of Tune's
own state is read again: it may be older than the checkpoints. A trial that goes on after a kill first reports again
what its folder holds.

A trial's actor is taken over by the next trial. With workers=0 it trains itself: starting a group of Ray Train workers
takes 10 to 16 s. With workers it is the driver of such a group, and reports what the folder of the trial comes to hold.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.resources import Node, ResourceRequest, capacity, describe_nodes, gpu_share, uses_gpus
from eqr_ray.distributed.trainer import train_on_ray
from eqr_ray.search.early_stopping import EarlyStopping
from eqr_ray.search.proposals import Queue
from eqr_ray.search.training_trial import Reporter, last_step, run_trial
from eqr_ray.search.trial import Report, Trial
from eqr_ray.search.trial_dirs import Trials
from eqr_ray.training.experiment import Experiment, train_here
from eqr_ray.training.loop import TrainingDiverged

log = logging.getLogger(__name__)

NUMBER = "trial"  # the one entry of a trial's configuration as Tune knows it
ENDING_S = 60  # that a new trial waits for the last one's thread to end in the actor that it takes over; Tune's are 2
DRIVER_MEMORY = 1_000_000.0  # bytes: Tune wants every trial to ask for something, and its workers have the CPUs


def request_of_trial(
    workers: int, cpus_each: int, gpus_each: float, device: str, nodes: Sequence[Node]
) -> ResourceRequest:
    """Who works for one trial: its workers, or the trial itself (workers=0). UserError: no such share."""
    gpus = gpu_share(gpus_each) if uses_gpus(device, nodes) else 0.0
    return ResourceRequest(max(workers, 1), float(cpus_each), gpus)


def trials_at_once(request: ResourceRequest, at_once: int | None, nodes: Sequence[Node]) -> int:
    """How many trials the nodes have room for, `at_once` of them at most. UserError: not even one."""
    fit = capacity(nodes, request) // request.workers
    if fit < 1:
        each = f"{request.cpus_each:g} CPUs" + (f" and {request.gpus_each:g} GPUs" if request.gpus_each else "")
        words = f"a trial of {request.workers} workers with {each} each has no place"
        raise UserError(f"{words}; there are {describe_nodes(nodes)}")
    return fit if at_once is None else min(fit, at_once)


def run_trials(
    queue: Queue,
    early_stopping: EarlyStopping,
    request: ResourceRequest,
    *,
    workers: int,
    at_once: int,
    max_failures: int,
    free: Mapping[str, Any],
    scratch: Path,
    show: Callable[[Trial], None],
) -> None:
    """Run all trials of the queue on the Ray that has been started; `show` hears of every one that is over.

    `free`: see `run_trial`. `scratch`: a folder for Tune's own files, which are of no use afterwards.
    """
    path = queue.trials.path.resolve()

    def trial(config: dict[str, Any]) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(ENDING_S)
        train = _train_with_workers if workers else _train_here
        run_trial(Trials(path), config[NUMBER], partial(train, request=request), tune.report, free)

    each = {"memory": DRIVER_MEMORY} if workers else {"CPU": request.cpus_each, "GPU": request.gpus_each}
    searcher = _Searcher(queue, show, max_failures)
    tuner = tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([each])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_Scheduler(queue.trials, early_stopping, by_itself=workers > 0),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=str(scratch.resolve()),
            failure_config=tune.FailureConfig(max_failures=0),  # see _Searcher
            callbacks=[_TakeBack(searcher)],
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses its own files of metrics, which are not wanted
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it sums up by its own count what failed
    with _interruptible():
        tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block as KeyboardInterrupt.

    Ray answers SIGTERM by `sys.exit(15)`, at which its own threads abort the process.
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


def _name(trial: TuneTrial) -> str:
    return f"{trial.config[NUMBER]:05d}-{trial.trial_id}"


def _train_here(experiment: Experiment, folder: Path, reporter: Reporter, request: ResourceRequest) -> None:
    torch.set_num_threads(request.threads)
    train_here(experiment, folder, tune.report)


def _train_with_workers(experiment: Experiment, folder: Path, reporter: Reporter, request: ResourceRequest) -> None:
    """Train on Ray Train's workers, who report by the folder and end when that says so.

    Why not Ray's own way, TuneReportCallback and an exception out of a report: once Tune has ended a trial, nobody
    empties the callback's queue, on which Ray Train's controller waits, and its workers keep their places.
    """
    try:
        train_on_ray(experiment, folder, request, interrupted=reporter)
    except KeyboardInterrupt:  # the trial is over, and the workers have ended
        return
    except (TrainingDiverged, UserError):
        reporter.look()
        raise
    reporter.look()


class _Searcher(Searcher):
    """The queue, as Tune asks for it. A trial whose process died comes back to it, and is a new one to Tune.

    Tune's own restarts lose trials: if a node goes, each call that was under way to an actor of it fails, and the
    second failure finds the trial waiting for its restart, which Tune takes for its end, whatever `max_failures` says.
    """

    def __init__(self, queue: Queue, show: Callable[[Trial], None], max_failures: int) -> None:
        super().__init__()
        self._queue, self._show, self._max_failures = queue, show, max_failures
        self._at_once = 1  # until Tune says
        self._running: dict[str, int] = {}
        self._died: Counter[int] = Counter()

    def suggest(self, trial_id: str) -> Any:
        if len(self._running) >= self._at_once:
            return None
        number = self._queue.next()
        if number is None:  # one that runs may come back
            return None if self._running else str(Searcher.FINISHED)
        self._running[trial_id] = number
        return {NUMBER: number}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        number = self._running.pop(trial_id)
        trials = self._queue.trials
        if not trials.read(number).is_over:
            self._died[number] += error
            if error and self._died[number] <= self._max_failures:
                log.warning("trial %d: its process died; starting it again", number)
                self._queue.again(number)
                return
            reason = "its process died too often" if error else "it ended without a word"
            trials.write_end(number, "failed", reason, last_step(trials.folder(number)))
        self._show(self._queue.over(number))

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self._at_once = max_concurrent
        return True  # and nobody else counts

    def take_back(self, trial_ids: Iterable[str]) -> None:
        """These have not begun, if they still count as running."""
        for trial_id in self._running.keys() & set(trial_ids):
            self._queue.again(self._running.pop(trial_id))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it, and nothing reads that again: the queue knows an open log and a running Ray

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("")  # the folder of the sweep is its state

    def restore(self, checkpoint_path: str) -> None:
        return


class _TakeBack(tune.Callback):
    """A trial that could not take over an actor has an error, and Tune tells neither searcher nor scheduler."""

    def __init__(self, searcher: _Searcher) -> None:
        self._searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **_: Any) -> None:
        self._searcher.take_back(trial.trial_id for trial in trials if trial.status == TuneTrial.ERROR)


class _Scheduler(FIFOScheduler):
    """Early stopping, as Tune asks for it. `by_itself`: a trial finds its end in its folder, and Tune need not end
    it."""

    _supports_buffered_results = False  # every report is looked at as it comes

    def __init__(self, trials: Trials, early_stopping: EarlyStopping, by_itself: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trials, self._early_stopping, self._by_itself = trials, early_stopping, by_itself
        self._ended: set[int] = set()

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        number = trial.config[NUMBER]
        if result.get("done") or "step" not in result or number in self._ended:
            return str(TrialScheduler.CONTINUE)
        end = self._early_stopping.hear(number, Report(result["step"], time.time(), result))
        if end is None:
            return str(TrialScheduler.CONTINUE)
        self._ended.add(number)
        self._trials.write_end(number, *end, result["step"])
        return str(TrialScheduler.CONTINUE if self._by_itself else TrialScheduler.STOP)
