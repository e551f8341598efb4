"""The pictures of a sweep, from planted trials."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from eqr_ray.plots.search import best_so_far, draw_search, edges, objective_of, position, value_of
from eqr_ray.search.decisions import drawn
from eqr_ray.search.study import SearchConfig, search_of
from eqr_ray.search.trials import Report, Trial

SPACE = {
    "damping": {"uniform": [0.0, 0.5]},
    "noise_scale": {"log": [1e-3, 1.0]},
    "halting": {"choice": ["learned", "fixed"]},
    "max_segments": {"integer": [2, 4], "when": {"halting": ["fixed"]}},
}


def config(**changes: Any) -> SearchConfig:
    file = {"command": "train", "space": SPACE, "keys": {"steps": 4}, "report_every": 2, "trials": 9}
    return search_of({**file, "objective": "highest validation_exact", **changes})


def planted(search: SearchConfig, count: int = 20) -> list[Trial]:
    generator = np.random.default_rng(0)
    trials = []
    for number in range(count):
        metrics = {"validation_exact": float(generator.random()), "exact_accuracy": float(generator.random())}
        metrics["flops_mean"] = 1e9 * (1 + number)
        status = ("finished", "stopped", "diverged")[number % 3]
        reports = (Report(4, number, metrics),) if status != "diverged" else ()
        trials.append(Trial(number, drawn(search.space, 0, number), status, reports=reports))  # type: ignore[arg-type]
    return trials


def test_trials_parameters_and_pairs_are_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    search = config()
    trials = planted(search)
    paths = draw_search(search, trials, {"damping": 0.7, "noise_scale": 0.3}, tmp_path)
    assert [path.name for path in paths] == ["best.png", "parameters.png", "pairs.png"]
    assert all(path.exists() for path in paths)
    best, parameters, pairs = saved
    values = [trial.reports[-1].metrics["validation_exact"] for trial in trials if trial.reports]
    dots = [offset[1] for dots in best.axes[0].collections for offset in dots.get_offsets()]
    assert sorted(dots) == sorted(values)
    (line,) = best.axes[0].get_lines()
    assert line.get_ydata()[-1] == max(
        t.reports[-1].metrics["validation_exact"] for t in trials if t.status == "finished"
    )
    titles = [axes.get_title() for axes in parameters.axes]
    assert titles == ["damping, importance 70%", "noise_scale, importance 30%", "halting", "max_segments"]
    images = [axes.collections[0].get_array() for axes in pairs.axes if axes.get_xlabel()]
    assert len(images) == 6
    assert all(np.nanmax(image) <= max(values) for image in images)


def test_one_parameter_has_no_pairs_and_nothing_has_no_pictures(tmp_path: Path) -> None:
    search = config(space={"damping": {"uniform": [0.0, 0.5]}})
    assert len(draw_search(search, planted(search, 1), {}, tmp_path)) == 2
    assert draw_search(search, [Trial(0, {"damping": 0.1})], {}, tmp_path) == []


@pytest.mark.parametrize(("objective", "highest"), [({"accuracy": 0.5}, False), ({"flops": 5e9}, True)])
def test_answers_are_drawn_where_the_bound_is_kept(tmp_path: Path, objective: dict, highest: bool) -> None:
    answers = {"depth": {"integer": [1, 8]}, "noise_scale": {"log": [1e-3, 1.0]}}
    search = config(command="infer", objective=objective, space=answers, keys={}, report_every=0)
    trials = planted(search)
    assert objective_of(search)[1] is highest
    for trial in trials:
        metrics = trial.reports[-1].metrics if trial.reports else None
        kept = metrics and search.answer_goal.meets(metrics["exact_accuracy"], metrics["flops_mean"])
        assert (value_of(search, trial) is not None) == bool(kept)
    assert len(draw_search(search, trials, {}, tmp_path)) == 3


def test_the_best_so_far_is_of_finished_trials() -> None:
    rows = [(0.9, "stopped"), (0.5, "finished"), (0.4, "finished"), (0.6, "finished")]
    trials = [
        Trial(n, {}, status, reports=(Report(4, n, {"validation_exact": value}),))  # type: ignore[arg-type]
        for n, (value, status) in enumerate(rows)
    ]
    assert best_so_far([(trial, rows[trial.number][0]) for trial in trials], highest=True) == [
        pytest.approx(math.nan, nan_ok=True),
        0.5,
        0.5,
        0.6,
    ]


def test_every_value_has_its_cell() -> None:
    space = config().space
    for one in space:
        inner = edges(one)[1:-1]
        found = {int(np.searchsorted(inner, position(one, one.at(unit)), "right")) for unit in np.linspace(0, 1, 200)}
        assert found == set(range(len(inner) + 1))
        assert edges(one)[0] <= position(one, one.at(0.0)) <= position(one, one.at(1.0)) <= edges(one)[-1]
    assert position(space["halting"], "fixed") == 1.0
