"""Schedules: which restart of a puzzle starts next, and after how many segments it ends. They know no tensors.

A record must not depend on timing. So what is needed of a puzzle depends on the ends of its own restarts only, not on
their order; what idle slots ran ahead of that is left out of the records afterwards (`Policy.resolve`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eqr_ray.inference.settings import Settings


class Win(NamedTuple):
    """A restart that has settled, and after how many segments."""

    restart: int
    segments: int


class Restarts:
    """The restarts `numbers` of one puzzle, started in order: all of them, each to the full depth."""

    def __init__(self, numbers: range, settings: Settings) -> None:
        self._first, self._next, self._end = numbers.start, numbers.start, numbers.stop
        self._depth = settings.depth
        self._running: set[int] = set()

    @property
    def left(self) -> bool:
        """Whether there is a further restart, which may be run ahead."""
        return self._next < self._end

    @property
    def needed(self) -> bool:
        """Whether the next restart has to be run."""
        return self.left

    @property
    def finished(self) -> bool:
        return not self._running and not self.needed

    def start(self) -> int:
        """Take the next restart."""
        self._running.add(self._next)
        self._next += 1
        return self._next - 1

    def until(self, restart: int) -> int:
        """After how many segments a restart ends, by what is known now."""
        return self._depth

    def ended(self, restart: int, segments: int, stopped: bool) -> bool:
        """A restart has ended, `stopped` by the policy or not. Returns whether others shall now end sooner."""
        self._running.remove(restart)
        return False


class OneByOne(Restarts):
    """Restart r is needed when all before it have failed to stop, and while the puzzle's budget lasts."""

    def __init__(self, numbers: range, settings: Settings) -> None:
        super().__init__(numbers, settings)
        self._budget = math.inf if settings.budget is None else settings.budget
        if settings.budget is not None:
            self._end = min(self._end, self._first + -(-settings.budget // self._depth))
        self._open = self._first  # the first restart that has not failed
        self._failed: set[int] = set()

    @property
    def needed(self) -> bool:
        return self.left and self._next == self._open

    def until(self, restart: int) -> int:
        if restart > self._end:  # one before it has stopped
            return 1
        # All restarts before it took the full depth, or it is not needed.
        return int(min(self._depth, self._budget - (restart - self._first) * self._depth))

    def ended(self, restart: int, segments: int, stopped: bool) -> bool:
        self._running.remove(restart)
        if stopped:
            self._end = min(self._end, restart)
            return True
        self._failed.add(restart)
        while self._open in self._failed:
            self._open += 1
        return False


class Race(Restarts):
    """All restarts side by side; the first to stop, by its own segments and then by number, ends the others."""

    def __init__(self, numbers: range, settings: Settings) -> None:
        super().__init__(numbers, settings)
        self._best = Win(self._end, self._depth + 1)

    def until(self, restart: int) -> int:
        best = self._best
        return max(1, min(self._depth, best.segments if restart < best.restart else best.segments - 1))

    def ended(self, restart: int, segments: int, stopped: bool) -> bool:
        self._running.remove(restart)
        return stopped and self.beaten(Win(restart, segments))

    def beaten(self, win: Win) -> bool:
        """A restart has settled, here or elsewhere: one that can no longer win ends. Returns whether that is news."""
        is_news = (win.segments, win.restart) < (self._best.segments, self._best.restart)
        if is_news:
            self._best = win
        return is_news


class Trajectory(NamedTuple):
    """Row number of the puzzle, number of the restart, segments after which it ends at the latest."""

    puzzle: int
    restart: int
    until: int


class Schedule:
    """The trajectories of one unit: puzzles side by side, those that have begun first. `restarts_of` makes the restarts
    of a puzzle. The engine `take`s trajectories as slots come free, and reports every end."""

    def __init__(self, puzzles: Sequence[int], restarts_of: Callable[[], Restarts]) -> None:
        self._waiting, self._restarts_of = deque(puzzles), restarts_of
        self._open: dict[int, Restarts] = {}  # puzzles that have begun, and those that are beaten before
        self._ready: deque[int] = deque()  # puzzles that may need a restart
        self._rotation: deque[int] = deque()  # puzzles that may have a restart to run ahead
        self.answered = 0  # puzzles of which nothing is left to do

    @property
    def finished(self) -> bool:
        """Whether all that were taken have ended and no more will come."""
        return not self._waiting and not self._open

    def take(self) -> Trajectory | None:
        """The next to start; None when there is none now (`ended` may bring more)."""
        while self._ready:
            puzzle = self._ready[0]
            if puzzle in self._open and self._open[puzzle].needed:
                return self._start(puzzle)
            self._ready.popleft()
        if not self._waiting:
            return None
        puzzle = self._waiting.popleft()
        self._open.setdefault(puzzle, self._restarts_of())
        self._ready.append(puzzle)
        self._rotation.append(puzzle)
        return self._start(puzzle)

    def take_ahead(self) -> Trajectory | None:
        """One that may turn out not to be needed, for a slot that would be idle; None: there is none."""
        while self._rotation:
            puzzle = self._rotation.popleft()
            if puzzle in self._open and self._open[puzzle].left:
                self._rotation.append(puzzle)
                return self._start(puzzle)
        return None

    def _start(self, puzzle: int) -> Trajectory:
        restart = self._open[puzzle].start()
        return Trajectory(puzzle, restart, self.until(puzzle, restart))

    def until(self, puzzle: int, restart: int) -> int:
        """After how many segments a trajectory that was taken ends, by what is known now."""
        return self._open[puzzle].until(restart)

    def ended(self, puzzle: int, restart: int, segments: int, stopped: bool) -> bool:
        """A trajectory has ended. Returns whether others of its puzzle that are running shall now end sooner."""
        restarts = self._open[puzzle]
        shortens = restarts.ended(restart, segments, stopped)
        if restarts.finished:
            del self._open[puzzle]
            self.answered += 1
            return False
        if restarts.needed:
            self._ready.append(puzzle)
        return shortens

    def beaten(self, puzzle: int, win: Win) -> bool:
        """A restart of this puzzle, of another unit, has settled. Returns as `ended` does."""
        if puzzle in self._waiting:
            self._open.setdefault(puzzle, self._restarts_of())
        race = self._open.get(puzzle)
        return isinstance(race, Race) and race.beaten(win)
