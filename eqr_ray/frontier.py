"""The command `frontier`: accuracy against cost for every policy, from one recorded run.

Leaves frontier.parquet (a row per point), frontier.png, config.json, summary.json in `out`, and with checkpoint= the
recorded run in its folder run/. The same command continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

from pydantic import Field
from rich.console import Console
from rich.table import Table

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError, extra
from eqr_ray.config.schema import content_hash, option
from eqr_ray.distributed.answering import recorded
from eqr_ray.evaluation.frontier import Cost, CostConfig, Point, grid, measured, predictions, recommended, with_front
from eqr_ray.inference.records import growing_table
from eqr_ray.inference.replay import RecordedRun, check_answers, open_records, within
from eqr_ray.inference.settings import REMOVED_POLICIES, AnsweringOptions, PolicyName, ReplayOptions, Settings
from eqr_ray.storage.progress import Progress, print_warning
from eqr_ray.storage.run_dir import RunDir, locked
from eqr_ray.storage.run_log import RunLog

THRESHOLDS = (0.5, 1.0, 2.0)  # times the settle_below that a run was recorded with
NO_DIFFERENCE = ("snapshots", "widths")  # parts of a manifest that follow from others, or from its history

ARROW = {"str": "string", "int": "int64", "float": "double", "bool": "bool"}
COLUMNS = {field.name: ARROW[str(field.type).removesuffix(" | None")] for field in fields(Point)}  # of frontier.parquet
Threshold = Annotated[float, Field(ge=0)]


class FrontierConfig(ReplayOptions):
    """Draws accuracy against cost for every policy, depth and breadth, from one run that recorded every segment. Each
    policy is replayed over the records and does what it would have done; the network runs once, or not at all with
    records=.

    Example: python -m eqr_ray.frontier checkpoint=zoo:sudoku6 data=data/sudoku6 depth=32 breadth=16
             python -m eqr_ray.frontier records=[runs/quiet/run,runs/noisy/run] policies=[full,sequential,race]
    """

    records: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = option(
        None, "instead of checkpoint: finished runs with every segment recorded, one or a [list], e.g. run/ in out="
    )
    out: str | None = option(None, "folder of results; null: runs/frontier-HASH, named by these keys")
    policies: tuple[PolicyName, ...] = option(
        get_args(PolicyName), "what is compared", min_length=1, removed=REMOVED_POLICIES
    )
    settle_below: Threshold | Annotated[tuple[Threshold, ...], Field(min_length=1)] | None = option(
        None, "thresholds of settling, a number or a [list]; null: 0.5, 1 and 2 times that of the recorded run"
    )
    settle_for: int | None = option(None, "segments in a row under it; null: as recorded", ge=1)
    budgets: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = option(
        None, "sequential: segments per puzzle at most, a [list]; null: powers of two"
    )
    cost: CostConfig = option(CostConfig(), "what to predict")

    def candidates(self, run: RecordedRun) -> list[Settings]:
        """What is compared on the records of a run. UserError: deeper or wider than they are."""
        most, below = within(self, run.settings), self.settle_below
        if self.settle_for is not None:
            most = most.replace(settle_for=self.settle_for)
        if below is None:
            below = tuple(factor * run.settings.settle_below for factor in THRESHOLDS)
        below = below if isinstance(below, tuple) else (below,)
        return grid(most, self.policies, below, self.budgets, run.puzzle_set.task.name)


def main(config: FrontierConfig, typed: frozenset[str] = frozenset()) -> None:
    """`typed`: the keys that were typed."""
    with extra("plots", "the picture"):  # said now, and not when hours have been spent
        # lazy: need not be installed
        from eqr_ray.plots.frontier import draw_frontier  # noqa: PLC0415
    out = Path(config.out or f"runs/frontier-{content_hash(config)[:12]}")
    run_dir = RunDir(out, "frontier")
    run_dir.check()
    if config.records is None:
        keys = {name: getattr(config, name) for name in (*AnsweringOptions.model_fields, "settle_for")}
        runs = [recorded(keys, out / "run", lambda new: check_answers(new.puzzle_set, new.config.data))]
    else:
        folders = (config.records,) if isinstance(config.records, str) else config.records
        runs = open_records(folders, config.data, typed)
    compared = [(run, name, config.candidates(run)) for run, name in zip(runs, names_of(runs), strict=True)]
    puzzle_set, names = runs[0].puzzle_set, ("checkpoint_hash", "data_hash")
    identity = {name: list(dict.fromkeys(run.manifest[name] for run in runs)) for name in names}
    with locked(out), RunLog(out, sinks=[print_warning]) as log:
        run_dir.create(identity, {**config.to_dict(), "out": str(out)})
        log.log("start", records=[str(run.path) for run in runs], puzzles=len(puzzle_set))
        points: list[Point] = []
        for run, name, candidates in compared:
            with Progress(len(puzzle_set), "puzzles") as display:
                points += measured(run, candidates, config.select, name, display.update)
        points = with_front(points)
        title = f"{puzzle_set.task.name}, {len(puzzle_set):,} puzzles: what accuracy costs"
        with growing_table(out / "frontier.parquet", COLUMNS) as write:
            write([asdict(point) for point in points])
        draw_frontier(points, title, out / "frontier.png")
        best = recommended(points)
        costs = predictions(best, config.cost)
        log.log("end", points=len(points))
        about = {"task": puzzle_set.task.name, "puzzles": len(puzzle_set), "data_hash": puzzle_set.data_hash}
        about |= {"select": config.select, "records": [str(run.path) for run in runs], "points": len(points)}
        lists: dict[str, list[Any]] = {
            "recommended": best,
            "front": [point for point in points if point.on_front],
            "cost": costs,
        }
        run_dir.write_summary(about | {name: [asdict(one) for one in rows] for name, rows in lists.items()})
    console = Console()
    console.print(table_of(best, title))
    if costs:
        console.print(table_of_costs(costs, f"hours for {config.cost.puzzles:,} puzzles like these"))
    print(f"picture in {out / 'frontier.png'}")


def names_of(runs: Sequence[RecordedRun]) -> list[str]:
    """What tells the runs from each other: the entries of their manifests that differ, else their folders; "" for a
    single run. UserError: they are of other puzzles, and cannot be compared."""
    first = runs[0]
    for run in runs[1:]:
        if run.puzzle_set.data_hash != first.puzzle_set.data_hash:
            raise UserError(f"records={run.path} are of other puzzles than records={first.path}")
    keys = dict.fromkeys(key for run in runs for key in run.manifest if key not in NO_DIFFERENCE)
    differing = [key for key in keys if any(run.manifest.get(key) != first.manifest.get(key) for run in runs)]
    names = [" ".join(f"{key}={str(run.manifest.get(key))[:12]}" for key in differing) for run in runs]
    return names if len(set(names)) == len(runs) else [str(run.path) for run in runs]


def table_of(best: Sequence[Point], title: str) -> Table:
    """Of each policy the point to choose."""
    caption = "of each policy the cheapest as accurate as all of full, else the most accurate"
    table = Table("policy", "setting", "exact", "interval (%)", "segments", "s/puzzle", title=title, caption=caption)
    for point in best:
        table.add_row(
            f"{point.policy} {point.run}".strip(),
            point.setting,
            f"{point.exact_accuracy:.2%}",
            f"{100 * point.exact_low:.2f} .. {100 * point.exact_high:.2f}",
            f"{point.segments_mean:.1f}",
            "-" if point.seconds_mean is None else f"{point.seconds_mean:.3g}",
        )
    return table


def table_of_costs(costs: Sequence[Cost], title: str) -> Table:
    """Hours by policy and number of GPUs, with the assumptions that are not the user's."""
    headings = [f"{gpus} GPU{'s' if gpus > 1 else ''}" for gpus in dict.fromkeys(cost.gpus for cost in costs)]
    caption = "95 %; start-up and the tail at its worst are included"
    table = Table("policy", *headings, "tail", title=title, caption=caption)
    for (run, policy), own in groupby(costs, key=lambda cost: (cost.run, cost.policy)):
        row = list(own)
        cells = [f"{cost.hours:.3g} ± {cost.hours_high / cost.hours - 1:.0%}" for cost in row]
        table.add_row(f"{policy} {run}".strip(), *cells, f"{row[0].tail_hours:.2g}")
    return table


def cli() -> NoReturn:
    """`python -m eqr_ray.frontier`, `eqr-frontier`."""
    run_command("frontier", FrontierConfig, main)


if __name__ == "__main__":
    cli()
