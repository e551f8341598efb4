"""The door `prepare`: puzzles from a generator, files or the hub, as a dataset folder for training.

    python -m eqr_ray.prepare task=sudoku6 source=generate train=1000 validation=200 test=1000 out=data/sudoku6
    python -m eqr_ray.prepare task=sudoku9 source=hub:sapientinc/sudoku-extreme train=1000 test=null out=data/extreme

Leaves train.arrow, validation.arrow, test.arrow and dataset.json (with skip_bad=true also bad_rows.csv) in `out`.
"""

from __future__ import annotations

import sys
import time
from typing import NoReturn

from eqr_ray.config.cli import run_command
from eqr_ray.data.dataset import PrepareConfig, prepare

SHOW_EVERY_S = 2.0


class ProgressLine:
    """How far the generator is, on stderr: one line that is rewritten on a terminal, else one every ten times."""

    def __init__(self) -> None:
        self.started_s = self.shown_s = time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, done: int, wanted: int) -> None:
        now_s = time.monotonic()
        if now_s - self.shown_s < SHOW_EVERY_S * (1 if self.live else 10):
            return
        self.shown_s = now_s
        left_s = (now_s - self.started_s) / max(done, 1) * (wanted - done)
        line = f"generated {done:,} of {wanted:,}, {left_s:.0f} s left"
        print(f"\r{line}\033[K" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the rewritten line, if any was shown."""
        if self.live and self.shown_s > self.started_s:
            print(file=sys.stderr)


def main(config: PrepareConfig, typed: frozenset[str] = frozenset()) -> None:
    """Make the dataset and say what it holds."""
    progress = ProgressLine()
    try:
        about = prepare(config, progress=progress)
    finally:
        progress.close()
    for name, split in about["splits"].items():
        print(f"{name:<11}{split['rows']:>9,} rows   {split['content_hash'][:12]}")
    for what in ("duplicates_removed", "test_overlap_removed", "bad_rows"):
        if about[what]:
            print(f"{what.replace('_', ' ')}: {about[what]:,}")
    print(f"dataset in {config.out}")


def cli() -> NoReturn:
    """`python -m eqr_ray.prepare`, `eqr-prepare`."""
    run_command("prepare", PrepareConfig, main)


if __name__ == "__main__":
    cli()
