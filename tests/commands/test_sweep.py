"""The command `sweep` without Ray: trials run one after the other here, and are killed between two reports."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from eqr_ray import sweep, train
from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import write_split
from eqr_ray.distributed.trials import Reporter, run_trial
from eqr_ray.plots import search as plots
from eqr_ray.search.decisions import EarlyStopping
from eqr_ray.search.trials import Queue, Report
from eqr_ray.status import report
from eqr_ray.tasks import task_named
from eqr_ray.training.experiment import Experiment, TrainOptions, train_here
from eqr_ray.training.loop import TrainingDiverged
from tests.inference.tiny import save_tiny

torch.set_num_threads(1)
TUNE = Path(__file__).parents[2] / "tune"
SPACE = """
command: train
space:
  damping: {uniform: [0.0, 0.3], points: 2}
  learning_rate: {log: [1.0e-4, 1.0e-2], points: 2}
first:
  - {damping: 0.05, learning_rate: 1.0e-3}
keys:
  model: eqr_small
  model.width: 8
  model.hidden_multiple: 8
  model.h_cycles: 2
  model.l_cycles: 1
  batch: 4
  steps: 8
  warmup: 2
  max_segments: 2
  validate_puzzles: 8
  dtype: float32
  compile: false
objective: highest validation_token_accuracy
algorithm: {name: tpe, startup: 2}
scheduler: {name: asha, first: 2, factor: 2}
report_every: 2
trials: 5
"""


class Killed(BaseException):
    """What kill -9 leaves no trace of."""


class Ended(BaseException):
    """Unwinds a trial that ends early, as Tune does."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task, folder = task_named("sudoku4"), tmp_path_factory.mktemp("sudoku4")
    puzzles = task.generate(40, 0)
    for name, rows in (("train", (0, 16)), ("validation", (16, 24)), ("test", (24, 40))):
        write_split(folder / f"{name}.arrow", task, puzzles.take(np.arange(*rows)), source="generate", seed=0)
    return folder


Plant = Callable[[int, dict[str, Any]], dict[str, Any]]


class Here:
    """A runner in this process. `left`: reports until it is killed; `plant`: what becomes of a report."""

    def __init__(self, left: float = math.inf, plant: Plant = lambda number, metrics: metrics) -> None:
        self.left, self.plant, self.begun = left, plant, []

    def __call__(self, config: Any, stack: Any) -> Any:
        return self.run

    def run(self, queue: Queue, early_stopping: EarlyStopping) -> None:
        while (number := queue.next()) is not None:
            self.begun.append(number)

            def report(metrics: dict[str, Any], number: int = number) -> None:
                if self.left <= 0:
                    raise Killed
                self.left -= 1
                metrics = self.plant(number, metrics)
                end = early_stopping.hear(number, Report(metrics["step"], 0.0, metrics))
                if end is not None:
                    queue.trials.write_end(number, *end, metrics["step"])
                    raise Ended

            def train(experiment: Experiment, folder: Path, reporter: Reporter, report: Any = report) -> None:
                train_here(experiment, folder, report)

            with suppress(Ended):
                run_trial(queue.trials, number, train, report, {})
            queue.over(number)


