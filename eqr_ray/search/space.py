"""A search space: which keys of a command vary, between which bounds, and under which condition.

    damping: {uniform: [0.0, 0.5]}
    noise_scale: {log: [1.0e-3, 1.0], points: 4}           points: how many values a grid takes
    max_segments: {integer: [2, 16], when: {halting: [fixed]}}
    halting: {choice: [learned, fixed]}

Both bounds belong to a range. A condition names a `choice` that stands before it; where it does not hold, the key keeps
its default. Values are rounded to six digits, so that a file holds exactly what was run.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.schema import Options

Kind = Literal["uniform", "log", "integer", "choice"]
Value = float | int | str | bool | None
Values = dict[str, Value]
DIGITS = 6


@dataclass(frozen=True)
class Parameter:
    """One key: a range from `low` to `high`, or `choices`. `when`: the choices that must have been taken."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()
    points: int | None = None
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def at(self, unit: float) -> Value:
        """The value at a place of the range, 0 (its low end) .. 1 (its high end)."""
        if self.kind == "choice":
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "integer":
            return int(min(self.low + math.floor(unit * (self.high - self.low + 1)), self.high))
        if self.kind == "log":
            return self.rounded(self.low * (self.high / self.low) ** unit)
        return self.rounded(self.low + unit * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """To six digits, within the range."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def grid(self) -> list[Value]:
        """The values that a grid takes. UserError: a range of numbers without `points`."""
        if self.kind == "choice":
            return list(self.choices)
        if self.points is None and self.kind == "integer":
            return list(range(int(self.low), int(self.high) + 1))
        if self.points is None:
            raise UserError(f"space.{self.name} has no points: a grid needs to know how many values to take of a range")
        if self.points == 1:
            return [self.at(0.5)]
        return list(dict.fromkeys(self.at(number / (self.points - 1)) for number in range(self.points)))

    def ends(self) -> list[Value]:
        """The values that stand for all when a space is checked: both ends, or every choice."""
        return list(self.choices) if self.kind == "choice" else [self.at(0.0), self.at(1.0)]

    def holds(self, value: Any) -> bool:
        """Whether the range has this value."""
        if self.kind == "choice":
            return _is_among(value, self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (self.kind != "integer" or value == int(value))

    def __str__(self) -> str:
        """What is allowed."""
        return f"one of {json.dumps(self.choices)}" if self.kind == "choice" else f"{self.low:g} .. {self.high:g}"


@dataclass(frozen=True)
class Space:
    """Parameters in the order of their file, which is kept `as_written`: a condition looks back only."""

    parameters: tuple[Parameter, ...]
    as_written: Mapping[str, Any]

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return next(one for one in self.parameters if one.name == name)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.parameters]

    def is_active(self, one: Parameter, before: Mapping[str, Value]) -> bool:
        """Whether the conditions of a parameter hold, given the active values before it."""
        return all(parent in before and _is_among(before[parent], allowed) for parent, allowed in one.when.items())

    def active(self, values: Mapping[str, Value]) -> Values:
        """The part of `values` (one for every parameter) whose conditions hold, in the order of the space."""
        result: Values = {}
        for one in self.parameters:
            if self.is_active(one, result):
                result[one.name] = values[one.name]
        return result

    def at(self, units: Sequence[float]) -> Values:
        """The active values at a point of the unit cube, a coordinate for every parameter."""
        return self.active({one.name: one.at(unit) for one, unit in zip(self.parameters, units, strict=True)})

    def grid(self) -> list[Values]:
        """Every combination of every parameter's grid, each once. The last parameter turns fastest."""
        rows = itertools.product(*(one.grid() for one in self.parameters))
        points = [self.active(dict(zip(self.names, row, strict=True))) for row in rows]
        return list({json.dumps(values): values for values in points}.values())

    def corners(self) -> Iterator[tuple[str, Values]]:
        """(parameter, values): every end of every parameter, the others in their middle or as a condition needs."""
        for one in self.parameters:
            for end in one.ends():
                fixed = {one.name: end, **self._conditions(one)}
                yield one.name, self.active({p.name: fixed.get(p.name, p.at(0.5)) for p in self.parameters})

    def _conditions(self, one: Parameter) -> Values:
        """Choices under which a parameter is active."""
        choices: Values = {}
        for parent, allowed in one.when.items():
            choices |= {**self._conditions(self[parent]), parent: allowed[0]}
        return choices

    def check(self, values: Mapping[str, Any], where: str) -> Values:
        """`values` in the order of the space. UserError: not the active keys, or outside their ranges."""
        for name in values:
            if name not in self.names:
                raise UserError(f"{where}: unknown key '{name}'{nearest(name, self.names)}")
        result: Values = {}
        for one in self.parameters:
            if not self.is_active(one, result):
                if one.name in values:
                    when = " and ".join(f"{parent} is {' or '.join(map(str, v))}" for parent, v in one.when.items())
                    raise UserError(f"{where}: {one.name} does not go with the other values: {when}")
            elif one.name not in values:
                raise UserError(f"{where}: {one.name} is missing ({one})")
            elif not one.holds(values[one.name]):
                raise UserError(f"{where}: {one.name}={json.dumps(values[one.name])}: expected {one}")
            else:
                result[one.name] = values[one.name]
        return result


def _is_among(value: Any, choices: Sequence[Value]) -> bool:
    """By type too: in Python `True == 1`."""
    return any(type(value) is type(one) and value == one for one in choices)


class _Entry(Options):
    """A key of the file as it is written: exactly one of the four kinds."""

    uniform: tuple[float, float] | None = None
    log: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: tuple[Value, ...] | None = None
    points: int | None = None
    when: Mapping[str, Annotated[tuple[Value, ...], Field(strict=False)]] = {}


def space_of(raw: Any) -> Space:
    """From the `space` of a file. UserError: no such kind, an empty range, a condition on what is not there."""
    if not isinstance(raw, Mapping):
        raise UserError(f"space={json.dumps(raw)}: expected the keys that vary, e.g. {{damping: {{choice: [0, 0.1]}}}}")
    if not raw:
        raise UserError("space is empty: at least one key must vary")
    parameters: dict[str, Parameter] = {}
    for name, entry in raw.items():
        if not isinstance(entry, Mapping):
            raise UserError(f"space.{name}={json.dumps(entry)}: expected e.g. {{uniform: [0.0, 1.0]}}")
        one = _parameter(str(name), _Entry.parse(entry, f"space.{name}"))
        for parent, allowed in one.when.items():
            where = f"space.{name}.when.{parent}"
            if parent not in parameters or parameters[parent].kind != "choice":
                raise UserError(f"{where}: no choice of this name stands before it in the space")
            for value in allowed or (None,):
                if not parameters[parent].holds(value):
                    raise UserError(f"{where}={json.dumps(value)}: expected {parameters[parent]}")
        parameters[one.name] = one
    return Space(tuple(parameters.values()), raw)


def _parameter(name: str, entry: _Entry) -> Parameter:
    kinds: list[Kind] = [kind for kind in get_args(Kind) if getattr(entry, kind) is not None]
    if len(kinds) != 1:
        raise UserError(f"space.{name}: exactly one of {', '.join(get_args(Kind))} is needed, not {len(kinds)}")
    kind = kinds[0]
    if entry.points is not None and (entry.points < 1 or kind == "choice"):
        raise UserError(f"space.{name}.points={entry.points}: expected 1 or more, and a range")
    if entry.choice is not None:
        if not entry.choice or len({json.dumps(one) for one in entry.choice}) < len(entry.choice):
            raise UserError(f"space.{name}.choice={json.dumps(entry.choice)}: expected one value or more, each once")
        return Parameter(name, kind, choices=entry.choice, when=entry.when)
    low, high = getattr(entry, kind)
    if low >= high or (kind == "log" and low <= 0):
        above = ", above 0" if kind == "log" else ""
        raise UserError(f"space.{name}.{kind}={json.dumps([low, high])}: expected [lowest, highest]{above}")
    return Parameter(name, kind, float(low), float(high), points=entry.points, when=entry.when)
