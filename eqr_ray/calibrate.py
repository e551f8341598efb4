"""The command `calibrate`: validation puzzles in, a threshold of known risk out.

    python -m eqr_ray.calibrate checkpoint=runs/sudoku6 data=data/sudoku6 risk=0.02 depth=32 breadth=8
    python -m eqr_ray.calibrate records=runs/sudoku6/calibration/run depth=16 breadth=4

Leaves calibration.json, risk_coverage.png, config.json, summary.json in `out`, and the recorded run in its folder run/.
Where no threshold keeps it, calibration.json says so (exit status 0), and infer refuses it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError, extra
from eqr_ray.data.npy_reader import is_npy_part
from eqr_ray.distributed.answering import check_not_recording, recorded
from eqr_ray.evaluation.calibration import CalibrateConfig, Goal, calibration_of, puzzles_needed
from eqr_ray.inference.replay import RecordedRun, open_recorded
from eqr_ray.inference.settings import CALIBRATION, AnsweringOptions
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.progress import print_warning
from eqr_ray.storage.run_dir import RunDir, locked
from eqr_ray.storage.run_log import RunLog

RUN = "run"  # the recorded run, in `out`


def main(config: CalibrateConfig, typed: frozenset[str] = frozenset()) -> None:
    """`typed`: the keys that were typed."""
    with extra("plots", "the picture"):  # said now, and not when hours have been spent
        # lazy: need not be installed
        from eqr_ray.plots.calibration import draw_calibration  # noqa: PLC0415
    config = config.replace(data=config.data and str(puzzles_in(Path(config.data))))
    before = None if config.records is None else recorded_before(config, typed)
    out = Path(config.out or (beside(str(config.checkpoint)) if before is None else beside_records(before, config)))
    run_dir = RunDir(out, "calibrate")
    run_dir.check()
    run = before or recorded_now(config, out)
    settings = config.settings(run.settings)
    config = config.replace(out=str(out), depth=settings.depth, breadth=settings.breadth)
    identity = {name: run.manifest[name] for name in ("checkpoint_hash", "data_hash")}
    run_dir.check(identity)
    with locked(out), RunLog(out, sinks=[print_warning]) as log:
        run_dir.create(identity, config.to_dict())
        log.log("start", records=str(run.path), puzzles=len(run.puzzle_set))
        print(f"testing thresholds on the records of {len(run.puzzle_set):,} puzzles", file=sys.stderr)
        found = calibration_of(run, settings, config)
        write_results(found, out, draw_calibration)
        log.log("end", settle_below=found["settle_below"], coverage=found["coverage"])
        run_dir.write_summary({name: value for name, value in found.items() if name not in ("tests", "curve")})
    show(found, out)


def write_results(found: Mapping[str, Any], out: Path, draw: Callable[[Mapping[str, Any], str, Path], None]) -> None:
    """The artifact and its picture."""
    title = f"{found['task']}: wrong answers among the settled, {found['puzzles']:,} calibration puzzles"
    draw(found, title, out / "risk_coverage.png")
    write_json(out / CALIBRATION, found)


def recorded_now(config: CalibrateConfig, out: Path) -> RecordedRun:
    """Run the network, in the folder of results."""
    keys = {name: getattr(config, name) for name in AnsweringOptions.model_fields}
    return recorded(keys, out / RUN, lambda new: config.check(new.puzzle_set, new.settings))


def recorded_before(config: CalibrateConfig, given: Collection[str]) -> RecordedRun:
    """The records that are there already."""
    check_not_recording(given)
    run = open_recorded(Path(str(config.records)), config.data)
    config.check(run.puzzle_set, run.settings)
    return run


def beside_records(run: RecordedRun, config: CalibrateConfig) -> Path:
    """Where the calibration of records goes."""
    settings = config.settings(run.settings)
    return run.path / f"calibration-{config.policy}-{settings.depth}x{settings.breadth}"


def puzzles_in(data: Path) -> Path:
    """The file that `data` stands for. UserError: a folder of `prepare` without a validation split."""
    if not data.is_dir() or is_npy_part(data):
        return data
    if not (data / "validation.arrow").is_file():
        raise UserError(f"data={data}: no validation.arrow in this folder; calibration leaves its test split alone")
    return data / "validation.arrow"


def beside(checkpoint: str) -> Path:
    """Where the calibration of a checkpoint goes: next to it, but not into the package."""
    if checkpoint.startswith("zoo:"):
        return Path(f"runs/calibrate-{checkpoint.removeprefix('zoo:')}")
    return (Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent) / "calibration"


def show(found: Mapping[str, Any], out: Path) -> None:
    """The metrics, and where the file is."""
    console = Console()
    goal = f"risk={found['risk']:g} with confidence {found['confidence']:g}"
    tried = found["tests"][-1]["settle_below"] if found["settle_below"] is None else found["settle_below"]
    right = (_percent(found[name]) for name in ("settled_accuracy", "unsettled_accuracy", "exact_accuracy"))
    facts = {
        "settle_below": f"{tried:g} for {found['settle_for']} segments in a row keeps {goal}",
        "settled": f"{found['coverage']:.1%} of {found['tested']:,} puzzles that tested it",
        "wrong of these": f"{found['wrong']:,} of {found['settled']:,}, at most {found['wrong_high']:.2%}",
        "right": "{} of the settled, {} of the others, {} of all".format(*right),
        "cost": f"{found['segments_mean']:.1f} segments a puzzle",
        "with policy=full": f"{found['full_accuracy']:.2%} right, {found['full_segments_mean']:.0f} segments a puzzle",
    }
    if found["settle_below"] is None:
        facts["settle_below"] = f"none keeps {goal}; the first that was tested is {tried:g}"
        facts["needed"] = _needed(found)
    for name, value in facts.items():
        console.print(f"{name:<18} {value}", highlight=False, soft_wrap=True)
    console.print(f"calibration in {out / CALIBRATION}", highlight=False, soft_wrap=True)


def _needed(found: Mapping[str, Any]) -> str:
    goal, settled = Goal(found["risk"], found["confidence"]), found["settled"]
    allowed = [wrong for wrong in range(found["wrong"]) if goal.settled_needed(wrong) <= settled]
    words = f"no more than {allowed[-1]:,} wrong of {settled:,}; " if allowed else ""
    words += f"{goal.settled_needed():,} settled answers if none is wrong"
    if not settled:
        return words
    return f"{words}, from {puzzles_needed(goal, found['coverage']):,} puzzles where {found['coverage']:.1%} settle"


def _percent(share_of_one: float | None) -> str:
    return "-" if share_of_one is None else f"{share_of_one:.2%}"


def cli() -> NoReturn:
    """`python -m eqr_ray.calibrate`, `eqr-calibrate`."""
    run_command("calibrate", CalibrateConfig, main)


if __name__ == "__main__":
    cli()
