"""What becomes of trainings, inference and sweeps when machines, processes, disks, clocks and stores fail.

    python -m benchmarks.faults [--only train] [--fault TEXT] [--repeat 1] [--seed 0] [--out FOLDER]

On a cluster of a head and two nodes with a CPU each (real `ray start` processes, each node in a network namespace of
its own) each job runs once undisturbed, and then once for every fault, at a random moment. A driver that ended is
started again with the arguments that its command asks for, as an operator would. A run has recovered when it ends and
holds what the undisturbed run holds: all steps with the same puzzles in the same rows, all records bit by bit, all
trials with the same ends and metrics, and the same winner. Needs root and iproute2 for the network and for the full
disk (a small tmpfs), and moto for the object store.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.faults.jobs import JOBS, ROOT, Job
from benchmarks.faults.kinds import CLOCKS, DISK, FAULTS, PATIENCE_S, Fault, Scene
from eqr_ray.data.arrow_store import write_split
from eqr_ray.tasks.registry import task_named
from tests.support.machines import Machines
from tests.support.object_store import BUCKET, S3

MOST_DRIVERS = 5  # that may end without the run at its end
DISK_BYTES = 24_000_000
CLOCK = Path(__file__).with_name("clock")  # what Python finds there at its start


class Course(NamedTuple):
    """How a run went: its progress (0 to 1) at the fault, the longest standstill after it in seconds, the drivers that
    were started, and whether it ended."""

    hit: float
    still_s: float
    drivers: int
    ended: bool


@dataclass
class Stage:
    """The machines, the store and the dice of all runs."""

    machines: Machines
    store: S3
    draw: random.Random
    root: Path

    def start(self, job: Job, log: Path, again: bool) -> subprocess.Popen[bytes]:
        """A driver."""
        command = [sys.executable, "-m", f"eqr_ray.{job.name}", *job.command(again)]
        command += [f"address={self.machines.address}", f"mirror=s3://{BUCKET}/{job.out.parent.name}"]
        environment = {**self.machines.environment, **self.store.environment}
        with log.open("a") as output:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def play(self, job: Job, fault: Fault | None = None, at: float = 0.0) -> Course:
        """Run a job to its end, with a fault as soon as it has come so far."""
        log = self.root / f"{job.out.parent.name}.log"
        self.machines.heal(2)
        driver, drivers, hit, still_s, ended = self.start(job, log, again=False), 1, -1.0, 0.0, False
        later: list[Timer] = []
        farthest, moved_s, end_s = 0.0, time.monotonic(), time.monotonic() + PATIENCE_S
        while not ended and drivers <= MOST_DRIVERS and time.monotonic() < end_s:
            if fault is not None and hit < 0 and farthest >= at:
                hit, moved_s = farthest, time.monotonic()
                fault(Scene(job, self.machines, self.draw, self.store, driver, job.out.parent, self.clock, later))
                for timer in later:
                    timer.start()
                end_s = time.monotonic() + PATIENCE_S
            if (now := job.progress()) > farthest or driver.poll() == 0:
                still_s = max(still_s, time.monotonic() - moved_s) if hit >= 0 else 0.0
                farthest, moved_s = now, time.monotonic()
            ended = driver.poll() == 0
            if not ended and driver.poll() is not None:
                driver, drivers = self.start(job, log, again=True), drivers + 1
            time.sleep(0.05)
        driver.kill()
        driver.wait()
        for timer in later:
            timer.join()
        return Course(hit, still_s, drivers, ended)

    @property
    def clock(self) -> Path:
        """Seconds that it is ahead; read at each look at the clock."""
        return self.root / "clock"

    @contextmanager
    def props(self, fault: str, folder: Path) -> Iterator[None]:
        """What some faults need before a run begins: a small disk, or nodes and a driver whose clock can be set. Nodes
        see what is mounted when they start, and have the environment of that moment."""
        if fault == DISK:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "x", str(folder)], check=True)
        elif fault in CLOCKS:
            self.clock.write_text("0")
            self.machines.environment |= {"PYTHONPATH": str(CLOCK), "FAULTS_CLOCK": str(self.clock)}
        else:
            yield
            return
        self._new_nodes()
        try:
            yield
        finally:
            if fault == DISK:
                subprocess.run(["umount", str(folder)], check=True)
            else:
                for name in ("PYTHONPATH", "FAULTS_CLOCK"):
                    del self.machines.environment[name]
            self._new_nodes()

    def _new_nodes(self) -> None:
        for node in self.machines.nodes:
            node.kill()
        self.machines.nodes = []


def main() -> None:
    """Run all faults of the jobs that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*FAULTS], nargs="*", default=[*FAULTS])
    parser.add_argument("--fault", default="", help="those whose name has this in it")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder that is kept, with what the drivers said")
    options = parser.parse_args()
    root = options.out or Path(tempfile.mkdtemp())
    root.mkdir(parents=True, exist_ok=True)
    columns = ("job", "fault", "at", "drivers", "longest standstill", "done twice", "same in the end")
    table, store, failed = Table(*columns), S3(), 0
    try:
        store.start()
        with Machines(root, cables=True) as machines:
            stage = Stage(machines, store, random.Random(options.seed), root)
            for kind in options.only:
                data = dataset(root / f"data-{kind}", "sudoku6" if kind == "infer" else "sudoku4")
                whole = JOBS[kind](data, root / f"{kind}-whole" / "run")
                assert stage.play(whole).ended, f"{kind} did not end undisturbed: see {root}"
                names = [name for name in FAULTS[kind] if options.fault in name]
                for number, name in enumerate(names * options.repeat):
                    folder = root / f"{kind}-{number:02d}"
                    folder.mkdir()
                    job = JOBS[kind](data, folder / "run")
                    with stage.props(name, folder):
                        course = stage.play(job, FAULTS[kind][name], stage.draw.uniform(0.1, 0.8))
                        same = course.hit >= 0 and course.ended and job.holds() == whole.holds()
                        row = (kind, name, f"{course.hit:.0%}", str(course.drivers), f"{course.still_s:.0f} s")
                        row += (job.lost(), "yes" if same else "NO")
                    failed += not same
                    print(json.dumps(row), flush=True)
                    table.add_row(*row)
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
