"""The one schema: every option of every command is declared once, in a class beside the code that it configures.

    class TrainingConfig(Options):
        steps: int = option(50_000, "optimizer steps", ge=1, resume=True)

Types are strict: true is no number, and text is no number. Only what a file format loses is put back: 1 for a float, a
list for a tuple. Whatever is wrong is a `UserError` of one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from eqr_ray.config.errors import UserError, nearest

# Keys that were renamed: old -> new. Whoever types an old one is told the new one.
RENAMED: dict[str, str] = {}

_SCALARS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOUNDS = ("ge", "gt", "le", "lt")
_OUT_OF_RANGE = {"greater_than_equal", "greater_than", "less_than_equal", "less_than", "finite_number", "too_short"}


def option(
    default: Any,
    help: str,
    *,
    resume: bool = False,
    sweep: bool = True,
    preset: bool = False,
    inf: bool = False,
    removed: Mapping[str, str] | None = None,
    **bounds: Any,
) -> Any:
    """Declare an option; `...` as the default of one that must be given.

    resume: a resume may change it. sweep: a search space may name it. preset: its own key chooses a file of presets.
    inf: infinity is a number too. removed: choices of an earlier version -> why they are no longer there.
    bounds: ge, gt, le, lt of a number, min_length of a list.
    """
    about = {"resume": resume, "sweep": sweep, "preset": preset, "removed": dict(removed or {})}
    limits = {"allow_inf_nan": True, **bounds} if inf else bounds
    return Field(default, description=help, json_schema_extra=cast(Any, about), **limits)


def about(field: FieldInfo) -> dict[str, Any]:
    """What `option` said besides type, default, bounds and help."""
    return cast(dict[str, Any], field.json_schema_extra or {"resume": False, "sweep": True, "preset": False})


class Options(BaseModel):
    """A frozen group of options. Its docstring is the head of `--help`; lines from `Example` on are shown last."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    REMOVED: ClassVar[Mapping[str, str]] = {}  # keys of an earlier version -> why they are no longer there

    if not TYPE_CHECKING:  # mypy sees the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise UserError(_in_words(type(self), error, values, "")) from None

        __init__.__pydantic_base_init__ = True  # a group inside a group leaves its mistakes to the outer one

    @field_validator("*", mode="before")
    @classmethod
    def _as_python(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and any(
            get_origin(member) is Literal for member in members(cls.model_fields[str(info.field_name)].annotation)
        ):
            raise PydanticCustomError("no_choice", "true is not the choice 1")  # in Python it is
        return tuple(value) if isinstance(value, list) else value

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: str = "") -> Self:
        """From plain values, e.g. of a JSON file; `path` is the dotted name of `values` itself. UserError."""
        if not isinstance(values, Mapping):
            raise UserError(f"{path or 'the options'}={json.dumps(values, default=repr)}: expected {describe(cls)}")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(_in_words(cls, error, values, path)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, equal to what their own JSON reads back as."""
        return cast(dict[str, Any], plain(self))

    def replace(self, **changes: Any) -> Self:
        """The same with other values, checked anew."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def group_of(field: FieldInfo) -> type[Options] | None:
    """The class of an option that is a group of options."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Options) else None


def leaves(cls: type[Options], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of every option that can be typed with a value."""
    for name, field in cls.model_fields.items():
        group = group_of(field)
        if group is None:
            yield _join(path, name), field
        else:
            yield from leaves(group, _join(path, name))


def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf; an empty mapping is a leaf."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = _join(path, str(key))
        found.update(flat(value, name) if isinstance(value, Mapping) and value else {name: value})
    return found


def plain(value: Any) -> Any:
    """`value` as JSON gives it back: options and mappings are dicts, tuples are lists, paths are text."""
    if isinstance(value, Options):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of options or plain values: equal content, equal hash."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError: what is there is none; FileNotFoundError: nothing is."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} instead of an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return found


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, without None and without what `Annotated` adds; (kind,) of any other type."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(inner for member in get_args(kind) for inner in members(member) if inner is not type(None))
    return (get_args(kind)[0],) if hasattr(kind, "__metadata__") else (kind,)


