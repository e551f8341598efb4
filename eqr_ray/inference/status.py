"""What the folder of an inference run tells of it: how far, how fast, how well, and what befell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqr_ray.inference.record_dir import DAMAGED
from eqr_ray.storage.run_dir import LOG, RunDir
from eqr_ray.storage.run_log import number, read_log
from eqr_ray.storage.status import RunStatus, unread, warned

PARQUET_END = b"PAR1"


def status_of_inference(path: Path, summary: Mapping[str, Any] | None) -> RunStatus:
    """`summary`: of a finished run. UserError: the manifest or the log cannot be read."""
    identity, log = RunDir(path, "infer").identity(), read_log(path / LOG)
    starts = [i for i, entry in enumerate(log.entries) if entry.get("event") == "start"]
    here = log.entries[starts[-1] :] if starts else []
    units = [entry for entry in here if entry.get("event") == "unit"]
    parts = sorted((path / "records").glob("*.parquet"))
    total = number(here[0], "units") if here else None
    facts = {"how far": _how_far(len(parts), total, identity, units, summary)}
    speed = _speed(units, summary)
    if speed:
        facts["speed"] = speed
    facts |= _quality(summary if summary is not None else _last_figures(units))
    lost = [f"continued {len(starts) - 1} times"] if len(starts) > 1 else []
    aside = sorted(part.name for part in (path / "records").glob(f"*{DAMAGED}"))
    lost += [f"damaged records, set aside: {', '.join(aside)}"] if aside else []
    damaged = [part for part in parts if not _is_whole(part)]
    lost += [f"damaged records: {part}, which will be set aside and run again" for part in damaged]
    lost += [*warned(log.entries), *unread(log.unread)]
    return RunStatus(facts, lost, goes_on=summary is None or bool(damaged))


def _how_far(
    parts: int,
    total: float | None,
    identity: Mapping[str, Any],
    units: Sequence[dict[str, Any]],
    summary: Mapping[str, Any] | None,
) -> str:
    if summary is not None:
        return f"all {identity.get('puzzles'):,} puzzles" if isinstance(identity.get("puzzles"), int) else "all puzzles"
    words = f"{parts:,} of {total:,.0f} units" if total is not None and parts <= total else f"{parts:,} units"
    left_s = next((s for unit in reversed(units) if (s := number(unit, "left_s")) is not None), None)
    return words if left_s is None else f"{words}, some {left_s / 60:,.0f} min left when it last wrote"


def _speed(units: Sequence[dict[str, Any]], summary: Mapping[str, Any] | None) -> str:
    seconds = sum(number(unit, "seconds") or 0.0 for unit in units)
    work = sum(number(unit, "row_segments") or 0.0 for unit in units)
    rate = work / seconds if seconds > 0 else number(dict(summary or {}), "row_segments_per_s")
    return "" if rate is None else f"{rate:,.0f} row-segments/s"


def _last_figures(units: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return next((unit for unit in reversed(units) if number(unit, "puzzles")), {})


def _quality(figures: Mapping[str, Any]) -> dict[str, str]:
    values = {key: number(dict(figures), key) for key in ("exact_accuracy", "exact_low", "exact_high", "settled_share")}
    exact, low, high, settled = values.values()
    facts = {}
    if exact is not None and low is not None and high is not None:
        facts["exact"] = f"{exact:.2%} [{low:.2%}, {high:.2%}]"
    if settled is not None:
        facts["settled"] = f"{settled:.2%}"
    return facts


def _is_whole(part: Path) -> bool:
    """Whether a Parquet file has its end; its content is verified where it is read."""
    with part.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < 2 * len(PARQUET_END):
            return False
        file.seek(-len(PARQUET_END), 2)
        return file.read() == PARQUET_END
