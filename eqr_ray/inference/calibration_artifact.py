"""calibration.json: a threshold and all that it was made for, so that no other run can use it by mistake.

Why here: the door that makes the file and the runs that use it agree on what a promise is bound to, in one place.

Whatever may move the share of wrong answers among settled ones must be the same: the weights and the task; noise and
random starts, which change the trajectories; dtype, whose rounding is a part of every small residual; policy, select
and budgets, which decide what answer of a puzzle counts; and depth and breadth, smaller ones too: a puzzle that would
have settled late is then answered otherwise, for better or worse. The seed may differ, for its draws do not depend on
the puzzles; so may slots, compile and device, which change no more than the rounding of sums; and the puzzles are new
by intention.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.inference.settings import Settings

FILE = "calibration.json"
FREE = ("seed", "snapshots", "settle_below", "settle_for", "verifier")  # no condition, or given by the calibration


def conditions(
    settings: Settings,
    *,
    checkpoint_hash: str,
    task: str,
    noise_scale: float,
    init_std: float | None,
    dtype: str,
    select: str,
) -> dict[str, Any]:
    """What a threshold is made for, as JSON values."""
    procedure = {name: value for name, value in dataclasses.asdict(settings).items() if name not in FREE}
    network = {"checkpoint_hash": checkpoint_hash, "task": task}
    draws = {"noise_scale": noise_scale, "init_std": init_std, "dtype": dtype}
    return {**network, **draws, "select": select, **procedure}


def calibrated(settings: Settings, here: Mapping[str, Any], path: Path) -> Settings:
    """`settings` with the threshold of a calibration.json, or of the one in this folder; `here` are their `conditions`.

    UserError: no such file, nothing was found that keeps the promise, or it was made for something else.
    """
    path = path / FILE if path.is_dir() else path
    found = _read(path)
    differing = [f"{name}={found.get(name)}, not {value}" for name, value in here.items() if found.get(name) != value]
    if differing:
        raise UserError(f"calibration={path} was made for {'; '.join(differing)}")
    if found["settle_below"] is None:
        raise UserError(
            f"calibration={path} has no threshold: none kept risk={found['risk']} with confidence={found['confidence']}"
        )
    return dataclasses.replace(settings, settle_below=found["settle_below"], settle_for=found["settle_for"])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"calibration={path}: no such file; `eqr_ray.calibrate` makes it") from None
    except ValueError as error:
        raise UserError(f"calibration={path} is damaged: {error}") from error
    if not isinstance(found, dict) or not {"settle_below", "settle_for", "risk", "confidence"} <= found.keys():
        raise UserError(f"calibration={path} was not made by `eqr_ray.calibrate`")
    return found
