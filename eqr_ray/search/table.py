"""trials.parquet: a row per trial and report, a column per parameter and figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eqr_ray.inference.records import TableWriter
from eqr_ray.search.outcome import Trial
from eqr_ray.search.space import Parameter, Space

KEYS = {
    "trial": "int64",
    "status": "string",
    "reason": "string",
    "parent": "int64",
    "step": "int64",
    "time": "double",
    "is_last": "bool",
}
VALUE = "space."  # before the names of parameters, apart from the figures


def write_trials(path: Path, space: Space, trials: Iterable[Trial]) -> None:
    """The whole table. A trial without reports is a row without figures."""
    rows = [row for trial in trials for row in _rows(trial)]
    figures = sorted({name for _, figures in rows for name in figures})
    schema = {**KEYS, **{VALUE + one.name: _kind(one) for one in space}, **dict.fromkeys(figures, "double")}
    columns: dict[str, list[Any]] = {name: [] for name in schema}
    for keys, numbers in rows:
        for name in schema:
            value = numbers.get(name) if name in figures else keys.get(name)
            columns[name].append(value if value is None else _CASTS[schema[name]](value))
    with TableWriter(path, schema) as table:
        table.write(columns)


_CASTS: dict[str, Any] = {"int64": int, "string": str, "double": float, "bool": bool}


def _rows(trial: Trial) -> list[tuple[dict[str, Any], dict[str, float]]]:
    own: dict[str, Any] = {
        "trial": trial.number,
        "status": trial.status,
        "reason": trial.reason,
        "parent": trial.parent,
    }
    own |= {VALUE + name: value for name, value in trial.values.items()}
    if not trial.reports:
        return [({**own, "is_last": True}, {})]
    last = trial.reports[-1]
    return [
        ({**own, "step": one.step, "time": one.time, "is_last": one is last}, _numbers(one.figures))
        for one in trial.reports
    ]


def _numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def _kind(one: Parameter) -> str:
    if one.kind == "choice":
        return "double" if _all_numbers(one.choices) else "string"
    return "int64" if one.kind == "integer" else "double"


def _all_numbers(choices: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in choices)
