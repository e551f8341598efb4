"""What runs on the cluster: a command, which goes on with the run that is in `out` already.

    python -m jobs.again train data=/mnt/eqr/data/sudoku6 workers=2 out=/mnt/eqr/runs/sudoku6

The other commands go on by themselves; `train` and `sweep` ask for the word `resume`, which is put in here. A
training that is finished is left as it is, so that a pipeline may be submitted again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eqr_ray.config.errors import UserError
from eqr_ray.storage.remote_sync import fetch, mirrored

MADE = {"train": "config.json", "sweep": "manifest.json"}  # by this one knows a folder of these commands


def arguments_of(name: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of the command; empty where nothing is to do."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    run = Path(given.get("out", ""))
    url = None if given.get("mirror", "null") == "null" else given["mirror"]
    if name in MADE and "out" in given:
        fetch(run, url)
    if name not in MADE or "out" not in given or not (run / MADE[name]).is_file():
        return [*arguments]
    kept = [argument for argument in arguments if not argument.startswith(("out=", "recipe="))]  # the run has both
    words = [*kept, f"resume={run}"]
    if name == "train" and (run / "summary.json").is_file() and is_finished(words, run):
        with mirrored(run, url):  # the copy may lack its end
            return []
    return words


def is_finished(words: Sequence[str], run: Path) -> bool:
    """Whether these arguments of `train` ask for nothing more than there is. The command says what is wrong."""
    # lazy: the commands import torch, and most commands need no second look
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
    """Become the command."""
    name, *arguments = sys.argv[1:]
    try:
        words = arguments_of(name, arguments)
    except UserError as error:
        print(f"eqr-{name}: {error}", file=sys.stderr)
        sys.exit(2)
    if not words and arguments:
        print(f"{name}: finished already, {' '.join(arguments)}")
        return
    os.execv(sys.executable, [sys.executable, "-m", f"eqr_ray.{name}", *words])


if __name__ == "__main__":
    main()
