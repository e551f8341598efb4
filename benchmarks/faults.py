"""What becomes of trainings, inference and sweeps when machines, processes, disks and stores fail.

    python -m benchmarks.faults [--only train] [--repeat 1] [--seed 0] [--out FOLDER]

On a cluster of a head and two nodes with a CPU each (real `ray start` processes on loopback) each door runs once
undisturbed, and then once for every fault, which comes at a random moment. A driver that ended is started again with
the command that its door asks for, as an operator would. A run has recovered when it ends and holds what the
undisturbed run holds: all steps with the same puzzles in the same rows, all records bit by bit, all trials with the
same ends and figures. Needs root for the full disk (a small tmpfs), and moto for the object store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from eqr_ray.inference.records import concatenate, read_part
from eqr_ray.logbook import read_log
from eqr_ray.tasks.store import write_split
from eqr_ray.tasks.task import task_named
from eqr_ray.training.checkpoint import complete_checkpoints
from tests.ray.machines import Machines

ROOT = Path(__file__).parents[1]
STEPS, EVERY = 600, 20
TINY = ["model=eqr_small", "model.width=16", "model.hidden_multiple=16", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=8", "learning_rate=1e-4", "warmup=10", "max_segments=4", "dtype=float32", "compile=false"]
TINY += ["log_every=1", "validate_every=0", "validate_puzzles=8", "keep_checkpoints=3"]
PATIENCE_S, MOST_DRIVERS = 400.0, 5
DISK_BYTES, S3_SILENCE_S = 24_000_000, 15.0
WORKER, ACTOR, TRIAL = "RayTrainWorker", "Breadth", "ImplicitFunc"  # as Ray names processes
CONTROLLER = "TrainController"


class Job:
    """A door at work in `out`: how it is started and started again, how far it is, what it holds in the end."""

    name: str

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out

    def command(self, again: bool) -> list[str]:
        """The arguments; `again`: after a driver has ended."""
        raise NotImplementedError

    def progress(self) -> float:
        """0 to 1, from the folder."""
        raise NotImplementedError

    def holds(self) -> object:
        """What must be the same after any fault."""
        raise NotImplementedError

    def lost(self) -> str:
        """What was done twice."""
        raise NotImplementedError


class Train(Job):
    """Two workers, or one where there is room for no more."""

    name = "train"

    def command(self, again: bool) -> list[str]:
        if again and (self.out / "config.json").exists():
            return [f"resume={self.out}"]
        keys = [f"data={self.data}", f"steps={STEPS}", f"checkpoint_every={EVERY}", "workers=2", "workers_min=1"]
        return [*TINY, *keys, f"out={self.out}"]

    def _steps(self) -> list[int]:
        return [entry["step"] for entry in read_log(self.out / "log.jsonl").entries if entry["kind"] == "train"]

    def progress(self) -> float:
        return max(self._steps(), default=0) / STEPS

    def holds(self) -> object:
        """Which puzzle and which draw every row is at, after all steps; weights differ in rounding by workers."""
        last = complete_checkpoints(self.out / "checkpoints")[-1]
        pieces = [load_file(path) for path in sorted(last.glob("carry-*.safetensors"))]
        names = ("rows", "puzzle", "draws", "age", "inputs")
        steps = sorted(set(self._steps()))
        return last.name, steps, [torch.cat([piece[name] for piece in pieces]).tolist() for name in names]

    def lost(self) -> str:
        steps = self._steps()
        return f"{len(steps) - len(set(steps))} steps of {STEPS}"


class Infer(Job):
    """As many actors as the cluster has room for."""

    name = "infer"

    def command(self, again: bool) -> list[str]:
        keys = ["checkpoint=zoo:sudoku6", f"data={self.data / 'test.arrow'}", "policy=full", "depth=16", "breadth=8"]
        return [*keys, "limit=100", "slots=32", "compile=false", "wait_minutes=2", f"out={self.out}"]

    def _units(self) -> list[dict[str, object]]:
        return [entry for entry in read_log(self.out / "log.jsonl").entries if entry["event"] == "unit"]

    def progress(self) -> float:
        starts = [entry for entry in read_log(self.out / "log.jsonl").entries if entry["event"] == "start"]
        return len(list(self.out.glob("records/*.parquet"))) / starts[0]["units"] if starts else 0.0

    def holds(self) -> object:
        rows = concatenate([read_part(path) for path in sorted(self.out.glob("records/*.parquet"))]).in_order()
        return {name: value.tobytes() for name, value in vars(rows).items()}

    def lost(self) -> str:
        return f"units in flight; {len(self._units())} of {len(list(self.out.glob('records/*.parquet')))} written"


class Sweep(Job):
    """Six small trainings, one after the other."""

    name = "sweep"

    def command(self, again: bool) -> list[str]:
        if again and (self.out / "manifest.json").exists():
            return [f"resume={self.out}"]
        keys = [f"space={ROOT / 'tune' / 'smoke.yaml'}", f"data={self.data}", "finalists=0", "at_once=1"]
        return [*keys, f"out={self.out}"]

    def _steps(self) -> list[tuple[str, int]]:
        logs = sorted((self.out / "trials").glob("*/log.jsonl"))
        return [
            (log.parent.name, e["step"]) for log in logs for e in read_log(log).entries if e["kind"] == "validation"
        ]

    def progress(self) -> float:
        return len(set(self._steps())) / 14  # of six trials some end early

    def holds(self) -> object:
        table = pq.read_table(self.out / "trials.parquet")
        kept = [name for name in table.column_names if not name.endswith(("time", "_s")) and name != "reason"]
        return table.select(kept).to_pylist()

    def lost(self) -> str:
        steps = self._steps()
        return f"{len(steps) - len(set(steps))} reports of {len(set(steps))}"


@dataclass
class Scene:
    """What a fault may lay its hands on."""

    job: Job
    machines: Machines
    draw: random.Random
    store: S3
    driver: subprocess.Popen[bytes]
    disk: Path

    def processes(self, name: str) -> list[psutil.Process]:
        """Ray's processes of this name on all nodes."""
        found = []
        for node in [*self.machines.nodes, self.machines.head]:
            for process in node.family() if node else []:
                with suppress(psutil.NoSuchProcess):
                    if name in " ".join(process.cmdline()[:1]):
                        found.append(process)
        return found

    def one_of(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of them."""
        while not (found := self.processes(name)):
            time.sleep(0.1)
        self.draw.choice(found).send_signal(number)


Fault = Callable[[Scene], None]


def of_process(name: str, number: signal.Signals) -> Fault:
    """A signal to one of Ray's processes."""
    return lambda scene: scene.one_of(name, number)


def of_driver(number: signal.Signals) -> Fault:
    """A signal to the driver, which ends."""

    def fault(scene: Scene) -> None:
        scene.driver.send_signal(number)
        scene.driver.wait(timeout=PATIENCE_S)

    return fault


def node_killed(scene: Scene) -> None:
    """All its processes at once."""
    scene.draw.choice(scene.machines.nodes).kill()


def raylet_killed(scene: Scene) -> None:
    """The process that makes it a node."""
    node = scene.draw.choice(scene.machines.nodes)
    next(process for process in node.family() if process.name() == "raylet").kill()


def node_told_to_go(scene: Scene) -> None:
    """As a cloud tells a spot machine."""
    scene.draw.choice(scene.machines.nodes).tell_to_go()


def node_cut_off(scene: Scene) -> None:
    """It stands still, and answers nobody."""
    scene.draw.choice(scene.machines.nodes).cut_off()


def head_killed(scene: Scene) -> None:
    """The cluster is brought up again, and its driver is gone."""
    scene.machines.stop()
    with suppress(subprocess.TimeoutExpired):
        scene.driver.wait(timeout=60)
    scene.driver.kill()
    scene.driver.wait()
    scene.machines.start()


def disk_full(scene: Scene) -> None:
    """Until the driver has ended; then somebody makes room."""
    filler = scene.disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 65_536)
            file.flush()
    with suppress(subprocess.TimeoutExpired):
        scene.driver.wait(timeout=PATIENCE_S)
    filler.unlink()


