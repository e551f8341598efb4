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
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from eqr_ray.distributed.cluster import nodes, start_ray
from eqr_ray.distributed.resources import ResourceRequest, capacity, describe_nodes, gpu_share, this_machine, uses_gpus
from eqr_ray.distributed.trainer import train_on_ray
from eqr_ray.search.decisions import EarlyStopping
from eqr_ray.search.study import SweepConfig
from eqr_ray.search.trials import END, Queue, Report, Status, Trial, Trials, reports_of
from eqr_ray.storage.run_dir import CHECKPOINTS, LOCK, locked
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.experiment import Experiment, train_here
from eqr_ray.training.loop import TrainingDiverged

log = logging.getLogger(__name__)

NUMBER = "trial"  # the one entry of a trial's configuration as Tune knows it
ENDING_S = 60  # that a new trial waits for the last one's thread to end in the actor that it takes over; Tune's are 2
DRIVER_MEMORY = 1_000_000.0  # bytes: Tune wants every trial to ask for something, and its workers have the CPUs
UNLOCK_S = 60.0  # the processes of a driver that was killed take a while to notice

Tell = Callable[[dict[str, Any]], None]  # metrics of a trial, with its step


class Reporter:
    """Reports what the folder of a trial newly holds, each step once. Called, it says whether the trial is over too, as
    the folder has it."""

    def __init__(self, folder: Path, report: Tell) -> None:
        self._folder, self._report, self._step = folder, report, 0

    def __call__(self) -> bool:
        self.look()
        return (self._folder / END).is_file()

    def look(self) -> None:
        """Report now what is new."""
        checkpoints = complete_checkpoints(self._folder / CHECKPOINTS)
        if not checkpoints or int(checkpoints[-1].name) <= self._step:  # no metric counts beyond it
            return
        for one in reports_of(self._folder):
            if one.step > self._step:
                self._step = one.step
                self._report({**one.metrics, "step": one.step})


Train = Callable[[Experiment, Path, Reporter], object]


def run_trial(trials: Trials, number: int, train: Train, report: Tell, free: Mapping[str, Any]) -> None:
    """Report what the folder holds, then `train` what is left. How it ended is left in the folder: the summary of a
    training, or end.json. Other errors than divergence and a mistake are raised: a retry may help.

    `free`: keys of the experiment that this run of the sweep sets (where the data is, on how many workers).
    """
    folder, plan = trials.folder(number), trials.plan(number)
    assert plan.experiment is not None
    experiment = Experiment.parse({**plan.experiment, **free})
    with ExitStack() as stack:
        _lock(folder, stack)
        reporter = Reporter(folder, report)
        reporter.look()
        try:
            train(experiment, folder, reporter)
        except (TrainingDiverged, UserError) as error:
            status: Status = "diverged" if isinstance(error, TrainingDiverged) else "failed"
            if not trials.read(number).is_over:
                trials.write_end(number, status, str(error))


def _lock(folder: Path, stack: ExitStack) -> None:
    """`locked`, with patience for processes of an earlier run of the sweep that are about to end. One that cannot be
    seen from here (its node is gone) loses its lock after that: a sweep has one driver, which starts a trial once."""
    until_s = time.monotonic() + UNLOCK_S
    while True:
        try:
            return stack.enter_context(locked(folder))
        except UserError:
            if time.monotonic() > until_s:
                (folder / LOCK).unlink(missing_ok=True)
            time.sleep(0.5)


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


def capacity_for_trials(config: SweepConfig, nodes: Sequence[Mapping[str, float]]) -> tuple[ResourceRequest, int]:
    """(who works for one trial: its workers, or the trial itself; how many trials side by side the nodes have room for,
    `at_once` at most). UserError: no such share of a GPU, or no room for one."""
    gpus = gpu_share(config.gpus_each) if uses_gpus(config.device, nodes) else 0.0
    request = ResourceRequest(max(config.workers, 1), float(config.cpus_each), gpus)
    fit = capacity(nodes, request) // request.workers
    if fit < 1:
        each = f"{request.cpus_each:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        words = f"a trial of {request.workers} workers with {each} each has no place"
        raise UserError(f"{words}; there are {describe_nodes(nodes)}")
    return request, min(fit, config.at_once or fit)


