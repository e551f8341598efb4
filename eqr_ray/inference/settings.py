"""What shapes the records of a run, and the calibration artifact that gives their threshold.

The settings, the data and the weights decide every bit of the records. How many actors work, and which restart is
chosen afterwards, are no part of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.model.pretrained import ModelCard

SETTLE_BELOW, SETTLE_FOR = 1.0, 2  # where neither the user nor the model's card says
BUDGETED = ("sequential", "verify")  # policies whose restarts follow each other


class Settings(Options):
    """`depth` segments per trajectory at most, `breadth` trajectories per puzzle, `seed` of all draws.

    A trajectory counts as settled when its logit residual is at most `settle_below` after `settle_for` segments in a
    row. `snapshots`: numbers of segments at which every trajectory is recorded on its way, besides at its end.
    `budget`: segments per puzzle at most. `verifier`: the task whose rules may accept answers.
    """

    depth: int = option(16, "", ge=1)
    breadth: int = option(1, "", ge=1)
    seed: int = option(0, "", ge=0, lt=2**63)
    policy: str = "full"
    settle_below: float = option(SETTLE_BELOW, "", ge=0, inf=True)
    settle_for: int = option(SETTLE_FOR, "", ge=1)
    snapshots: tuple[int, ...] = ()
    budget: int | None = option(None, "", ge=1)
    verifier: str = ""

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.budget is not None and self.policy not in BUDGETED:
            raise UserError(f"budget={self.budget} goes with policy={' or '.join(BUDGETED)}, not {self.policy}")
        if self.snapshots and self.policy == "race":
            raise UserError("snapshots= do not go with policy=race: its restarts end each other")
        wrong = [at for at in self.snapshots if not 1 <= at <= self.depth]
        if wrong:
            raise UserError(f"snapshots={wrong[0]} is not allowed: 1 .. depth={self.depth}")
        return self


def settling(asked: float | None, card: ModelCard | None) -> float:
    """`settle_below`: what was asked for, else what the model's card knows, else the default."""
    known = None if card is None else card.settle_below
    return next(value for value in (asked, known, SETTLE_BELOW) if value is not None)


CALIBRATION = "calibration.json"
# Whatever may move the share of wrong answers among settled ones must be the same where a calibration is used: also a
# smaller depth or breadth, for a puzzle that would have settled late is then answered otherwise. The seed may differ,
# for its draws do not depend on the puzzles; so may slots, compile and device, which change only how sums are rounded.
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
    procedure = {name: value for name, value in settings.to_dict().items() if name not in FREE}
    network = {"checkpoint_hash": checkpoint_hash, "task": task}
    draws = {"noise_scale": noise_scale, "init_std": init_std, "dtype": dtype}
    return {**network, **draws, "select": select, **procedure}


def calibrated(settings: Settings, here: Mapping[str, Any], path: Path) -> Settings:
    """`settings` with the threshold of a calibration.json, or of the one in this folder; `here` are their `conditions`.

    UserError: no such file, no threshold was found, or it was made for something else.
    """
    path = path / CALIBRATION if path.is_dir() else path
    found = _read(path)
    differing = [f"{name}={found.get(name)}, not {value}" for name, value in here.items() if found.get(name) != value]
    if differing:
        raise UserError(f"calibration={path} was made for {'; '.join(differing)}")
    if found["settle_below"] is None:
        raise UserError(
            f"calibration={path} has no threshold: none kept risk={found['risk']} with confidence={found['confidence']}"
        )
    return settings.replace(settle_below=found["settle_below"], settle_for=found["settle_for"])


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
