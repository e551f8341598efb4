"""The door `sweep`: a search space in, the best configuration and the evidence for it out.

    python -m eqr_ray.sweep space=tune/damping_noise_init.yaml data=data/sudoku4 out=runs/three
    python -m eqr_ray.sweep space=tune/inference_noise.yaml checkpoint=zoo:sudoku6 data=data/sudoku6
    python -m eqr_ray.sweep resume=runs/three trials=60

Leaves trials.parquet (a row per trial and report), best.yaml (for `recipe=` of train or infer), best.png,
parameters.png, pairs.png, config.json, manifest.json, summary.json in `out`, and a folder per trial in trials/ and
finals/. The same sweep goes on with resume=.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Column, Table

from eqr_ray.config.door import read_yaml, run_door
from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import from_dict, read_json, to_dict
from eqr_ray.distributed.answering_sweep import AnsweringSweep
from eqr_ray.distributed.training_sweep import Machine, TrainingSweep, finals, runner, search
from eqr_ray.evaluation.frontier import Point
from eqr_ray.plots.search import draw_search
from eqr_ray.search.answering_objective import values_of
from eqr_ray.search.finals import Finalist, recipe_text, whole
from eqr_ray.search.outcome import Trial, front, ranked
from eqr_ray.search.study import SearchConfig, search_of
from eqr_ray.search.sweep_config import FREE, SweepConfig, counts, identity, reasons, trials_of
from eqr_ray.search.table import write_trials
from eqr_ray.search.tpe import importances
from eqr_ray.search.trial_dirs import TRIALS, Trials, begin, check, stored
from eqr_ray.storage.atomic import write_bytes, write_json
from eqr_ray.storage.remote_sync import fetch, mirror_of, mirrored
from eqr_ray.storage.run_dir import locked

TABLE, BEST = "trials.parquet", "best.yaml"


def main(values: dict[str, Any], given: Collection[str] = ()) -> None:
    """`values` are the door's keys, `given` those that were typed: a resume takes the others from the sweep."""
    with ExitStack() as stack:
        if place := values["resume"] or values["out"]:
            fetch(Path(place), values["mirror"])
        config = from_dict(SweepConfig, continued(values, given) if values["resume"] else values)
        space = search_read(config, given)
        folder = config.folder
        if space.door == "train":
            sweep: TrainingSweep | AnsweringSweep = TrainingSweep.of(space, config)
            content = {"task": sweep.task.name, "data_hash": sweep.data_hash}  # type: ignore[union-attr]
            run = runner(config, Machine(config, stack))
        else:
            sweep = AnsweringSweep.of(space, config)
            content = {"task": sweep.task, "data_hash": sweep.data_hash, "checkpoint_hash": sweep.checkpoint_hash}
        is_what = identity(space, config, **content)
        count = trials_of(space, config, stored(folder))
        check(folder, is_what)
        stack.enter_context(locked(folder))
        begin(folder, is_what, count)
        url = mirror_of(values, given, folder)
        write_json(folder / "config.json", {**to_dict(config), "out": str(folder), "resume": None})
        stack.enter_context(mirrored(folder, url))
        try:
            if isinstance(sweep, TrainingSweep):
                trials = search(sweep, count, run)
                summary = conclude(sweep.search, trials, folder)
                summary |= crowned(sweep, finals(sweep, trials, run), folder)
            else:
                trials = sweep.run(count)
                summary = conclude(sweep.search, trials, folder)
                summary |= answered(sweep, trials, folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"resume={folder} goes on from the trials that are there") from None
        write_json(folder / "summary.json", {**content, **summary})
    show(space, summary, folder)


