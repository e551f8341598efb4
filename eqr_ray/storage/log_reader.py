"""Reading a run's log.jsonl back: what can be read, and how much cannot.

Why here: at the base of the package, because training and inference both write one. A log may end in half a line (it
is being written, or its writer was killed) and may come from anywhere; a reader takes what it understands.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eqr_ray.config.errors import UserError

LOG = "log.jsonl"


@dataclass(frozen=True)
class Logbook:
    """The entries of a log in order. `unread`: whole lines that are no JSON object."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    unread: int = 0


def read_log(path: Path) -> Logbook:
    """The log at `path`; empty where there is none. UserError: it cannot be opened."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # the last one is empty, or half
    except FileNotFoundError:
        return Logbook()
    except OSError as error:
        raise UserError(f"{path}: {str(error.strerror).lower()}") from error
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    return Logbook(entries, len([line for line in lines if line.strip()]) - len(entries))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def number(entry: dict[str, Any], key: str) -> float | None:
    """A finite number of an entry, or None."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
