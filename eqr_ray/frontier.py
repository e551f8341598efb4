"""The command `frontier`: accuracy against cost for every policy, from one recorded run.

    python -m eqr_ray.frontier checkpoint=zoo:sudoku6 data=data/sudoku6 depth=32 breadth=16 cost.puzzles=422786
    python -m eqr_ray.frontier records=[runs/quiet/run,runs/noisy/run] policies=[full,sequential,race]

Leaves frontier.parquet (a row per point), frontier.png, config.json, summary.json in `out`, and with checkpoint= the
recorded run in its folder run/. The same command continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import extra
from eqr_ray.config.schema import content_hash
from eqr_ray.distributed.answering import check_not_recording, recorded
from eqr_ray.evaluation.cost import START_UP_S, Cost, predictions
from eqr_ray.evaluation.frontier import FrontierConfig, Point, check_same_puzzles, points_of, recommended
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.records import SETTLED, growing_table
from eqr_ray.inference.replay import RecordedRun, check_answers, open_recorded
from eqr_ray.inference.settings import AnsweringOptions
from eqr_ray.storage.progress import Progress, print_warning
from eqr_ray.storage.run_dir import RunDir, locked
from eqr_ray.storage.run_log import RunLog

RUN = "run"  # the recorded run, in `out`
TABLE = "frontier.parquet"


def main(config: FrontierConfig, typed: frozenset[str] = frozenset()) -> None:
    """`typed`: the keys that were typed."""
    with extra("plots", "the picture"):  # said now, and not when hours have been spent
        # lazy: need not be installed
        from eqr_ray.plots.frontier import draw_frontier  # noqa: PLC0415
    out = Path(config.out or f"runs/frontier-{content_hash(config)[:12]}")
    run_dir = RunDir(out, "frontier")
    run_dir.check()
    runs = open_runs(config, out, typed)
    check_same_puzzles(runs)
    for run in runs:
        config.candidates(run)  # its mistakes are said before anything is made
    names = ("checkpoint_hash", "data_hash")
    identity = {name: list(dict.fromkeys(run.manifest[name] for run in runs)) for name in names}
    run_dir.check(identity)
    with locked(out), RunLog(out, sinks=[print_warning]) as log:
        run_dir.create(identity, {**config.to_dict(), "out": str(out)})
        log.log("start", records=[str(run.path) for run in runs], puzzles=len(runs[0].puzzle_set))
        with Progress(sum(len(run.puzzle_set) for run in runs), "puzzles") as display:
            points = points_of(runs, config, display.update)
        summary = write_results(points, runs, config, out, draw_frontier)
        log.log("end", points=len(points))
        run_dir.write_summary(summary)


def write_results(
    points: Sequence[Point],
    runs: Sequence[RecordedRun],
    config: FrontierConfig,
    out: Path,
    draw: Callable[[Sequence[Point], str, Path], None],
) -> dict[str, Any]:
    """Table and picture, also on the screen. Returns the summary."""
    best = [one for run in dict.fromkeys(p.run for p in points) for one in recommended(points, run)]
    costs = predictions(best, config.cost)
    write_points(out / TABLE, points)
    puzzle_set = runs[0].puzzle_set
    title = f"{puzzle_set.task.name}, {len(puzzle_set):,} puzzles: what accuracy costs"
    draw(points, title, out / "frontier.png")
    summary = {
        "task": puzzle_set.task.name,
        "puzzles": len(puzzle_set),
        "data_hash": puzzle_set.data_hash,
        "select": config.select,
        "records": [str(run.path) for run in runs],
        "points": len(points),
        "recommended": [asdict(point) for point in best],
        "front": [asdict(point) for point in points if point.on_front],
        "cost": [asdict(cost) for cost in costs],
    }
    console = Console()
    console.print(table_of(best, title))
    if costs:
        console.print(table_of_costs(costs, f"hours for {config.cost.puzzles:,} puzzles like these"))
    console.print(f"picture in {out / 'frontier.png'}", highlight=False, soft_wrap=True)
    return summary


def open_runs(config: FrontierConfig, out: Path, given: Collection[str]) -> list[RecordedRun]:
    """The runs in records=, or one that is made now."""
    if config.records is not None:
        check_not_recording(given)
        return [open_recorded(Path(folder), config.data) for folder in config.folders]
    keys = (*AnsweringOptions.model_fields, "settle_for")
    own = {name: getattr(config, name) for name in keys}
    return [recorded(own, out / RUN, lambda new: check_answers(new.puzzle_set, new.config.data))]


def write_points(path: Path, points: Sequence[Point]) -> None:
    """A row per point, a column per field."""
    arrow = {"str": "string", "int": "int64", "float": "double", "bool": "bool"}
    schema = {field.name: arrow[str(field.type).removesuffix(" | None")] for field in fields(Point)}
    with growing_table(path, schema) as write:
        write([asdict(point) for point in points])


def table_of(best: Sequence[Point], title: str) -> Table:
    """Of each policy the point to choose."""
    caption = "of each policy the cheapest as accurate as all of full, else the most accurate"
    table = Table("policy", "setting", "exact", "interval (%)", "segments", "s/puzzle", title=title, caption=caption)
    for point in best:
        table.add_row(
            f"{point.policy} {point.run}".strip(),
            settings_of(point),
            f"{point.exact_accuracy:.2%}",
            f"{100 * point.exact_low:.2f} .. {100 * point.exact_high:.2f}",
            f"{point.segments_mean:.1f}",
            "-" if point.seconds_mean is None else f"{point.seconds_mean:.3g}",
        )
    return table


def settings_of(point: Point) -> str:
    """Depth x breadth, the threshold of settling, the budget: what tells it from the other points of its policy."""
    words = f"{point.depth} x {point.breadth}"
    if POLICIES[point.policy].stop_status == SETTLED:
        words += f" at {point.settle_below:g}"
    return words if point.budget is None else f"{words}, {point.budget} at most"


def table_of_costs(costs: Sequence[Cost], title: str) -> Table:
    """Hours by policy and number of GPUs, with the assumptions that are not the user's."""
    counts = list(dict.fromkeys(cost.gpus for cost in costs))
    headings = [f"{count} GPU{'s' if count > 1 else ''}" for count in counts]
    caption = f"95 %; {START_UP_S:.0f} s of start-up and the tail at its worst are included"
    table = Table("policy", *headings, "tail", title=title, caption=caption)
    for run, policy in dict.fromkeys((cost.run, cost.policy) for cost in costs):
        own = [cost for cost in costs if (cost.run, cost.policy) == (run, policy)]
        cells = [f"{cost.hours:.3g} ± {cost.hours_high / cost.hours - 1:.0%}" for cost in own]
        table.add_row(f"{policy} {run}".strip(), *cells, f"{own[0].tail_hours:.2g}")
    return table


def cli() -> NoReturn:
    """`python -m eqr_ray.frontier`, `eqr-frontier`."""
    run_command("frontier", FrontierConfig, main)


if __name__ == "__main__":
    cli()