def newest_damaged(scene: Scene) -> None:
    """The driver dies, and the newest file that it left has a wrong byte."""
    scene.driver.kill()
    scene.driver.wait()
    if isinstance(scene.job, Train):
        file = complete_checkpoints(scene.job.out / "checkpoints")[-1] / "weights.safetensors"
    else:
        file = max(scene.job.out.glob("records/*.parquet"), key=lambda path: path.stat().st_mtime)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def store_silent(scene: Scene) -> None:
    """It takes connections and does not answer."""
    scene.store.silence()
    time.sleep(S3_SILENCE_S)
    scene.store.speak()


FAULTS: dict[str, dict[str, Fault]] = {
    "train": {
        "kill -9 of a worker": of_process(WORKER, signal.SIGKILL),
        "SIGTERM to a worker": of_process(WORKER, signal.SIGTERM),
        "kill -9 of Ray Train's controller": of_process(CONTROLLER, signal.SIGKILL),
    },
    "infer": {
        "kill -9 of an actor": of_process(ACTOR, signal.SIGKILL),
        "SIGTERM to an actor": of_process(ACTOR, signal.SIGTERM),
    },
    "sweep": {
        "kill -9 of a trial": of_process(TRIAL, signal.SIGKILL),
        "SIGTERM to a trial": of_process(TRIAL, signal.SIGTERM),
    },
}
COMMON: dict[str, Fault] = {
    "kill -9 of the driver": of_driver(signal.SIGKILL),
    "SIGTERM to the driver": of_driver(signal.SIGTERM),
    "power cut of a node": node_killed,
    "kill -9 of a raylet": raylet_killed,
    "SIGTERM to a node": node_told_to_go,
    "a node falls silent": node_cut_off,
    "power cut of the head": head_killed,
    "full disk": disk_full,
    "object store silent for 15 s": store_silent,
}
DAMAGE = {"newest file damaged, driver killed": newest_damaged}
for _door, _faults in FAULTS.items():
    _faults |= COMMON if _door == "sweep" else {**COMMON, **DAMAGE}
