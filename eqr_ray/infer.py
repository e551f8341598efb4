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
from eqr_ray.inference.options import InferConfig
from eqr_ray.inference.scores import TOP


def run(config: InferConfig, typed: frozenset[str] = frozenset()) -> None:
    """Answer and print the metrics."""
    summary, folder = answer(config)
    show(summary, str(folder))


def show(summary: dict[str, Any], out: str) -> None:
    """The metrics as tables, and where the files are."""
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
    run_command("infer", InferConfig, run)


if __name__ == "__main__":
    cli()
