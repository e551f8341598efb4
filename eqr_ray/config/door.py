"""What every door does before and after its work: `python -m eqr_ray.NAME key=value ...` in, an exit status out.

Hydra composes `conf/NAME.yaml` with the groups chosen on the command line; the values are then set by us, and the
door's main receives one plain resolved dict. Hydra's own grammar for values is not used on what a user types, for two
reasons: paths with spaces, `=` or `:` would need quoting, and `${oc.env:SECRET}` would be resolved. Numbers, true,
false, null and [lists] keep their meaning; everything else is text, as typed, and so is the value of a key in NAMES.

    def main(config: dict[str, Any]) -> int | None: ...

    def cli() -> NoReturn:
        run_door("train", main)

    if __name__ == "__main__":
        cli()

Exit status: 0 done, 2 the user's mistake (one line), 1 a failure of ours or of the machine, 130 interrupted. A main may
say what is kept by `raise KeyboardInterrupt(words)`.
"""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from eqr_ray.config.door_help import help_text
from eqr_ray.config.errors import Failure, UserError, nearest

CONF = Path(__file__).parent / "conf"
# Keys whose values are names, in every door: `out=1` is the folder 1, and `out=1e3` the folder 1e3. null is null.
NAMES = frozenset(
    {
        "address",
        "calibration",
        "checkpoint",
        "data",
        "mirror",
        "out",
        "recipe",
        "resume",
        "run",
        "source",
        "space",
        "task",
    }
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the disk answers to a path that the user chose badly.
PATH_REFUSED = (
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)

_OVERRIDE = re.compile(r"(?P<key>[A-Za-z_]\w*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)


def run_door(
    name: str,
    main: Callable[[dict[str, Any]], int | None],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
    conf: Path = CONF,
) -> NoReturn:
    """Run `main` on the configuration of door `name` and exit with its status.

    argv: the arguments after the command's name (those of the process by default).
    positional: the key that an argument without `=` fills (`eqr-parity FOLDER`); it takes several where its default
        is a list.
    conf: the folder with NAME.yaml and its groups.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print(help_text(name, conf))
        sys.exit(0)
    try:
        sys.exit(main(door_config(name, arguments, positional=positional, conf=conf)) or 0)
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


def door_config(
    name: str, arguments: Sequence[str], *, positional: str | None = None, conf: Path = CONF
) -> dict[str, Any]:
    """The complete, resolved configuration of door `name`; UserError for anything it does not know."""
    groups = _groups(conf / f"{name}.yaml")
    given, loose = _split(arguments)
    if parse_value(given.get("recipe", "null")) is not None:
        given = {**recipe_keys(Path(given["recipe"])), **given}
    chosen = {key: given.pop(key) for key in groups if key in given}
    for group, option in chosen.items():
        _check_option(conf, group, option)
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose(name, overrides=[f"{group}={option}" for group, option in chosen.items()])
    known = _flatten(OmegaConf.to_container(config))
    for key, text in given.items():
        _check_key(key, known, groups)
        value = parse_value(text)
        OmegaConf.update(config, key, _literal(text if key in NAMES and value is not None else value))
    if loose:
        _set_positional(config, loose, positional, given)
    return _resolve(config)


def recipe_keys(path: Path) -> dict[str, str]:
    """Key -> text as it would be typed, of a flat YAML file: what `recipe=FILE` of a door stands for. What is typed
    beside it counts more."""
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
    """The text that means `value` to `parse_value`, for plain values and lists."""
    if isinstance(value, list):
        return f"[{','.join(as_typed(item) for item in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of every leaf of a door's configuration: the keys that may be typed."""
    return _flatten(tree)


def parse_value(text: str) -> Any:
    """What a typed value means: a number, a boolean, null, a [list] of such and of text; else `text` itself."""
    if "${" in text:
        return text  # neither a number nor a list of ours, and Hydra would take it for an interpolation
    try:
        value = OverridesParser.create().parse_override(f"value={text}").value()
    except HydraException:
        return text
    if isinstance(value, list):
        return value if text.lstrip().startswith("[") and _is_plain(value) else text
    is_call = "(" in text  # Hydra's int(3), range(1,3): text to us
    return value if isinstance(value, int | float | None) and not is_call else text


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(key -> text as typed, the arguments that have no key)."""
    given: dict[str, str] = {}
    loose: list[str] = []
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            loose.append(argument)
        elif match["key"] in given:
            raise UserError(f"{match['key']} is given twice")
        else:
            given[match["key"]] = match["value"]
    return given, loose


def _set_positional(config: DictConfig, loose: list[str], positional: str | None, given: Mapping[str, str]) -> None:
    dashed = next((argument for argument in loose if argument.startswith("-")), None)
    if positional is None or dashed is not None:
        raise UserError(f"'{dashed or loose[0]}' is not of the form key=value (--help lists the keys)")
    if positional in given:
        raise UserError(f"{positional} is given twice: '{loose[0]}' and '{given[positional]}'")
    missing = OmegaConf.is_missing(config, positional)
    many = not missing and OmegaConf.is_list(config[positional])
    if len(loose) > 1 and not many:
        raise UserError(f"one {positional} at a time, not {len(loose)}: {', '.join(loose)}")
    OmegaConf.update(config, positional, [_literal(text) for text in loose] if many else _literal(loose[0]))


def _groups(file: Path) -> list[str]:
    """The keys of the defaults list of a door: those that choose a file of a folder beside it."""
    entries = cast(DictConfig, OmegaConf.load(file)).get("defaults", [])
    return [str(key) for entry in entries if isinstance(entry, Mapping) for key in entry]


def _check_option(conf: Path, group: str, option: str) -> None:
    options = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    if option not in options:
        raise UserError(f"{group}={option}: no such {group}{nearest(option, options)}")


def _check_key(key: str, known: Mapping[str, Any], groups: list[str]) -> None:
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"{key} is a group of keys: set {', '.join(inside)}")
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"; did you mean '{same_leaf[0]}'?" if len(same_leaf) == 1 else nearest(key, {*known, *groups})
    raise UserError(f"unknown key '{key}'{hint}")


def _flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        leaves.update(_flatten(value, name) if isinstance(value, dict) and value else {name: value})
    return leaves


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, int | float | str)


def _literal(value: Any) -> Any:
    r"""Text that OmegaConf gives back as it is: `${` becomes `\${`, and backslashes just before it are doubled."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)


def _resolve(config: DictConfig) -> dict[str, Any]:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{', '.join(f'{key}=' for key in missing)} must be given (--help shows an example)")
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    values.pop("recipe", None)  # its keys have been taken
    return values


def _leave(name: str, message: str, status: int) -> NoReturn:
    print(f"eqr-{name}: {message}", file=sys.stderr)
    sys.exit(status)
