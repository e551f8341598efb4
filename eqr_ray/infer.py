"""The door `infer`: puzzles in, answers with their residuals out.

    python -m eqr_ray.infer checkpoint=zoo:sudoku9 data=mine.csv depth=64 breadth=16
    python -m eqr_ray.infer checkpoint=runs/sudoku6 data=data/sudoku6/test.arrow snapshots=[1,4,16] actors=2

Leaves records/, answers.parquet, answers.csv, config.json, manifest.json, summary.json and log.jsonl in `out`. The same
command again continues an interrupted run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from eqr_ray.distributed.actors import Actors
from eqr_ray.distributed.cluster import ask_for, in_time, start_ray
from eqr_ray.distributed.metrics import Figures
from eqr_ray.distributed.placement import (
    Node,
    Team,
    TooFew,
    gpu_share,
    in_words,
    places,
    share,
    this_machine,
    uses_gpus,
)
from eqr_ray.door import run_door
from eqr_ray.inference.engine import Engine, Report, run_units
from eqr_ray.inference.folder import MANIFEST
from eqr_ray.inference.job import InferConfig, Job, begin, carry_out, finish, prepare, started
from eqr_ray.inference.placement import device_named
from eqr_ray.inference.scores import TOP
from eqr_ray.inference.work import Unit
from eqr_ray.mirror import fetch, mirrored
from eqr_ray.strict import from_dict
from eqr_ray.training.run_folder import locked
from eqr_ray.warned import warnings_told

SHOW_EVERY_S = 0.5  # on a terminal; elsewhere a line every 30 s
SHOW_EVERY_ELSEWHERE_S = 30.0


class ProgressLine:
    """Rewrites one line of stderr on a terminal; prints a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every_s = SHOW_EVERY_S if self._terminal else SHOW_EVERY_ELSEWHERE_S
        self._shown_s = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._shown_s >= self._every_s:
            self._shown_s = time.monotonic()
            print(f"\r{line}\x1b[K" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()

    def warn(self, words: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[Kwarning: {words}" if self._terminal else f"warning: {words}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def team_of(config: InferConfig, there: Sequence[Node], joined: bool) -> Team | None:
    """Who works: a team of actors, or None for this process."""
    gpu_share(config.gpus_each)
    use_gpus, actors = uses_gpus(config.device, there), config.actors
    if actors is None:
        most = places(there, use_gpus, config.gpus_each)
        if joined and most == 0:
            raise TooFew(f"the cluster has no place for an actor; there are {in_words(there)}; actors=0 works here")
        actors = most if joined or (use_gpus and most > 1) else 0
    return share(there, actors, use_gpus, gpus_each=config.gpus_each) if actors else None


def work(job: Job, team: Team | None, joined: bool) -> None:
    """Run what is missing, on actors or here; nothing is started where nothing is missing."""
    progress, line = started(job), ProgressLine()
    run: Run | None = None
    figures: Figures | None = None

    def show(words: str) -> None:
        line(words)
        if figures is not None:
            figures.show(progress.measures())

    def warn(words: str) -> None:
        job.folder.log("warning", message=words)
        line.warn(words)

    with ExitStack() as stack:
        stack.enter_context(warnings_told(warn))
        stack.callback(line.close)
        for _, inputs in job.stages():
            missing = job.folder.missing()
            if missing:
                if run is None:
                    run, figures = stack.enter_context(runner(job, team, joined))
                carry_out(job, run(missing, inputs), progress, show)


Run = Callable[[Sequence[Unit], npt.NDArray[np.uint8]], Iterator[Report]]


@contextmanager
def runner(job: Job, team: Team | None, joined: bool) -> Iterator[tuple[Run, Figures | None]]:
    """Who runs units: an engine in this process, or a team of actors, for which Ray is started if none was joined; and
    where Ray shows figures."""
    if team is None:
        engine = Engine(job.factory(), job.settings, job.slots)
        yield lambda units, inputs: run_units(engine, units, inputs), None
        return
    with ExitStack() as stack:
        if not joined:
            here = this_machine()[0]
            gpus = int(here["GPU"]) if team.gpus_each else 0
            stack.enter_context(start_ray(num_cpus=int(here["CPU"]), num_gpus=gpus))
        elastic = joined and job.config.actors is None
        figures = Figures(job.folder.path.name)
        yield stack.enter_context(Actors(team, job.factory, job.settings, job.slots, elastic, figures)).run, figures


def run(values: dict[str, Any]) -> None:
    """The door: answer and print the figures."""
    summary, folder = answer(from_dict(InferConfig, values))
    show(summary, str(folder))


def answer(config: InferConfig, check: Callable[[Job], None] | None = None) -> tuple[dict[str, Any], Path]:
    """Check everything, run what is missing, write the tables. Returns the summary and the folder. `check` may refuse
    the job before anything is made."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        if config.out is not None:
            fetch(Path(config.out), config.mirror, MANIFEST)
        joined = address is not None and config.actors != 0
        if joined:
            stack.enter_context(start_ray(address))
            if config.wait_minutes:  # so that an autoscaler brings machines
                ask_for([{"GPU" if config.device == "cuda" else "CPU": 1}] * (config.actors or 1))
                stack.callback(ask_for, [])
            team = in_time(lambda there: team_of(config, there, joined), config.wait_minutes * 60)
        else:
            team = team_of(config, this_machine(), joined)
        job = prepare(config, device_named(config.device).type if team is None else team.device_type)
        if check is not None:
            check(job)
        stack.enter_context(locked(job.folder.path))
        begin(job)
        stack.enter_context(mirrored(job.folder.path, config.mirror, MANIFEST))
        work(job, team, joined)
        return finish(job, team.workers if team else 0), job.folder.path


def show(summary: dict[str, Any], out: str) -> None:
    """The figures as tables, and where the files are."""
    console = Console()
    grid = Table(
        "depth", "breadth", "exact", "95 % interval (%)", "residual", "settled", "segments", title=summary["task"]
    )
    for cell in summary["table"]:
        interval = (
            "-" if cell["exact_low"] is None else f"{100 * cell['exact_low']:.2f} .. {100 * cell['exact_high']:.2f}"
        )
        grid.add_row(
            str(cell["depth"]),
            str(cell["breadth"]),
            _percent(cell["exact_accuracy"]),
            interval,
            "-" if cell["mean_residual"] is None else f"{cell['mean_residual']:.3g}",
            _percent(cell["settled_share"]),
            f"{cell['segments_mean']:.1f}",
        )
    console.print(grid)
    selected = {name: _percent(value) for name, value in summary["selected"].items()}
    facts = {
        "chosen by": "  ".join(f"{name} {value}" for name, value in selected.items()),
        "any restart right": _percent(summary["any_correct"]),
        "mean of restarts": _percent(summary["mean_restart_accuracy"]),
        f"mean of the top {TOP}": _percent(summary["top4_accuracy"]),
        "settled and right": _percent(summary["settled_accuracy"]),
        "residual AUROC": "-" if summary["residual_auroc"] is None else f"{summary['residual_auroc']:.3f}",
        "cost": f"{summary['segments_total']:,} segments, {summary['flops_mean']:.3g} FLOP a puzzle, "
        f"{summary['seconds']:.1f} s, {summary['row_segments_per_s'] or 0:,.0f} row-segments/s",
    }
    if summary["exact_accuracy"] is None:
        facts = {name: facts[name] for name in ("cost",)}
    for name, value in facts.items():
        console.print(f"{name:<18} {value}", highlight=False, soft_wrap=True)
    if summary["verified"]:
        words = f"the rules of {summary['task']} chose among the answers: compare with other runs of policy=verify only"
        console.print(words, highlight=False, soft_wrap=True)
    if 0 < summary["answered"] < summary["puzzles"]:
        known = f"{summary['answered']:,} of {summary['puzzles']:,} puzzles"
        console.print(f"accuracies are over the {known} whose answer is known", highlight=False, soft_wrap=True)
    if summary["bad_rows"]:
        console.print(f"{summary['bad_rows']} rows could not be read; the end of the answers lists them")
    console.print(f"answers in {out}/answers.csv", highlight=False, soft_wrap=True)


def _percent(share_of_one: float | None) -> str:
    return "-" if share_of_one is None else f"{share_of_one:.2%}"


def cli() -> NoReturn:
    """`python -m eqr_ray.infer`, `eqr-infer`."""
    run_door("infer", run)


if __name__ == "__main__":
    cli()
