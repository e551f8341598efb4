"""Who is in the finals, who wins them, and what is written of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.search.results import Finalist, compared, final_numbers, finalists_of, of_trial, write_recipe, write_trials
from eqr_ray.search.space import space_of
from eqr_ray.search.study import SweepConfig
from eqr_ray.search.trials import Plan, Report, Trial, Trials
from tests.search.test_study import KNOWN, config


def trial(number: int, score: float, status: str = "finished", step: int = 40, **values: Any) -> Trial:
    report = Report(step, number, {"validation_exact": score})
    return Trial(number, {**KNOWN, **values}, status, reports=(report,))  # type: ignore[arg-type]


def test_the_best_and_what_was_known_before() -> None:
    trials = [
        trial(0, 0.2, status="stopped", step=20),
        trial(1, 0.9, damping=0.2),
        trial(2, 0.9, damping=0.2),  # the same again
        trial(3, 0.8, damping=0.3),
        trial(5, 0.7, damping=0.5),
    ]
    assert [one.number for one in finalists_of(config(), trials, 2)] == [1, 3]
    assert [one.number for one in finalists_of(config(first=[KNOWN]), trials, 2)] == [1, 3, 0]
    assert finalists_of(config(first=[KNOWN]), trials, 0) == []


def test_finals_are_numbered_by_trial_and_seed() -> None:
    numbers = final_numbers([trial(7, 0.5), trial(2, 0.4)], 2)
    assert numbers == [701, 201, 702, 202]
    assert [of_trial(number) for number in numbers] == [(7, 1), (2, 1), (7, 2), (2, 2)]


def test_the_mean_over_fresh_seeds_decides(tmp_path: Path) -> None:
    finals = Trials(tmp_path)
    scores = {101: 0.9, 102: None, 201: 0.6, 202: 0.5}
    for number, score in scores.items():
        finals.write_plan(Plan(number, KNOWN))
        if score is None:
            finals.write_end(number, "diverged", "the loss became nan", 0)
        else:
            finals.write_result(number, Report(40, 0.0, {"validation_exact": score}))
    finalists = [trial(1, 0.99), trial(2, 0.7, status="collapsed")]
    found = compared(finalists, finals, 2, config().goal)
    assert [(one.trial, one.scores, one.lost) for one in found] == [(2, (0.6, 0.5), 0), (1, (0.9, 0.0), 1)]
    assert found[0].search_score is None
    assert found[0].summary()["test_exact"] is None


def test_the_interval_is_over_all_puzzles() -> None:
    summary = Finalist(0, KNOWN, 0.5, (0.5,), 0, test_right=90, test_total=100).summary()
    assert 0.8 < summary["test_low"] < summary["test_exact"] == 0.9 < summary["test_high"] < 0.95


def test_finals_that_cannot_be() -> None:
    for value in ("finalists=-1", "seeds=0", "seeds=100"):
        with pytest.raises(UserError, match=f"{value} is not allowed"):
            parse_arguments(SweepConfig, [value])


def test_the_table_has_a_row_per_report(tmp_path: Path) -> None:
    space = space_of(
        {
            "damping": {"uniform": [0, 1]},
            "halting": {"choice": ["learned", "fixed"]},
            "layers": {"integer": [1, 3], "when": {"halting": ["fixed"]}},
            "augment": {"choice": [True, False]},
        }
    )
    values = {"damping": 0.5, "halting": "learned", "augment": True}
    reports = (Report(2, 1.0, {"loss": 0.5}), Report(4, 2.0, {"loss": 0.25, "validation_exact": 1.0}))
    trials = [Trial(0, values, "finished", reports=reports), Trial(1, {**values, "halting": "fixed", "layers": 2})]  # type: ignore[arg-type]
    write_trials(tmp_path / "trials.parquet", space, trials)
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [(row["trial"], row["step"], row["is_last"]) for row in rows] == [
        (0, 2, False),
        (0, 4, True),
        (1, None, True),
    ]
    assert [row["loss"] for row in rows] == [0.5, 0.25, None]
    assert rows[0]["validation_exact"] is None
    assert [row["space.layers"] for row in rows] == [None, None, 2]
    assert (rows[0]["space.augment"], rows[0]["space.halting"]) == ("True", "learned")


def test_a_recipe_is_yaml_with_its_story(tmp_path: Path) -> None:
    keys = {"model": "eqr_small", "learning_rate": 1e-05, "compile": False, "limit": None}
    write_recipe(tmp_path, keys, ["Found."])
    text = '# Found.\nmodel: "eqr_small"\nlearning_rate: 1e-05\ncompile: false\nlimit: null\n'
    assert (tmp_path / "best.yaml").read_text() == text
