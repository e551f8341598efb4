"""The scripts of jobs/ without a cluster: what is shipped, which paths are allowed, what a submission does when."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.distributed.cluster import job_server
from eqr_ray.storage.run_dir import RunDir
from eqr_ray.tasks import task_named
from eqr_ray.training.experiment import TrainOptions, experiment_of
from jobs import again, pipeline, submission
from jobs.submission import pack, placed, run_job
from tests.support.commands import call_script

ROOT = Path(__file__).parent.parent


# ---- what is shipped


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    names = [
        "eqr_ray/a.py",
        "eqr_ray/pretrained/x/model.json",
        "jobs/again.py",
        "tune/s.yaml",
        "pyproject.toml",
        "LICENSE",
    ]
    names += ["eqr_ray/__pycache__/a.pyc", "eqr_ray/.secret", ".env", "data/train.arrow", "runs/r/log.jsonl", ".git/x"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "eqr_ray" / "home").symlink_to(tmp_path)
    (root / "eqr_ray" / "passwd").symlink_to("/etc/passwd")
    return root


def test_the_package_alone_is_shipped(tree: Path, tmp_path: Path) -> None:
    package = pack(tree, tmp_path / "store")
    wanted = {
        "eqr_ray/a.py",
        "eqr_ray/pretrained/x/model.json",
        "jobs/again.py",
        "tune/s.yaml",
        "pyproject.toml",
        "LICENSE",
    }
    shipped = {path.relative_to(package.folder).as_posix() for path in package.folder.rglob("*") if path.is_file()}
    assert shipped == wanted == set(package.sizes)
    assert package.sizes["LICENSE"] == len("LICENSE")
    assert str(package).startswith(
        f"package {package.hash[:12]}: 6 files, 0.00 MB; eqr_ray/pretrained/x/model.json (0.00 MB)"
    )


def test_a_package_is_named_by_its_content(tree: Path, tmp_path: Path) -> None:
    first = pack(tree, tmp_path / "store")
    (tree / "data" / "more").touch()
    assert pack(tree, tmp_path / "store") == first
    (tree / "eqr_ray" / "a.py").write_text("changed")
    second = pack(tree, tmp_path / "store")
    assert second.folder != first.folder
    (tree / "eqr_ray" / "a.py").rename(tree / "eqr_ray" / "b.py")
    assert pack(tree, tmp_path / "store").hash not in (first.hash, second.hash)
    assert sorted(path.name for path in (tmp_path / "store").iterdir() if path.name[0] == ".") == []


def test_our_own_package_is_small_and_runs(tmp_path: Path) -> None:
    package = pack(ROOT, tmp_path / "store")
    assert sum(package.sizes.values()) < 5e6
    assert "eqr_ray/config/presets/model/eqr.yaml" in package.sizes
    assert not [name for name in package.sizes if name.startswith(("tests/", "data/", "runs/", ".git"))]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "jobs.again", "train", "--help"]
    done = subprocess.run(
        command, cwd=package.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.startswith("Trains a network")) == (0, True), done.stderr


# ---- paths


def test_relative_paths_are_those_of_the_one_who_submits() -> None:
    given = ["out=runs/a", "data=/d", "checkpoint=zoo:sudoku6", "weights=null", "steps=3", "source=hub:a/b"]
    assert placed("train", given, Path("/home/me")) == ["out=/home/me/runs/a", *given[1:]]


@pytest.mark.parametrize("key", submission.PATHS)
def test_relative_paths_mean_nothing_on_a_cluster(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}=x/y is not allowed on a cluster: an absolute path"):
        placed("train", ["out=/o", f"{key}=x/y"], None)


@pytest.mark.parametrize("command", ["train", "infer", "prepare"])
def test_results_need_a_place(command: str) -> None:
    with pytest.raises(UserError, match="out= must be given"):
        placed(command, ["steps=3"], Path("/"))
    if command == "train":
        assert placed(command, ["resume=/run"], None) == ["resume=/run"]


# ---- going on


def test_a_training_that_is_there_is_resumed(tmp_path: Path) -> None:
    own = ["task=sudoku4", "model=eqr_small", "steps=10", "batch=4"]
    typed = [*own, f"out={tmp_path}", "max_failures=2"]
    assert again.arguments_of("train", typed) == typed
    experiment = experiment_of(parse_arguments(TrainOptions, own)[0], task_named("sudoku4"), tmp_path, "")
    RunDir(tmp_path, "train").create({}, experiment.to_dict())
    resumed = [*own, "max_failures=2", f"resume={tmp_path}"]
    assert again.arguments_of("train", typed) == resumed
    assert again.arguments_of("infer", typed) == typed
    (tmp_path / "summary.json").write_text('{"step": 10, "seconds": 1.0}')
    assert again.arguments_of("train", typed) == []
    assert again.arguments_of("train", [*own, "minutes=0", f"out={tmp_path}"]) == []
    # What is more, or something else, the command hears of, and refuses what it must.
    for more in ("steps=11", "steps=ten", "batch=8"):
        assert again.arguments_of("train", [*own, more, f"out={tmp_path}"]) == [*own, more, f"resume={tmp_path}"]


def test_a_run_that_is_there_has_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert again.arguments_of("train", ["recipe=best.yaml", f"out={tmp_path}"]) == [f"resume={tmp_path}"]


def test_a_run_that_is_in_a_store_is_fetched_and_resumed(tmp_path: Path) -> None:
    there, run = tmp_path / "store", tmp_path / "run"
    typed = [f"mirror=file://{there}", f"out={run}"]
    assert again.arguments_of("sweep", typed) == typed
    (there / "trials").mkdir(parents=True)
    (there / "manifest.json").write_text("{}")
    assert again.arguments_of("sweep", typed) == [typed[0], f"resume={run}"]
    assert (run / "manifest.json").read_text() == "{}"
    with pytest.raises(UserError, match="mirror=nothing is not allowed"):
        again.arguments_of("train", ["mirror=nothing", f"out={tmp_path / 'new'}"])


def test_results_are_never_left_in_the_package(tmp_path: Path) -> None:
    for value in ("tune/first", "nullmodel", "hub:x", "zoo:x"):
        assert placed("sweep", [f"out={value}"], tmp_path) == [f"out={tmp_path / value}"]
        with pytest.raises(UserError, match="is not allowed on a cluster"):
            placed("sweep", [f"out={value}"], None)
    with pytest.raises(UserError, match="out=null is not allowed"):
        placed("sweep", ["out=null"], tmp_path)
    shipped = ["space=tune/smoke.yaml", "checkpoint=zoo:sudoku6", "out=/x"]
    assert placed("sweep", shipped, None) == shipped


def test_a_sweep_that_is_there_is_resumed(tmp_path: Path) -> None:
    typed = ["space=tune/smoke.yaml", f"out={tmp_path}", "trials=3"]
    assert again.arguments_of("sweep", typed) == typed
    (tmp_path / "manifest.json").touch()
    (tmp_path / "summary.json").touch()
    assert again.arguments_of("sweep", typed) == ["space=tune/smoke.yaml", "trials=3", f"resume={tmp_path}"]


def test_the_pipeline_is_three_commands(tmp_path: Path) -> None:
    steps = pipeline.steps_of([f"out={tmp_path}", "steps=5", "actors=1"])
    assert [command for command, _ in steps] == ["prepare", "train", "infer"]
    (_, prepare), (_, train), (_, infer) = steps
    assert {"task=sudoku6", f"out={tmp_path}/data"} < set(prepare)
    assert {"steps=5", "workers=2", f"data={tmp_path}/data", f"out={tmp_path}/train"} < set(train)
    assert {"actors=1", f"checkpoint={tmp_path}/train", f"data={tmp_path}/data/test.arrow"} < set(infer)
    with pytest.raises(UserError, match=r"unknown key 'stepz'; did you mean 'steps'\?"):
        pipeline.steps_of(["out=/x", "stepz=3"])
    with pytest.raises(UserError, match="out= must be given"):
        pipeline.steps_of([])


@pytest.mark.parametrize("failing", ["prepare", "train", None])
def test_the_pipeline_ends_with_what_fails(monkeypatch: pytest.MonkeyPatch, failing: str | None) -> None:
    ran: list[str] = []

    def run(client: object, package: object, command: str, arguments: list[str], **_: object) -> int:
        ran.append(command)
        return 2 if command == failing else 0

    monkeypatch.setattr(submission, "run_job", run)
    monkeypatch.setattr(submission, "job_server", lambda address: nullcontext())
    monkeypatch.setattr(submission, "pack", lambda root, store: None)
    assert submission.submit(pipeline.steps_of(["out=/x"])) == (2 if failing else 0)
    assert ran == ["prepare", "train", "infer"][: ["prepare", "train", None].index(failing) + 1]


# ---- following a job


class Client:
    """A cluster's job server: the job ends with `end` after some looks, having said more at each."""

    def __init__(self, end: JobStatus, exit_code: int | None, interrupted: bool = False) -> None:
        self.end, self.exit_code, self.interrupted = end, exit_code, interrupted
        self.looks, self.stopped = 0, False
        self.submitted: dict = {}

    def submit_job(self, **job: object) -> str:
        self.submitted = job
        return str(job["submission_id"])

    def get_job_status(self, job: str) -> JobStatus:
        self.looks += 1
        if self.interrupted and not self.stopped and self.looks == 2:
            raise KeyboardInterrupt
        return self.end if self.looks > 3 or self.stopped else JobStatus.RUNNING

    def get_job_logs(self, job: str) -> str:
        return "".join(f"line {i}\n" for i in range(self.looks))

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(driver_exit_code=self.exit_code, message="no node for it")

    def stop_job(self, job: str) -> None:
        self.stopped = True


