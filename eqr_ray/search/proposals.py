"""What is tried next: a function of the space, a seed, a number, and what earlier trials have come to.

Nothing else is kept: a sweep that is killed, or extended by more trials, goes on as it would have gone. `random` and
`grid` do not look at other trials; `tpe` looks at those that are there; `population` waits for the generation before.

    number of a trial: its place in `first`, then in the sequence; of a population generation x members + member
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eqr_ray.search.outcome import Trial, scores
from eqr_ray.search.space import Space, Values
from eqr_ray.search.study import SearchConfig
from eqr_ray.search.tpe import suggest

EXPLORE = 1  # tells the draws of exploration from those of the beginning


@dataclass(frozen=True)
class Proposal:
    """A configuration to try: from nothing to `end` steps, or on from the last checkpoint of trial `parent`."""

    values: Values
    end: int = 0
    parent: int | None = None
    begin: int = 0


def most_trials(config: SearchConfig) -> int | None:
    """How many trials there can be at all; None: as many as are wanted."""
    if config.algorithm.name == "grid":
        return len(_grid(config))
    if config.algorithm.name == "population":
        return config.algorithm.members * config.algorithm.generations
    return None


def propose(config: SearchConfig, seed: int, number: int, history: Mapping[int, Trial]) -> Proposal | None:
    """Trial `number`; None: not before others are over. `history`: the trials so far, by number."""
    if config.algorithm.name == "population":
        return _of_population(config, seed, number, history)
    steps = config.steps if config.door == "train" else 0
    if config.algorithm.name == "grid":
        return Proposal(_grid(config)[number], steps)
    if number < len(config.points):
        return Proposal(config.points[number], steps)
    if config.algorithm.name == "tpe" and number >= config.algorithm.startup:
        return Proposal(suggest(config.space, config.goals, seed, number, list(history.values())), steps)
    return Proposal(drawn(config.space, seed, number), steps)


def drawn(space: Space, seed: int, *key: int) -> Values:
    """A random point of the space, keyed by (seed, key)."""
    return space.at(np.random.default_rng([seed, *key]).random(len(space.names)).tolist())


def _grid(config: SearchConfig) -> list[Values]:
    """`first`, then all the rest of the grid."""
    return [*config.points, *(values for values in config.space.grid() if values not in config.points)]


def _of_population(config: SearchConfig, seed: int, number: int, history: Mapping[int, Trial]) -> Proposal | None:
    algorithm = config.algorithm
    generation, member = divmod(number, algorithm.members)
    leg = config.steps // algorithm.generations
    begin, end = generation * leg, (generation + 1) * leg
    if generation == 0:
        known = config.points
        return Proposal(known[member] if member < len(known) else drawn(config.space, seed, member), end)
    before = [history.get(number - member + j - algorithm.members) for j in range(algorithm.members)]
    if not all(trial is not None and trial.is_over for trial in before):
        return None
    return _next_leg(config, seed, number, [trial for trial in before if trial is not None], begin, end)


def _next_leg(config: SearchConfig, seed: int, number: int, before: Sequence[Trial], begin: int, end: int) -> Proposal:
    """A member of the next generation: its own next leg, or that of a better one."""
    algorithm, member = config.algorithm, number % config.algorithm.members
    order = sorted(before, key=lambda trial: (*(-score for score in scores(trial, config.goals)), trial.number))
    many = max(1, int(len(order) * algorithm.quantile))
    alive = [trial for trial in order if trial.status == "finished"]
    own = before[member]
    if not alive:  # all are lost: this member begins anew
        return Proposal(drawn(config.space, seed, number), end)
    if own in alive and own not in order[-many:]:
        return Proposal(own.values, end, own.number, begin)
    generator = np.random.default_rng([seed, EXPLORE, number])
    best = alive[: min(many, len(alive))]
    parent = best[int(generator.integers(len(best)))]
    return Proposal(explored(config, parent.values, generator), end, parent.number, begin)


def explored(config: SearchConfig, values: Values, generator: np.random.Generator) -> Values:
    """Values near those of a good trial: each is redrawn, or a step up or down."""
    algorithm, space = config.algorithm, config.space
    changed: Values = {}
    for one in space:
        redraw, unit, up = generator.random(3).tolist()
        if one.name not in values or redraw < algorithm.resample:
            changed[one.name] = one.at(unit)
        else:
            changed[one.name] = one.moved(values[one.name], algorithm.factor if up < 0.5 else 1 / algorithm.factor)
    return space.active(changed)
