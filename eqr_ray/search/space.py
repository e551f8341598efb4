"""A search space: which keys of a door vary, from where to where, and under which condition.

    damping: {uniform: [0.0, 0.5]}
    noise_scale: {log: [1.0e-3, 1.0], points: 4}           points: how many a grid takes
    max_segments: {integer: [2, 16], when: {halting: [fixed]}}
    halting: {choice: [learned, fixed]}

Both bounds belong to a range. A condition names a `choice` that stands before it; where it does not hold, the key is
left to its default. Values keep six digits, so that a file holds exactly what was run.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eqr_ray.config.errors import UserError, nearest

Kind = Literal["uniform", "log", "integer", "choice"]
KINDS: tuple[Kind, ...] = ("uniform", "log", "integer", "choice")
Value = float | int | str | bool | None
Values = dict[str, Value]
DIGITS = 6


@dataclass(frozen=True)
class Parameter:
    """One key. `low` and `high` of ranges, `choices` of a choice; `when`: choices that must have been taken."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()
    points: int | None = None
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def at(self, unit: float) -> Value:
        """The value at a place of the range, 0 (its low end) .. 1 (its high end)."""
        if self.kind == "choice":
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "integer":
            return int(min(self.low + math.floor(unit * (self.high - self.low + 1)), self.high))
        if self.kind == "log":
            return self._inside(self.low * (self.high / self.low) ** unit)
        return self._inside(self.low + unit * (self.high - self.low))

    def moved(self, value: Value, factor: float) -> Value:
        """A number times `factor`, within the range, an integer by 1 at least; of a choice the value itself."""
        if self.kind == "choice" or not isinstance(value, int | float):
            return value
        if self.kind == "integer":
            step = max(1, round(abs(value * factor - value)))
            return int(min(max(value + math.copysign(step, factor - 1), self.low), self.high))
        return self._inside(value * factor)

    def grid(self) -> list[Value]:
        """What a grid takes. UserError: a range of numbers without `points`."""
        if self.kind == "choice":
            return list(self.choices)
        if self.points is None and self.kind == "integer":
            return [int(value) for value in range(int(self.low), int(self.high) + 1)]
        if self.points is None:
            raise UserError(f"space.{self.name} has no points: a grid needs to know how many values to take of a range")
        if self.points == 1:
            return [self.at(0.5)]
        return list(dict.fromkeys(self.at(number / (self.points - 1)) for number in range(self.points)))

    def ends(self) -> list[Value]:
        """The values that stand for all when a space is checked: both ends, or every choice."""
        return list(self.choices) if self.kind == "choice" else [self.at(0.0), self.at(1.0)]

    def holds(self, value: Value) -> bool:
        """Whether the range has this value."""
        if self.kind == "choice":
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.kind != "integer" or (number and float(value) == int(value))  # type: ignore[arg-type]
        return number and whole and self.low <= float(value) <= self.high  # type: ignore[arg-type]

    def in_words(self) -> str:
        """What is allowed."""
        if self.kind == "choice":
            return f"one of {json.dumps(list(self.choices))}"
        return f"{self.low:g} .. {self.high:g}"

    def _inside(self, value: float) -> float:
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Space:
    """Parameters in the order of their file: a condition looks back only."""

    parameters: tuple[Parameter, ...]

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return next(one for one in self.parameters if one.name == name)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.parameters]

    def active(self, values: Mapping[str, Value]) -> Values:
        """The part of `values` (one for every parameter) whose conditions hold, in the order of the space."""
        kept: Values = {}
        for one in self.parameters:
            if self.is_active(one, kept):
                kept[one.name] = values[one.name]
        return kept

    def is_active(self, one: Parameter, before: Mapping[str, Value]) -> bool:
        """Whether the conditions of a parameter hold, given the active ones before it."""
        return all(parent in before and self._has(allowed, before[parent]) for parent, allowed in one.when)

    def at(self, units: Sequence[float]) -> Values:
        """The active values at a point of the unit cube, a coordinate for every parameter."""
        return self.active({one.name: one.at(unit) for one, unit in zip(self.parameters, units, strict=True)})

    def grid(self) -> list[Values]:
        """Every combination of every parameter's grid, each once. The last parameter turns fastest."""
        rows = itertools.product(*(one.grid() for one in self.parameters))
        found = [self.active(dict(zip(self.names, row, strict=True))) for row in rows]
        return list({json.dumps(values): values for values in found}.values())

    def corners(self) -> Iterator[tuple[str, Values]]:
        """(parameter, values): every end of every parameter, the others in their middle or, where a condition asks for
        it, as it asks."""
        for one in self.parameters:
            for end in one.ends():
                wanted = {one.name: end, **self._conditions(one)}
                yield one.name, self.active({p.name: wanted.get(p.name, p.at(0.5)) for p in self.parameters})

    def check(self, values: Mapping[str, Any], where: str) -> Values:
        """`values` in the order of the space. UserError: not the active keys, or outside their ranges."""
        for name in values:
            if name not in self.names:
                raise UserError(f"{where}: unknown key '{name}'{nearest(name, self.names)}")
        kept: Values = {}
        for one in self.parameters:
            if self.is_active(one, kept) and one.name not in values:
                raise UserError(f"{where}: {one.name} is missing ({one.in_words()})")
            if not self.is_active(one, kept) and one.name in values:
                raise UserError(f"{where}: {one.name} does not go with the other values: {_in_words(one.when)}")
            if one.name in values:
                if not one.holds(values[one.name]):
                    raise UserError(f"{where}: {one.name}={json.dumps(values[one.name])}: expected {one.in_words()}")
                kept[one.name] = values[one.name]
        return kept

    def _conditions(self, one: Parameter) -> Values:
        """Choices under which a parameter is active."""
        wanted: Values = {}
        for parent, allowed in one.when:
            wanted |= {**self._conditions(self[parent]), parent: allowed[0]}
        return wanted

    @staticmethod
    def _has(allowed: Sequence[Value], value: Value) -> bool:
        return any(type(value) is type(one) and value == one for one in allowed)