def continued(values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The sweep's own keys with what was typed over them. UserError: no sweep, or a key that may not change."""
    folder = Path(values["resume"])
    if stored(folder) is None:
        raise UserError(f"resume={folder}: no sweep there (no manifest.json)")
    if "out" in given:
        raise UserError(f"out= does not go with resume=: the sweep stays in {folder}")
    before = read_json(folder / "config.json")
    for key in given:
        if key not in (*FREE, "resume", "space") and values[key] != before.get(key):
            raise UserError(f"{key}={values[key]} does not go with resume=: the sweep has {key}={before.get(key)}")
    return {**before, **{key: values[key] for key in given}, "resume": str(folder)}


def search_read(config: SweepConfig, given: Collection[str]) -> SearchConfig:
    """The search of the file, or of the sweep that goes on. UserError: neither."""
    if config.resume is None and config.space is None:
        raise UserError("space= must be given (--help shows an example)")
    if config.resume is not None and "space" not in given:
        manifest = stored(config.folder)
        assert manifest is not None
        return search_of({**manifest["identity"]["search"], "trials": manifest["trials"]})
    path = Path(str(config.space))
    try:
        return search_of(read_yaml(path))
    except UserError as error:
        raise UserError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from error


def conclude(space: SearchConfig, trials: Mapping[int, Trial], folder: Path) -> dict[str, Any]:
    """Table and pictures; what the search alone tells."""
    everything = list(trials.values())
    write_trials(folder / TABLE, space.space, everything)
    complete = whole(space, everything)
    shares = importances(space.space, space.goals[0], complete)
    draw_search(space, everything, shares, folder)
    return {
        "configurations_tried": len(everything),
        "ends": counts(everything),
        "lost": reasons(everything),
        "importances": shares,
        "front": [one.number for one in front(complete, space.goals)],
        "best_of_search": _told(ranked(complete, space.goals)[:1]),
    }


def _told(best: Sequence[Trial]) -> dict[str, Any] | None:
    return {"trial": best[0].number, "values": best[0].values, **best[0].reports[-1].figures} if best else None


def crowned(sweep: TrainingSweep, found: Sequence[Finalist], folder: Path) -> dict[str, Any]:
    """The winner of the finals, or where there were none the best of the search, as a recipe."""
    trials = list(Trials(folder / TRIALS).all().values())
    best = ranked(whole(sweep.search, trials), sweep.search.goals)
    if not best:
        return {"winner": None, "finalists": []}
    values = found[0].values if found else best[0].values
    words = [f"Found by a sweep of {len(trials)} configurations on {sweep.task.name}."]
    if found:
        words.append(f"Trial {found[0].trial}, mean {found[0].mean_score:.4g} over {sweep.config.seeds} fresh seeds.")
    else:
        words.append(f"Trial {best[0].number}, the best of the search on its own puzzles: partly luck.")
    if sweep.search.algorithm.name == "population":
        words.append("The values of its last leg; the way there is in trials.parquet, from parent to parent.")
    write_bytes(folder / BEST, recipe_text({**sweep.search.keys, **values}, words).encode())
    return {"winner": values, "seeds": sweep.config.seeds, "finalists": [finalist_told(one) for one in found]}


def finalist_told(one: Finalist) -> dict[str, Any]:
    """A finalist for summary.json."""
    told = {**vars(one), "scores": list(one.scores), "mean_score": one.mean_score if one.scores else None}
    if one.test_interval is None:
        return {**told, "test_exact": None}
    low, high = one.test_interval
    return {**told, "test_exact": one.test_right / one.test_total, "test_low": low, "test_high": high}  # type: ignore[operator]


def answered(sweep: AnsweringSweep, trials: Mapping[int, Trial], folder: Path) -> dict[str, Any]:
    """The best way to answer as a recipe, and what it does on the test puzzles."""
    best = ranked(list(trials.values()), sweep.search.goals)
    figures = best[0].reports[-1].figures if best else {}
    if not best or not sweep.search.answer_goal.meets(figures["exact_accuracy"], figures["flops_mean"]):
        return {"winner": None, "objective": str(sweep.search.answer_goal)}
    point = sweep.test(best[0])
    values = values_of(sweep.search, best[0].values)
    words = [f"Found by a sweep of {len(trials)} configurations on {sweep.task}: {sweep.search.answer_goal}."]
    write_bytes(folder / BEST, recipe_text(values, words).encode())
    test = None if point is None else point_told(point)
    return {"winner": values, "objective": str(sweep.search.answer_goal), "test": test}


def point_told(point: Point) -> dict[str, Any]:
    """Accuracy and cost for summary.json."""
    names = ("puzzles", "exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean")
    return {name: getattr(point, name) for name in names}


def show(space: SearchConfig, summary: Mapping[str, Any], folder: Path) -> None:
    """What was tried, who won, and where the files are."""
    console = Console()
    ends = ", ".join(f"{number} {status}" for status, number in summary["ends"].items())
    console.print(f"{summary['configurations_tried']} configurations tried: {ends}", highlight=False, soft_wrap=True)
    if summary.get("finalists"):
        console.print(table_of(space, summary))
    if summary.get("test"):
        test = summary["test"]
        exact = f"{test['exact_accuracy']:.2%} ({100 * test['exact_low']:.2f} .. {100 * test['exact_high']:.2f})"
        cost = f"{test['flops_mean']:.3g} FLOPs a puzzle"
        console.print(f"on {test['puzzles']:,} test puzzles: {exact}, {cost}", highlight=False, soft_wrap=True)
    if summary["winner"] is None:
        console.print("nothing was found that meets the objective", highlight=False, soft_wrap=True)
        return
    values = " ".join(f"{name}={value}" for name, value in summary["winner"].items())
    console.print(f"winner: {values}", highlight=False, soft_wrap=True)
    console.print(f"recipe in {folder / BEST}, pictures beside it", highlight=False, soft_wrap=True)


def table_of(space: SearchConfig, summary: Mapping[str, Any]) -> Table:
    """The finalists over their fresh seeds."""
    goal, seeds = space.goals[0], summary["seeds"]
    title = f"finalists of {summary['configurations_tried']} configurations, trained again with {seeds} fresh seeds"
    heads = ("trial", *space.space.names, "search", f"{goal.figure}, mean", "each", "test")
    table = Table(*(Column(head, overflow="fold") for head in heads), title=title)
    sign = 1 if goal.highest else -1
    for one in summary["finalists"]:
        mean = "-" if one["mean_score"] is None else f"{sign * one['mean_score']:.4g}"
        test = "-"
        if one["test_exact"] is not None:
            test = f"{one['test_exact']:.2%} ({100 * one['test_low']:.1f} .. {100 * one['test_high']:.1f})"
        table.add_row(
            str(one["trial"]),
            *(str(one["values"].get(name, "")) for name in space.space.names),
            "-" if one["search_score"] is None else f"{sign * one['search_score']:.4g}",
            mean,
            " ".join(f"{sign * score:.4g}" for score in one["scores"]),
            test,
        )
    return table


def cli() -> NoReturn:
    """`python -m eqr_ray.sweep`, `eqr-sweep`."""
    typed = {argument.partition("=")[0] for argument in sys.argv[1:]}
    run_door("sweep", partial(main, given=typed))


if __name__ == "__main__":
    cli()