@pytest.fixture
def package(tree: Path, tmp_path: Path) -> Iterator[submission.Package]:
    return pack(tree, tmp_path / "store")


@pytest.mark.parametrize(
    ("end", "exit_code", "status"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, None, 1),
        (JobStatus.FAILED, -9, 1),
        (JobStatus.FAILED, 137, 1),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.STOPPED, None, 130),
    ],
)
def test_the_exit_status_is_the_doors(package, capsys, end: JobStatus, exit_code: int | None, status: int) -> None:
    client = Client(end, exit_code)
    assert run_job(client, package, "train", ["data=/a b"], python="python", detach=True) == status
    out, err = capsys.readouterr()
    assert out == "".join(f"line {i}\n" for i in range(client.looks - 1))[: len(out)]
    assert out.count("line 0\n") == 1
    assert "to stop: ray job stop eqr-train-" in err
    assert ("no node for it" in err) == (end == JobStatus.FAILED and exit_code not in (1, 2, 130))
    assert client.submitted["entrypoint"] == "python -m jobs.again train 'data=/a b'"
    assert client.submitted["runtime_env"] == {"working_dir": str(package.folder)}


def test_a_server_out_of_reach_is_waited_for(package, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(submission, "PAUSE_S", 0.0)
    client, failures = Client(JobStatus.SUCCEEDED, 0), iter([OSError("no route"), RuntimeError("bad gateway")])
    logs = client.get_job_logs

    def broken(job: str) -> str:
        for failure in failures:
            raise failure
        return logs(job)

    client.get_job_logs = broken
    assert run_job(client, package, "train", [], python="python", detach=True) == 0
    assert "line 0\n" in capsys.readouterr().out
    monkeypatch.setattr(submission, "PATIENCE_S", 0.0)
    client, failures = Client(JobStatus.SUCCEEDED, 0), iter([OSError("no route")])
    client.get_job_logs = broken
    assert run_job(client, package, "train", [], python="python", detach=True) == 1
    assert "cannot be followed any more (no route); it may go on" in capsys.readouterr().err


@pytest.mark.parametrize("detach", [True, False])
def test_control_c_leaves_or_stops_the_job(package, detach: bool) -> None:
    client = Client(JobStatus.STOPPED, None, interrupted=True)
    assert run_job(client, package, "train", [], python="python", detach=detach) == 130
    assert client.stopped != detach


def test_no_secret_is_told_to_ray(package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-0123")
    client = Client(JobStatus.SUCCEEDED, 0)
    run_job(client, package, "train", ["wandb=online"], python="python", detach=True)
    assert "canary" not in json.dumps(client.submitted)
    assert not [path for path in package.folder.rglob("*") if path.is_file() and b"canary-0123" in path.read_bytes()]


def test_a_ray_that_is_started_for_a_job_stays_on_loopback() -> None:
    """Ray reads its settings when it is imported: ours must come first."""
    code = "import jobs.submission; from ray._private import ray_constants; print(ray_constants.ENABLE_RAY_CLUSTER)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(("first", "mode"), [("", "token"), ("import ray; ", "None")])
def test_a_token_that_is_there_is_shown(tmp_path: Path, first: str, mode: str) -> None:
    """Unless Ray was imported before us, which has made up its mind by then."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123")
    code = f"import os; {first}import eqr_ray.distributed; print(os.environ.get('RAY_AUTH_MODE'))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == f"{mode}\n", done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("train", ["data=d"], "out= must be given"),
        ("infer", ["data=d", "out=/o"], "data=d is not allowed on a cluster"),
        ("pipeline", [], "out= must be given"),
        ("train", ["data=/d", "out=/o"], "no jobs can be submitted there"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    script: str, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    done = call_script(script, *arguments)
    *before, said = done.err.splitlines()
    assert done.status == 2
    assert [line.split()[0] for line in before] == (["package"] if "submitted" in words else [])
    assert said.startswith(f"jobs.{script}: ")
    assert words in said


def test_no_cluster_is_started_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr("eqr_ray.distributed.cluster.AGENT_PORT", other.getsockname()[1])
        with pytest.raises(UserError, match="another Ray on this machine"), job_server(None):
            pass
