"""The user's mistakes, told apart from ours: whatever else escapes a command is a fault of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """One line that names the bad value and what is allowed; a command prints it and exits with status 2."""


class Failure(Exception):
    """One line that says what gave way, e.g. the machines, and how to go on; status 1."""


@contextmanager
def extra(name: str, wanted: str) -> Iterator[None]:
    """Around the import of an optional part: where a library is missing, UserError names the line that installs it.

    wanted: what the user asked for that needs the part."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{wanted} needs {error.name}: pip install 'eqr_ray[{name}]'") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is close to `name`, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"
