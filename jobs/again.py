"""What runs on the cluster: a door, which goes on with the run that is in `out` already.

    python -m jobs.again train data=/mnt/eqr/data/sudoku6 workers=2 out=/mnt/eqr/runs/sudoku6

The other doors continue by their own command; `train` and `sweep` ask for the word `resume`, which is put in here. A
training that is finished is left as it is, so that a pipeline may be submitted again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MADE = {"train": "config.json", "sweep": "manifest.json"}  # by this one knows a folder of these doors
LIMITS = ("steps", "minutes")  # raised, they make a finished training go on


def command(door: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of the door; empty where nothing is to do."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    run = Path(given.get("out", ""))
    if door not in MADE or "out" not in given or not (run / MADE[door]).is_file():
        return [*arguments]
    if door == "train" and (run / "summary.json").is_file() and not _raised(run, given):
        return []
    kept = [argument for argument in arguments if not argument.startswith(("out=", "recipe="))]  # the run has both
    return [*kept, f"resume={run}"]


def _raised(run: Path, given: dict[str, str]) -> bool:
    """Whether a limit was typed that is not the run's own."""
    try:
        config: dict[str, Any] = json.loads((run / "config.json").read_text())["training"]
        return any(float(given[limit]) != float(config[limit]) for limit in LIMITS if limit in given)
    except (ValueError, KeyError, TypeError):
        return True  # the door says what is wrong


def main() -> None:
    """Become the door."""
    door, *arguments = sys.argv[1:]
    words = command(door, arguments)
    if not words and arguments:
        print(f"{door}: finished already, {' '.join(arguments)}")
        return
    os.execv(sys.executable, [sys.executable, "-m", f"eqr_ray.{door}", *words])


if __name__ == "__main__":
    main()
