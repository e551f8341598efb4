"""The command `prepare`: puzzles from a generator, files or the hub, as a dataset folder for training.

Leaves train.arrow, validation.arrow, test.arrow and dataset.json (with skip_bad=true also bad_rows.csv) in `out`.
"""

from __future__ import annotations

from typing import NoReturn

from eqr_ray.config.cli import run_command
from eqr_ray.data.dataset import PrepareConfig, prepare
from eqr_ray.storage.progress import Progress


def main(config: PrepareConfig, typed: frozenset[str] = frozenset()) -> None:
    """Make the dataset and say what it holds."""
    total = (config.train or 0) + config.validation + (config.test or 0)
    with Progress(total, "puzzles generated") as display:
        about = prepare(config, progress=lambda done, wanted: display.update(done))
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
