"""The command line: `python -m eqr_ray.NAME key=value ...` in, an exit status out.

    def main(options: TrainOptions, typed: frozenset[str]) -> int | None: ...

    def cli() -> NoReturn:
        run_command("train", TrainOptions, main)

What is typed is read by the declared type of its key, so that text stays as typed: paths with spaces, `=` or `:` work,
and `${...}` is never resolved. Hydra composes the presets that `model=NAME` names, and nothing else.

Exit status: 0 done, 2 the user's mistake (one line), 1 a failure of ours or of the machine, 130 interrupted. A main may
say what is kept by `raise KeyboardInterrupt(words)`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic.fields import FieldInfo
from yaml import YAMLError  # type: ignore[import-untyped]

from eqr_ray.config.errors import Failure, UserError, nearest
from eqr_ray.config.help import help_text
from eqr_ray.config.schema import Options, about, flat, group_of, leaves, members, unknown_key

PRESETS = Path(__file__).parent / "presets"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the disk answers to a path that the user chose badly.
PATH_REFUSED = (
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)

O = TypeVar("O", bound=Options)  # noqa: E741

_OVERRIDE = re.compile(r"(?P<key>[A-Za-z_]\w*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*(_\d+)*)")
_NUMBER = re.compile(r"[+-]?((\d+(_\d+)*)?\.?\d+(_\d+)*|\d+\.)(e[+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
_WORDS = {"null": None, "true": True, "false": False}


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
    positional: the key that an argument without `=` fills (`eqr-parity FOLDER`); it takes several where it is a list.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        _print_help(help_text(name, options_class, PRESETS))
    try:
        sys.exit(main(*parse_arguments(options_class, arguments, positional)) or 0)
    except UserError as error:
        _leave(name, str(error), 2)
    except Failure as error:
        _leave(name, str(error), 1)
    except KeyboardInterrupt as interrupt:
        _leave(name, f"interrupted; {str(interrupt) or 'everything that was finished is kept'}", 130)
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        if error.errno in DISK_FULL:
            _leave(name, f"no space left on the disk{where}; what was finished is kept", 1)
        if error.errno in PATH_REFUSED and error.filename:
            _leave(name, f"{error.filename}: {str(error.strerror).lower()}", 2)
        raise


def parse_arguments(
    options_class: type[O], arguments: Sequence[str], positional: str | None = None
) -> tuple[O, frozenset[str]]:
    """The options that the arguments mean, and the keys that were typed. UserError for anything that is not allowed."""
    typed, loose = _split(arguments)
    if loose:
        typed |= _positional(options_class, loose, positional, typed)
    keys = frozenset(typed)
    if (recipe := typed.pop("recipe", "null")) != "null" and "recipe" in options_class.model_fields:
        typed = {**recipe_keys(Path(recipe)), **typed}
    values = typed_values(options_class, typed)
    known = dict(leaves(options_class))
    missing = [key for key, field in known.items() if field.is_required() and key not in flat(values)]
    if missing:
        raise UserError(f"{', '.join(f'{key}=' for key in missing)} must be given (--help shows an example)")
    return options_class.parse(values), keys


def typed_values(options_class: type[Options], typed: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """The nested dict that dotted key -> text means, presets first. UserError: a key that is not there."""
    values: dict[str, Any] = {}
    fields, known = options_class.model_fields, dict(leaves(options_class))
    for key, field in fields.items():
        if about(field)["preset"] and key in typed:
            values[key] = preset(key, str(typed[key]))
    for key, text in typed.items():
        if key in fields and about(fields[key])["preset"]:
            continue
        if key not in known:
            raise _no_such_key(key, options_class)
        *groups, leaf = key.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = [*text] if isinstance(text, list) else value_of(text, known[key].annotation)
    return values


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


def value_of(text: str, kind: Any) -> Any:
    """What typed text means to an option of this type. Text that means nothing to it stays text, and is refused."""
    kinds = members(kind)
    lists = [member for member in kinds if get_origin(member) is tuple]
    if text == "null":
        return None
    if lists and text.startswith("[") and text.endswith("]"):
        inner = get_args(lists[0])[0]
        return [value_of(item.strip(), inner) for item in text[1:-1].split(",")] if text[1:-1].strip() else []
    if str in kinds or any(get_origin(member) is Literal and text in get_args(member) for member in kinds):
        return text
    return parse_value(text)


def parse_value(text: str) -> Any:
    """A number, true, false or null where `text` is one, a list of such for [a,b]; else `text` itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and not re.fullmatch(r"[+-]?0\d+", text):
        return float(text)
    if text.startswith("[") and text.endswith("]"):
        return [parse_value(item.strip()) for item in text[1:-1].split(",")] if text[1:-1].strip() else []
    return text


