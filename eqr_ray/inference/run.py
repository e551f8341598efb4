"""One inference run from configuration to tables, whoever does the work.

`prepare` checks everything before anything runs, `carry_out` turns reports of an engine (in this process or on actors)
into parts, `finish` reads the parts into answers and metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqr_ray.config.schema import content_hash
from eqr_ray.data.puzzle_set import PuzzleSet, check_fit, open_puzzle_set
from eqr_ray.inference.answers import write_answers
from eqr_ray.inference.engine import Report
from eqr_ray.inference.options import InferConfig
from eqr_ray.inference.policies import make_policy, policy_named
from eqr_ray.inference.progress import LiveScores
from eqr_ray.inference.record_dir import Inputs, RecordDir
from eqr_ray.inference.scores import Scores
from eqr_ray.inference.settings import Settings, calibrated, conditions
from eqr_ray.inference.units import Unit, plan
from eqr_ray.model.network import flops_per_segment
from eqr_ray.model.pretrained import load_model
from eqr_ray.model.runtime import NetworkFactory, resolved_dtype, slots_for, worth_compiling
from eqr_ray.storage.progress import Progress
from eqr_ray.storage.run_dir import RunDir
from eqr_ray.storage.run_log import RunLog


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

    def rounds(self) -> Iterator[tuple[list[Unit], Inputs]]:
        """What is to be run, (units, inputs) after (units, inputs)."""
        return self.folder.rounds(self.puzzle_set.inputs, policy_named(self.settings.policy).whole)


def prepare(config: InferConfig, device_type: str) -> Run:
    """Open model, puzzles and folder for a run on this type of device ("cpu", "cuda"). UserErrors of its parts."""
    reasoner, card = load_model(config.checkpoint)
    puzzle_set = open_puzzle_set(config.data, card.task, config.limit)
    check_fit(puzzle_set, reasoner.config.length, reasoner.config.vocab_size)
    settings = config.settings(card).replace(verifier=card.task if policy_named(config.policy).verifies else "")
    kind = type(make_policy(settings))
    widens = kind.widens and settings.budget is None
    flops = flops_per_segment(reasoner.config)
    noise_scale = reasoner.config.noise_scale if config.noise_scale is None else config.noise_scale
    before = RunDir(Path(config.out), "infer").identity() if config.out else {}
    dtype: str = config.dtype
    if dtype == "auto":
        dtype = before.get("dtype") or resolved_dtype(dtype, device_type)
    if config.calibration is not None:
        here = conditions(
            settings,
            checkpoint_hash=card.hash,
            task=puzzle_set.task.name,
            noise_scale=noise_scale,
            init_std=config.init_std,
            dtype=dtype,
            select=config.select,
        )
        settings = calibrated(settings, here, Path(config.calibration))
    slots, compiled = _means(config, before if widens else {}, len(puzzle_set) * settings.breadth, flops, device_type)
    identity = {
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
    out = Path(config.out or f"runs/infer-{content_hash(identity)[:12]}")
    folder = RecordDir(out, identity, [], widens)
    folder.units += plan(len(puzzle_set), folder.widths[0], settings.depth, whole=kind.whole)
    factory = NetworkFactory(reasoner, noise_scale, config.init_std, dtype, compiled, config.device)
    return Run(config, settings, slots, factory, puzzle_set, folder, flops)


def _means(
    config: InferConfig, before: Mapping[str, Any], trajectories: int, flops_per_segment: float, device_type: str
) -> tuple[int, bool]:
    """(slots, whether to compile): as typed, else as a run that is widened began, else what suits the run's size."""
    slots, compiled = config.slots, config.compile
    if slots is None:
        slots = before.get("slots")
    if compiled is None:
        compiled = before.get("compile")
    if compiled is None:
        compiled = worth_compiling(trajectories, config.depth, flops_per_segment)
    return slots_for(trajectories, device_type, slots), compiled


