"""The folder of a sweep: what a kill leaves of a trial, and what belongs to another sweep."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.search.study import MetricGoal
from eqr_ray.search.trials import Plan, Queue, Report, Trial, Trials, ranked, score
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


@pytest.mark.parametrize("name", ["trial.json", "result.json", "end.json"])
@pytest.mark.parametrize("content", [b"\xf8", b"[1]", b"{}", b'{"banana": 1}', b"[" * 100_000])
def test_a_damaged_trial_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    trials.write_plan(Plan(0, {}))
    (trials.folder(0) / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged: "):
        trials.read(0)


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


def reported(number: int, *values: float, status: str = "finished") -> Trial:
    reports = tuple(Report(step, step, {"right": value}) for step, value in enumerate(values))
    return Trial(number, {}, status, reports=reports)  # type: ignore[arg-type]


def test_the_last_report_of_a_finished_trial_counts() -> None:
    trials = [
        reported(0, 0.9, 0.5),
        reported(1, 0.6),
        reported(2, 0.6),
        reported(3, 1.0, status="stopped"),
        reported(4, 1.0, status="collapsed"),
        reported(5, math.nan),
        reported(6),
    ]
    assert [one.number for one in ranked(trials, MetricGoal("right"))] == [1, 2, 0, 5]
    assert [one.number for one in ranked(trials, MetricGoal("right", highest=False))] == [0, 1, 2, 5]
    assert [score(one, MetricGoal("right")) for one in trials] == [0.5, 0.6, 0.6, 1.0, -math.inf, -math.inf, -math.inf]
