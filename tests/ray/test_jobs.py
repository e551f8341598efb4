"""The scripts of jobs/ on a real cluster of this machine: success, mistakes, stopping, killing, going on, secrets."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.inference.tiny import save_tiny, sudokus, write_csv

ROOT = Path(__file__).parents[2]
CANARY = "canary-5f0e9d"  # in place of a W&B key
MARK = "EQR_TEST_CLUSTER"  # in the environment of all that a cluster starts
TINY = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=4", "learning_rate=1e-3", "warmup=2", "compile=false", "dtype=float32", "log_every=2", "workers=1"]
TINY += ["checkpoint_every=5", "validate_every=0", "validate_puzzles=4", "validate_depth=2", "device=cpu"]
SPACE = """
command: train
space: {damping: {uniform: [0.0, 0.5]}}
keys: {model: eqr_small, model.width: 8, model.hidden_multiple: 8, batch: 4, steps: 4, validate_puzzles: 4,
       validate_depth: 2, compile: false}
objective: highest validation_exact
algorithm: {name: random}
report_every: 2
trials: 1
"""
PAGE = (ROOT / "docs" / "guide" / "jobs.md").read_text()


class Server(NamedTuple):
    """A running cluster that takes jobs, and the shell that it was started from."""

    address: str
    environment: dict[str, str]
    folder: Path

    def type(self, line: str) -> str:
        """A line of the page; what it printed."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """All of the cluster, and what it has started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.environment[MARK]:
                    found.append(process)
        return found


