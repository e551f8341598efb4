"""The command `sweep`: a search space in, the best configuration and the evidence for it out.

    python -m eqr_ray.sweep space=tune/damping_noise_init.yaml data=data/sudoku4 out=runs/three
    python -m eqr_ray.sweep space=tune/inference_noise.yaml checkpoint=zoo:sudoku6 data=data/sudoku6
    python -m eqr_ray.sweep resume=runs/three trials=60

Leaves in `out` what search/trials.py and search/results.py list, three pictures and summary.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Column, Table

from eqr_ray.config.cli import read_yaml, resumed, run_command
from eqr_ray.config.errors import UserError, extra
from eqr_ray.distributed.sweeps import AnsweringSweep, TrainingSweep
from eqr_ray.search.decisions import most_trials
from eqr_ray.search.results import BEST, TABLE, stored_search, write_trials
from eqr_ray.search.study import SearchConfig, SweepConfig, search_of
from eqr_ray.search.trials import LOST, Trial, ranked
from eqr_ray.storage.progress import print_warning
from eqr_ray.storage.remote_sync import fetch, mirror_of, mirrored
from eqr_ray.storage.run_dir import RunDir, locked
from eqr_ray.storage.run_log import RunLog


def main(options: SweepConfig, typed: frozenset[str] = frozenset()) -> None:
    """`typed`: the keys that were typed; a resume takes the others from the sweep."""
    with ExitStack() as stack:
        if place := options.resume or options.out:
            fetch(Path(place), options.mirror)
        config = continued(options, typed) if options.resume else options
        search, run = search_read(config, typed), RunDir(config.folder, "sweep")
        sweep = sweep_of(search, config, stack)
        searched = {key: value for key, value in search.to_dict().items() if key != "trials"}
        what = {"search": searched, "seed": config.seed, "limit": config.limit, **sweep.content}
        run.check(what)
        before = run.manifest().get("trials", 0)
        count = trials_wanted(search, config, before)
        stack.enter_context(locked(run.path))
        url = mirror_of({"mirror": options.mirror}, typed, run.path)
        written = {**config.to_dict(), "out": str(run.path), "resume": None}
        run.create(what, written, trials=max(count, before))
        stack.enter_context(mirrored(run.path, url))
        log = stack.enter_context(RunLog(run.path, sinks=[print_warning]))
        log.log("start", trials=count)
        try:
            trials = sweep.run(count, log)
            summary = {**sweep.content, **summarized(search, trials, run.path), **sweep.conclude(trials, log)}
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"resume={run.path} goes on from the trials that are there") from None
        log.log("end", winner=summary["winner"])
        run.write_summary(summary)
    show(search, summary, run.path)


def sweep_of(search: SearchConfig, config: SweepConfig, stack: ExitStack) -> TrainingSweep | AnsweringSweep:
    """What the trials have in common, checked. UserError: of its parts, or an optional part is not installed."""
    _optional_parts()  # before hours of trials
    return AnsweringSweep(search, config) if search.command == "infer" else TrainingSweep(search, config, stack)


def _optional_parts() -> tuple[Any, Any]:
    """(plots.search, search.optuna_study). UserError: one of them is not installed."""
    with extra("search", "a sweep"):
        # lazy: an optional part
        from eqr_ray.search import optuna_study  # noqa: PLC0415
    with extra("plots", "a sweep"):
        # lazy: an optional part
        from eqr_ray.plots import search as pictures  # noqa: PLC0415
    return pictures, optuna_study


def continued(options: SweepConfig, typed: Collection[str]) -> SweepConfig:
    """The sweep's own options with what was typed over them. UserError: no sweep, or a key that may not change."""
    folder = str(options.resume)
    before, values = RunDir(Path(folder), "sweep").config(), options.to_dict()
    if "out" in typed:
        raise UserError(f"out= does not go with resume=: the sweep stays in {folder}")
    changes = {key: values[key] for key in typed if key != "resume"}
    return SweepConfig.parse({**resumed(SweepConfig, before, changes, folder), "resume": folder})


