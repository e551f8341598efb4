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

        def __init__(self, /, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise UserError(_in_words(type(self), error, "")) from None

        __init__.__pydantic_base_init__ = True  # a group inside a group leaves its mistakes to the outer one

    @field_validator("*", mode="before")
    @classmethod
    def _as_python(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = members(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and any(get_origin(kind) is Literal for kind in kinds):
            raise PydanticCustomError("no_choice", "Input should be a choice, not true or false")  # true == 1 in Python
        return tuple(value) if isinstance(value, list) else value

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: str = "") -> Self:
        """From plain values, e.g. of a JSON file; `path` is the dotted name of `values` itself. UserError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(_in_words(cls, error, path)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, equal to what their own JSON reads back as."""
        return cast(dict[str, Any], plain(self))

    def replace(self, **changes: Any) -> Self:
        """The same with other values, checked anew."""
        return type(self)(**{**vars(self), **changes})


def group_of(field: FieldInfo) -> type[Options] | None:
    """The class of an option that is a group of options."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Options) else None


def leaves(cls: type[Options], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of every option that can be typed with a value."""
    for name, field in cls.model_fields.items():
        if group := group_of(field):
            yield from leaves(group, _join(path, name))
        else:
            yield _join(path, name), field


def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf; an empty mapping is a leaf."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = _join(path, str(key))
        found.update(flat(value, name) if isinstance(value, Mapping) and value else {name: value})
    return found


def plain(value: Any) -> Any:
    """`value` as JSON gives it back: options and mappings are dicts, tuples are lists, paths are text."""
    if isinstance(value, Options | Mapping):
        items = value if isinstance(value, Mapping) else vars(value)
        return {str(key): plain(item) for key, item in items.items()}
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


def unknown_key(key: str, cls: type[Options], known: list[str]) -> UserError:
    """What to say of a dotted key that is not among the `known` ones of `cls`."""
    leaf = key.rpartition(".")[2]
    if leaf in cls.REMOVED:
        return UserError(f"{key}= was removed: {cls.REMOVED[leaf]}")
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    hint = f"; did you mean '{same_leaf[0]}'?" if len(same_leaf) == 1 else nearest(key, known)
    return UserError(f"unknown key '{key}'{hint}")


def _in_words(cls: type[Options], error: ValidationError, path: str) -> str:
    """The first mistake as one line. Of a union every member complains: those that got furthest say most."""
    found = error.errors(include_url=False)
    first = max((one for one in found if one["loc"][:1] == found[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    loc, kind, value = first["loc"], first["type"], first["input"]
    if kind in ("value_error", "assertion_error"):
        return first["msg"].partition(", ")[2]
    if kind in ("extra_forbidden", "invalid_key"):
        name, owner, _ = _place(cls, loc[:-1], path)
        known = [_join(name, key) for key in owner.model_fields]
        return str(unknown_key(_join(name, str(loc[-1])), owner, known))
    name, _, field = _place(cls, loc, path)
    if kind in ("missing", "string_too_short"):
        return f"{name}= must be given"
    if field is not None and isinstance(value, str) and value in (gone := about(field).get("removed", {})):
        return f"{name}={value} was removed: {gone[value]}"
    same = [one for one in found if len(one["loc"]) == len(loc) and _place(cls, one["loc"], path)[0] == name]
    words = " or ".join(dict.fromkeys(one["msg"].partition(" ")[2] for one in same)).replace("tuple", "list")
    return f"{name or 'the options'}={json.dumps(plain(value), default=repr)} is not allowed: {words}"


def _place(cls: type[Options], loc: tuple[int | str, ...], path: str) -> tuple[str, type[Options], FieldInfo | None]:
    """What pydantic's location is called, the innermost group and the innermost option that it lies in."""
    owner, field = cls, None
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in owner.model_fields:  # else it names a member of a union
            field = owner.model_fields[part]
            path, owner = _join(path, part), group_of(field) or owner
    return path, owner, field


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
