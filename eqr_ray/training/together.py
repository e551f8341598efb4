"""What one worker finds wrong, said on all of them: nobody is left waiting in a collective for one that gave up.

Built from the engine's sum alone, so that every engine has it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

import torch

from eqr_ray.errors import UserError
from eqr_ray.training.engine import Engine

T = TypeVar("T")
LONGEST = 2_000  # bytes of a message that the others hear
ERRORS: tuple[type[UserError] | type[OSError], ...] = (
    UserError,
    OSError,
)  # a mistake, or a disk's: another try may help


def together(engine: Engine, make: Callable[[], T]) -> T:
    """`make()` on every worker. UserError or OSError on any of them is raised by all. Collective; `make` is not."""
    heard = torch.zeros(engine.workers, 1 + LONGEST, dtype=torch.int64, device=engine.device)
    made: list[T] = []
    try:
        made.append(make())
    except ERRORS as error:
        kind = next(number for number, kind in enumerate(ERRORS, 1) if isinstance(error, kind))
        words = str(error) if engine.workers == 1 or kind == 1 else f"{socket.gethostname()}: {error}"
        said = words.encode()[:LONGEST]
        heard[engine.rank, : 1 + len(said)] = torch.tensor([kind, *said])
    for kind, *said in engine.sum(heard).tolist():
        if kind:
            raise ERRORS[kind - 1](bytes(byte for byte in said if byte).decode(errors="replace"))
    return made[0]


def agreed(engine: Engine, number: int) -> int:
    """The first worker's number, on all of them. Collective."""
    mine = torch.tensor([0 if engine.rank else number], dtype=torch.int64, device=engine.device)
    return int(engine.sum(mine)[0])
