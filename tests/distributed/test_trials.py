"""What Tune is told, without starting it: who has room, which trial is next, which one ends."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher

from eqr_ray.config.errors import UserError
from eqr_ray.distributed import trials as module
from eqr_ray.distributed.trials import Reporter, _Scheduler, _Searcher, _TakeBack, capacity_for_trials
from eqr_ray.search.decisions import EarlyStopping, SuccessiveHalving
from eqr_ray.search.study import MetricGoal, SweepConfig
from eqr_ray.search.trials import END, Plan, Queue, Report, Trials
from eqr_ray.training.loop import TrainingDiverged

SCORE = MetricGoal("score")
CPUS = [{"CPU": 4.0}, {"CPU": 3.0}]
GPUS = [{"CPU": 8.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("workers", "cpus_each", "gpus_each", "there", "fit"),
    [(0, 1, 1.0, CPUS, 7), (0, 2, 1.0, CPUS, 3), (2, 1, 1.0, CPUS, 3), (0, 1, 0.5, GPUS, 4), (2, 1, 1.0, GPUS, 1)],
)
def test_as_many_trials_as_there_is_room_for(
    workers: int, cpus_each: int, gpus_each: float, there: list, fit: int
) -> None:
    config = SweepConfig(workers=workers, cpus_each=cpus_each, gpus_each=gpus_each)
    assert capacity_for_trials(config, there)[1] == fit
    assert capacity_for_trials(config.replace(at_once=1), there)[1] == 1


def test_a_trial_without_a_place_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"2 workers with 4 CPUs each has no place; there are 0 GPUs, 7 CPUs on 2 nodes"
    ):
        capacity_for_trials(SweepConfig(workers=2, cpus_each=4, device="cpu"), CPUS)


def test_tune_asks_and_is_told(tmp_path: Path) -> None:
    trials, seen = Trials(tmp_path), []

    queue = Queue(trials, range(3), lambda number, history: Plan(number, {}))
    searcher = _Searcher(queue, 1, seen.append)
    assert searcher.set_max_concurrency(2)
    assert [searcher.suggest(name) for name in "abc"] == [{"trial": 0}, {"trial": 1}, None]
    trials.write_result(0, Report(0, 0.0, {}))
    searcher.on_trial_complete("a")
    assert searcher.suggest("c") == {"trial": 2}
    assert searcher.suggest("d") is None  # both may come back
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("d") == {"trial": 1}
    searcher.on_trial_complete("d", error=True)
    searcher.on_trial_complete("c", {})
    assert searcher.suggest("e") == Searcher.FINISHED
    assert [(trial.number, trial.status) for trial in seen] == [(0, "finished"), (1, "failed"), (2, "failed")]
    assert trials.read(1).reason == "its process died too often"
    cloudpickle.dumps(searcher)  # Tune does, though we never read it again


def test_a_trial_that_could_not_take_over_an_actor_is_the_next(tmp_path: Path) -> None:
    """Tune sets its status to ERROR, and tells neither searcher nor scheduler."""
    queue = Queue(Trials(tmp_path), range(2), lambda number, known: Plan(number, {}))
    searcher = _Searcher(queue, 0, [].append)
    assert searcher.suggest("a") == {"trial": 0}
    assert searcher.suggest("b") is None
    failed = SimpleNamespace(trial_id="a", status="ERROR")
    for _ in range(2):  # Tune calls at every step
        _TakeBack(searcher).on_step_begin(0, [failed])
    assert searcher.suggest("b") == {"trial": 0}
    assert not Trials(tmp_path).read(0).is_over


def test_trials_with_workers_find_their_end_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [Report(20, 0.0, {"score": 1.0})]
    monkeypatch.setattr(module, "reports_of", lambda folder: list(held))
    monkeypatch.setattr(module, "complete_checkpoints", lambda folder: [folder / f"{held[-1].step:08d}"])
    trials = Trials(tmp_path)
    queue = Queue(trials, range(1), lambda number, known: Plan(number, {}))
    scheduler = _Scheduler(trials, EarlyStopping(SuccessiveHalving(40, 2, 400, SCORE), None), by_itself=True)
    assert queue.next() == 0
    one, another = (SimpleNamespace(config={"trial": number}) for number in range(2))
    heard = []

    def report(metrics: dict[str, float]) -> None:
        heard.append(metrics["step"])
        assert scheduler.on_trial_result(None, one, metrics) == "CONTINUE"

    reporter = Reporter(trials.folder(0), report)
    reporter.look()
    assert heard == [20]
    held += [Report(40, 0.0, {"score": 2.0}), Report(60, 0.0, {"score": 1.5})]
    assert not reporter()
    assert scheduler.on_trial_result(None, another, {"step": 80, "score": 9.0}) == "CONTINUE"
    held += [Report(80, 0.0, {"score": 3.0}), Report(160, 0.0, {"score": 4.0})]
    assert reporter()
    assert heard == [20, 40, 60, 80, 160]
    assert trials.read(0).status == "stopped"


@pytest.mark.parametrize(("stopped", "status", "step"), [(True, "stopped", 20), (False, "diverged", 0)])
def test_what_a_trial_does_after_its_end_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool, status: str, step: int
) -> None:
    """Its workers go on for a moment, and may diverge."""
    monkeypatch.setattr(module, "Experiment", SimpleNamespace(parse=lambda values: None))
    trials = Trials(tmp_path)
    trials.write_plan(Plan(0, {}, experiment={}))

    def train(*_: object) -> None:
        if stopped:
            trials.write_end(0, "stopped", "others were better", 20)
        raise TrainingDiverged("the loss is no number")

    module.run_trial(trials, 0, train, [].append, {})
    assert trials.read(0).status == status
    assert json.loads((trials.folder(0) / END).read_text())["step"] == step


def test_early_stopping_ends_trials(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    queue = Queue(trials, range(2), lambda number, known: Plan(number, {}))
    scheduler = _Scheduler(trials, EarlyStopping(SuccessiveHalving(2, 2, 8, SCORE), None), by_itself=False)
    assert [queue.next(), queue.next()] == [0, 1]
    one, two = (SimpleNamespace(config={"trial": number}) for number in range(2))
    assert scheduler.on_trial_result(None, one, {"step": 2, "score": 1.0}) == "CONTINUE"
    assert scheduler.on_trial_result(None, two, {"step": 2, "score": 0.5, "done": True}) == "CONTINUE"
    assert scheduler.on_trial_result(None, two, {"step": 2, "score": 0.5}) == "STOP"
    assert trials.read(1).status == "stopped"
    assert not scheduler.supports_buffered_results
