"""Whether records survive kills: inference runs whose actors and drivers are killed at random moments.

    python benchmarks/kills.py [--runs 10] [--kills 3] [--policy settle] [--puzzles 1500] [--seed 0]

Runs `eqr_ray.infer` of zoo:sudoku6 on generated puzzles with 1, 2 and 3 actors, undisturbed, on a Ray of three logical
CPUs; then `runs` times with two actors and `kills` times `kill -9` each, of an actor or of the driver, after random
times. A driver is started again with the same command until the run has ended. All records of all runs are compared row
by row and bit by bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import ray
from rich.console import Console
from rich.table import Table

from eqr_ray.data.arrow_store import write_split
from eqr_ray.distributed.cluster import start_ray
from eqr_ray.inference.records import Records, concatenate, read_part
from eqr_ray.tasks.registry import task_named

DEPTH, BREADTH, SLOTS = 16, 8, 64
ACTOR = "Breadth"  # as Ray names the process


def command(data: Path, out: Path, policy: str, actors: int) -> list[str]:
    """The run, as a user would start it."""
    words = [f"data={data}", f"out={out}", f"actors={actors}", f"policy={policy}", f"slots={SLOTS}", "compile=false"]
    words += [f"depth={DEPTH}", f"breadth={BREADTH}"]
    return [sys.executable, "-m", "eqr_ray.infer", "checkpoint=zoo:sudoku6", *words]


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Without its output."""
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def actors_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Its actors that are at work, from the names that Ray gives their processes."""
    family = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in family if ACTOR in " ".join(process.cmdline()[:1])]


def parts(out: Path) -> int:
    """How many are there."""
    return len(list(out.glob("records/*.parquet")))


def records(out: Path) -> Records:
    """All of a finished run."""
    assert (out / "summary.json").exists()
    return concatenate([read_part(path) for path in sorted(out.glob("records/*.parquet"))]).in_order()


def same(one: Records, other: Records) -> bool:
    """Bit by bit."""
    columns = [field.name for field in dataclasses.fields(Records)]
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in columns)


def kill_one(driver: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill the driver or one of its actors now. Returns whom."""
    actors = actors_of(driver)
    if actors and draw.random() < 0.6:
        draw.choice(actors).kill()
        return "actor"
    driver.kill()
    driver.wait()
    return "driver"


def disturbed(words: Sequence[str], out: Path, kills: int, span_s: float, draw: random.Random) -> list[str]:
    """A run with so many kills, `span_s` apart in the mean, to its end. Returns who was killed with how many parts."""
    driver, told = start(words), list[str]()
    while len(told) < kills:
        before, end_s = parts(out), time.monotonic() + draw.uniform(0.2, 1.8) * span_s
        while driver.poll() is None and (time.monotonic() < end_s or (told and parts(out) == before)):
            time.sleep(0.05)
        if driver.poll() is not None:
            break
        told.append(f"{kill_one(driver, draw)} at {parts(out)}")
        if driver.poll() is not None:
            driver = start(words)
    if driver.wait() != 0:
        raise SystemExit(f"{' '.join(words)} ended with status {driver.returncode}")
    return told


def main() -> None:
    """Run, kill, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--policy", default="settle")
    parser.add_argument("--puzzles", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root, task = Path(folder), task_named("sudoku6")
        data = root / "test.arrow"
        write_split(data, task, task.generate(options.puzzles, seed=options.seed), source="generate", seed=options.seed)
        table = Table("run", "killed, with so many parts done", "parts", "identical")
        whole = [root / f"whole-{actors}" for actors in (1, 2, 3)]
        with start_ray(num_cpus=3, num_gpus=0):
            address = ray.get_runtime_context().gcs_address
            for actors, out in enumerate(whole, start=1):
                words, started_s = command(data, out, options.policy, actors), time.monotonic()
                subprocess.run([*words, f"address={address}"], check=True, stdout=subprocess.DEVNULL)
                span_s = (time.monotonic() - started_s) / 2
        expected = records(whole[0])
        for actors, out in enumerate(whole, start=1):
            table.add_row(f"{actors} actors", "", str(parts(out)), str(same(records(out), expected)))
        for number in range(options.runs):
            out = root / f"killed-{number}"
            told = disturbed(command(data, out, options.policy, 2), out, options.kills, span_s, draw)
            table.add_row(f"killed {number + 1}", ", ".join(told), str(parts(out)), str(same(records(out), expected)))
        table.title = f"{len(expected):,} rows each"
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
