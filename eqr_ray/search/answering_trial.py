"""An answering trial: one way to answer, tried on the records of a run that kept every segment.

What the network must run anew is its noise and its starts; depth, breadth, policy and thresholds are replayed over the
same records. So a search over all of them runs the network once for every pair of noise and starts that it asks for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import content_hash
from eqr_ray.evaluation.frontier import Point, Replays
from eqr_ray.inference.policies import policy_named
from eqr_ray.inference.replay import RecordedRun
from eqr_ray.inference.selection import check_selection
from eqr_ray.inference.settings import BUDGETED, Settings
from eqr_ray.search.space import Value, Values
from eqr_ray.search.study import SearchConfig, check_names
from eqr_ray.search.trial import Report

RUN_ANEW = ("noise_scale", "init_std", "dtype")  # what shapes a trajectory
REPLAYED = ("depth", "breadth", "policy", "settle_below", "settle_for", "budget")
KEYS = (*RUN_ANEW, *REPLAYED, "select")
DEFAULTS: dict[str, Value] = {"depth": 16, "breadth": 8, "policy": "full", "select": "logit_residual"}
REPORTED = ("exact_accuracy", "exact_low", "exact_high", "segments_mean", "flops_mean", "settled_share", "puzzles")


def check_answering(config: SearchConfig) -> None:
    """UserError: a key that no answering trial reads, or a value that is not allowed."""
    check_names(config, dict.fromkeys(KEYS, True), {})
    for name in ("depth", "breadth"):
        most(config, name)
    for name, values in (*config.space.corners(), *(("first", point) for point in config.points)):
        whole = values_of(config, values)
        check_selection(str(whole["select"]))
        policy = policy_named(str(whole["policy"]))
        try:
            Settings(**_replayed(whole))
        except (UserError, TypeError) as error:
            raise UserError(f"space.{name}: {error} (policy={policy.name})") from error


def values_of(config: SearchConfig, values: Mapping[str, Value]) -> Values:
    """All keys of a trial: its own, the file's, the defaults. A budget goes with policies that have one."""
    whole: Values = {**DEFAULTS, **config.keys, **values}
    if whole["policy"] not in BUDGETED:
        whole.pop("budget", None)
    return whole


def _replayed(whole: Values) -> dict[str, Any]:
    return {name: whole[name] for name in REPLAYED if whole.get(name) is not None}


def most(config: SearchConfig, name: str) -> int:
    """The greatest depth or breadth that any trial asks for: what is recorded. UserError: not a whole number."""
    fixed = {**DEFAULTS, **config.keys}.get(name)
    values = config.space[name].ends() if name in config.space.names else [fixed]
    whole = [value for value in values if type(value) is int and value >= 1]
    if len(whole) < len(values):
        raise UserError(f"{name}={values[0]} is not allowed: whole numbers, at least 1")
    return max(whole)


def recording_keys(config: SearchConfig, values: Mapping[str, Value]) -> dict[str, Any]:
    """What a recording for this trial is made with, depth and breadth at their most."""
    whole = values_of(config, values)
    own = {name: whole[name] for name in RUN_ANEW if name in whole}
    return {**own, **{name: most(config, name) for name in ("depth", "breadth")}}


def recording_name(keys: Mapping[str, Any]) -> str:
    """The folder of a recording, named by what it was made with."""
    return content_hash(keys)[:12]


def tried(config: SearchConfig, values: Mapping[str, Value], run: RecordedRun) -> Point:
    """Accuracy and cost of the trial on a recorded run."""
    whole, puzzle_set = values_of(config, values), run.puzzle_set
    changes: dict[str, Any] = {"snapshots": (), **_replayed(whole)}
    if policy_named(str(whole["policy"])).verifies:
        changes["verifier"] = puzzle_set.task.name
    settings = run.settings.replace(**changes)
    assert puzzle_set.labels is not None
    replays = Replays([settings], puzzle_set.inputs, puzzle_set.labels, str(whole["select"]))
    for block in run.blocks():
        replays.add(block)
    (point,) = replays.points("", run.flops_per_segment, run.row_segments_per_s)
    return point


def report_of(config: SearchConfig, point: Point) -> Report:
    """Its metrics, with the score by the search's objective."""
    score = config.answer_goal.score(point.exact_accuracy, point.flops_mean)
    return Report(0, time.time(), {"score": score, **{name: float(getattr(point, name)) for name in REPORTED}})
