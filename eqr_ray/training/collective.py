"""Calls that end the same way on all workers: nobody waits in a collective for a worker that gave up."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

import torch

from eqr_ray.config.errors import UserError
from eqr_ray.training.backend import Backend

T = TypeVar("T")
LONGEST_MESSAGE = 2_000  # bytes
# A mistake of the user, and a disk that may answer better another time.
ERRORS: tuple[type[UserError] | type[OSError], ...] = (UserError, OSError)


def collective_call(backend: Backend, make: Callable[[], T]) -> T:
    """`make()` on every worker. UserError or OSError on any of them is raised by all. Collective; `make` is not."""
    # A row per worker: the kind of its error (0: none) and the bytes of its message.
    messages = torch.zeros(backend.workers, 1 + LONGEST_MESSAGE, dtype=torch.int64, device=backend.device)
    own_error: Exception | None = None
    try:
        made = make()
    except ERRORS as error:
        own_error = error
        kind = 1 + isinstance(error, OSError)
        words = f"{socket.gethostname()}: {error}" if kind == 2 else str(error)
        message = torch.tensor([kind, *words.encode()[:LONGEST_MESSAGE]], dtype=torch.int64)
        messages[backend.rank, : len(message)] = message
    total = backend.sum(messages).tolist()
    if own_error is not None:
        raise own_error
    for kind, *letters in total:
        if kind:
            raise ERRORS[kind - 1](bytes(letters).rstrip(b"\0").decode(errors="replace"))
    return made


def broadcast(backend: Backend, number: int) -> int:
    """The first worker's number, on all of them. Collective."""
    mine = torch.tensor([0 if backend.rank else number], dtype=torch.int64, device=backend.device)
    return int(backend.sum(mine)[0])