class TrialRunner:
    """Runs all trials of a queue: on a cluster that is joined at once, else on a Ray that is started here when it is
    first needed and ends with `stack`. UserError: a trial is too large for the machine."""

    def __init__(self, config: SweepConfig, stack: ExitStack) -> None:
        self._config, self._stack = config, stack
        self._address = config.address or os.environ.get("RAY_ADDRESS")
        if self._address:
            stack.enter_context(start_ray(self._address, log_to_driver=False))
        self._nodes = nodes() if self._address else this_machine()
        self._request, self._at_once = capacity_for_trials(config, self._nodes)

    def __call__(self, queue: Queue, early_stopping: EarlyStopping) -> None:
        if queue.is_empty:
            return
        if not self._address:
            cpus, gpus = int(self._nodes[0]["CPU"]), int(self._nodes[0]["GPU"])
            self._stack.enter_context(start_ray(None, num_cpus=cpus, num_gpus=gpus, log_to_driver=False))
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses its own files of metrics: nobody wants them
        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it sums up by its own count what failed
        scratch = self._config.folder / "ray"  # Tune's own files, which are of no use afterwards
        with _interruptible():
            self._tuner(queue, early_stopping, scratch).fit()
        shutil.rmtree(scratch, ignore_errors=True)

    def _tuner(self, queue: Queue, early_stopping: EarlyStopping, scratch: Path) -> tune.Tuner:
        config, request, path = self._config, self._request, queue.trials.path.resolve()
        train = partial(_train_with_workers if config.workers else _train_here, request=request)
        free = {"data": str(config.data_folder.resolve()), **config.shared}

        def trial(tuned: dict[str, Any]) -> None:
            os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(ENDING_S)
            run_trial(Trials(path), tuned[NUMBER], train, tune.report, free)

        each = {"memory": DRIVER_MEMORY} if config.workers else {"CPU": request.cpus_each, "GPU": request.gpus_each}
        searcher = _Searcher(queue, config.max_failures, partial(_show, queue))
        return tune.Tuner(
            tune.with_resources(trial, tune.PlacementGroupFactory([each])),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(queue.trials, early_stopping, by_itself=config.workers > 0),
                num_samples=-1,
                max_concurrent_trials=self._at_once,
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


def _show(queue: Queue, trial: Trial) -> None:
    """A line about a trial that is over."""
    over = sum(one.is_over for one in queue.history.values())
    exact = trial.metrics.get("validation_exact")
    words = "" if exact is None else f", validation_exact {exact:.2%}"
    words += f": {trial.reason}" if trial.reason else ""
    print(f"{over} over; {trial.number} {trial.status} at step {trial.step:,}{words}", file=sys.stderr, flush=True)


def _name(trial: TuneTrial) -> str:
    return f"{trial.config[NUMBER]:05d}-{trial.trial_id}"


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block as KeyboardInterrupt: at Ray's `sys.exit(15)` its threads abort the process."""
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


class _Searcher(Searcher):
    """The queue, as Tune asks for it. A trial whose process died comes back to it, and is a new one to Tune.

    Tune's own restarts lose trials: if a node goes, each call that was under way to an actor of it fails, and the
    second failure finds the trial waiting for its restart, which Tune takes for its end, whatever `max_failures` says.
    """

    def __init__(self, queue: Queue, max_failures: int, show: Callable[[Trial], None]) -> None:
        super().__init__()
        self._queue, self._max_failures, self._show = queue, max_failures, show
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
        if not self._queue.trials.read(number).is_over:
            self._died[number] += error
            if error and self._died[number] <= self._max_failures:
                log.warning("trial %d: its process died; starting it again", number)
                self._queue.again(number)
                return
            reason = "its process died too often" if error else "it ended without a word"
            self._queue.trials.write_end(number, "failed", reason)
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
    """Early stopping, as Tune asks for it. `by_itself`: a trial finds its end in its folder, Tune need not end it."""

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
