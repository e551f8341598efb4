"""The whole story as jobs: puzzles, training, answers. The same command again goes on where it was stopped.

python -m jobs.pipeline out=runs/story                                    on a cluster that is started here
python -m jobs.pipeline out=/mnt/eqr/story task=sudoku9 workers=8 steps=50000 actors=8
"""

from __future__ import annotations

from collections.abc import Sequence

from eqr_ray.config.errors import UserError, nearest
from jobs.submission import main, submit

# The keys of this script. What else there is to choose, the single jobs have.
DEFAULTS = {"out": "", "task": "sudoku6", "train": "1000", "test": "300", "workers": "2", "steps": "700"}
DEFAULTS |= {"depth": "64", "breadth": "8", "actors": "2"}
RECIPE = ["model=eqr_small", "batch=128", "learning_rate=2e-3", "weight_decay=0.1", "warmup=200", "cooldown=0.3"]
RECIPE += ["ema=0.99"]


def steps_of(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(command, its arguments) one after the other. UserError: an unknown key, or no out=."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := given.keys() - DEFAULTS.keys():
        raise UserError(f"unknown key '{min(unknown)}'{nearest(min(unknown), DEFAULTS)}")
    keys = DEFAULTS | given
    if not keys["out"]:
        raise UserError("out= must be given: the folder of data, run and answers")
    data, run = f"{keys['out']}/data", f"{keys['out']}/train"
    chosen = {command: [f"{key}={keys[key]}" for key in names] for command, names in _KEYS.items()}
    return [
        ("prepare", [*chosen["prepare"], "validation=200", f"out={data}"]),
        ("train", [*chosen["train"], *RECIPE, f"data={data}", f"out={run}"]),
        ("infer", [*chosen["infer"], f"checkpoint={run}", f"data={data}/test.arrow", f"out={keys['out']}/answers"]),
    ]


_KEYS = {"prepare": ("task", "train", "test"), "train": ("workers", "steps"), "infer": ("depth", "breadth", "actors")}


if __name__ == "__main__":
    main("pipeline", lambda arguments: submit(steps_of(arguments)))
