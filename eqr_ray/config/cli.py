"""The command line: `python -m eqr_ray.NAME key=value ...` in, an exit status out.

    def main(options: TrainOptions, typed: frozenset[str]) -> int | None: ...

    def cli() -> NoReturn:
        run_command("train", TrainOptions, main)

What is typed is read by the declared type of its key, so that text stays as typed, `${...}` too. Hydra composes the
presets that `model=NAME` names, and nothing else. Exit status: 0 done, 2 the user's mistake (one line), 1 a failure of
ours or of the machine, 130 interrupted. A main may say what is kept by `raise KeyboardInterrupt(words)`.
"""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic.fields import FieldInfo
from yaml import YAMLError  # type: ignore[import-untyped]

from eqr_ray.config.errors import Failure, UserError, nearest
from eqr_ray.config.schema import Options, about, flat, group_of, leaves, members, plain, unknown_key

PRESETS = Path(__file__).parent / "presets"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the disk answers to a path that the user chose badly.
PATH_REFUSED = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS}
PATH_REFUSED |= {errno.EACCES, errno.EPERM}
HELP_COLUMN, HELP_WIDTH = 30, 120  # where the words start, where they end

O = TypeVar("O", bound=Options)  # noqa: E741

_OVERRIDE = re.compile(r"(?P<key>[A-Za-z_]\w*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)
_WORDS = {"null": None, "true": True, "false": False}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def run_command(
    name: str,
    options_class: type[O],
    main: Callable[[O, frozenset[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
) -> NoReturn:
    """Run `main` on what was typed and exit with its status; its second argument holds the keys that were typed.

    argv: the arguments after the command's name (those of the process by default).
    positional: the key that an argument without `=` fills (`eqr-parity FOLDER`).
    """
    arguments = sys.argv[1:] if argv is None else argv
    if "--help" in arguments or "-h" in arguments:
        try:
            print(help_text(name, options_class), flush=True)
        except BrokenPipeError:  # `--help | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    try:
        sys.exit(main(*parse_arguments(options_class, arguments, positional)) or 0)
    except UserError as error:
        _leave(name, str(error), 2)
    except Failure as error:
        _leave(name, str(error), 1)
    except KeyboardInterrupt as interrupt:
        _leave(name, f"interrupted; {str(interrupt) or 'everything that was finished is kept'}", 130)
    except OSError as error:
        if error.errno in DISK_FULL:
            where = f" at {error.filename}" if error.filename else ""
            _leave(name, f"no space left on the disk{where}; what was finished is kept", 1)
        if error.errno in PATH_REFUSED and error.filename:
            _leave(name, f"{error.filename}: {str(error.strerror).lower()}", 2)
        raise


def _leave(name: str, message: str, status: int) -> NoReturn:
    print(f"eqr-{name}: {message}", file=sys.stderr)
    sys.exit(status)


def parse_arguments(
    options_class: type[O], arguments: Iterable[str], positional: str | None = None
) -> tuple[O, frozenset[str]]:
    """The options that the arguments mean, and the keys that were typed. UserError for anything that is not allowed."""
    typed = _split(arguments, positional)
    keys = frozenset(typed)
    if "recipe" in options_class.model_fields and (recipe := typed.pop("recipe", "null")) != "null":
        typed = {**recipe_keys(Path(recipe)), **typed}
    known = dict(leaves(options_class))
    presets = [key for key, field in options_class.model_fields.items() if about(field)["preset"]]
    values: dict[str, Any] = {key: preset(key, typed.pop(key)) for key in presets if key in typed}
    for key, text in typed.items():
        if key not in known:
            inside = ", ".join(name for name in known if name.startswith(f"{key}."))
            words = f"{key} is a group of keys: set {inside}"
            raise UserError(words) if inside else unknown_key(key, options_class, [*known, *presets])
        *groups, leaf = key.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value_of(text, known[key].annotation)
    missing = [f"{key}=" for key, field in known.items() if field.is_required() and key not in flat(values)]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given (--help shows an example)")
    return options_class.parse(values), keys


def _split(arguments: Iterable[str], positional: str | None) -> dict[str, str]:
    """Key -> text as typed."""
    typed: dict[str, str] = {}
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        if match is None and (positional is None or argument.startswith("-")):
            raise UserError(f"'{argument}' is not of the form key=value (--help lists the keys)")
        key, text = (match["key"], match["value"]) if match else (str(positional), argument)
        if key in typed:
            raise UserError(f"{key} is given twice: '{typed[key]}' and '{text}'")
        typed[key] = text
    return typed


def preset(group: str, name: str) -> dict[str, Any]:
    """The values in presets/`group`/`name`.yaml and in the files that it builds on. UserError: no such file."""
    names = preset_names(group)
    if name not in names:
        raise UserError(f"{group}={name}: no such {group}{nearest(name, names)}")
    with initialize_config_dir(str((PRESETS / group).resolve()), version_base="1.3"):
        return cast(dict[str, Any], OmegaConf.to_container(compose(name)))


def preset_names(group: str) -> list[str]:
    """The choices of `group`=."""
    return sorted(path.stem for path in (PRESETS / group).glob("*.yaml"))


def value_of(text: str, kind: Any = Any) -> Any:
    """What typed text means to an option of this type. Text that means nothing to it stays text, and is refused."""
    if text == "null":
        return None
    kinds = members(kind)
    lists = [member for member in kinds if get_origin(member) is tuple]
    is_text = str in kinds or any(get_origin(member) is Literal and text in get_args(member) for member in kinds)
    if text.startswith("[") and text.endswith("]") and (lists or not is_text):
        inner = get_args(lists[0])[0] if lists else Any
        return [value_of(item.strip(), inner) for item in text[1:-1].split(",")] if text[1:-1].strip() else []
    if is_text:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if not re.match(r"\s|[+-]?0\d", text):  # Python would take 007
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    return text


def as_typed(value: Any) -> str:
    """The text that means `value` on a command line, for plain values and lists."""
    if isinstance(value, list | tuple):
        return f"[{','.join(as_typed(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value)  # JSON has other words for infinity
    return value if isinstance(value, str) else json.dumps(value)


def resumed(
    options_class: type[Options], before: Mapping[str, Any], typed: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The values of a run with those that were typed over them: the one rule of resuming.

    A key that a resume may not change may be typed with the value that the run has (None: whatever it has). `typed`:
    dotted key -> value, without `resume`. `before`: the run's config.json; `where`: its folder.
    """
    there = flat(before)
    free = [key for key, field in leaves(options_class) if about(field)["resume"]]
    for key in sorted(typed.keys() - free):
        if key not in there:
            raise UserError(f"{key}= does not go with resume=: the run in {where} has its own")
        if typed[key] is not None and typed[key] != there[key]:
            words = f"{key}={typed[key]} does not go with resume=: the run has {key}={there[key]}"
            raise UserError(f"{words}; what may change: {', '.join(free)}")
    return {**before, **{key: value for key, value in typed.items() if key in free}}


def recipe_keys(path: Path) -> dict[str, str]:
    """Key -> text as it would be typed, of a flat YAML file: what `recipe=FILE` stands for. What is typed beside it
    counts more."""
    values = read_yaml(path)
    for key, value in values.items():
        if isinstance(value, Mapping):
            raise UserError(f"{path}: {key} is a group of keys: write {key}.{next(iter(value), 'KEY')}: ... instead")
    return {key: as_typed(value) for key, value in values.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; nothing in it is interpolated. UserError: not there, or no such thing."""
    try:
        found = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{path}: expected keys and values")
    return cast(dict[str, Any], found)


def help_text(name: str, options_class: type[Options]) -> str:
    """What `eqr-NAME --help` prints: the docstring of `options_class`, its options by the class that declares them,
    and the lines of the docstring from `Example` on."""
    head, _, example = inspect.cleandoc(options_class.__doc__ or "").partition("Example")
    lines = [*head.strip().splitlines(), "", f"Usage: python -m eqr_ray.{name} key=value ...   (or: eqr-{name} ...)"]
    left = dict(options_class.model_fields)
    for owner in options_class.__mro__:  # the command's own first
        fields = {key: left.pop(key) for key in inspect.get_annotations(owner) if key in left}
        if fields:
            lines.append("" if owner is options_class else inspect.cleandoc(owner.__doc__ or "").splitlines()[0])
            lines += [row for key, field in fields.items() for row in _help_rows(key, field)]
    return "\n".join([*lines, "", *f"Example{example}".splitlines()] if example else lines)


def _help_rows(key: str, field: FieldInfo) -> Iterator[str]:
    """`  key=default   words [choices or range]`, wrapped; a group's own keys follow it."""
    group, words = group_of(field), field.description or ""
    if group is not None and about(field)["preset"]:
        choices = preset_names(key)
        yield from _help_row(f"{key}={choices[0]}", f"{words} [{'|'.join(choices)}]")
        yield from _help_row(f"{key}.KEY=", f"one value of it: {', '.join(group.model_fields)}")
    elif group is not None:
        for inner, one in group.model_fields.items():
            yield from _help_rows(f"{key}.{inner}", one)
    else:
        default = "" if field.is_required() else as_typed(plain(field.get_default(call_default_factory=True)))
        kinds = members(field.annotation)
        choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if not all(choice in words for choice in choices):
            words += f" [{'|'.join(choices)}]"
        limits = [(sign, getattr(m, name, None)) for m in field.metadata for name, sign in _SIGNS.items()]
        bounds = ", ".join(f"{sign} {limit}" for sign, limit in limits if limit is not None and limit < 2**53)
        if bounds not in ("", ">= 0"):
            words += f" [{bounds}]"
        yield from _help_row(f"{key}={default}", words)


def _help_row(key: str, words: str) -> list[str]:
    first, rest = f"  {key}".ljust(HELP_COLUMN - 2) + "  ", " " * HELP_COLUMN
    return textwrap.wrap(words, HELP_WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
