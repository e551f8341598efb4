"""What runs on the cluster: a door, which goes on with the run that is in `out` already.

    python -m jobs.again train data=/mnt/eqr/data/sudoku6 workers=2 out=/mnt/eqr/runs/sudoku6

The other doors continue by their own command; `train` and `sweep` ask for the word `resume`, which is put in here. A
training that is finished is left as it is, so that a pipeline may be submitted again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eqr_ray.config.errors import UserError
from eqr_ray.storage.remote_sync import fetch, mirrored

MADE = {"train": "config.json", "sweep": "manifest.json"}  # by this one knows a folder of these doors


def command(door: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of the door; empty where nothing is to do."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    run = Path(given.get("out", ""))
    url = None if given.get("mirror", "null") == "null" else given["mirror"]
    if door in MADE and "out" in given:
        fetch(run, url)
    if door not in MADE or "out" not in given or not (run / MADE[door]).is_file():
        return [*arguments]
    kept = [argument for argument in arguments if not argument.startswith(("out=", "recipe="))]  # the run has both
    words = [*kept, f"resume={run}"]
    if door == "train" and (run / "summary.json").is_file() and is_finished(words, run):
        with mirrored(run, url):  # the copy may lack its end
            return []
    return words


def is_finished(words: Sequence[str], run: Path) -> bool:
    """Whether these arguments of `train` ask for nothing more than there is. What is wrong with them, the door says."""
    # lazy: the doors import torch, and most commands need no second look
    from eqr_ray.config.cli import parse_arguments  # noqa: PLC0415
    from eqr_ray.train import Finished, resumed  # noqa: PLC0415
    from eqr_ray.training.experiment import TrainOptions  # noqa: PLC0415

    try:
        resumed(*parse_arguments(TrainOptions, words), run)
    except Finished:
        return True
    except UserError:
        return False
    return False


def main() -> None:
    """Become the door."""
    door, *arguments = sys.argv[1:]
    try:
        words = command(door, arguments)
    except UserError as error:
        print(f"eqr-{door}: {error}", file=sys.stderr)
        sys.exit(2)
    if not words and arguments:
        print(f"{door}: finished already, {' '.join(arguments)}")
        return
    os.execv(sys.executable, [sys.executable, "-m", f"eqr_ray.{door}", *words])


if __name__ == "__main__":
    main()
