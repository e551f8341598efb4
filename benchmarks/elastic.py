"""A training on two workers, then one, then two, beside the same one undisturbed: their losses, as a picture.

    python -m benchmarks.elastic [--steps 600] [--out elastic.png]

4x4 Sudoku on nodes with one CPU each (real `ray start` processes on loopback). After a third of the steps one node is
told to go (SIGTERM), after two thirds another one comes. Nothing is written but at those moments and at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from eqr_ray.data.arrow_store import write_split
from eqr_ray.storage.run_log import read_log
from eqr_ray.tasks.registry import task_named
from tests.support.machines import Machines

ROOT = Path(__file__).parents[1]
KEYS = ["model=eqr_small", "model.width=32", "model.hidden_multiple=32", "batch=64", "learning_rate=1e-3", "warmup=100"]
KEYS += ["weight_decay=0.1", "dtype=float32", "compile=false", "log_every=1", "validate_every=0", "validate_puzzles=8"]
KEYS += ["checkpoint_every=1000000", "workers=2", "workers_min=1"]
SMOOTHED = 20  # steps


def entries(run: Path, kind: str) -> list[dict[str, Any]]:
    """Of a run's log."""
    return [entry for entry in read_log(run / "log.jsonl").entries if entry["event"] == kind]


def train(machines: Machines, data: Path, run: Path, steps: int) -> subprocess.Popen[bytes]:
    """A driver."""
    keys = [*KEYS, f"data={data}", f"steps={steps}", f"out={run}", f"address={machines.address}"]
    with run.with_suffix(".log").open("w") as log:
        command = [sys.executable, "-m", "eqr_ray.train", *keys]
        return subprocess.Popen(command, cwd=ROOT, env=machines.environment, stdout=log, stderr=log)


def reach(driver: subprocess.Popen[bytes], run: Path, step: float) -> None:
    """Wait until the run is there."""
    while not any(entry["step"] >= step for entry in entries(run, "train")):
        if driver.poll():
            raise SystemExit(run.with_suffix(".log").read_text()[-2000:])
        time.sleep(0.1)


def smooth(losses: list[float]) -> list[float]:
    """Means over the last so many."""
    return [sum(losses[max(0, i - SMOOTHED + 1) : i + 1]) / min(i + 1, SMOOTHED) for i in range(len(losses))]


def main() -> None:
    """Run both and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("elastic.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, task = Path(folder), task_named("sudoku4")
        for number, name in enumerate(("train", "validation")):
            write_split(root / f"{name}.arrow", task, task.generate(200, number), source="generate", seed=number)
        whole, elastic = root / "whole", root / "elastic"
        with Machines(root) as machines:
            nodes = [machines.add(), machines.add()]
            assert train(machines, root, whole, options.steps).wait() == 0
            driver = train(machines, root, elastic, options.steps)
            reach(driver, elastic, options.steps / 3)
            nodes[1].tell_to_go()
            reach(driver, elastic, options.steps * 2 / 3)
            machines.add()
            assert driver.wait() == 0, elastic.with_suffix(".log").read_text()[-2000:]
        runs = {run: {entry["step"]: entry["loss"] for entry in entries(run, "train")} for run in (whole, elastic)}
        changes = [(entry["step"], entry["workers"]) for entry in entries(elastic, "resume")]
        again = len(entries(elastic, "train")) - len(runs[elastic])
    worst = max(abs(runs[elastic][step] - loss) / loss for step, loss in runs[whole].items())
    print(f"workers: 2, then {changes}; {again} steps done twice; largest relative difference of a loss {worst:.1e}")
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for losses, style, name in ((runs[whole], "-", "two workers"), (runs[elastic], "--", "two, one, two")):
        axes.plot(list(losses), smooth(list(losses.values())), style, label=name, linewidth=2 if style == "-" else 1.2)
    for step, workers in changes:
        axes.axvline(step, color="grey", linewidth=0.8)
        axes.annotate(f" {workers} worker{'s' * (workers > 1)} from here", (step, axes.get_ylim()[1]), va="top")
    axes.set(xlabel="step", ylabel=f"loss, mean of {SMOOTHED} steps", title="4x4 Sudoku on nodes that come and go")
    axes.legend(loc="lower left")
    figure.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
