"""A finished run of the door `infer`, read back for figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.errors import UserError
from eqr_ray.inference.records import concatenate, is_exact, read_part
from eqr_ray.tasks.store import Split


@dataclass(frozen=True)
class RecordedRun:
    """The trajectories at full depth, `residual` and `exact` (N,), and the depth x breadth table of the summary."""

    residual: npt.NDArray[np.float32]
    exact: npt.NDArray[np.bool_]
    table: list[dict[str, Any]]


def read_run(folder: Path, data: Path) -> RecordedRun:
    """The run in `folder` on the Arrow file `data`, which must have answers."""
    parts = sorted((folder / "records").glob("*.parquet"))
    if not parts:
        raise UserError(f"{folder} holds no records of a run")
    labels = Split.open(data).labels
    if labels is None:
        raise UserError(f"{data} has no answers to compare with")
    summary = json.loads((folder / "summary.json").read_text())
    rows = concatenate([read_part(path) for path in parts]).in_order()
    rows = rows.take(rows.last_at(summary["depth"], summary["breadth"]))
    return RecordedRun(rows.logit_residual, is_exact(rows.prediction, labels[rows.puzzle]), summary["table"])