def search_read(config: SweepConfig, typed: Collection[str]) -> SearchConfig:
    """The search of the file, or of the sweep that goes on. UserError: neither."""
    if config.resume is not None and "space" not in typed:
        return stored_search(config.folder)
    if config.space is None:
        raise UserError("space= must be given (--help shows an example)")
    try:
        return search_of(read_yaml(Path(config.space)))
    except UserError as error:
        raise UserError(str(error) if config.space in str(error) else f"{config.space}: {error}") from error


def trials_wanted(search: SearchConfig, config: SweepConfig, before: int) -> int:
    """How many trials there shall be; `before`: so many the sweep was to have so far, 0 for a new one. UserError: more
    than there are configurations."""
    wanted, most = config.trials or max(search.trials, before), most_trials(search)
    if most is not None and config.trials is not None and config.trials > most:
        raise UserError(f"trials={wanted} is not allowed: {search.algorithm.name} has {most} trials in all")
    return wanted if most is None else min(wanted, most)


def summarized(search: SearchConfig, trials: Mapping[int, Trial], folder: Path) -> dict[str, Any]:
    """Write table and pictures; what the search alone tells."""
    everything = list(trials.values())
    write_trials(folder / TABLE, search.space, everything)
    pictures, optuna_study = _optional_parts()
    shares = optuna_study.importances(search.space, search.goal, everything)
    pictures.draw_search(search, everything, shares, folder)
    best = [{"trial": one.number, "values": one.values, **one.metrics} for one in ranked(everything, search.goal)]
    return {
        "configurations_tried": len(everything),
        "ends": dict(Counter(one.status for one in everything)),
        "lost": {one.number: f"{one.status}: {one.reason}" for one in everything if one.status in LOST},
        "importances": shares,
        "best_of_search": best[0] if best else None,
    }


def show(search: SearchConfig, summary: Mapping[str, Any], folder: Path) -> None:
    """What was tried, who won, and where the files are."""
    console = Console(highlight=False, soft_wrap=True)
    ends = ", ".join(f"{number} {status}" for status, number in summary["ends"].items())
    console.print(f"{summary['configurations_tried']} configurations tried: {ends}")
    if summary.get("finalists"):
        console.print(table_of(search, summary))
    if test := summary.get("test"):
        exact = f"{test['exact_accuracy']:.2%} ({100 * test['exact_low']:.2f} .. {100 * test['exact_high']:.2f})"
        console.print(f"on {test['puzzles']:,} test puzzles: {exact}, {test['flops_mean']:.3g} FLOPs a puzzle")
    if summary["winner"] is None:
        console.print("nothing was found that meets the objective")
        return
    console.print(f"winner: {' '.join(f'{name}={value}' for name, value in summary['winner'].items())}")
    console.print(f"recipe in {folder / BEST}, pictures beside it")


def table_of(search: SearchConfig, summary: Mapping[str, Any]) -> Table:
    """The finalists over their fresh seeds."""
    title = f"finalists of {summary['configurations_tried']} configurations, trained again with {summary['seeds']} "
    heads = ("trial", *search.space.names, "search", f"{search.goal.metric}, mean", "each", "test")
    table = Table(*(Column(head, overflow="fold") for head in heads), title=f"{title}fresh seeds")

    def shown(score: float | None) -> str:
        return "-" if score is None else f"{score if search.goal.highest else -score:.4g}"

    for one in summary["finalists"]:
        test = "-"
        if one["test_exact"] is not None:
            test = f"{one['test_exact']:.2%} ({100 * one['test_low']:.1f} .. {100 * one['test_high']:.1f})"
        values = (str(one["values"].get(name, "")) for name in search.space.names)
        each = " ".join(map(shown, one["scores"]))
        table.add_row(str(one["trial"]), *values, shown(one["search_score"]), shown(one["mean_score"]), each, test)
    return table


def cli() -> NoReturn:
    """`python -m eqr_ray.sweep`, `eqr-sweep`."""
    run_command("sweep", SweepConfig, main)


if __name__ == "__main__":
    cli()
