"""The command `infer`: puzzles in, answers with their residuals out.

    python -m eqr_ray.infer checkpoint=zoo:sudoku9 data=mine.csv depth=64 breadth=16
    python -m eqr_ray.infer checkpoint=runs/sudoku6 data=data/sudoku6/test.arrow snapshots=[1,4,16] actors=2

Leaves records/, answers.parquet, answers.csv, config.json, manifest.json, summary.json and log.jsonl in `out`. The same
command again continues an interrupted run.
"""

from __future__ import annotations

from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from eqr_ray.config.cli import run_command
from eqr_ray.distributed.answering import answer
from eqr_ray.inference.scores import TOP
from eqr_ray.inference.settings import InferConfig


def run(config: InferConfig, typed: frozenset[str] = frozenset()) -> None:
    """Answer and print the metrics."""
    summary, folder = answer(config)
    show(summary, str(folder))


def show(summary: dict[str, Any], out: str) -> None:
    """The metrics as tables, and where the files are."""
    console = Console()
    columns = ("depth", "breadth", "exact", "95 % interval (%)", "residual", "settled", "segments")
    grid = Table(*columns, title=summary["task"])
    for cell in summary["table"]:
        interval = (cell["exact_low"], cell["exact_high"])
        grid.add_row(
            str(cell["depth"]),
            str(cell["breadth"]),
            _or_dash(cell["exact_accuracy"], ".2%"),
            "-" if None in interval else "{:.2f} .. {:.2f}".format(*(100 * end for end in interval)),
            _or_dash(cell["mean_residual"], ".3g"),
            _or_dash(cell["settled_share"], ".2%"),
            _or_dash(cell["segments_mean"], ".1f"),
        )
    console.print(grid)
    facts = {
        "chosen by": "  ".join(f"{name} {_or_dash(value, '.2%')}" for name, value in summary["selected"].items()),
        "any restart right": _or_dash(summary["any_correct"], ".2%"),
        "mean of restarts": _or_dash(summary["mean_restart_accuracy"], ".2%"),
        f"mean of the top {TOP}": _or_dash(summary["top4_accuracy"], ".2%"),
        "settled and right": _or_dash(summary["settled_accuracy"], ".2%"),
        "residual AUROC": _or_dash(summary["residual_auroc"], ".3f"),
    }
    lines = [] if summary["exact_accuracy"] is None else [f"{name:<18} {value}" for name, value in facts.items()]
    lines.append(
        f"{'cost':<18} {summary['segments_total']:,} segments, {summary['flops_mean']:.3g} FLOP a puzzle, "
        f"{summary['seconds']:.1f} s, {summary['row_segments_per_s'] or 0:,.0f} row-segments/s"
    )
    if summary["verified"]:
        lines.append(
            f"the rules of {summary['task']} chose among the answers: compare with other runs of policy=verify only"
        )
    if 0 < summary["answered"] < summary["puzzles"]:
        known = f"{summary['answered']:,} of {summary['puzzles']:,} puzzles"
        lines.append(f"accuracies are over the {known} whose answer is known")
    if summary["bad_rows"]:
        lines.append(f"{summary['bad_rows']} rows could not be read; the end of the answers lists them")
    for line in (*lines, f"answers in {out}/answers.csv"):
        console.print(line, highlight=False, soft_wrap=True)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def cli() -> NoReturn:
    """`python -m eqr_ray.infer`, `eqr-infer`."""
    run_command("infer", InferConfig, run)


if __name__ == "__main__":
    cli()
