"""The story of the project in one run: puzzles, training on Ray with DeepSpeed, restarts on actors, least residual.

    make run            or            python jobs/demo.py [folder]

makes 6x6 Sudokus, trains a network of 52,000 weights on 1,000 of them with two data-parallel workers, answers 300
unseen ones with eight restarts each on two actors, prints exact accuracy over depth and breadth, and draws accuracy
against residual. Every step is one of the commands, as it would be typed; all of it runs on the CPU.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from eqr_ray.plots.residual import draw_run, read_run

TRAIN = "task=sudoku6 model=eqr_small steps=700 batch=128 learning_rate=0.002 warmup=200 weight_decay=0.1"
TRAIN += " cooldown=0.3 ema=0.99 workers=2 device=cpu validate_every=350 checkpoint_every=350"
INFER = "depth=64 breadth=8 snapshots=[1,4,16] actors=2 device=cpu"


def run(name: str, arguments: str) -> None:
    """Run a command as it would be typed, and say how long it took."""
    print(f"\n$ python -m eqr_ray.{name} {arguments}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", f"eqr_ray.{name}", *shlex.split(arguments)]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SystemExit(status)
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


def main() -> None:
    """All steps, in a folder of their own."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    if " " in str(folder):
        raise SystemExit(f"demo: '{folder}' has a space in it; choose a folder without")
    data, net, answers = folder / "data", folder / "train", folder / "answers"
    started = time.monotonic()
    run("prepare", f"task=sudoku6 train=1000 validation=200 test=300 seed=0 out={data}")
    run("train", f"{TRAIN} data={data} out={net}")
    run("infer", f"checkpoint={net} data={data / 'test.arrow'} {INFER} out={answers}")
    picture = folder / "residual.png"
    title = "6x6 Sudoku, 300 unseen puzzles, 8 restarts"
    draw_run(*read_run(answers, data / "test.arrow"), title, picture)
    print(f"\naccuracy against residual: {picture}")
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
