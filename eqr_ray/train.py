"""The command `train`: a dataset in, a trained network out.

Leaves config.json, log.jsonl, checkpoints/, and at the end model.safetensors, model.json and summary.json in `out`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from eqr_ray.config.cli import resumed as merged
from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError, extra
from eqr_ray.data.dataset import PrepareConfig, prepare
from eqr_ray.storage.progress import Progress, duration
from eqr_ray.storage.remote_sync import fetch, mirror_of, mirrored
from eqr_ray.storage.run_dir import CHECKPOINTS, LOG, SUMMARY, RunDir, locked
from eqr_ray.storage.run_log import followed, number
from eqr_ray.tasks import task_named
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.experiment import Experiment, TrainOptions, build_model, describe_data, experiment_of, train_here
from eqr_ray.training.loop import TrainingDiverged
from eqr_ray.training.status import show_entry

DEFAULT_TASK = "sudoku9"


def main(options: TrainOptions, typed: frozenset[str] = frozenset()) -> int:
    """`typed`: the keys that were typed; a resume takes the others from the run."""
    if options.mirror is not None and options.resume is None and options.out is None:
        raise UserError("mirror= needs out=: the folder that is copied")
    folder = _folder_of(options)
    make = partial(begun, options) if options.resume is None else partial(resumed, options, typed)
    url = mirror_of({"mirror": options.mirror}, typed, folder)
    fetch(folder, url)
    try:
        make(folder, check_only=True)  # a mistake leaves nothing behind, and makes no folder look like a run
    except Finished:
        with locked(folder), mirrored(folder, url):  # the copy may lack its end
            raise
    with locked(folder), mirrored(folder, url):
        experiment = make(folder)
        display = Progress(experiment.steps, "steps")
        try:
            with display, followed(folder / LOG, partial(show_entry, display, experiment.steps)):
                summary = run(experiment, folder)
        except TrainingDiverged as error:
            print(f"eqr-train: {error}; try a smaller learning_rate=", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            kept = f"there was no checkpoint yet in {folder}"
            if checkpoints := complete_checkpoints(folder / CHECKPOINTS):
                kept = f"{checkpoints[-1]} is kept, resume={folder} goes on from it"
            raise KeyboardInterrupt(kept) from None
    exact = summary.get("validation_exact")
    words = "" if exact is None else f", {exact:.2%} of the validation puzzles exactly right"
    print(f"{summary['step']:,} steps in {duration(summary['seconds'])}{words}; model in {folder}")
    return 0


def _folder_of(options: TrainOptions) -> Path:
    if options.resume is not None or options.out is not None:
        return Path(options.resume or options.out or "")
    task = options.task or (DEFAULT_TASK if options.data is None else describe_data(Path(options.data), None)[0].name)
    return Path(f"runs/{task}-{time.strftime('%Y%m%d-%H%M%S')}")


def begun(options: TrainOptions, folder: Path, check_only: bool = False) -> Experiment:
    """A new run's experiment; without `data` its puzzles are generated into the folder, if not `check_only`."""
    run_dir = RunDir(folder, "train")
    run_dir.check()
    if run_dir.has_run:
        raise UserError(f"out={folder} holds a run: resume={folder} continues it, another out= starts a new one")
    data = folder / "data" if options.data is None else Path(options.data)
    if options.data is None:
        name = options.task or DEFAULT_TASK
        if check_only:
            return experiment_of(options, task_named(name), data, "")
        print(f"no data= given: generating {name} puzzles", file=sys.stderr)
        prepare(PrepareConfig(task=name, out=str(data)))
    task, data_hash = describe_data(data, options.task)
    experiment = experiment_of(options, task, data, data_hash)
    build_model(experiment)  # weights= may not be there, or not fit
    return experiment


class Finished(UserError):
    """There is nothing left to train."""


def resumed(options: TrainOptions, typed: Collection[str], folder: Path, check_only: bool = False) -> Experiment:
    """The run's own experiment with what was typed over it. UserError: that may not change; Finished: nothing to do."""
    config, summary = RunDir(folder, "train").config(), RunDir(folder, "train").summary()
    experiment = Experiment.parse(merged(TrainOptions, config, options.changes(typed), str(folder)))
    if summary is not None:
        step, seconds = number(summary, "step"), number(summary, "seconds")
        if step is None or seconds is None:
            raise UserError(f"{folder / SUMMARY} is damaged: step or seconds is no number")
        spent = 0 < experiment.minutes * 60 <= seconds
        if step >= experiment.steps or spent:
            done, raised = f"{step:,.0f} steps, {duration(seconds)}", "minutes" if spent else "steps"
            raise Finished(f"resume={folder}: the run is finished ({done}); raise {raised}= to train on")
    return experiment


def run(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Train in this process or on Ray's workers."""
    with interrupt_between_steps() as interrupted:
        if experiment.workers == 0:
            return train_here(experiment, folder, lambda metrics: None, interrupted)
        print(f"starting Ray and {experiment.workers} workers, some 20 s", file=sys.stderr)
        with extra("cluster", f"workers={experiment.workers}"):
            # lazy: Ray and DeepSpeed take seconds to import, and a run in this process needs neither
            from eqr_ray.distributed.trainer import train_on_ray  # noqa: PLC0415

        return train_on_ray(experiment, folder, interrupted=interrupted)


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Yields whether to stop with a checkpoint, after a first Ctrl-C or SIGTERM; a second one ends at once."""
    signals: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        os.write(2, b"\nending with a checkpoint after this step; once more: at once\n")  # print may be busy

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cli() -> NoReturn:
    """`python -m eqr_ray.train`, `eqr-train`."""
    run_command("train", TrainOptions, main)


if __name__ == "__main__":
    cli()
