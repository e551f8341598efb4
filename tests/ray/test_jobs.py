"""The scripts of jobs/ on a real cluster of this machine: success, mistakes, stopping, killing, going on, secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.inference.tiny import save_tiny, sudokus, write_csv

ROOT = Path(__file__).parents[2]
CANARY = "canary-5f0e9d"  # in place of a W&B key
TINY = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=4", "learning_rate=1e-3", "warmup=2", "compile=false", "dtype=float32", "log_every=2", "workers=1"]
TINY += ["checkpoint_every=5", "validate_every=0", "validate_puzzles=4", "validate_depth=2", "device=cpu"]
SPACE = """
door: train
space: {damping: {uniform: [0.0, 0.5]}}
keys: {model: eqr_small, model.width: 8, model.hidden_multiple: 8, batch: 4, steps: 4, validate_puzzles: 4,
       validate_depth: 2, compile: false}
objective: [highest validation_exact]
algorithm: {name: random}
report_every: 2
trials: 1
"""
SERVER = """if True:
    import sys
    from eqr_ray.distributed.job_server import job_server, ray
    with job_server(None) as client:
        print(client.get_address(), ray._private.worker._global_node.get_session_dir_path(), flush=True)
        sys.stdin.read()
"""


class Server(NamedTuple):
    """A running cluster that takes jobs."""

    address: str
    session: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WANDB_API_KEY": CANARY}
    environment.pop("RAY_ADDRESS", None)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        address, session = process.stdout.readline().split()
        yield Server(address, Path(session), process)
        process.communicate(timeout=60)


def start(script: str, *arguments: str, address: str | None = None, cwd: Path = ROOT) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    if address is not None:
        environment["RAY_API_SERVER_ADDRESS"] = address
    if cwd != ROOT:
        environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", f"jobs.{script}", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )


def run(script: str, *arguments: str, address: str | None = None, cwd: Path = ROOT) -> tuple[int, str]:
    process = start(script, *arguments, address=address, cwd=cwd)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def wait(until: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end_s = time.monotonic() + seconds
    while not until():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end_s
        time.sleep(0.2)


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("*[0-9]/state.json"))


def test_answers_without_a_cluster_and_relative_paths(tmp_path: Path) -> None:
    """First in this file: before there is a cluster on this machine."""
    save_tiny(tmp_path / "tiny")
    write_csv(tmp_path / "puzzles.csv", sudokus(8))
    typed = ["checkpoint=tiny", "data=puzzles.csv", "out=answers", "depth=2", "breadth=2", "actors=1", "device=cpu"]
    status, said = run("infer", *typed, cwd=tmp_path)
    assert status == 0, said
    assert "no cluster is named" in said
    assert json.loads((tmp_path / "answers" / "summary.json").read_text())["actors"] == 1


def test_a_mistake_in_a_job_is_status_2(server: Server, tmp_path: Path) -> None:
    status, said = run("train", f"data={tmp_path}/none", f"out={tmp_path}/run", address=server.address)
    assert status == 2, said
    assert "eqr-train: " in said
    assert "no such file" in said
    assert not (tmp_path / "run").exists()


def test_a_training_is_stopped_killed_and_goes_on(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = [*TINY, f"data={data}", f"out={out}"]

    # Stopped by somebody else, once it has a checkpoint.
    process = start("train", *typed, "steps=1000000", address=server.address)
    wait(lambda: checkpoints(out), process)
    stop(server)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    first = int(checkpoints(out)[-1].parent.name)

    # Its driver killed.
    process = start("train", *typed, "steps=1000000", address=server.address)
    wait(lambda: int(checkpoints(out)[-1].parent.name) > first, process)
    driver = json.loads((out / "lock.json").read_text())["pid"]
    os.kill(driver, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, 2, 130), said

    # On to the end, in the process of the job, and once more.
    steps = int(checkpoints(out)[-1].parent.name) + 3
    typed[typed.index("workers=1")] = "workers=0"
    for words in ("model in", "finished already"):
        status, said = run("train", *typed, f"steps={steps}", address=server.address)
        assert status == 0, said
        assert words in said
    assert json.loads((out / "summary.json").read_text())["step"] == steps
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in entries].count("resume") == 2


def stop(server: Server) -> None:
    """`ray job stop` of what runs there."""
    code = "from ray.job_submission import JobSubmissionClient; client = JobSubmissionClient()\n"
    code += "names = [job.submission_id for job in client.list_jobs() if job.status == 'RUNNING']\n"
    code += "print([client.stop_job(name) for name in names if name])"
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": server.address}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_the_pipeline_is_run(server: Server, tmp_path: Path) -> None:
    typed = ["task=sudoku4", "train=160", "test=8", "workers=1", "steps=2", "depth=2", "breadth=2", "actors=1"]
    status, said = run("pipeline", f"out={tmp_path}/story", *typed, address=server.address)
    assert status == 0, said
    assert json.loads((tmp_path / "story" / "answers" / "summary.json").read_text())["puzzles"] == 8


def test_a_sweep_is_run_and_extended(server: Server, data: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    typed = [f"space={space}", f"data={data}", f"out={tmp_path}/sweep", "finalists=0", "device=cpu"]
    for trials in (1, 2):
        status, said = run("sweep", *typed, f"trials={trials}", address=server.address)
        assert status == 0, said
        assert json.loads((tmp_path / "sweep" / "summary.json").read_text())["configurations_tried"] == trials


def test_nothing_listens_to_the_network(server: Server) -> None:
    processes = [server.process.pid, *(child.pid for child in psutil.Process(server.process.pid).children(True))]
    heard = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in processes
    }
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_the_key_is_in_no_log_and_no_run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Last in this file: after all jobs. The key was in the environment of the cluster."""
    places = [server.session.resolve(), tmp_path_factory.getbasetemp()]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_socket()]
    assert len(files) > 20
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []
