"""Jobs: which trajectory starts, pauses, goes on or is given up next.

Why here: the scheduling half of a policy, plain classes that know neither tensors nor devices. The engine `take`s jobs
as slots come free, and tells of every end. A record must not depend on timing, so what is needed depends on the ends of
*the same puzzle's* trajectories only, and not on their order; what idle slots run ahead of that leaves no record.

A job runs `until` a number of segments. One that reaches them below the depth asked for is paused: its puzzle's plan
offers it again with a greater `until`, or gives it up (`outdone`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, cast

from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit


class Job(NamedTuple):
    """A trajectory: row number of the puzzle, number of the restart, segments (in all) after which it is judged."""

    puzzle: int
    restart: int
    until: int


class Outcome(NamedTuple):
    """How a job ended: segments done, whether the policy's `stop` ended it, its logit residual (inf: none)."""

    segments: int
    stopped: bool
    residual: float


class Decision(NamedTuple):
    """What follows from an end: trajectories to start or go on with (`start`), paused ones that are given up
    (`outdone`), and running ones that shall end earlier (`sooner`, with their new `until`)."""

    start: Sequence[Job] = ()
    outdone: Sequence[Job] = ()
    sooner: Sequence[Job] = ()


NOTHING = Decision()


class Win(NamedTuple):
    """A restart that has settled, and after how many segments."""

    restart: int
    segments: int


class Jobs(Protocol):
    """The trajectories of one unit."""

    def take(self) -> Job | None:
        """The next to start or go on with; None when there is none now (`ended` may bring more)."""

    def take_ahead(self) -> Job | None:
        """One that may turn out not to be needed, for a slot that would be idle; None: there is none."""

    def ended(self, job: Job, outcome: Outcome) -> Decision:
        """A job has come to its end. Of the decision, `start` is taken with `take`."""

    @property
    def finished(self) -> bool:
        """True when all that were taken have ended and no more will come."""


class AllRestarts:
    """Every restart of every puzzle in `puzzles`, puzzle by puzzle, to the full depth."""

    def __init__(self, unit: Unit, puzzles: Sequence[int], depth: int) -> None:
        self._puzzles, self._first, self._depth = puzzles, unit.restart_first, depth
        self._each = unit.restart_last - unit.restart_first
        self._taken = self._ended = 0

    def take(self) -> Job | None:
        if self._taken == len(self._puzzles) * self._each:
            return None
        number, restart = divmod(self._taken, self._each)
        self._taken += 1
        return Job(self._puzzles[number], self._first + restart, self._depth)

    def take_ahead(self) -> Job | None:
        return None

    def ended(self, job: Job, outcome: Outcome) -> Decision:
        self._ended += 1
        return NOTHING

    @property
    def finished(self) -> bool:
        return self._ended == len(self._puzzles) * self._each


class Plan(Protocol):
    """What one puzzle's restarts do. `ahead`: the next that may not be needed; once None, always None."""

    def begin(self) -> Sequence[Job]: ...
    def ahead(self) -> Job | None: ...
    def ended(self, job: Job, outcome: Outcome) -> Decision: ...


class ByPlan:
    """Every puzzle after a plan of its own, puzzles side by side; those that have begun go first."""

    def __init__(self, puzzles: Sequence[int], plan_of: Callable[[int], Plan]) -> None:
        self._waiting, self._plan_of = deque(puzzles), plan_of
        self._plans: dict[int, Plan] = {}
        self._running: dict[int, int] = {}  # trajectories of each plan that are in `_ready` or have been taken
        self._ready: deque[Job] = deque()
        self._in_rotation: deque[int] = deque()  # puzzles that may have something to run ahead

    def take(self) -> Job | None:
        if not self._ready and self._waiting:
            puzzle = self._waiting.popleft()
            self._plans[puzzle], self._running[puzzle] = self._plan_of(puzzle), 0
            self._add(puzzle, self._plans[puzzle].begin())
            self._in_rotation.append(puzzle)
        return self._ready.popleft() if self._ready else None

    def take_ahead(self) -> Job | None:
        while self._in_rotation:
            puzzle = self._in_rotation.popleft()
            plan = self._plans.get(puzzle)
            if plan is not None and (job := plan.ahead()) is not None:
                self._in_rotation.append(puzzle)
                self._running[puzzle] += 1
                return job
        return None

    def ended(self, job: Job, outcome: Outcome) -> Decision:
        puzzle = job.puzzle
        self._running[puzzle] -= 1
        decision = self._follow(puzzle, self._plans[puzzle].ended(job, outcome))
        if not self._running[puzzle]:
            del self._plans[puzzle], self._running[puzzle]
        return decision

    def _follow(self, puzzle: int, decision: Decision) -> Decision:
        self._add(puzzle, decision.start)
        if decision.sooner:
            until = {(sooner.puzzle, sooner.restart): sooner.until for sooner in decision.sooner}
            self._ready = deque(one._replace(until=until.get(one[:2], one.until)) for one in self._ready)
        return decision

    def _add(self, puzzle: int, jobs: Sequence[Job]) -> None:
        self._ready.extend(jobs)
        self._running[puzzle] += len(jobs)

    @property
    def finished(self) -> bool:
        return not self._waiting and not self._plans


