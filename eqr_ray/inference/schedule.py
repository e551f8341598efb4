"""Schedules: which trajectory of a unit starts next. Plain classes that know neither tensors nor devices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eqr_ray.inference.policies import Race, Restarts, Win


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
