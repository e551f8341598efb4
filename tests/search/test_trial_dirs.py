"""The folder of a sweep: what a kill leaves of a trial, and what belongs to another sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.search.proposals import Queue
from eqr_ray.search.space import space_of
from eqr_ray.search.trial import Report, Trial
from eqr_ray.search.trial_dirs import Plan, Trials, write_recipe, write_trials
from eqr_ray.storage.run_log import RunLog, read_log


def line(event: str, step: int, time: float, **metrics: float) -> str:
    return json.dumps({"event": event, "step": step, "time": time, **metrics}) + "\n"


def trained(trials: Trials, number: int, *steps: int, newest: int) -> Path:
    """A trial that reported at `steps` and has a checkpoint of `newest`."""
    trials.write_plan(Plan(number, {"damping": 0.1}))
    folder = trials.folder(number)
    with (folder / "log.jsonl").open("a") as log:
        for step in steps:
            log.write(line("train", step, 10 * step, loss=1 / step))
            log.write(line("validation", step, 10 * step + 1, validation_exact=step / 10))
    checkpoint = folder / "checkpoints" / f"{newest:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    return folder


def test_a_metric_counts_when_a_checkpoint_holds_its_weights(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    trained(trials, 0, 2, 4, 6, newest=4)
    trial = trials.read(0)
    assert (trial.status, [one.step for one in trial.reports]) == ("running", [2, 4])
    assert trial.reports[1].metrics == {"loss": 0.25, "validation_exact": 0.4}


def test_steps_that_were_run_twice_and_lines_that_were_cut(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    folder = trained(trials, 0, 2, 4, newest=4)
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"event": "validation", "st\n' + line("resume", 2, 0))
        log.write(line("validation", 4, 99, validation_exact=0.45))
    (last,) = [one for one in trials.read(0).reports if one.step == 4]
    assert (last.time, last.metrics["validation_exact"], last.metrics["loss"]) == (41, 0.45, 0.25)


def test_how_a_trial_ended(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    folder = trained(trials, 3, 2, 4, newest=4)
    (folder / "summary.json").write_text("{}")
    assert trials.read(3).status == "finished"
    trials.write_end(3, "stopped", "1 of 2 trials were better", 2)
    trial = trials.read(3)
    assert (trial.status, trial.reason, [one.step for one in trial.reports]) == (
        "stopped",
        "1 of 2 trials were better",
        [2],
    )
    trials.write_plan(Plan(5, {"damping": 0.2}))
    trials.write_result(5, Report(0, 1.0, {"score": -3.0}))
    assert trials.read(5) == Trial(5, {"damping": 0.2}, "finished", "", (Report(0, 1.0, {"score": -3.0}),))
    assert list(trials.all()) == [3, 5]


def test_the_queue_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    for number in range(3):
        trials.write_plan(Plan(number, {"damping": 0.1}))
    trials.write_result(1, Report(0, 1.0, {}))

    queue = Queue(trials, range(5), lambda number, history: Plan(number, {"damping": 0.3}))
    assert [queue.next() for _ in range(3)] == [0, 2, 3]
    assert not queue.is_empty
    trials.write_end(0, "diverged", "the loss became nan", 2)
    assert queue.over(0).status == "diverged"
    assert queue.next() == 4
    assert (queue.is_empty, queue.next()) == (True, None)
    assert trials.plan(4).values == {"damping": 0.3}


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


@pytest.mark.parametrize("name", ["trial.json", "result.json", "end.json"])
@pytest.mark.parametrize("content", [b"\xf8", b"[1]", b"{}", b'{"banana": 1}', b"[" * 100_000])
def test_a_damaged_trial_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    trials.write_plan(Plan(0, {}))
    (trials.folder(0) / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged: "):
        trials.read(0)


def test_a_recipe_is_yaml_with_its_story(tmp_path: Path) -> None:
    keys = {"model": "eqr_small", "learning_rate": 1e-05, "compile": False, "limit": None}
    write_recipe(tmp_path, keys, ["Found."])
    text = '# Found.\nmodel: "eqr_small"\nlearning_rate: 1e-05\ncompile: false\nlimit: null\n'
    assert (tmp_path / "best.yaml").read_text() == text


def test_the_log_of_a_sweep_has_every_trial(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "trials")
    with RunLog(tmp_path) as log:
        queue = Queue(trials, range(1), lambda number, history: Plan(number, {"damping": 0.3}), log)
        assert queue.next() == 0
        trials.write_result(0, Report(4, 1.0, {"score": 0.5}))
        queue.over(0)
    begun, over = read_log(tmp_path / "log.jsonl").entries
    assert (begun["event"], begun["trial"], begun["values"]) == ("trial_begun", "trials/00000", {"damping": 0.3})
    assert (over["event"], over["trial"], over["status"], over["step"]) == ("trial_over", "trials/00000", "finished", 4)
    assert over["metrics"] == {"score": 0.5}
