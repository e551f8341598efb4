"""What a run's folder tells of it, whatever its kind, read while others may be writing there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eqr_ray.storage.run_dir import LOG

WARNINGS_SHOWN = 3  # the newest


@dataclass(frozen=True)
class RunStatus:
    """`facts`: label -> words. `lost`: what went wrong on the way. `needs`: what the user has to do besides going
    on. `goes_on`: the same command, or a resume, would have something to do and may succeed."""

    facts: dict[str, str]
    lost: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    goes_on: bool = True


def warned(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The newest warnings of a log, whichever run's; and how many there were before."""
    words = [entry.get("message") for entry in entries if entry.get("event") == "warning"]
    lines = [f"warned: {' '.join(str(message).split())}" for message in words[-WARNINGS_SHOWN:]]
    more = len(words) - len(lines)
    return [f"{more:,} earlier warnings, in {LOG}", *lines] if more else lines


def unread(lines: int) -> list[str]:
    """For a log with lines that nobody can read."""
    return [f"{lines:,} lines of {LOG} cannot be read"] if lines else []