class OneByOne:
    """Restart r is needed when none before it has been stopped, and while the puzzle's budget lasts. It starts when
    that is known, or ahead of that; what was not needed is left out of the records (`Sequential.resolve`)."""

    def __init__(self, puzzle: int, unit: Unit, settings: Settings) -> None:
        self._puzzle, self._depth = puzzle, settings.depth
        self._first, self._end = unit.restart_first, unit.restart_last
        if settings.budget is not None:
            self._end = min(self._end, self._first + -(-settings.budget // self._depth))
        self._budget = settings.budget
        self._next = self._needed = self._first  # the first that has not started; the first that has not failed
        self._running: set[int] = set()
        self._failed: set[int] = set()

    def begin(self) -> Sequence[Job]:
        job = self.ahead()
        return () if job is None else (job,)

    def ahead(self) -> Job | None:
        if self._next >= self._end:
            return None
        self._running.add(self._next)
        self._next += 1
        return self._job(self._next - 1)

    def _job(self, restart: int) -> Job:
        # None before it was stopped, so each of them has spent the whole depth.
        left = math.inf if self._budget is None else self._budget - (restart - self._first) * self._depth
        return Job(self._puzzle, restart, int(min(self._depth, left)))

    def ended(self, job: Job, outcome: Outcome) -> Decision:
        self._running.discard(job.restart)
        if outcome.stopped:
            self._end = min(self._end, job.restart)
            needless = sorted(restart for restart in self._running if restart > self._end)
            return Decision(sooner=[Job(self._puzzle, restart, 1) for restart in needless])
        self._failed.add(job.restart)
        while self._needed in self._failed:
            self._needed += 1
        cut_short = (job,) if outcome.segments < self._depth else ()
        return Decision(self.begin() if self._needed == self._next else (), outdone=cut_short)


class Halving:
    """All restarts to a first rung; there and at every doubling the half of least residual goes on, until one is left.

    The first restarts to settle end it: at that rung the others are given up.
    """

    def __init__(self, puzzle: int, unit: Unit, settings: Settings) -> None:
        self._puzzle, self._restarts = puzzle, range(unit.restart_first, unit.restart_last)
        self._depth, self._rung = settings.depth, min(settings.halving_from, settings.depth)
        self._settled, self._running = False, len(self._restarts)
        self._paused: list[tuple[float, int]] = []  # residual, restart

    def begin(self) -> Sequence[Job]:
        return [self._job(restart) for restart in self._restarts]

    def ahead(self) -> Job | None:
        return None

    def _job(self, restart: int) -> Job:
        return Job(self._puzzle, restart, self._rung)

    def ended(self, job: Job, outcome: Outcome) -> Decision:
        self._running -= 1
        self._settled |= outcome.stopped
        if not outcome.stopped and outcome.segments < self._depth:
            self._paused.append((outcome.residual, job.restart))
        if self._running:
            return NOTHING
        order, self._paused = [restart for _, restart in sorted(self._paused)], []
        kept = 0 if self._settled else (len(order) + 1) // 2
        last = kept <= 1  # nobody is left to compare with
        self._rung = self._depth if last else min(2 * self._rung, self._depth)
        self._running = kept
        return Decision([self._job(restart) for restart in order[:kept]], [self._job(r) for r in order[kept:]])


class Race:
    """All restarts side by side; the first to be stopped, in its own segments and then by number, ends the others."""

    def __init__(self, puzzle: int, unit: Unit, settings: Settings) -> None:
        self._puzzle, self._depth = puzzle, settings.depth
        self._running = set(range(unit.restart_first, unit.restart_last))
        self._best = (settings.depth + 1, unit.restart_last)

    def begin(self) -> Sequence[Job]:
        return self._bounded()

    def ahead(self) -> Job | None:
        return None

    def ended(self, job: Job, outcome: Outcome) -> Decision:
        self._running.discard(job.restart)
        if outcome.stopped:
            return self.beaten(Win(job.restart, outcome.segments))
        return Decision(outdone=(job,) if outcome.segments < self._depth else ())

    def beaten(self, win: Win) -> Decision:
        """One has settled, here or elsewhere: nobody runs on who can no longer be before it."""
        if (win.segments, win.restart) >= self._best:
            return NOTHING
        self._best = (win.segments, win.restart)
        return Decision(sooner=self._bounded())

    def _bounded(self) -> Sequence[Job]:
        segments, best = self._best
        return [
            Job(self._puzzle, restart, max(1, min(self._depth, segments if restart < best else segments - 1)))
            for restart in sorted(self._running)
        ]


class Races(ByPlan):
    """A race for every puzzle. Where a unit has only some of a puzzle's restarts, the others may win it."""

    def __init__(self, puzzles: Sequence[int], unit: Unit, settings: Settings) -> None:
        self._races: dict[int, Race] = {}  # that are beaten before they have begun
        self._new = partial(Race, unit=unit, settings=settings)
        super().__init__(puzzles, lambda puzzle: self._races.pop(puzzle, None) or self._new(puzzle))

    def beaten(self, puzzle: int, win: Win) -> Decision:
        """A restart that is not of this unit has settled. Returns who of those that were taken shall end `sooner`."""
        if puzzle in self._plans:
            return self._follow(puzzle, cast("Race", self._plans[puzzle]).beaten(win))
        if puzzle in self._waiting:
            self._races.setdefault(puzzle, self._new(puzzle)).beaten(win)
        return NOTHING