def lines_of_the_page() -> tuple[list[str], list[str]]:
    """Of its first block: up to the address of the cluster that they start, and from there on."""
    block = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)[0].replace("\\\n", " ").splitlines()
    (at,) = (number for number, line in enumerate(block) if "RAY_API_SERVER_ADDRESS" in line)
    return block[: at + 1], block[at + 1 :]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As the page says, in a home without a token, but on ports of its own: another Ray may be there."""
    port, dashboard, agent = free_ports(3)
    folder = tmp_path_factory.mktemp("cluster")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(folder), "PYTHONPATH": str(ROOT), MARK: secrets.token_hex(8), "WANDB_API_KEY": CANARY}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_raylet_start_wait_time_s": "300",
    }
    made = Server(f"http://127.0.0.1:{dashboard}", environment, folder)
    try:
        for line in lines_of_the_page()[0]:
            if line.startswith("export "):
                environment.update(word.split("=", 1) for word in shlex.split(line)[1:])
            elif line.startswith("ray start "):
                assert "--port=6379" in line
                own = f"--dashboard-port={dashboard} --dashboard-agent-listen-port={agent} --num-cpus=2"
                made.type(f"{line.replace('--port=6379', f'--port={port}')} {own}")
            else:
                made.type(line)
        environment["RAY_API_SERVER_ADDRESS"] = made.address
        yield made
    finally:
        for process in made.processes():  # not `ray stop`, which would end every Ray of this machine
            with suppress(psutil.Error):
                process.kill()


def start(script: str, *arguments: str, server: Server | None = None, cwd: Path = ROOT) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    if server is not None:
        environment = server.environment
    command = [sys.executable, "-m", f"jobs.{script}", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )


def run(script: str, *arguments: str, server: Server | None = None, cwd: Path = ROOT) -> tuple[int, str]:
    process = start(script, *arguments, server=server, cwd=cwd)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def until(ready: Callable[[], object], seconds: float = 480) -> None:
    end_s = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end_s
        time.sleep(0.2)


def wait(until: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300) -> None:
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


def test_the_page_on_jobs_does_what_it_says(server: Server) -> None:
    """Data, a job, its log, its end, and its going on, as they are typed there."""
    run, lines = server.folder / "runs" / "cluster4", lines_of_the_page()[1]
    assert [line.split()[:3] for line in lines if "ray" in line.split()[:1]] == [
        ["ray", "job", "submit"],
        ["ray", "job", "logs"],
        ["ray", "job", "stop"],
        ["ray", "job", "submit"],
        ["ray", "stop"],
    ]
    for line in lines[:-1]:
        if "--no-wait" in line:
            server.type(f"{line} compile=false")
            until(lambda: bool(checkpoints(run)))
        else:
            server.type(line)
    assert json.loads((run / "summary.json").read_text())["step"] >= 60


def test_a_mistake_in_a_job_is_status_2(server: Server, tmp_path: Path) -> None:
    status, said = run("train", f"data={tmp_path}/none", f"out={tmp_path}/run", server=server)
    assert status == 2, said
    assert "eqr-train: " in said
    assert "no such file" in said
    assert not (tmp_path / "run").exists()


def test_a_training_is_stopped_killed_and_goes_on(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = [*TINY, f"data={data}", f"out={out}"]

    # Stopped by somebody else, once it has a checkpoint.
    process = start("train", *typed, "steps=1000000", server=server)
    wait(lambda: checkpoints(out), process)
    stop(server)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    first = int(checkpoints(out)[-1].parent.name)

    # Its driver killed.
    process = start("train", *typed, "steps=1000000", server=server)
    wait(lambda: int(checkpoints(out)[-1].parent.name) > first, process)
    driver = json.loads((out / "lock.json").read_text())["pid"]
    os.kill(driver, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, 2, 130), said

    # On to the end, in the process of the job, and once more.
    steps = int(checkpoints(out)[-1].parent.name) + 3
    typed[typed.index("workers=1")] = "workers=0"
    for words in ("model in", "finished already"):
        status, said = run("train", *typed, f"steps={steps}", server=server)
        assert status == 0, said
        assert words in said
    assert json.loads((out / "summary.json").read_text())["step"] == steps
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries].count("resume") == 2


STOP = """
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient()
names = [job.submission_id for job in client.list_jobs() if job.status == "RUNNING"]
assert all(client.stop_job(name) for name in names if name)
"""


def stop(server: Server) -> None:
    """`ray job stop` of what runs there; in a process of its own, for Ray keeps the first token that it reads."""
    subprocess.run([sys.executable, "-c", STOP], env=server.environment, check=True, timeout=120)


def test_the_pipeline_is_run(server: Server, tmp_path: Path) -> None:
    typed = ["task=sudoku4", "train=160", "test=8", "workers=1", "steps=2", "depth=2", "breadth=2", "actors=1"]
    status, said = run("pipeline", f"out={tmp_path}/story", *typed, server=server)
    assert status == 0, said
    assert json.loads((tmp_path / "story" / "answers" / "summary.json").read_text())["puzzles"] == 8


def test_a_sweep_is_run_and_extended(server: Server, data: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    typed = [f"space={space}", f"data={data}", f"out={tmp_path}/sweep", "finalists=0", "device=cpu"]
    for trials in (1, 2):
        status, said = run("sweep", *typed, f"trials={trials}", server=server)
        assert status == 0, said
        assert json.loads((tmp_path / "sweep" / "summary.json").read_text())["configurations_tried"] == trials


def test_nothing_listens_to_the_network(server: Server) -> None:
    processes = {process.pid for process in server.processes()}
    heard = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in processes
    }
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_the_key_is_in_no_log_and_no_run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Last in this file: after all jobs. The key was in the environment of the cluster."""
    (session,) = {match for process in server.processes() if (match := session_of(process))}
    places = [session, tmp_path_factory.getbasetemp()]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_socket()]
    assert len(files) > 20
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []


def session_of(process: psutil.Process) -> Path | None:
    """Where a process of Ray leaves its logs."""
    with suppress(psutil.Error):
        if match := re.search(r"(/\S+/session_[\d_-]+)", " ".join(process.cmdline())):
            return Path(match.group(1)).resolve()
    return None
