"""The line that a user watches, read from log.jsonl: the same for a laptop's loop and a cluster's workers.

One refreshed line on a terminal, one line per log entry on a pipe.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

POLL_S = 0.25
SHOW_EVERY_S = 0.5  # on a terminal; elsewhere a line every 30 s
SHOW_EVERY_ELSEWHERE_S = 30.0


@contextmanager
def followed(log: Path, steps: int, stream: TextIO) -> Iterator[None]:
    """Show on `stream` what is appended to `log` while the block runs."""
    follower = Follower(log, steps, stream)
    done = threading.Event()
    thread = threading.Thread(target=_poll, args=(follower, done), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        follower.poll()
        follower.close()


def _poll(follower: Follower, done: threading.Event) -> None:
    while not done.wait(POLL_S):
        follower.poll()


class Follower:
    """Shows new entries of `log`, from its present end on."""

    def __init__(self, log: Path, steps: int, stream: TextIO) -> None:
        self._log, self._steps, self._stream = log, steps, stream
        self._at = log.stat().st_size if log.exists() else 0
        self._live = stream.isatty()
        self._open_line = False

    def poll(self) -> None:
        """Show what has come since the last time; half a line waits for its other half."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._at)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            text = describe(json.loads(line), self._steps)
            if text:
                self._show(text, stays=not self._live or not text.startswith("step"))

    def _show(self, text: str, stays: bool) -> None:
        start = "\r\x1b[K" if self._live else ""
        self._stream.write(f"{start}{text}" + ("\n" if stays else ""))
        self._stream.flush()
        self._open_line = not stays

    def close(self) -> None:
        """End a refreshed line."""
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False


def describe(entry: dict[str, Any], steps: int) -> str:
    """One line for an entry of log.jsonl; empty for kinds that are not shown."""
    step = f"step {entry['step']:,}/{steps:,}"
    match entry["kind"]:
        case "train":
            return (
                f"{step}  {entry['segments_per_s']:.3g} segments/s  {entry['rows_per_s']:,.0f} rows/s  "
                f"loss {entry['loss']:.4f}  exact {entry['exact_accuracy']:.2%}  {duration(entry['left_s'])} left"
            )
        case "validation":
            return (
                f"validation at {step}: exact {entry['validation_exact']:.2%} of {entry['puzzles']:,} puzzles "
                f"at depth {entry['depth']}"
            )
        case "resume":
            return f"continuing from {step} ({entry['checkpoint']}), workers={entry['workers']}"
        case "warning":
            return f"warning: {entry['message']}"
        case _:
            return ""


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class ProgressLine:
    """Rewrites one line of stderr on a terminal; prints a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every_s = SHOW_EVERY_S if self._terminal else SHOW_EVERY_ELSEWHERE_S
        self._shown_s = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._shown_s >= self._every_s:
            self._shown_s = time.monotonic()
            print(f"\r{line}\x1b[K" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()

    def warn(self, words: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[Kwarning: {words}" if self._terminal else f"warning: {words}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
