"""How far a command is, on stderr: one line that is kept up to date on a terminal, a line now and then elsewhere.

Rates are over the last half minute: compilation, the start of Ray and earlier sittings do not count.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Display
from rich.text import Text

WINDOW_S = 30.0
PLAIN_EVERY_S = 30.0  # between two lines where stderr is no terminal
POLL_S = 0.25  # between two looks at a log


class Rate:
    """The rate at which a count grows, over a moving window."""

    def __init__(self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock = window_s, clock
        self._samples: deque[tuple[float, float]] = deque()  # seconds, count

    def add(self, count: float) -> None:
        """So many by now."""
        now_s = self._clock()
        self._samples.append((now_s, count))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= self._window_s:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """None: it is not known yet."""
        if len(self._samples) < 2:
            return None
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s and last > first else None


class Progress:
    """Shows how many of `total` are done; `unit`: what is counted, in the plural. Use as a context."""

    def __init__(
        self, total: int, unit: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._unit, self._clock = total, unit, clock
        self._rate, self._line, self._shown_s, self._is_shown = Rate(clock=clock), "", clock(), True
        console = Console(file=stream or sys.stderr, highlight=False, markup=False)
        columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=20)
        self._display = Display(
            *columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
        )
        self._task = self._display.add_task("", total=max(total, 1))

    def __enter__(self) -> Progress:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()
        if not self._is_shown:
            self.message(self._line)

    def update(self, done: float, words: str | None = None, left_s: float | None = None) -> None:
        """So many are done. `words` and `left_s`, the time left, are shown behind the count; without words, what
        follows from the count alone."""
        self._rate.add(done)
        rate = self._rate.per_s()
        if words is None and rate is not None:
            words, left_s = f"{rate:,.3g} {self._unit}/s", max(0.0, self._total - done) / rate
        left = None if left_s is None else f"{duration(left_s)} left"
        self._line = "  ".join(part for part in (f"{done:,.0f}/{self._total:,} {self._unit}", words, left) if part)
        self._display.update(self._task, completed=done, description=self._line)
        self._is_shown = not self._display.disable
        if not self._is_shown and self._clock() - self._shown_s >= PLAIN_EVERY_S:
            self._shown_s, self._is_shown = self._clock(), True
            self.message(self._line)

    def message(self, words: str) -> None:
        """A line that stays."""
        self._display.console.print(Text(words), soft_wrap=True)

    def __call__(self, entry: dict[str, Any]) -> None:
        """A warning of a run log."""
        if entry.get("event") == "warning":
            self.message(f"warning: {entry.get('message')}")


def print_warning(entry: dict[str, Any]) -> None:
    """A sink for the run log of a command that shows no progress."""
    if entry.get("event") == "warning":
        print(f"warning: {entry.get('message')}", file=sys.stderr, flush=True)


@contextmanager
def polled(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` every now and then in a thread while the block runs, and once more after it."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_S):
            look()

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