def describe(kind: Any) -> str:
    """What a user reads as the type of a key."""
    words = []
    for member in members(kind):
        origin = get_origin(member)
        if origin is Literal:
            words.append("one of " + ", ".join(json.dumps(choice) for choice in get_args(member)))
        elif origin in (tuple, list):
            inner, *more = get_args(member)
            words.append(f"a list of {describe(inner) if more == [...] else f'{len(more) + 1} values'}")
        elif isinstance(member, type) and issubclass(member, Options):
            words.append("a group of keys: " + ", ".join(member.model_fields))
        else:
            words.append(_SCALARS.get(member, "a group of keys"))
    return " or ".join(words)


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    """ge, gt, le, lt, as far as they are set."""
    return {name: getattr(m, name) for m in field.metadata for name in _BOUNDS if getattr(m, name, None) is not None}


def allowed(bounds: Mapping[str, Any], name: str = "it") -> str:
    """The range in words."""
    ge, gt, le, lt = (bounds.get(key) for key in _BOUNDS)
    if (low := ge if gt is None else gt) is None or (high := le if lt is None else lt) is None:
        if ge is not None:
            return "0 or more" if ge == 0 else f"at least {ge}"
        if gt is not None:
            return f"more than {gt}"
        return f"at most {le}" if le is not None else f"less than {lt}"
    if ge is not None and le is not None:
        return f"{ge}..{le}"
    return f"{low} {'<' if ge is None else '<='} {name} {'<' if le is None else '<='} {high}"


def unknown_key(key: str, cls: type[Options], known: list[str]) -> UserError:
    """What to say of a key that `cls` does not have."""
    leaf = key.rpartition(".")[2]
    if leaf in cls.REMOVED:
        return UserError(f"{key}= was removed: {cls.REMOVED[leaf]}")
    if leaf in RENAMED:
        return UserError(f"{key}= is called {RENAMED[leaf]}= now")
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    return UserError(
        f"unknown key '{key}'" + (f"; did you mean '{same_leaf[0]}'?" if len(same_leaf) == 1 else nearest(key, known))
    )


def _in_words(cls: type[Options], error: ValidationError, values: Mapping[str, Any], path: str) -> str:
    """The first mistake as one line."""
    found = error.errors(include_url=False)
    key = found[0]["loc"][:1]  # of a union every member complains: the one that got furthest says most
    one = max((e for e in found if e["loc"][:1] == key), key=lambda e: (len(e["loc"]), e["type"] in _OUT_OF_RANGE))
    name, owner, field, value = path, cls, None, cast(Any, values)
    for part in one["loc"]:
        if isinstance(part, int) and isinstance(value, list | tuple) and part < len(value):
            name, value = f"{name}[{part}]", value[part]
        elif one["type"] in ("extra_forbidden", "invalid_key") and part == one["loc"][-1]:
            words = str(unknown_key(str(part), owner, list(owner.model_fields)))
            return words.replace(str(part), _join(name, str(part)), 1)
        elif isinstance(part, str) and part in owner.model_fields and isinstance(value, Mapping | Options):
            field, name = owner.model_fields[part], _join(name, part)
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part)
            owner = group_of(field) or owner
    if one["type"] in ("value_error", "assertion_error"):
        return one["msg"].partition(", ")[2] or one["msg"]
    kind = cls if field is None else field.annotation
    if "[" in name and field is not None:
        kind = get_args(next(m for m in members(field.annotation) if get_origin(m) in (tuple, list)))[0]
    return _refusal(one, name, value, kind, field)


def _refusal(one: Any, name: str, value: Any, kind: Any, field: FieldInfo | None) -> str:
    if one["type"] == "missing" and isinstance(one["loc"][-1], str):
        return f"{name} is missing: expected {describe(kind)}"
    if one["type"] == "string_too_short":
        return f"{name}= must be given"
    if one["type"] == "too_short":
        return f"{name}=[] is not allowed: at least {one['ctx']['min_length']}"
    if one["type"] in _OUT_OF_RANGE:
        bounds = bounds_of(field) if field is not None and "[" not in name else {}
        bounds = bounds or {key: limit for key, limit in one.get("ctx", {}).items() if key in _BOUNDS}
        words = [allowed(bounds, name.rpartition(".")[2])] if bounds else []
        finite = ["a finite number"] if one["type"] == "finite_number" else []
        return f"{name}={value} is not allowed: {', '.join(finite + words)}"
    if field is not None and isinstance(value, str) and value in (gone := about(field).get("removed", {})):
        return f"{name}={value} was removed: {gone[value]}"
    text = f"{name}={json.dumps(value, default=repr)}: expected {describe(kind)}"
    choices = [c for member in members(kind) if get_origin(member) is Literal for c in get_args(member)]
    hint = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) and choices else ""
    return text + (hint if "did you mean" in hint else "")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
