"""A finished run of the door `infer`, read back for figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import read_json
from eqr_ray.data.arrow_store import Split
from eqr_ray.inference.records import concatenate, is_exact, read_part


class Trajectories(NamedTuple):
    """All trajectories at one depth: logit residual and whether the answer was right, both (N,)."""

    residual: npt.NDArray[np.float32]
    exact: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RecordedRun:
    """Trajectories by depth (the snapshots and the full depth), and the depth x breadth table of the summary."""

    at_depth: dict[int, Trajectories]
    table: list[dict[str, Any]]


def read_run(folder: Path, data: Path) -> RecordedRun:
    """The run in `folder` on the Arrow file `data`, which must have answers."""
    parts = sorted((folder / "records").glob("*.parquet"))
    if not parts:
        raise UserError(f"{folder} holds no records of a run")
    labels = Split.open(data).labels
    if labels is None:
        raise UserError(f"{data} has no answers to compare with")
    summary = read_json(folder / "summary.json")
    rows = concatenate([read_part(path) for path in parts]).in_order()
    at_depth = {}
    for depth in sorted({cell["depth"] for cell in summary["table"]}):
        there = rows.take(rows.last_at(depth, summary["breadth"]))
        at_depth[depth] = Trajectories(there.logit_residual, is_exact(there.prediction, labels[there.puzzle]))
    return RecordedRun(at_depth, summary["table"])
