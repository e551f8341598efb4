"""What the folder of a sweep tells of it: how many trials are over and how they ended, the best one, what failed.

Why here: read from the folder alone, by `eqr_ray.status`, while another process may be writing there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.search.outcome import Trial, ranked
from eqr_ray.search.study import SearchConfig, search_of
from eqr_ray.search.trial_dirs import FINALS, TRIALS, Trials, stored
from eqr_ray.storage.status import RunStatus

FAILURES_SHOWN = 3  # the newest
DAMAGE = (UserError, OSError, ValueError, KeyError, TypeError, AssertionError)


def is_sweep(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest.json is that of a sweep."""
    return isinstance(manifest.get("identity"), dict)


def what_is_searched(path: Path) -> str:
    """One line. UserError: the manifest is damaged."""
    search = _search(path)
    return f"sweep of {search.door}: {', '.join(search.space.names)}; {search.algorithm.name}"


def status_of_search(path: Path, summary: Mapping[str, Any] | None) -> RunStatus:
    """`summary`: of a finished sweep. UserError: the manifest is damaged."""
    manifest, search = stored(path), _search(path)
    assert manifest is not None
    trials, damaged = _read(Trials(path / TRIALS))
    finals, damaged_finals = _read(Trials(path / FINALS))
    facts = {"how far": _how_far(trials, manifest["trials"])}
    if finals:
        facts["finals"] = f"{sum(trial.is_over for trial in finals)} of {len(finals)} begun are over"
    ends = Counter(trial.status for trial in trials)
    facts["ends"] = ", ".join(f"{count} {status}" for status, count in ends.most_common()) or "none yet"
    if best := ranked([trial for trial in trials if trial.reports], search.goals)[:1]:
        facts["best"] = _told(best[0], search)
    failed = [trial for trial in (*trials, *finals) if trial.status == "failed"]
    lost = [f"trial {trial.number} failed: {trial.reason}" for trial in failed[-FAILURES_SHOWN:]]
    lost += [f"damaged: {folder}" for folder in (*damaged, *damaged_finals)]
    return RunStatus(facts, lost, goes_on=summary is None)


def _search(path: Path) -> SearchConfig:
    manifest = stored(path)
    assert manifest is not None
    return search_of({**manifest["identity"]["search"], "trials": manifest["trials"]})


def _read(trials: Trials) -> tuple[list[Trial], list[Path]]:
    """(those that can be read, the folders of the others)."""
    found, damaged = [], []
    for number in trials.numbers():
        try:
            found.append(trials.read(number))
        except DAMAGE:
            damaged.append(trials.folder(number))
    return found, damaged


def _how_far(trials: Sequence[Trial], wanted: int) -> str:
    over = sum(trial.is_over for trial in trials)
    return f"{over} of {wanted} trials are over, {len(trials) - over} begun"


def _told(best: Trial, search: SearchConfig) -> str:
    goal, last = search.goals[0], best.reports[-1]
    values = ", ".join(f"{name}={value}" for name, value in best.values.items())
    return f"trial {best.number}, {goal.figure} {last.figures.get(goal.figure)} at step {last.step}: {values}"
