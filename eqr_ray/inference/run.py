"""One inference run from configuration to tables, whoever does the work; and what its folder tells of it.

`prepare` checks everything before anything runs, `carry_out` turns reports of an engine (in this process or on actors)
into parts, `finish` reads the parts into answers and metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqr_ray.config.schema import content_hash
from eqr_ray.data.sources import PuzzleSet, check_fit, open_puzzle_set
from eqr_ray.inference.engine import EngineReport
from eqr_ray.inference.policies import POLICIES
from eqr_ray.inference.scores import LiveScores, Scores
from eqr_ray.inference.selection import write_answers
from eqr_ray.inference.settings import InferConfig, Settings, calibrated, conditions
from eqr_ray.inference.units import DAMAGED, RecordDir
from eqr_ray.model.network import flops_per_segment
from eqr_ray.model.pretrained import load_model
from eqr_ray.model.runtime import NetworkFactory, resolved_dtype, slots_for, worth_compiling
from eqr_ray.storage.progress import Progress
from eqr_ray.storage.run_dir import LOG, RunDir
from eqr_ray.storage.run_log import RunLog, RunStatus, number, read_log

EXACT = ("exact_accuracy", "exact_low", "exact_high")
CELL = (*EXACT, "mean_residual", "segments_mean", "settled_share")  # of the table in summary.json


@dataclass(frozen=True)
class Run:
    """A run that is ready to go: all files opened, all options checked, nothing computed or written yet."""

    config: InferConfig
    settings: Settings
    slots: int
    factory: NetworkFactory
    puzzle_set: PuzzleSet
    folder: RecordDir
    flops_per_segment: float


def prepare(config: InferConfig, device_type: str) -> Run:
    """Open model, puzzles and folder for a run on this type of device ("cpu", "cuda"). UserErrors of its parts."""
    reasoner, card = load_model(config.checkpoint)
    puzzle_set = open_puzzle_set(config.data, card.task, config.limit)
    check_fit(puzzle_set, reasoner.config.length, reasoner.config.vocab_size)
    settings = config.settings(card)
    flops, trajectories = flops_per_segment(reasoner.config), len(puzzle_set) * settings.breadth
    noise_scale = reasoner.config.noise_scale if config.noise_scale is None else config.noise_scale
    # What is not typed is as it was in a run that is here, else what suits the device and the run's size.
    before = RunDir(Path(config.out), "infer").identity() if config.out else {}
    slots = slots_for(trajectories, device_type, before.get("slots") if config.slots is None else config.slots)
    compiled = before.get("compile") if config.compile is None else config.compile
    if compiled is None:
        compiled = worth_compiling(trajectories, config.depth, flops)
    dtype: str = config.dtype
    if dtype == "auto":
        dtype = before.get("dtype") or resolved_dtype(dtype, device_type)
    identity: dict[str, Any] = {
        "checkpoint_hash": card.hash,
        "puzzles": len(puzzle_set),
        "data_hash": puzzle_set.data_hash,
        **settings.to_dict(),
        "noise_scale": noise_scale,
        "init_std": config.init_std,
        "dtype": dtype,
        "compile": compiled,
        "slots": slots,
    }
    if config.calibration is not None:
        here = conditions(identity, puzzle_set.task.name, config.select)
        settings = calibrated(settings, here, Path(config.calibration))
        identity |= settings.to_dict()
    out = Path(config.out or f"runs/infer-{content_hash(identity)[:12]}")
    factory = NetworkFactory(reasoner, noise_scale, config.init_std, dtype, compiled, config.device)
    return Run(config, settings, slots, factory, puzzle_set, RecordDir(out, identity), flops)


def begin(run: Run) -> None:
    """Make or continue the folder; for one process at a time. UserError: another run has begun there since."""
    config = run.config.to_dict()
    # Paths as they are meant from any folder, so that the command can be typed again.
    paths = {"out": str(run.folder.path), **{key: config[key] for key in ("checkpoint", "data", "calibration")}}
    full = {key: str(Path(path).resolve()) for key, path in paths.items() if path and not path.startswith("zoo:")}
    run.folder.make({**config, **full})


def started(run: Run, log: RunLog) -> LiveScores:
    """The scores of what earlier sittings of this run have finished: of the answers of the first breadth round."""
    folder, labels, width = run.folder, run.puzzle_set.labels, run.folder.widths[0]
    live = LiveScores(len(run.puzzle_set), Scores(depth=run.settings.depth, breadth=width, select=run.config.select))
    whole = {unit.name for unit in folder.units if unit.restarts == width}
    for name, rows in folder.intact():
        if name in whole:
            live.resume(rows, None if labels is None else labels[rows.puzzle])
    log.log("start", units=len(folder.units), missing=len(folder.missing()))
    return live


def carry_out(run: Run, reports: Iterable[EngineReport], live: LiveScores, log: RunLog, display: Progress) -> None:
    """Save every unit as it is reported. The display and whoever else follows the log see every report."""
    labels, since_s, row_segments = run.puzzle_set.labels, time.monotonic(), 0
    for report in reports:
        row_segments += report.row_segments
        live.report(report, labels)
        metrics = live.metrics()
        for unit, rows in report.finished:
            run.folder.save(unit, rows, labels)
            now_s = time.monotonic()
            metrics |= {"seconds": now_s - since_s, "row_segments": row_segments}
            log.log("unit", None, actor=report.actor, name=unit.name, rows=len(rows), **metrics)
            since_s, row_segments = now_s, 0
        if not report.finished:
            for sink in log.sinks:
                sink(metrics)
        display.update(live.answered, live.words(), live.seconds_left())


def finish(run: Run, actors: int, log: RunLog) -> dict[str, Any]:
    """Read all parts; write answers.parquet, answers.csv and summary.json. Returns the summary."""
    config, settings, puzzle_set, flops = run.config, run.settings, run.puzzle_set, run.flops_per_segment
    depths = sorted({*settings.snapshots, settings.depth})
    grid = [Scores(depth=d, breadth=b, select=config.select) for d in depths for b in sorted({1, settings.breadth})]
    for block in run.folder.blocks():
        labels = None if puzzle_set.labels is None else puzzle_set.labels[block.puzzle]
        for scores in grid:
            scores.add(block, labels)
    blocks, out = run.folder.blocks(), run.folder.path
    write_answers(out, blocks, puzzle_set, config.select, settings.depth, settings.breadth)
    seconds, row_segments = run.folder.spent()
    cells = [(scores, scores.summary(flops)) for scores in grid]
    summary = {
        **cells[-1][1],
        "bad_rows": len(puzzle_set.bad),
        "seconds": seconds,
        "row_segments_per_s": row_segments / seconds if seconds else None,
        "actors": actors,
        "verified": POLICIES[settings.policy].verifies,
        "select": config.select,
        "task": puzzle_set.task.name,
        **run.folder.identity,
        "table": [
            {"depth": scores.depth, "breadth": scores.breadth, **{name: metrics[name] for name in CELL}}
            for scores, metrics in cells
        ],
    }
    log.log("end", seconds=seconds)
    run.folder.run_dir.write_summary(summary)
    return summary


def status_of_inference(path: Path, summary: Mapping[str, Any] | None) -> RunStatus:
    """What the folder tells: how far, how fast, how well, and what befell it. `summary`: of a finished run. UserError:
    the manifest or the log cannot be read."""
    log, puzzles = read_log(path / LOG), number(RunDir(path, "infer").identity(), "puzzles")
    starts = [i for i, entry in enumerate(log.entries) if entry.get("event") == "start"]
    here = log.entries[starts[-1] :] if starts else []
    units = [entry for entry in here if entry.get("event") == "unit"]
    last = summary or (units[-1] if units else {})
    parts = sorted((path / "records").glob("*.parquet"))
    facts = {"how far": f"all {puzzles or 0:,.0f} puzzles"}
    if summary is None:
        total, left_s = number(here[0], "units") if here else None, number(last, "left_s")
        facts["how far"] = f"{len(parts):,} units" if total is None else f"{len(parts):,} of {total:,.0f} units"
        facts["how far"] += "" if left_s is None else f", some {left_s / 60:,.0f} min left when it last wrote"
    seconds, work = (sum(number(unit, name) or 0.0 for unit in units) for name in ("seconds", "row_segments"))
    if (rate := work / seconds if seconds > 0 else number(last, "row_segments_per_s")) is not None:
        facts["speed"] = f"{rate:,.0f} row-segments/s"
    exact, low, high, settled = (number(last, name) for name in (*EXACT, "settled_share"))
    if exact is not None and low is not None and high is not None:
        facts["exact"] = f"{exact:.2%} [{low:.2%}, {high:.2%}]"
    if settled is not None:
        facts["settled"] = f"{settled:.2%}"
    lost = [f"continued {len(starts) - 1} times"] if len(starts) > 1 else []
    aside = sorted(part.name for part in (path / "records").glob(f"*{DAMAGED}"))
    lost += [f"damaged records, set aside: {', '.join(aside)}"] if aside else []
    damaged = [part for part in parts if not _is_whole(part)]
    lost += [f"damaged records: {part}, which will be set aside and run again" for part in damaged]
    lost += log.lost()
    return RunStatus(facts, lost, goes_on=summary is None or bool(damaged))


def _is_whole(part: Path) -> bool:
    """Whether a Parquet file has the mark at its end; its content is verified where it is read."""
    with part.open("rb") as file:
        file.seek(max(0, part.stat().st_size - 4))
        return file.read() == b"PAR1"
