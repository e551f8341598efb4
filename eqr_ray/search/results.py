"""What a sweep comes to: the finals of the best trials, the table of all, the recipe of the winner, its status.

Of many trials the best is partly luck, on the validation puzzles above all. So finalists train again from nothing, with
seeds that the search has not seen; who wins is decided by the mean over them, still on validation; the test split is
looked at last, once for every network, and changes nothing.

    out/manifest.json   what is searched, and how many trials
    out/trials.parquet  a row per trial and report, a column per parameter and metric
    out/best.yaml       the winner, for `recipe=` of train or infer
    number of a final: 100 x number of its trial + number of the fresh seed, from 1 on
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import read_json
from eqr_ray.data.arrow_store import Split
from eqr_ray.inference.records import growing_table
from eqr_ray.inference.scores import wilson
from eqr_ray.model.network import Network
from eqr_ray.model.pretrained import load_model
from eqr_ray.model.runtime import device_named, dtype_named
from eqr_ray.search.space import Parameter, Space, Values
from eqr_ray.search.study import MOST_SEEDS, MetricGoal, SearchConfig, search_of
from eqr_ray.search.trials import FINALS, TRIALS, Trial, Trials, ranked, score
from eqr_ray.storage.atomic import write_bytes, write_json
from eqr_ray.storage.run_dir import MANIFEST, RunDir
from eqr_ray.storage.run_log import RunStatus
from eqr_ray.training.loop import validate

TABLE, BEST, TEST = "trials.parquet", "best.yaml", "test.json"
VALUE = "space."  # before the names of parameters in the table, apart from the metrics
FAILURES_SHOWN = 3  # the newest


@dataclass(frozen=True)
class Finalist:
    """A trial and its repetitions with fresh seeds. More is better in every score; test counts are of all networks
    together, None where there is no test split."""

    trial: int
    values: Values
    search_score: float | None  # None: it was lost in the search
    scores: tuple[float, ...]
    lost: int  # repetitions that diverged, collapsed or failed
    test_right: int | None = None
    test_total: int | None = None

    @property
    def mean_score(self) -> float:
        """A lost repetition counts as nothing right where accuracy is the goal; else it is left out."""
        return mean(self.scores) if self.scores else -math.inf

    def summary(self) -> dict[str, Any]:
        """For summary.json. The 95 % interval is over puzzles of all networks; how networks differ, the scores tell."""
        values = {**vars(self), "scores": list(self.scores), "mean_score": self.mean_score if self.scores else None}
        if self.test_right is None or not self.test_total:
            return {**values, "test_exact": None}
        low, high = wilson(self.test_right, self.test_total)
        return {**values, "test_exact": self.test_right / self.test_total, "test_low": low, "test_high": high}


def finalists_of(config: SearchConfig, trials: Sequence[Trial], count: int) -> list[Trial]:
    """The best `count` finished trials of different values and, for comparison, the first of the known points,
    whatever became of it in the search."""
    best: list[Trial] = []
    for trial in ranked(trials, config.goal):
        if trial.values not in [one.values for one in best]:
            best.append(trial)
    chosen = best[:count]
    known = [trial for trial in trials if config.points and trial.values == config.points[0]]
    return chosen + [trial for trial in known[:1] if count and trial.values not in [one.values for one in chosen]]


def final_numbers(finalists: Sequence[Trial], seeds: int) -> list[int]:
    """The repetitions, seed by seed: all finalists have one before any has two."""
    return [trial.number * (MOST_SEEDS + 1) + k for k in range(1, seeds + 1) for trial in finalists]


def of_trial(number: int) -> tuple[int, int]:
    """(trial, number of the fresh seed) of a final."""
    return divmod(number, MOST_SEEDS + 1)


def compared(finalists: Sequence[Trial], finals: Trials, seeds: int, goal: MetricGoal) -> list[Finalist]:
    """The finalists, best first, without the test split."""
    results = []
    for trial in finalists:
        repetitions = [finals.read(number) for number in final_numbers([trial], seeds)]
        scores = [score(one, goal) for one in repetitions if one.status == "finished"]
        lost = seeds - len(scores)
        if goal.highest and goal.metric.endswith("exact"):
            scores += [0.0] * lost
        own = score(trial, goal)
        results.append(Finalist(trial.number, trial.values, own if math.isfinite(own) else None, tuple(scores), lost))
    return sorted(results, key=lambda one: (-one.mean_score, one.trial))


def tested(finalist: Finalist, finals: Trials, seeds: int, split: Path, depth: int, device: str) -> Finalist:
    """With the test counts of its networks. A network that has been tested is not tested again."""
    numbers = [finalist.trial * (MOST_SEEDS + 1) + k for k in range(1, seeds + 1)]
    finished = [number for number in numbers if finals.read(number).status == "finished"]
    counts = [_test(finals.folder(number), split, depth, device) for number in finished]
    right, total = (sum(one[name] for one in counts) for name in ("right", "total"))
    return replace(finalist, test_right=right, test_total=total)


def _test(folder: Path, split: Path, depth: int, device: str) -> dict[str, Any]:
    puzzles = Split.open(split)
    what = {"data": puzzles.content_hash, "depth": depth}
    if (folder / TEST).is_file():
        before = read_json(folder / TEST)
        if {name: before.get(name) for name in what} == what:
            return before
    model, card = load_model(str(folder))
    network = Network(model.to(device_named(device)), dtype=dtype_named(card.recipe["dtype"]), compile=False)
    sums = validate(network, puzzles, range(len(puzzles)), depth)
    counts = {"right": int(sums["exact"]), "total": int(sums["puzzles"]), **what}
    write_json(folder / TEST, counts)
    return counts


def write_trials(path: Path, space: Space, trials: Sequence[Trial]) -> None:
    """The table of all trials. A trial without reports is a row without metrics."""
    columns = {one.name: _column(one) for one in space}
    rows: list[dict[str, Any]] = []
    for trial in trials:
        about: dict[str, Any] = {"trial": trial.number, "status": trial.status, "reason": trial.reason}
        for name, value in trial.values.items():
            is_text = value is not None and columns[name] == "string"
            about[VALUE + name] = str(value) if is_text else value
        reports = [{"step": one.step, "time": one.time, **one.metrics} for one in trial.reports] or [{}]
        rows += [{**about, "is_last": one is reports[-1], **one} for one in reports]
    metrics = {name for trial in trials for report in trial.reports for name in report.metrics}
    schema = {"trial": "int64", "status": "string", "reason": "string", "step": "int64", "time": "double"}
    schema |= {"is_last": "bool", **{VALUE + name: kind for name, kind in columns.items()}}
    with growing_table(path, schema | dict.fromkeys(sorted(metrics), "double")) as write:
        write(rows)


def _column(one: Parameter) -> str:
    """The Arrow type of a parameter."""
    if one.kind == "choice":
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in one.choices)
        return "double" if numbers else "string"
    return "int64" if one.kind == "integer" else "double"


def write_recipe(out: Path, keys: Mapping[str, Any], comment: Iterable[str]) -> None:
    """best.yaml: the winner as keys that `recipe=` of train or infer takes."""
    lines = [*(f"# {line}" for line in comment), *(f"{key}: {json.dumps(value)}" for key, value in keys.items())]
    write_bytes(out / BEST, ("\n".join(lines) + "\n").encode())


def stored_search(path: Path) -> SearchConfig:
    """What the sweep in this folder searches, with as many trials as it shall have. UserError: no sweep is there, or
    its manifest is damaged."""
    manifest = RunDir(path, "sweep").manifest()
    try:
        return search_of({**manifest["identity"]["search"], "trials": manifest["trials"]})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / MANIFEST} is damaged: it holds no search") from error


def status_of_search(path: Path, summary: Mapping[str, Any] | None) -> tuple[str, RunStatus]:
    """What is searched, and how far it is, from the folder alone. `summary`: of a finished sweep. UserError: the
    manifest is damaged."""
    search = stored_search(path)
    trials, damaged = Trials(path / TRIALS).readable()
    finals, damaged_finals = Trials(path / FINALS).readable()
    over = sum(trial.is_over for trial in trials)
    facts = {"how far": f"{over} of {search.trials} trials are over, {len(trials) - over} begun"}
    if finals:
        facts["finals"] = f"{sum(trial.is_over for trial in finals)} of {len(finals)} begun are over"
    ends = Counter(trial.status for trial in trials)
    facts["ends"] = ", ".join(f"{count} {status}" for status, count in ends.most_common()) or "none yet"
    for best in ranked(trials, search.goal)[:1]:
        values = ", ".join(f"{name}={value}" for name, value in best.values.items())
        metric = f"{search.goal.metric} {best.metrics.get(search.goal.metric)}"
        facts["best"] = f"trial {best.number}, {metric} at step {best.step}: {values}"
    failed = [trial for trial in (*trials, *finals) if trial.status == "failed"]
    lost = [f"trial {trial.number} failed: {trial.reason}" for trial in failed[-FAILURES_SHOWN:]]
    lost += [f"damaged: {folder}" for folder in (*damaged, *damaged_finals)]
    what = f"sweep of {search.command}: {', '.join(search.space.names)}; {search.algorithm.name}"
    return what, RunStatus(facts, lost, goes_on=summary is None)