JOBS: dict[str, type[Job]] = {"train": Train, "infer": Infer, "sweep": Sweep}


class S3:
    """moto's server, which can fall silent."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        self.environment |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        make = "from pyarrow.fs import S3FileSystem as S; import os; "
        make += "S(endpoint_override=os.environ['AWS_ENDPOINT_URL'], allow_bucket_creation=True).create_dir('runs')"
        end_s = time.monotonic() + 60
        while subprocess.run(
            [sys.executable, "-c", make], env={**os.environ, **self.environment}, check=False
        ).returncode:
            assert time.monotonic() < end_s
            time.sleep(1)

    def silence(self) -> None:
        """It does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def speak(self) -> None:
        """It answers again, and has forgotten nothing."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """For good."""
        self._process.kill()
        self._process.wait()


def start(job: Job, machines: Machines, store: S3, log: Path, again: bool) -> subprocess.Popen[bytes]:
    """A driver."""
    command = [sys.executable, "-m", f"eqr_ray.{job.name}", *job.command(again), f"address={machines.address}"]
    command += [f"mirror=s3://runs/{job.out.parent.name}-{job.out.name}"]
    with log.open("a") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**machines.environment, **store.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def carried_out(
    job: Job, machines: Machines, store: S3, log: Path, fault: Fault | None, at: float, draw: random.Random
) -> tuple[float, float, int, bool]:
    """(progress at the fault, longest standstill after it in seconds, drivers started, whether it ended)."""
    driver, drivers, hit, still_s, ended = start(job, machines, store, log, again=False), 1, -1.0, 0.0, False
    farthest, moved_s, end_s = 0.0, time.monotonic(), time.monotonic() + PATIENCE_S
    while not ended and drivers <= MOST_DRIVERS and time.monotonic() < end_s:
        if fault is not None and hit < 0 and farthest >= at:
            hit, moved_s = farthest, time.monotonic()
            fault(Scene(job, machines, draw, store, driver, job.out.parent))
            end_s = time.monotonic() + PATIENCE_S
        if (now := job.progress()) > farthest or driver.poll() == 0:
            still_s = max(still_s, time.monotonic() - moved_s) if hit >= 0 else 0.0
            farthest, moved_s = now, time.monotonic()
        ended = driver.poll() == 0
        if not ended and driver.poll() is not None:
            driver, drivers = start(job, machines, store, log, again=True), drivers + 1
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    return hit, still_s, drivers, ended


def main() -> None:
    """Run all faults of the doors that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*FAULTS], nargs="*", default=[*FAULTS])
    parser.add_argument("--fault", help="those whose name has this in it")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder that is kept, with what the drivers said")
    options = parser.parse_args()
    draw, root = random.Random(options.seed), options.out or Path(tempfile.mkdtemp())
    root.mkdir(parents=True, exist_ok=True)
    data = {door: dataset(root / f"data-{door}", "sudoku6" if door == "infer" else "sudoku4") for door in options.only}
    table = Table("door", "fault", "at", "drivers", "longest standstill", "done twice", "same in the end")
    store, failed = S3(), 0
    try:
        with Machines(root) as machines:
            for door in options.only:
                whole = JOBS[door](data[door], root / f"{door}-whole" / "run")
                machines.heal(2)
                assert carried_out(whole, machines, store, root / f"{door}-whole.log", None, 0.0, draw)[3]
                names = [name for name in FAULTS[door] if options.fault is None or options.fault in name]
                for number, name in enumerate(names * options.repeat):
                    folder = root / f"{door}-{number:02d}"
                    folder.mkdir()
                    job = JOBS[door](data[door], folder / "run")
                    machines.heal(2)
                    if name == "full disk":
                        subprocess.run(
                            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "x", str(folder)], check=True
                        )
                    at = draw.uniform(0.1, 0.8)
                    before, back_s, drivers, ended = carried_out(
                        job, machines, store, root / f"{folder.name}.log", FAULTS[door][name], at, draw
                    )
                    same = ended and job.holds() == whole.holds()
                    failed += not same
                    row = (
                        door,
                        name,
                        f"{before:.0%}",
                        str(drivers),
                        f"{back_s:.0f} s",
                        job.lost(),
                        "yes" if same else "NO",
                    )
                    print(json.dumps(row), flush=True)
                    table.add_row(*row)
                    if name == "full disk":
                        subprocess.run(["umount", str(folder)], check=True)
    finally:
        store.stop()
        if options.out is None:
            shutil.rmtree(root)
    Console(width=150).print(table)
    sys.exit(failed > 0)


def dataset(folder: Path, name: str) -> Path:
    """A few puzzles, as prepare leaves them."""
    task = task_named(name)
    folder.mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        write_split(folder / f"{split}.arrow", task, task.generate(200, number), source="generate", seed=number)
    return folder


if __name__ == "__main__":
    main()
