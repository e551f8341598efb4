"""What one worker finds wrong, said on all of them: nobody is left waiting in a collective for one that gave up.

Built from the backend's sum alone, so that every backend has it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

import torch

from eqr_ray.config.errors import UserError
from eqr_ray.training.backend import Backend

T = TypeVar("T")
LONGEST = 2_000  # bytes of a message that the others hear
# A mistake of the user, and a disk that may answer better another time.
ERRORS: tuple[type[UserError] | type[OSError], ...] = (UserError, OSError)


def collective_call(backend: Backend, make: Callable[[], T]) -> T:
    """`make()` on every worker. UserError or OSError on any of them is raised by all. Collective; `make` is not."""
    heard = torch.zeros(backend.workers, 1 + LONGEST, dtype=torch.int64, device=backend.device)
    own: Exception | None = None
    try:
        made = make()
    except ERRORS as error:
        own = error
        kind = 1 + isinstance(error, OSError)
        said = f"{socket.gethostname()}: {error}" if kind == 2 else str(error)
        numbers = torch.tensor([kind, *said.encode()[:LONGEST]], dtype=torch.int64)
        heard[backend.rank, : len(numbers)] = numbers
    total = backend.sum(heard).tolist()
    if own is not None:
        raise own
    for kind, *letters in total:
        if kind:
            raise ERRORS[kind - 1](bytes(letters).rstrip(b"\0").decode(errors="replace"))
    return made


def broadcast(backend: Backend, number: int) -> int:
    """The first worker's number, on all of them. Collective."""
    mine = torch.tensor([0 if backend.rank else number], dtype=torch.int64, device=backend.device)
    return int(backend.sum(mine)[0])
