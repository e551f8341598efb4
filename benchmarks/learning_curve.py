"""The learning curve of a training run as a picture: loss and accuracy against the minutes spent, from its log.

    python -m benchmarks.learning_curve runs/sudoku6 "Sudoku 6x6" curve.png

Training accuracy is that of all rows of the batch, whatever their age. A step that was run twice counts as it was run
last.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from eqr_ray.config.errors import UserError
from eqr_ray.storage.run_log import Entry, read_log


def draw_curve(run: Path, title: str, picture: Path) -> None:
    """UserError: the run has no training lines yet."""
    train, validation = (_by_step(run, event) for event in ("train", "validation"))
    if not train:
        raise UserError(f"{run} has no training lines yet")
    minutes = {step: entry["elapsed_s"] / 60 for step, entry in train.items()}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses, accuracies = ([entry[key] for entry in train.values()] for key in ("token_loss", "exact_accuracy"))
    left.plot(list(minutes.values()), losses, color="#1b6ca8")
    left.set(xlabel="minutes of training", ylabel="token loss (stablemax cross-entropy)", ylim=(0, None))
    right.plot(list(minutes.values()), accuracies, color="#bbbbbb", label="rows in training")
    points = {step: entry for step, entry in validation.items() if step in minutes}
    right.plot(
        [minutes[step] for step in points],
        [entry["validation_exact"] for entry in points.values()],
        color="#d1495b",
        marker="o",
        label="validation, breadth 1" + "".join(f", depth {entry['depth']}" for entry in [*points.values()][-1:]),
    )
    right.set(xlabel="minutes of training", ylabel="exactly right", ylim=(-0.03, 1.03))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(loc="upper left")
    figure.suptitle(title)
    figure.savefig(picture, dpi=100)


def _by_step(run: Path, event: str) -> dict[int, Entry]:
    entries = {entry["step"]: entry for entry in read_log(run / "log.jsonl").entries if entry.get("event") == event}
    return dict(sorted(entries.items()))


if __name__ == "__main__":
    run, title, picture = sys.argv[1:]
    draw_curve(Path(run), title, Path(picture))
