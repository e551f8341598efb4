"""What one worker finds wrong, said on all of them: nobody is left waiting in a collective for one that gave up.

Built from the engine's sum alone, so that every engine has it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

import torch

from eqr_ray.config.errors import UserError
from eqr_ray.training.backend import Engine

T = TypeVar("T")
LONGEST = 2_000  # bytes of a message that the others hear
# A mistake of the user, and a disk that may answer better another time.
ERRORS: tuple[type[UserError] | type[OSError], ...] = (UserError, OSError)


def together(engine: Engine, make: Callable[[], T]) -> T:
    """`make()` on every worker. UserError or OSError on any of them is raised by all. Collective; `make` is not."""
    heard = torch.zeros(engine.workers, 1 + LONGEST, dtype=torch.int64, device=engine.device)
    own: Exception | None = None
    try:
        made = make()
    except ERRORS as error:
        own = error
        kind = 1 + isinstance(error, OSError)
        said = f"{socket.gethostname()}: {error}" if kind == 2 else str(error)
        numbers = torch.tensor([kind, *said.encode()[:LONGEST]], dtype=torch.int64)
        heard[engine.rank, : len(numbers)] = numbers
    total = engine.sum(heard).tolist()
    if own is not None:
        raise own
    for kind, *letters in total:
        if kind:
            raise ERRORS[kind - 1](bytes(letters).rstrip(b"\0").decode(errors="replace"))
    return made


def agreed(engine: Engine, number: int) -> int:
    """The first worker's number, on all of them. Collective."""
    mine = torch.tensor([0 if engine.rank else number], dtype=torch.int64, device=engine.device)
    return int(engine.sum(mine)[0])
