"""Running the network once, with every segment recorded, for the commands that replay.

They take the keys of `infer` that shape a recording, and hand them on: a default and its check have their home there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.answering import answer
from eqr_ray.inference.replay import RecordedRun, every_segment, open_recorded
from eqr_ray.inference.run import Run
from eqr_ray.inference.settings import InferConfig, NetworkRunOptions

# The keys that make no sense for records that are there already.
RECORDING = tuple(NetworkRunOptions.model_fields)


def recorded(keys: Mapping[str, Any], folder: Path, check: Callable[[Run], None]) -> RecordedRun:
    """Run what an interrupted run has left to do, or all of it, in `folder`. `keys` of infer, `checkpoint` and `data`
    among them; None: as in infer. `check` may refuse the run before anything is made."""
    own = {name: value for name, value in keys.items() if value is not None}
    config = InferConfig.parse({**own, "out": str(folder)})
    whole = every_segment(config.settings())
    answer(config.replace(policy=whole.policy, snapshots=whole.snapshots), check)
    return open_recorded(folder, config.data)


def check_not_recording(given: Collection[str]) -> None:
    """UserError where a key of RECORDING was typed together with records=."""
    own = [key for key in RECORDING if key in given]
    if own:
        raise UserError(f"{own[0]}= does not go with records=, which have their own")
