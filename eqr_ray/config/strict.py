"""Plain data in, frozen dataclasses out: the one strict way from a dict (Hydra, JSON, Tune) to a configuration.

An unknown key, a missing one or a value of the wrong type is a `UserError` that names the key, the value and what is
allowed. Nothing is guessed: a bool is not a number, text is not a number. Only what a file format loses is put back:
`1` for a float, a list for a tuple. Kept at the base of the package, beside errors.py, because every layer has a
configuration; it knows none of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.schema import Options

T = TypeVar("T")

_SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError: what is there is none; FileNotFoundError: nothing is."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} instead of an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return found


def from_dict(cls: type[T], data: Mapping[str, Any], path: str = "") -> T:
    """Build the dataclass `cls` (and those inside it) from `data`; `path` is the dotted name of `data` itself.

    Raises UserError for unknown and missing keys, for values of the wrong type, and with the words of a ValueError
    that `cls` raises about its own values at construction.
    """
    if issubclass(cls, Options):
        return cls.parse(data, path)
    assert dataclasses.is_dataclass(cls)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in data:
        if key not in fields:
            raise UserError(f"unknown key '{_join(path, str(key))}'{nearest(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise UserError(f"{_join(path, name)} is missing: expected {_describe(hints[name])}")
    values = {key: _convert(hints[key], value, _join(path, key)) for key, value in data.items()}
    try:
        return cast(T, cls(**values))
    except ValueError as error:
        raise UserError(f"{path}: {error}" if path else str(error)) from error


def to_dict(config: Any) -> dict[str, Any]:
    """The plain dict of a dataclass, equal to what its own JSON reads back as (tuples are lists, paths are text)."""
    if isinstance(config, Options):
        return config.to_dict()
    assert dataclasses.is_dataclass(config)
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def content_hash(config: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of a dataclass or a plain mapping: equal content, equal hash."""
    text = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) or isinstance(value, Options):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(expected: Any, value: Any, path: str) -> Any:
    """`value` as `expected`, or a UserError that names `path`."""
    origin = get_origin(expected)
    if expected is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(expected), value, path)
    if origin is Literal:
        return _convert_choice(get_args(expected), value, path)
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if isinstance(value, expected):
            return value
        if isinstance(value, Mapping):
            return from_dict(expected, value, path)
    elif origin is tuple and isinstance(value, list | tuple):
        return _convert_tuple(get_args(expected), value, path)
    elif origin is list and isinstance(value, list | tuple):
        return [_convert(get_args(expected)[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _convert(get_args(expected)[1], item, _join(path, str(key))) for key, item in value.items()}
    elif expected in _SCALARS:
        return _convert_scalar(expected, value, path)
    raise _wrong(path, value, _describe(expected))


def _convert_scalar(expected: Any, value: Any, path: str) -> Any:
    if type(value) is expected or (expected is Path and isinstance(value, Path)):
        return value
    if expected is float and type(value) is int:
        return float(value)
    if expected is Path and isinstance(value, str):
        return Path(value)
    raise _wrong(path, value, _describe(expected))


def _convert_choice(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    # By type too: in Python `True == 1`, and the choice 1 is not the choice true.
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    hint = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    hint = hint if "did you mean" in hint else ""
    raise _wrong(path, value, _describe(Literal[choices]) + hint)


def _convert_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return _convert(members[0], value, path)  # `X | None`: the error of X itself says more than the union's
    for member in sorted(members, key=lambda member: member is not type(value)):  # 1 stays an int in `float | int`
        try:
            return _convert(member, value, path)
        except UserError:
            continue
    raise _wrong(path, value, " or ".join(_describe(member) for member in members))


def _convert_tuple(members: tuple[Any, ...], value: list[Any] | tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(members) != len(value):
        raise _wrong(path, value, f"a list of {len(members)} values")
    return tuple(_convert(m, item, f"{path}[{i}]") for i, (m, item) in enumerate(zip(members, value, strict=True)))


def _describe(expected: Any) -> str:
    """What a user reads as the type of a key."""
    origin = get_origin(expected)
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(expected))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if member is type(None) else _describe(member) for member in get_args(expected))
    if origin in (tuple, list):
        return f"a list of {_describe(get_args(expected)[0])}"
    if dataclasses.is_dataclass(expected):
        return "a group of keys: " + ", ".join(field.name for field in dataclasses.fields(expected))
    return _SCALARS.get(expected, str(expected))


def _wrong(path: str, value: Any, expected: str) -> UserError:
    return UserError(f"{path}={json.dumps(value, default=repr)}: expected {expected}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
