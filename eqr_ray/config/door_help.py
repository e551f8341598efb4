"""The text of `--help`, read from a door's YAML, so that a key, its default and its words have one home.

What the YAML file is expected to look like:

    # What the door does, in a few lines.                    the head comment, shown first
    # Example: python -m eqr_ray.train task=sudoku6          from a line that starts with "Example" on: shown last
    defaults:
      - task: sudoku9      # what is to be solved            a group: its options are the files of conf/task/
      - _self_
    steps: 1000            # optimizer steps                 a key: shown with its default and its comment
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

_LINE = re.compile(
    r"""^(?P<indent>\s*)(?P<item>-\s+)?(?P<key>[A-Za-z_]\w*):
        (?P<value>\s*(?:'[^']*'|"[^"]*"|[^#'"]*?))\s*(?:(?<=\s)\#\s*(?P<comment>.*))?$""",
    re.VERBOSE,
)
_COLUMN = 30  # where the comments start
_WIDTH = 120


def help_text(name: str, conf: Path) -> str:
    """What `eqr-NAME --help` prints, from `conf`/NAME.yaml and the groups beside it."""
    lines = (conf / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head, example = _head(lines)
    usage = f"Usage: python -m eqr_ray.{name} key=value ...   (or: eqr-{name} key=value ...)"
    keys = [line for entry in _entries(lines, conf) for line in _row(*entry)]
    return "\n".join([*head, "", usage, "", *keys, *([""] if example else []), *example])


def documented_keys(text: str) -> dict[str, tuple[str, str]]:
    """Dotted key -> (default as written, comment) of every key of a YAML text, the defaults list apart."""
    found: dict[str, tuple[str, str]] = {}
    parents: list[tuple[int, str]] = []  # (indent, key) of the mappings around the line
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match["item"]:
            continue
        indent = len(match["indent"])
        while parents and parents[-1][0] >= indent:
            parents.pop()
        parents.append((indent, match["key"]))
        found[".".join(key for _, key in parents)] = (match["value"].strip(), match["comment"] or "")
    found.pop("defaults", None)
    return found


def _head(lines: list[str]) -> tuple[list[str], list[str]]:
    """The head comment without its `#`, split where its example starts."""
    head: list[str] = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" ").rstrip())
    head = [line for line in head if not line.startswith("@package")]
    start = next((i for i, line in enumerate(head) if line.lower().startswith("example")), len(head))
    return "\n".join(head[:start]).strip().splitlines(), head[start:]


def _entries(lines: list[str], conf: Path) -> list[tuple[str, str]]:
    """(key=default, words) of every group, then of every key that has words."""
    entries: list[tuple[str, str]] = []
    for line in lines:
        match = _LINE.match(line)
        if match is None or not match["item"]:
            continue
        group, default = match["key"], match["value"].strip()
        options = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        inner = conf / group / f"{default}.yaml"
        keys = documented_keys(inner.read_text(encoding="utf-8")) if inner.exists() else {}
        words = f"{match['comment'] or ''} [{'|'.join(options)}]".strip()
        entries.append((f"{group}={default}", words))
        if keys:
            entries.append((f"{group}.KEY=", f"of {group}={default}: " + ", ".join(keys)))
    for key, (default, comment) in documented_keys("\n".join(lines)).items():
        if comment:
            entries.append((f"{key}={'' if default == '???' else default}", comment))
    return entries


def _row(key: str, words: str) -> list[str]:
    left = f"  {key}"
    if len(left) < _COLUMN:
        return textwrap.wrap(
            words, _WIDTH, initial_indent=left.ljust(_COLUMN), subsequent_indent=" " * _COLUMN, break_long_words=False
        ) or [left]
    return [left, *textwrap.wrap(words, _WIDTH, initial_indent=" " * _COLUMN, subsequent_indent=" " * _COLUMN)]
