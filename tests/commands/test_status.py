"""The command `status`: what a run's folder tells, whatever state it is in; nothing in it breaks the command."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import socket
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqr_ray import infer
from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.distributed import answering
from eqr_ray.inference.settings import InferConfig
from eqr_ray.status import printable, report
from eqr_ray.storage.run_dir import LOCK, locked
from eqr_ray.train import main as train_main
from eqr_ray.training.experiment import TrainOptions
from tests.inference.tiny import save_tiny, sudokus, write_csv
from tests.support.commands import call

torch.set_num_threads(1)
TINY = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=4", "steps=6", "learning_rate=1e-3", "warmup=2", "compile=false", "dtype=float32", "log_every=2"]
TINY += ["checkpoint_every=3", "validate_puzzles=4", "validate_depth=2"]


def told(path: Path) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {}
    for label, words in report(path):
        lines.setdefault(label, []).append(words)
    return lines


def train(*typed: str) -> int:
    return train_main(*parse_arguments(TrainOptions, typed))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert train(*TINY, f"data={data}", f"out={out}") == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "my run"))


def unfinished(run: Path) -> Path:
    (run / "summary.json").unlink()
    return run


def lock(run: Path, **changed: object) -> None:
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (run / LOCK).write_text(json.dumps({**mine, **changed}))


def append(run: Path, *entries: dict) -> None:
    with (run / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


# ---- training


def test_a_finished_training(run: Path, data: Path) -> None:
    lines = told(run)
    assert lines["run"] == [str(run)]
    assert lines["is"][0].startswith("training, sudoku4: width 8, 1 layers, batch 4, one process, data ")
    assert lines["does"] == ["nothing: it is finished"]
    assert lines["how far"][0].startswith("step 6 of 6 (100%), ")
    assert "segments/s" in lines["speed"][0]
    assert "of the rows in training exactly right" in lines["loss"][0]
    assert lines["validation"][0].endswith("exact at step 6, depth 2")
    assert lines["checkpoints"] == ["00000003, 00000006"]
    assert (lines["lost"], lines["needs"]) == (["nothing"], ["nothing"])


def test_what_a_stopped_training_needs_is_a_command_that_works(run: Path) -> None:
    unfinished(run)
    assert told(run)["does"][0].startswith("nothing: it was stopped, its last word ")
    (command,) = told(run)["needs"]
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "eqr_ray.train"]
    assert train(*words[3:], "steps=7") == 0
    assert told(run)["how far"][0].startswith("step 7 of 7")
    assert told(run)["lost"] == ["restarted 1 times, 0 steps done again"]


def test_who_has_the_run(run: Path) -> None:
    with locked(unfinished(run)):
        lines = told(run)
        assert lines["does"][0].startswith(f"it runs: process {os.getpid()} on {socket.gethostname()}, its last word ")
        assert lines["needs"] == ["nothing"]
    lock(run, started=1.0)  # the number belongs to another process since
    assert f"nothing: process {os.getpid()} on {socket.gethostname()} died" in told(run)["does"][0]
    assert told(run)["needs"][0].startswith("python -m eqr_ray.train 'resume=")
    lock(run, host="elsewhere")
    assert told(run)["does"][0].startswith(f"perhaps it runs: process {os.getpid()} on elsewhere, which cannot be seen")
    remove, resume = told(run)["needs"]
    assert remove == f"if that process is dead: rm '{run / LOCK}'"
    assert "resume=" in resume


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"host": 1, "pid": 1, "started": 1}', '{"host": "x", "pid": "1", "started": 0}']
)
def test_a_lock_that_a_death_cut_short_is_none(run: Path, content: str) -> None:
    (unfinished(run) / LOCK).write_text(content)
    assert told(run)["does"][0].startswith("nothing: it was stopped")
    with locked(run):
        pass


@pytest.mark.parametrize("pid", [-1, 0, 2**31, 2**70])
def test_a_lock_with_an_impossible_process_is_that_of_a_dead_one(run: Path, pid: int) -> None:
    lock(unfinished(run), pid=pid)
    assert "died" in told(run)["does"][0]


def test_what_was_lost_is_told(run: Path) -> None:
    unfinished(run)
    append(run, {"event": "resume", "step": 3, "checkpoint": "00000003", "workers": 2})
    append(run, {"event": "train", "step": 4, "loss": 1.5})
    append(run, {"event": "train", "step": 2, "loss": 2.5})  # began again without a checkpoint
    append(run, *({"event": "warning", "message": f"number\n{i}"} for i in range(5)))
    (run / "checkpoints" / "00000006").rename(run / "checkpoints" / "00000006.damaged")
    assert told(run)["lost"] == [
        "restarted 2 times, 7 steps done again",
        "damaged checkpoints, set aside: 00000006.damaged",
        "2 earlier warnings, in log.jsonl",
        *(f"warned: number {i}" for i in (2, 3, 4)),
    ]
    assert told(run)["how far"] == ["step 2 of 6 (33%)"]
    assert "loss" not in told(run)  # the entry is not complete


def test_a_diverged_training_is_not_resumed(data: Path, tmp_path: Path) -> None:
    keys = [key for key in TINY if not key.startswith("learning_rate=")]
    assert train(*keys, "learning_rate=1e30", f"data={data}", f"out={tmp_path / 'run'}") == 1
    lines = told(tmp_path / "run")
    assert lines["needs"] == ["a new run with a smaller learning_rate="]
    assert lines["lost"][0].startswith("diverged: the loss became ")


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        lines = told(tmp_path / "run")
    assert lines["is"] == ["a run that has not begun: it makes its data, or starts Ray"]
    assert lines["needs"] == ["nothing"]


# ---- inference


@pytest.fixture(scope="module")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inferred")
    checkpoint, data = save_tiny(folder / "tiny"), write_csv(folder / "puzzles.csv", sudokus(20))
    typed = {"checkpoint": checkpoint, "data": data, "out": folder / "out", "depth": 4, "breadth": 3, "actors": 0}
    typed["snapshots"] = "[1,2]"
    infer.run(*parse_arguments(InferConfig, [f"{key}={value}" for key, value in typed.items()]))
    return folder / "out"


@pytest.fixture
def answered(inferred: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inferred, tmp_path / "answers"))


def test_a_finished_inference(answered: Path) -> None:
    lines = told(answered)
    assert lines["is"][0].startswith("inference, 20 puzzles: depth 4, breadth 3, policy full, ")
    assert lines["does"] == ["nothing: it is finished"]
    assert lines["how far"] == ["all 20 puzzles"]
    assert lines["speed"][0].endswith("row-segments/s")
    summary = json.loads((answered / "summary.json").read_text())
    assert lines["exact"][0].startswith(f"{summary['exact_accuracy']:.2%} [")
    assert lines["settled"] == [f"{summary['settled_share']:.2%}"]
    assert (lines["lost"], lines["needs"]) == (["nothing"], ["nothing"])


def test_an_interrupted_inference_goes_on_by_the_command_it_names(
    answered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (unfinished(answered) / "answers.csv").read_text()
    parts = sorted((answered / "records").iterdir())
    parts[0].unlink()
    lines = told(answered)
    assert lines["how far"][0].startswith(f"{len(parts) - 1} of {len(parts)} units, some 0 min left")
    assert "exact" in lines  # as it stood when it last wrote
    (command,) = lines["needs"]
    words = shlex.split(command)
    assert {"depth=4", "snapshots=[1, 2]", "actors=0"} < set(words)
    assert not [word for word in words if word.startswith(("seed=", "policy="))]  # defaults
    (answered / "answers.csv").unlink()
    monkeypatch.chdir("/")  # the command names its paths in full
    infer.run(*parse_arguments(InferConfig, words[3:]))
    assert (answered / "answers.csv").read_text() == whole
    assert told(answered)["lost"] == ["continued 1 times"]


def test_dead_actors_and_damaged_records_are_told(answered: Path) -> None:
    part = next((unfinished(answered) / "records").iterdir())
    part.write_bytes(part.read_bytes()[:-3])
    append(answered, {"event": "warning", "message": "actor 2 died: replacing it, 3 units again"})
    lines = told(answered)
    again = f"damaged records: {part}, which will be set aside and run again"
    assert lines["lost"] == [again, "warned: actor 2 died: replacing it, 3 units again"]
    (command,) = lines["needs"]
    infer.run(*parse_arguments(InferConfig, shlex.split(command)[3:]))
    lost = told(answered)["lost"]
    assert lost[:2] == ["continued 1 times", f"damaged records, set aside: {part.name}.damaged"]
    assert lost[3].startswith(f"warned: {part} is not a part of this program's records")


def test_warnings_of_a_run_are_kept_in_its_folder(
    answered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**json.loads((answered / "config.json").read_text()), "out": str(answered)}
    next((answered / "records").iterdir()).unlink()
    carry_out = answering.carry_out

    def warned(*arguments) -> None:
        logging.getLogger("eqr_ray.distributed.actors").warning("an %s died", "actor")
        carry_out(*arguments)

    monkeypatch.setattr(answering, "carry_out", warned)
    infer.run(InferConfig.parse(config))
    assert "warned: an actor died" in told(answered)["lost"]
    assert "warning: an actor died\n" in capsys.readouterr().err


# ---- bad input


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "is not there"),
        ("file", "is a file, not a folder"),
        ("empty", "holds no run (no manifest.json)"),
    ],
)
def test_no_run_there(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="run=") as error:
        report(tmp_path / name)
    assert words in str(error.value)


def test_mistakes_are_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{")
    for arguments, words in [
        ([], "run= must be given"),
        (["a", "b"], "run is given twice"),
        ([str(tmp_path / "run")], "manifest.json is damaged"),
    ]:
        done = call("status", *arguments)
        assert (done.status, done.err.count("\n"), done.out) == (2, 1, ""), done.err
        assert done.err.startswith("eqr-status: ")
        assert words in done.err


FILES = ["config.json", "summary.json", "log.jsonl", "manifest.json", LOCK]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@given(
    name=st.sampled_from(FILES),
    key=st.sampled_from(["kind", "event", "step", "units", "seconds", "training", "model", "depth", "puzzles", "pid"]),
    value=JSON,
    cut=st.integers(0, 400) | st.none(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@pytest.mark.parametrize("kind", ["run", "answered"])
def test_no_content_of_a_folder_breaks_it(
    request: pytest.FixtureRequest, kind: str, name: str, key: str, value: object, cut: int | None
) -> None:
    """A value is changed in a file, or the file is cut short: a UserError of one line, or a report."""
    folder: Path = request.getfixturevalue(kind)
    file = folder / name
    before = file.read_bytes() if file.exists() else None
    lines = (before or b"{}").splitlines() if name == "log.jsonl" else [before or b"{}"]
    changed = [json.dumps({**json.loads(line), key: value}).encode() for line in lines]
    try:
        file.write_bytes((b"\n".join(changed) + b"\n")[:cut])
        assert all(printable(words).isprintable() for _, words in report(folder))
    except UserError:
        pass
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)


def test_a_folder_does_not_steer_the_terminal(run: Path) -> None:
    append(run, {"event": "warning", "message": "red \x1b[31m alert\r\n"})
    assert printable(told(run)["lost"][0]) == "warned: red ?[31m alert"
