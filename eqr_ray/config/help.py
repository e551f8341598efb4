"""The text of `--help`, made from the declared options."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from eqr_ray.config.schema import Options, about, allowed, bounds_of, group_of, members, plain

_COLUMN = 30  # where the words start
_WIDTH = 120


def help_text(name: str, options_class: type[Options], presets: Path) -> str:
    """What `eqr-NAME --help` prints: the docstring of `options_class`, its options by the class that declares them,
    and the lines of the docstring from `Example` on."""
    head, _, example = inspect.cleandoc(options_class.__doc__ or "").partition("Example")
    lines = [*head.strip().splitlines(), "", f"Usage: python -m eqr_ray.{name} key=value ...   (or: eqr-{name} ...)"]
    for owner, keys in _sections(options_class):
        lines.append("" if owner is options_class else inspect.cleandoc(owner.__doc__ or "").splitlines()[0])
        lines += [row for key in keys for row in _rows(key, options_class.model_fields[key], presets)]
    return "\n".join([*lines, "", *f"Example{example}".splitlines()] if example else lines)


def _sections(options_class: type[Options]) -> Iterator[tuple[type[Options], list[str]]]:
    """(class, the keys that it declares), the command's own first."""
    seen: set[str] = set()
    for owner in options_class.__mro__:
        keys = [key for key in inspect.get_annotations(owner) if key in options_class.model_fields and key not in seen]
        seen.update(keys)
        if keys:
            yield owner, keys


def _rows(key: str, field: FieldInfo, presets: Path) -> list[str]:
    """`  key=default   words`, wrapped; a group's own keys follow it."""
    words, group = field.description or "", group_of(field)
    if group is not None and about(field)["preset"]:
        choices = sorted(path.stem for path in (presets / key).glob("*.yaml"))
        inner = f"one value of it: {', '.join(group.model_fields)}"
        return [*_row(f"{key}={choices[0]}", f"{words} [{'|'.join(choices)}]"), *_row(f"{key}.KEY=", inner)]
    if group is not None:
        return [row for inner, one in group.model_fields.items() for row in _rows(f"{key}.{inner}", one, presets)]
    default = "" if field.is_required() else _typed(field.get_default(call_default_factory=True))
    return _row(f"{key}={default}", " ".join([words, *_limits(key, field)]))


def _limits(key: str, field: FieldInfo) -> list[str]:
    """The choices or the range of an option, in brackets, as far as its words do not name them."""
    kinds = members(field.annotation)
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    bounds = bounds_of(field)
    if choices:
        named = all(choice in (field.description or "") for choice in choices)
        return [] if named else [f"[{'|'.join(choices)}]"]
    if bounds.keys() - {"ge"} or bounds.get("ge", 0) != 0:
        return [f"[{allowed({k: v for k, v in bounds.items() if v < 2**53}, key.rpartition('.')[2])}]"]
    return []


def _row(key: str, words: str) -> list[str]:
    wrapped = textwrap.wrap(words, _WIDTH - _COLUMN, break_on_hyphens=False) or [""]
    first = f"  {key}".ljust(_COLUMN - 1) + f" {wrapped[0]}"
    if len(key) + 3 > _COLUMN:
        first = f"  {key}  {' '.join(wrapped)}"
        wrapped = [first]
        first, *rest = textwrap.wrap(first, _WIDTH, subsequent_indent=" " * _COLUMN, break_on_hyphens=False)
        return [f"  {first.strip()}", *rest]
    return [first.rstrip(), *(" " * _COLUMN + line for line in wrapped[1:])]


def _typed(value: Any) -> str:
    """A default as it would be typed."""
    value = plain(value)
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
