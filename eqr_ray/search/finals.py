"""The finals: the best trials again, with seeds that the search has not seen, and only then the test puzzles.

Of many trials the best is partly luck, on the validation puzzles above all. So finalists train again from nothing; who
wins is decided by the mean over the fresh seeds, still on validation; the test split is looked at last, once for every
network, and changes nothing.

    number of a final: 100 x number of its trial + number of the fresh seed, from 1 on
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from eqr_ray.config.schema import read_json
from eqr_ray.data.arrow_store import Split
from eqr_ray.inference.scores import wilson
from eqr_ray.model.network import Network
from eqr_ray.model.pretrained import load_model
from eqr_ray.model.runtime import device_named, dtype_named
from eqr_ray.search.space import Values
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.trial import Goal, Trial, ranked, score
from eqr_ray.search.trial_dirs import MOST_SEEDS, Trials
from eqr_ray.storage.atomic import write_json
from eqr_ray.training.loop import validate

TEST = "test.json"


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
        """A lost repetition counts as none of its puzzles right where accuracy is the goal; else it is left out, and
        its number stands beside."""
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


def compared(finalists: Sequence[Trial], finals: Trials, seeds: int, goal: Goal) -> list[Finalist]:
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
    first = finalist.trial * (MOST_SEEDS + 1) + 1
    finished = [number for number in range(first, first + seeds) if finals.read(number).status == "finished"]
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
    dtype = dtype_named(card.recipe["dtype"])
    network = Network(model.to(device_named(device)), dtype=dtype, compile=False)
    sums = validate(network, puzzles, range(len(puzzles)), depth)
    counts = {"right": int(sums.exact), "total": int(sums.puzzles), **what}
    write_json(folder / TEST, counts)
    return counts