def resumed(
    options_class: type[Options], before: Mapping[str, Any], typed: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The values of a run with those that were typed over them: the one rule of resuming.

    A key that a resume may not change may be typed with the value that the run has (None: whatever it has). `typed`:
    dotted key -> value, without `resume`. `before`: the run's config.json; `where`: its folder.
    """
    known, there = dict(leaves(options_class)), flat(before)
    free = [key for key, field in known.items() if about(field)["resume"]]
    changed = {key: value for key, value in typed.items() if key in free}
    for key, value in sorted(typed.items()):
        if key in free:
            continue
        if key not in there:
            raise UserError(f"{key}= does not go with resume=: the run in {where} has its own")
        if value is not None and value != there[key]:
            raise UserError(
                f"{key}={value} does not go with resume=: the run has {key}={there[key]}; "
                f"what may change: {', '.join(free)}"
            )
    return {**before, **changed}


def recipe_keys(path: Path) -> dict[str, str]:
    """Key -> text as it would be typed, of a flat YAML file: what `recipe=FILE` stands for. What is typed beside it
    counts more."""
    keys = {}
    for key, value in read_yaml(path).items():
        if isinstance(value, Mapping):
            raise UserError(f"{path}: {key} is a group of keys: write {key}.{next(iter(value), 'KEY')}: ... instead")
        keys[key] = as_typed(value)
    return keys


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; nothing in it is interpolated. UserError: not there, or no such thing."""
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    found = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{path}: expected keys and values")
    return cast(dict[str, Any], found)


def as_typed(value: Any) -> str:
    """The text that means `value` on a command line, for plain values and lists."""
    if isinstance(value, list | tuple):
        return f"[{','.join(as_typed(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value)  # JSON has other words for infinity
    return value if isinstance(value, str) else json.dumps(value)


def _split(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(key -> text as typed, the arguments that have no key)."""
    typed: dict[str, Any] = {}
    loose: list[str] = []
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            loose.append(argument)
        elif match["key"] in typed:
            raise UserError(f"{match['key']} is given twice")
        else:
            typed[match["key"]] = match["value"]
    return typed, loose


def _positional(
    options_class: type[Options], loose: list[str], key: str | None, typed: Mapping[str, Any]
) -> dict[str, Any]:
    dashed = next((argument for argument in loose if argument.startswith("-")), None)
    if key is None or dashed is not None:
        raise UserError(f"'{dashed or loose[0]}' is not of the form key=value (--help lists the keys)")
    if key in typed:
        raise UserError(f"{key} is given twice: '{loose[0]}' and '{typed[key]}'")
    if any(get_origin(member) is tuple for member in members(options_class.model_fields[key].annotation)):
        return {key: loose}
    if len(loose) > 1:
        raise UserError(f"one {key} at a time, not {len(loose)}: {', '.join(loose)}")
    return {key: loose[0]}


def _no_such_key(key: str, options_class: type[Options]) -> UserError:
    names = [name for name, _ in leaves(options_class)]
    inside = [name for name in names if name.startswith(f"{key}.")]
    if inside:
        return UserError(f"{key} is a group of keys: set {', '.join(inside)}")
    return unknown_key(key, options_class, names + _preset_keys(options_class.model_fields))


def _preset_keys(fields: Mapping[str, FieldInfo]) -> list[str]:
    return [key for key, field in fields.items() if group_of(field) and about(field)["preset"]]


def _print_help(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _leave(name: str, message: str, status: int) -> NoReturn:
    print(f"eqr-{name}: {message}", file=sys.stderr)
    sys.exit(status)
