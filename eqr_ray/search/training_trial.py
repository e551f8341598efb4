"""One training trial, from where its folder has it to its end, whoever trains it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.search.trial import Status
from eqr_ray.search.trial_dirs import END, Trials, reports_of
from eqr_ray.storage.run_dir import CHECKPOINTS, LOCK, locked
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.experiment import Experiment
from eqr_ray.training.loop import TrainingDiverged

UNLOCK_S = 60.0  # the processes of a driver that was killed take a while to notice
LOOK_EVERY_S = 1.0  # for new reports


class Reporter:
    """Reports what the folder of a trial newly holds, each step once. Called, it does so from time to time, and says
    whether the trial is over, as the folder has it."""

    def __init__(self, trials: Trials, number: int, report: Callable[[dict[str, Any]], None]) -> None:
        self._folder, self._report = trials.folder(number), report
        self._step, self._looked_s = 0, time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self.look()
            self._looked_s = time.monotonic()
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


def run_trial(
    trials: Trials,
    number: int,
    train: Callable[[Experiment, Path, Reporter], object],
    report: Callable[[dict[str, Any]], None],
    free: Mapping[str, Any],
) -> None:
    """Report what the folder holds, then `train` what is left. How it ended is left in the folder: the summary of a
    training, or end.json. Other errors than divergence and a mistake are raised: a retry may help.

    `free`: keys of the experiment that this run of the sweep sets (where the data is, on how many workers).
    """
    folder, plan = trials.folder(number), trials.plan(number)
    assert plan.experiment is not None
    experiment = Experiment.parse({**plan.experiment, **free})
    with _locked_soon(folder):
        reporter = Reporter(trials, number, report)
        reporter.look()
        try:
            train(experiment, folder, reporter)
        except (TrainingDiverged, UserError) as error:
            if trials.read(number).is_over:
                return
            status: Status = "diverged" if isinstance(error, TrainingDiverged) else "failed"
            trials.write_end(number, status, str(error), last_step(folder))


def last_step(folder: Path) -> int:
    """Of the last report that counts; 0 before there is one."""
    reports = reports_of(folder)
    return reports[-1].step if reports else 0


@contextmanager
def _locked_soon(folder: Path) -> Iterator[None]:
    """`locked`, with patience for processes of an earlier run of the sweep that are about to end. One that cannot be
    seen from here (its node is gone) loses its lock after that: a sweep has one driver, which starts a trial once."""
    until_s = time.monotonic() + UNLOCK_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except UserError:
                if time.monotonic() > until_s:
                    (folder / LOCK).unlink(missing_ok=True)
                time.sleep(0.5)
        yield
