"""The learning curve of a training run: loss and accuracy against the minutes spent, from its log.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from eqr_ray.config.errors import UserError

Line = Mapping[str, Any]


def read_log(path: Path) -> tuple[list[Line], list[Line]]:
    """The `train` and `validation` lines of a log.jsonl; a step that was run twice counts as it was run last."""
    lines: dict[tuple[str, int], Line] = {}
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            lines[line["kind"], line["step"]] = line
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number} is no line of a training log: {error}") from error
    kinds = ("train", "validation")
    train, validation = ([line for (own, _), line in sorted(lines.items()) if own == kind] for kind in kinds)
    return train, validation


def draw_curve(log: Path, title: str, path: Path) -> None:
    """Write the PNG. Training accuracy is that of all rows of the batch, whatever their age."""
    train, validation = read_log(log)
    if not train:
        raise UserError(f"{log} has no training lines yet")
    minutes = {line["step"]: line["elapsed_s"] / 60 for line in train}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(minutes.values()), [line["token_loss"] for line in train], color="#1b6ca8")
    left.set(xlabel="minutes of training", ylabel="token loss (stablemax cross-entropy)", ylim=(0, None))
    right.plot(
        list(minutes.values()), [line["exact_accuracy"] for line in train], color="#bbbbbb", label="rows in training"
    )
    known = [line for line in validation if line["step"] in minutes]
    depth = known[-1]["depth"] if known else 0
    right.plot(
        [minutes[line["step"]] for line in known],
        [line["validation_exact"] for line in known],
        color="#d1495b",
        marker="o",
        label=f"validation, depth {depth}, breadth 1",
    )
    right.set(xlabel="minutes of training", ylabel="exactly right", ylim=(-0.03, 1.03))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(loc="upper left")
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
