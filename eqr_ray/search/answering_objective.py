"""An inference trial: one way to answer, tried on the records of a run that kept every segment.

What the network must run anew is its noise and its starts; depth, breadth, policy and thresholds are replayed over the
same records. So a search over all of them runs the network once for every pair of noise and starts that it asks for.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import content_hash
from eqr_ray.evaluation.frontier import Point, Replays
from eqr_ray.inference.policies import policy_named
from eqr_ray.inference.recorded_run import RecordedRun
from eqr_ray.inference.selection import check_selection
from eqr_ray.inference.settings import BUDGETED, Settings
from eqr_ray.search.outcome import Report
from eqr_ray.search.space import Value, Values
from eqr_ray.search.study import SearchConfig

RUN_ANEW = ("noise_scale", "init_std", "dtype")  # what shapes a trajectory
REPLAYED = ("depth", "breadth", "policy", "settle_below", "settle_for", "budget")
KEYS = (*RUN_ANEW, *REPLAYED, "select")
DEFAULTS: dict[str, Value] = {"depth": 16, "breadth": 8, "policy": "full", "select": "logit_residual"}


def check_answering(config: SearchConfig) -> None:
    """UserError: a key that no trial of answering reads, or a depth or breadth that is none."""
    for name in (*config.space.names, *config.keys):
        if name not in KEYS:
            raise UserError(f"{name} has no place in a search over answers; these have: {', '.join(KEYS)}")
    for name in ("depth", "breadth"):
        most(config, name)
    for name, values in (*config.space.corners(), *(("first", point) for point in config.points)):
        whole = values_of(config, values)
        check_selection(str(whole["select"]))
        policy = policy_named(str(whole["policy"]))
        try:
            Settings(**{key: whole[key] for key in REPLAYED if whole.get(key) is not None})  # type: ignore[arg-type]
        except (UserError, TypeError) as error:
            raise UserError(f"space.{name}: {error} (policy={policy.name})") from error


def values_of(config: SearchConfig, values: Mapping[str, Value]) -> Values:
    """All keys of a trial: its own, the file's, the defaults. A budget goes with policies that have one."""
    whole: Values = {**DEFAULTS, **config.keys, **values}
    if whole["policy"] not in BUDGETED:
        whole.pop("budget", None)
    return whole


def most(config: SearchConfig, name: str) -> int:
    """The greatest depth or breadth that any trial asks for: what is recorded."""
    fixed = {**DEFAULTS, **config.keys}.get(name)
    wanted = [value for one in config.space if one.name == name for value in one.ends()] or [fixed]
    if not all(type(value) is int and value >= 1 for value in wanted):
        raise UserError(f"{name}={wanted[0]} is not allowed: whole numbers, at least 1")
    return max(int(value) for value in wanted if value is not None)


def recording_keys(config: SearchConfig, values: Mapping[str, Value]) -> dict[str, Any]:
    """What a recording for this trial is made with, depth and breadth at their most."""
    whole = values_of(config, values)
    own = {name: whole[name] for name in RUN_ANEW if name in whole}
    return {**own, **{name: most(config, name) for name in ("depth", "breadth")}}


def recording_name(keys: Mapping[str, Any]) -> str:
    """The folder of a recording, named by what it was made with."""
    return content_hash(keys)[:12]


def settings_of(config: SearchConfig, values: Mapping[str, Value], run: RecordedRun) -> Settings:
    """How the trial answers."""
    whole = values_of(config, values)
    own = {name: whole[name] for name in REPLAYED if whole.get(name) is not None}
    changes: dict[str, Any] = {"snapshots": (), **own}
    if policy_named(str(whole["policy"])).verifies:
        changes["verifier"] = run.puzzle_set.task.name
    return dataclasses.replace(run.settings, **changes)


def tried(config: SearchConfig, values: Mapping[str, Value], run: RecordedRun) -> Point:
    """Accuracy and cost of the trial on a recorded run."""
    puzzle_set = run.puzzle_set
    assert puzzle_set.labels is not None
    select = str(values_of(config, values)["select"])
    replays = Replays([settings_of(config, values, run)], puzzle_set.inputs, puzzle_set.labels, select)
    for block in run.blocks():
        replays.add(block)
    (point,) = replays.points("", run.flops_per_segment, run.row_segments_per_s)
    return point


def report_of(config: SearchConfig, point: Point) -> Report:
    """Its figures, with the score by the search's objective."""
    names = ("exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean", "settled_share")
    figures = {name: float(getattr(point, name)) for name in names}
    score = config.answer_goal.score(point.exact_accuracy, point.flops_mean)
    assert math.isfinite(score)
    return Report(0, time.time(), {"score": score, **figures, "puzzles": float(point.puzzles)})