def begin(run: Run) -> None:
    """Make or continue the folder; for one process at a time. UserError: another run has begun there since."""
    run.folder.make({**run.config.to_dict(), **_absolute(run)})


def _absolute(run: Run) -> dict[str, Any]:
    """The paths of the configuration as they are meant from any folder, so that the command can be typed again."""
    paths = {"checkpoint": run.config.checkpoint, "data": run.config.data, "calibration": run.config.calibration}
    kept = {key: path for key, path in paths.items() if path is not None and not path.startswith("zoo:")}
    kept["out"] = str(run.folder.path)
    return {key: str(Path(path).resolve()) for key, path in kept.items()}


def carry_out(run: Run, reports: Iterable[Report], live: LiveScores, log: RunLog, display: Progress) -> None:
    """Save every unit as it is reported."""
    labels, since_s, row_segments = run.puzzle_set.labels, time.monotonic(), 0
    for report in reports:
        row_segments += report.row_segments
        live.report(report, labels)
        for number, (unit, rows) in enumerate(report.finished):
            run.folder.save(unit, rows, labels)
            now_s = time.monotonic()
            spent = {"seconds": now_s - since_s, "row_segments": row_segments} if number == 0 else _NOTHING
            so_far = live.metrics() if number == 0 else {}
            log.log("unit", None, actor=report.actor, name=unit.name, rows=len(rows), **spent, **so_far)
            since_s, row_segments = now_s, 0
        display.update(live.answered, live.words(), live.seconds_left())


_NOTHING = {"seconds": 0.0, "row_segments": 0}  # units reported together: the first one's line has what is of all


def started(run: Run, log: RunLog) -> LiveScores:
    """The scores of what earlier sittings of this run have finished: of the answers of the first breadth round."""
    run.folder.set_damaged_aside()
    settings, labels = run.settings, run.puzzle_set.labels
    width = max(unit.restart_last for unit in run.folder.units)
    live = LiveScores(len(run.puzzle_set), Scores(depth=settings.depth, breadth=width, select=run.config.select))
    missing = set(run.folder.missing())
    for unit, rows in run.folder.finished(missing):
        if (unit.restart_first, unit.restart_last) == (0, width):
            live.resume(rows, None if labels is None else labels[rows.puzzle])
    log.log("start", units=len(run.folder.units), missing=len(missing))
    return live


def finish(run: Run, actors: int, log: RunLog) -> dict[str, Any]:
    """Read all parts; write answers.parquet, answers.csv and summary.json. Returns the summary."""
    config, settings, puzzle_set, out = run.config, run.settings, run.puzzle_set, run.folder.path
    depths = sorted({*settings.snapshots, settings.depth})
    grid = [Scores(depth=d, breadth=b, select=config.select) for d in depths for b in sorted({1, settings.breadth})]
    for block in run.folder.blocks():
        labels = None if puzzle_set.labels is None else puzzle_set.labels[block.puzzle]
        for scores in grid:
            scores.add(block, labels)
    write_answers(out, run.folder.blocks(), puzzle_set, config.select, settings.depth, settings.breadth)
    seconds, row_segments = run.folder.spent()
    summary = {
        **grid[-1].summary(run.flops_per_segment),
        "bad_rows": len(puzzle_set.bad),
        "seconds": seconds,
        "row_segments_per_s": row_segments / seconds if seconds else None,
        "actors": actors,
        "verified": policy_named(settings.policy).verifies,
        "select": config.select,
        "task": puzzle_set.task.name,
        **run.folder.identity,
        "table": [_cell(scores, run.flops_per_segment) for scores in grid],
    }
    log.log("end", seconds=seconds)
    run.folder.run_dir.write_summary(summary)
    return summary


def _cell(scores: Scores, flops: float) -> dict[str, Any]:
    metrics = scores.summary(flops)
    kept = ("exact_accuracy", "exact_low", "exact_high", "mean_residual", "segments_mean", "settled_share")
    return {"depth": scores.depth, "breadth": scores.breadth, **{name: metrics[name] for name in kept}}