def space_of(raw: Mapping[str, Any]) -> Space:
    """From the `space` of a file. UserError: no such kind, an empty range, a condition on what is not there."""
    if not raw:
        raise UserError("space is empty: at least one key must vary")
    found: list[Parameter] = []
    for name, entry in raw.items():
        found.append(_parameter(str(name), entry, found))
    return Space(tuple(found))


def _parameter(name: str, entry: Any, before: Sequence[Parameter]) -> Parameter:
    if not isinstance(entry, Mapping):
        raise UserError(f"space.{name}={json.dumps(entry)}: expected e.g. {{uniform: [0.0, 1.0]}}")
    for key in entry:
        if key not in (*KINDS, "points", "when"):
            raise UserError(f"space.{name}: unknown key '{key}'{nearest(str(key), (*KINDS, 'points', 'when'))}")
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        raise UserError(f"space.{name}: exactly one of {', '.join(KINDS)} is needed, not {len(kinds)}")
    kind, points = kinds[0], entry.get("points")
    if points is not None and (type(points) is not int or points < 1 or kind == "choice"):
        raise UserError(f"space.{name}.points={json.dumps(points)}: expected a whole number, 1 or more, of a range")
    when = _when(name, entry.get("when", {}), before)
    if kind == "choice":
        return Parameter(name, kind, choices=_choices(name, entry[kind]), when=when)
    low, high = _bounds(name, kind, entry[kind])
    return Parameter(name, kind, low, high, points=points, when=when)


def _bounds(name: str, kind: Kind, bounds: Any) -> tuple[float, float]:
    asked = f"space.{name}.{kind}={json.dumps(bounds)}"
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(type(end) in (int, float) for end in bounds)
    if not numbers or not all(math.isfinite(end) for end in bounds):
        raise UserError(f"{asked}: expected [lowest, highest]")
    low, high = bounds
    if kind == "integer" and not all(type(end) is int for end in bounds):
        raise UserError(f"{asked}: expected whole numbers")
    if not low < high:
        raise UserError(f"{asked}: expected the lower end first, and a greater one after it")
    if kind == "log" and low <= 0:
        raise UserError(f"{asked}: expected a lower end above 0; 0 has no logarithm")
    return float(low), float(high)


def _choices(name: str, choices: Any) -> tuple[Value, ...]:
    plain = isinstance(choices, list) and all(one is None or isinstance(one, int | float | str) for one in choices)
    if not plain or not choices:
        raise UserError(f"space.{name}.choice={json.dumps(choices)}: expected a list of values, one at least")
    if len({json.dumps(one) for one in choices}) < len(choices):
        raise UserError(f"space.{name}.choice={json.dumps(choices)}: a value stands there twice")
    return tuple(choices)


def _when(name: str, when: Any, before: Sequence[Parameter]) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    if not isinstance(when, Mapping):
        raise UserError(f"space.{name}.when={json.dumps(when)}: expected {{other key: [values]}}")
    choices = {one.name: one for one in before if one.kind == "choice"}
    conditions = []
    for parent, allowed in when.items():
        if parent not in choices:
            raise UserError(f"space.{name}.when.{parent}: no choice of this name stands before it in the space")
        values = _choices(f"{name}.when.{parent}", allowed)
        wrong = [value for value in values if not choices[parent].holds(value)]
        if wrong:
            raise UserError(f"space.{name}.when.{parent}={json.dumps(wrong[0])}: expected {choices[parent].in_words()}")
        conditions.append((str(parent), values))
    return tuple(conditions)


def _in_words(when: Sequence[tuple[str, tuple[Value, ...]]]) -> str:
    return " and ".join(f"{parent} is {' or '.join(map(str, allowed))}" for parent, allowed in when)
