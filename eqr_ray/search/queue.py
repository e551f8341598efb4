"""Which trial runs next: those that an earlier sitting left, then new ones, each begun by writing its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from eqr_ray.search.outcome import Trial
from eqr_ray.search.trial_dirs import Plan, Trials

# The plan of a trial, given the trials so far; None: not before others are over.
Planner = Callable[[int, Mapping[int, Trial]], Plan | None]


@dataclass
class Queue:
    """Deals out `numbers`, in order, each once but for those that come back. `known`: the trials so far, by number."""

    trials: Trials
    numbers: Iterable[int]
    plan: Planner

    def __post_init__(self) -> None:
        self.known = self.trials.all()
        self._left = [n for n in self.numbers if n not in self.known or not self.known[n].is_over]

    @property
    def is_empty(self) -> bool:
        return not self._left

    def next(self) -> int | None:
        """The number of the next trial, which is now begun; None: wait, or nothing is left."""
        if not self._left:
            return None
        number = self._left[0]
        if number not in self.known:
            plan = self.plan(number, self.known)
            if plan is None:
                return None
            self.trials.write_plan(plan)
            self.known[number] = self.trials.read(number)
        del self._left[0]
        return number

    def again(self, number: int) -> None:
        """A trial did not come to its end: it is the next."""
        self._left.insert(0, number)

    def over(self, number: int) -> Trial:
        """Look again at a trial that has ended."""
        self.known[number] = self.trials.read(number)
        return self.known[number]