@pytest.fixture
def command(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the command; returns summary.json. `space`: text of the file; `drawn`: with its pictures."""

    draw_search = plots.draw_search

    def run(
        *typed: str, space: str | None = SPACE, here: Here | None = None, out: str = "out", drawn: bool = False
    ) -> dict[str, Any]:
        monkeypatch.setattr(plots, "draw_search", draw_search if drawn else lambda *arguments: [])
        monkeypatch.setattr("eqr_ray.distributed.sweeps.ray_runner", here or Here())
        keys = list(typed)
        if space is not None:
            (tmp_path / "space.yaml").write_text(space)
            keys += [f"space={tmp_path / 'space.yaml'}", f"data={data}", f"out={tmp_path / out}"]
        sweep.main(*parse_arguments(sweep.SweepConfig, keys))
        return json.loads((tmp_path / out / "summary.json").read_text())

    return run


def test_a_sweep_leaves_what_the_docs_say(command: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    summary = command("finalists=2", "seeds=2", drawn=True)
    out = tmp_path / "out"
    names = {"trials.parquet", "best.yaml", "best.png", "parameters.png", "pairs.png", "config.json", "manifest.json"}
    assert names | {"summary.json", "log.jsonl", "trials", "finals"} == {
        path.name for path in out.iterdir() if path.name[0] != "."
    }
    assert summary["configurations_tried"] == 5
    assert sum(summary["ends"].values()) == 5
    assert summary["ends"].keys() <= {"finished", "stopped"}
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    assert {row["trial"] for row in rows} == set(range(5))
    assert sum(row["is_last"] for row in rows) == 5
    assert all(row["step"] in (2, 4, 6, 8) for row in rows)
    finalists = summary["finalists"]
    assert 0 in [one["trial"] for one in finalists]  # the known point
    for one in finalists:
        assert len(one["scores"]) == 2
        assert one["test_total"] == 2 * 16
        assert one["test_low"] <= one["test_exact"] <= one["test_high"]
    seeds = [json.loads((final / "config.json").read_text())["seed"] for final in (out / "finals").iterdir()]
    assert sorted(set(seeds)) == [1, 2]
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert best["damping"] == summary["winner"]["damping"]
    recipe = [f"recipe={out / 'best.yaml'}", f"data={data}", f"out={tmp_path / 'again'}"]
    assert train.main(*parse_arguments(TrainOptions, recipe)) == 0
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["model"]["damping"] == summary["winner"]["damping"]
    assert config["learning_rate"] == summary["winner"]["learning_rate"]


def trials_of(out: Path) -> dict[str, Any]:
    """What the trials came to, without the time of day."""
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    slow = ("time", "elapsed_s", "left_s", "rows_per_s", "segments_per_s")
    return {f"{row['trial']}@{row['step']}": {k: v for k, v in row.items() if k not in slow} for row in rows}


def test_kills_change_nothing(command: Callable[..., Any], tmp_path: Path) -> None:
    whole = command("finalists=1", "seeds=1", out="whole")
    typed: list[str] = ["finalists=1", "seeds=1"]
    space: str | None = SPACE
    kills = 0
    for reports in (1, 3, 5, 3, 60, 60):
        try:
            summary = command(*typed, space=space, here=Here(left=reports))
            break
        except Killed:
            kills += 1
            typed, space = [f"resume={tmp_path / 'out'}"], None
    assert kills >= 3
    assert trials_of(tmp_path / "out") == trials_of(tmp_path / "whole")
    for key in ("winner", "ends", "finalists"):
        assert summary[key] == whole[key]
    assert summary["best_of_search"]["trial"] == whole["best_of_search"]["trial"]


def test_status_tells_how_far_a_sweep_is(command: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed):
        command("finalists=0", here=Here(left=7))
    told = dict(report(out))
    assert told["is"] == "sweep of train: damping, learning_rate; tpe"
    over, wanted = told["how far"].split(" trials are over")[0].split(" of ")
    assert 0 < int(over) < int(wanted) == 5
    assert told["does"].startswith("nothing")
    assert told["needs"] == f"python -m eqr_ray.sweep resume={out}"
    command(f"resume={out}", space=None)
    told = dict(report(out))
    assert told["how far"] == "5 of 5 trials are over, 0 begun"
    assert told["best"].startswith("trial ")
    assert (told["lost"], told["needs"]) == ("nothing", "nothing")
    (out / "trials" / "00002" / "trial.json").write_text("{")
    assert f"damaged: {out / 'trials' / '00002'}" in [words for label, words in report(out) if label == "lost"]


def test_finished_trials_are_not_run_again_and_a_sweep_is_extended(command: Callable[..., Any], tmp_path: Path) -> None:
    command("finalists=0", "trials=3")
    before = trials_of(tmp_path / "out")
    here = Here()
    command(f"resume={tmp_path / 'out'}", space=None, here=here)
    assert here.begun == []
    summary = command(f"resume={tmp_path / 'out'}", "trials=5", space=None, here=here)
    assert here.begun == [3, 4]
    assert summary["configurations_tried"] == 5
    after = trials_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    command("finalists=0", out="at_once")
    assert trials_of(tmp_path / "at_once") == after


def test_the_lost_are_counted_with_their_reason(command: Callable[..., Any], tmp_path: Path) -> None:
    def plant(number: int, metrics: dict[str, Any]) -> dict[str, Any]:
        if number == 1:
            raise TrainingDiverged("the loss became nan before step 2")
        return {**metrics, "token_loss": 100.0} if number == 2 and metrics["step"] == 6 else metrics

    space = SPACE.replace("name: asha, first: 2, factor: 2", "name: none")
    summary = command("finalists=0", space=space, here=Here(plant=plant))
    assert summary["ends"] == {"finished": 3, "diverged": 1, "collapsed": 1}
    assert summary["lost"]["1"] == "diverged: the loss became nan before step 2"
    assert summary["lost"]["2"].startswith("collapsed: the loss rose from")
    assert summary["winner"] is not None
    assert summary["finalists"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("damping: {uniform: [0.0, 0.3]", "damping: {uniform: [0.0, 0.4]"),
            "space.damping.uniform is [0.0, 0.3] there",
        ),
        (("batch: 4", "batch: 8"), "search.keys.batch is 4 there and 8 here"),
        (("name: tpe, startup: 2", "name: random"), "search.algorithm.name is"),
    ],
)
def test_another_search_is_refused(
    command: Callable[..., Any], tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    command("finalists=0", "trials=1")
    with pytest.raises(UserError) as error:
        command("finalists=0", space=SPACE.replace(*change))
    assert words in str(error.value)
    with pytest.raises(UserError, match="seed=3 does not go with resume=: the run has seed=0"):
        command(f"resume={tmp_path / 'out'}", "seed=3", space=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("damping:", "dampnig:"), "trials of train have no key 'dampnig'; did you mean 'damping'?"),
        (("[0.0, 0.3]", "[0.0, 1.0]"), "space.damping: damping=1.0 is not allowed"),
        (("batch: 4", "bacth: 4"), "keys: trials of train have no key 'bacth'"),
        (("batch: 4", "batch: 0"), "batch=0 is not allowed"),
        (("report_every: 2", "report_every: 2\nlog: 3"), "unknown key 'log'"),
        (("warmup: 2", "warmup: 2\n  log_every: 3"), "log_every=3 must divide report_every=2"),
        (("command: train", "command: [train"), "is no YAML"),
    ],
)
def test_mistakes_leave_nothing_behind(
    command: Callable[..., Any], tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    with pytest.raises(UserError) as error:
        command(
            space=SPACE.replace("  - {damping: 0.05, learning_rate: 1.0e-3}\n", "")
            .replace("first:\n", "")
            .replace(*change)
        )
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_resume_and_folders(command: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep there"):
        command(f"resume={tmp_path}", space=None)
    with pytest.raises(UserError, match="space= must be given"):
        command("data=d", space=None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no sweep"):
        command()


ANSWERS = """
command: infer
space:
  noise_scale: {log: [1.0e-3, 1.0], points: 2}
  breadth: {integer: [1, 3], points: 2}
  policy: {choice: [full, settle]}
  settle_below: {log: [0.1, 10.0], points: 2, when: {policy: [settle]}}
keys:
  depth: 3
objective: {flops: 1.0e+15}
algorithm: {name: grid}
trials: 100
"""


def test_answers_are_searched_by_replay(command: Callable[..., Any], tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "tiny")
    summary = command(f"checkpoint={checkpoint}", "actors=0", space=ANSWERS)
    assert summary["configurations_tried"] == 2 * 2 * (1 + 2)
    assert len(list((tmp_path / "out" / "records").iterdir())) == 2  # one run of the network for each noise
    assert summary["objective"] == "best accuracy at 1e+15 FLOPs a puzzle or fewer"
    assert summary["winner"].keys() >= {"noise_scale", "breadth", "policy", "depth", "select"}
    assert summary["test"]["puzzles"] == 16
    rows = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    cheapest = min(row["flops_mean"] for row in rows)
    again = command(f"resume={tmp_path / 'out'}", space=None)
    assert again["winner"] == summary["winner"]
    bound = f"objective: {{flops: {cheapest * 1.01}}}"
    frugal = command(
        f"checkpoint={checkpoint}", space=ANSWERS.replace("objective: {flops: 1.0e+15}", bound), out="frugal"
    )
    assert frugal["winner"]["breadth"] == 1
    never = ANSWERS.replace("objective: {flops: 1.0e+15}", "objective: {accuracy: 1.0}")
    assert command(f"checkpoint={checkpoint}", space=never, out="never")["winner"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("depth: 3", "dtpeh: 3"), "trials of infer have no key 'dtpeh'"),
        (("depth: 3", "depth: 0"), "depth=0 is not allowed"),
        (("[full, settle]", "[full, setle, settle]"), "policy=\"setle\" is not allowed: should be 'full'"),
    ],
)
def test_mistakes_about_answers(
    command: Callable[..., Any], tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    with pytest.raises(UserError) as error:
        command(f"checkpoint={save_tiny(tmp_path / 'tiny')}", space=ANSWERS.replace(*change))
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", sorted(TUNE.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_file_under_tune_makes_its_trials(file: Path, data: Path, tmp_path: Path) -> None:
    keys = [f"space={file}", f"data={data}", "finalists=0"]
    if "command: infer" in file.read_text():
        keys.append(f"checkpoint={save_tiny(tmp_path / 'tiny')}")
    config = parse_arguments(sweep.SweepConfig, keys)[0]
    space = sweep.search_read(config, {"space"})
    with ExitStack() as stack:
        assert sweep.sweep_of(space, config, stack).search == space
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("Cost:" in line for line in head)
    assert any("?" in line for line in head)
    assert any("python -m eqr_ray.sweep space=tune/" in line for line in head)
