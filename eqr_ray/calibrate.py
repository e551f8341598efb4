"""The command `calibrate`: validation puzzles in, a threshold of known risk out.

Leaves calibration.json, risk_coverage.png, config.json, summary.json in `out`, and the recorded run in its folder run/.
Where no threshold keeps the risk, calibration.json says so (exit status 0), and infer refuses it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError, extra
from eqr_ray.config.schema import option
from eqr_ray.data.npy_reader import is_npy_part
from eqr_ray.distributed.answering import recorded
from eqr_ray.evaluation.calibration import Guarantee, calibration_of
from eqr_ray.inference.records import is_answered
from eqr_ray.inference.replay import RecordedRun, open_records, within
from eqr_ray.inference.run import Run
from eqr_ray.inference.settings import CALIBRATION, REMOVED_POLICIES, AnsweringOptions, ReplayOptions, Settings
from eqr_ray.storage.atomic import write_json
from eqr_ray.storage.progress import print_warning
from eqr_ray.storage.run_dir import RunDir, locked
from eqr_ray.storage.run_log import RunLog


class CalibrateConfig(Guarantee, ReplayOptions):
    """Chooses settle_below so that at most `risk` of settled answers are wrong, with the confidence asked for: runs the
    network once to the full depth and breadth, with every segment recorded, and replays the policy at threshold after
    threshold. The same command continues an interrupted run, and with another risk or policy it reuses the records.

    Example: python -m eqr_ray.calibrate checkpoint=runs/sudoku6 data=data/sudoku6 risk=0.02 depth=32 breadth=8
             python -m eqr_ray.calibrate records=runs/sudoku6/calibration/run depth=16 breadth=4
             python -m eqr_ray.infer checkpoint=runs/sudoku6 data=mine.csv depth=32 breadth=8 policy=sequential \\
                 calibration=runs/sudoku6/calibration
    """

    records: str | None = option(
        None, "instead of checkpoint: a run of infer with policy=full and all snapshots, e.g. run/ in out="
    )
    out: str | None = option(
        None,
        "folder of results; null: calibration/ beside the checkpoint, runs/calibrate-NAME for zoo:NAME, "
        "calibration-POLICY-DEPTHxBREADTH in records=",
    )
    policy: Literal["settle", "sequential", "race"] = option(
        "sequential", "as in infer: settle, sequential or race", removed=REMOVED_POLICIES
    )
    settle_for: int = option(2, "segments in a row with a residual of at most settle_below", ge=1)

    def settings(self, most: Settings) -> Settings:
        """What is calibrated on a run that records `most`. UserError: it records less, or nothing could settle."""
        settings = within(self, most).replace(policy=self.policy, settle_for=self.settle_for)
        if settings.depth <= self.settle_for:
            raise UserError(f"depth={settings.depth} is not allowed: more than settle_for={self.settle_for}")
        return settings

    def check(self, run: Run | RecordedRun) -> None:
        """UserError: the run is too small, or a puzzle has no answer."""
        self.settings(run.settings)
        puzzles, labels = len(run.puzzle_set), run.puzzle_set.labels
        missing = puzzles if labels is None else int(np.sum(~is_answered(labels)))
        if missing:
            raise UserError(f"{missing:,} of the {puzzles:,} puzzles have no answer to compare with")
        self.check_enough(puzzles)


def main(config: CalibrateConfig, typed: frozenset[str] = frozenset()) -> None:
    """`typed`: the keys that were typed."""
    with extra("plots", "the picture"):  # said now, and not when hours have been spent
        # lazy: need not be installed
        from eqr_ray.plots.residual import draw_calibration  # noqa: PLC0415
    config = config.replace(data=config.data and str(puzzles_in(Path(config.data))))
    run, out = None, Path(config.out or beside(str(config.checkpoint)))
    if config.records is not None:
        (run,) = open_records([config.records], config.data, typed)
        config.check(run)
        shape = config.settings(run.settings)
        out = Path(config.out or run.path / f"calibration-{shape.policy}-{shape.depth}x{shape.breadth}")
    run_dir = RunDir(out, "calibrate")
    run_dir.check()
    if run is None:
        keys = {name: getattr(config, name) for name in AnsweringOptions.model_fields}
        run = recorded(keys, out / "run", config.check)
    settings = config.settings(run.settings)
    config = config.replace(out=str(out), depth=settings.depth, breadth=settings.breadth)
    with locked(out), RunLog(out, sinks=[print_warning]) as log:
        run_dir.create({name: run.manifest[name] for name in ("checkpoint_hash", "data_hash")}, config.to_dict())
        log.log("start", records=str(run.path), puzzles=len(run.puzzle_set))
        print(f"testing thresholds on the records of {len(run.puzzle_set):,} puzzles", file=sys.stderr)
        found = calibration_of(run, settings, config.select, config)
        title = f"{found['task']}: wrong answers among the settled, {found['puzzles']:,} calibration puzzles"
        draw_calibration(found, title, out / "risk_coverage.png")
        write_json(out / CALIBRATION, found)
        log.log("end", settle_below=found["settle_below"], coverage=found["coverage"])
        run_dir.write_summary({name: value for name, value in found.items() if name not in ("tests", "curve")})
    show(found, config)


def beside(checkpoint: str) -> Path:
    """Where the calibration of a checkpoint goes: next to it, but not into the package."""
    if checkpoint.startswith("zoo:"):
        return Path(f"runs/calibrate-{checkpoint.removeprefix('zoo:')}")
    return (Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent) / "calibration"


def puzzles_in(data: Path) -> Path:
    """The file that `data` stands for. UserError: a folder of `prepare` without a validation split."""
    if not data.is_dir() or is_npy_part(data):
        return data
    if not (data / "validation.arrow").is_file():
        raise UserError(f"data={data}: no validation.arrow in this folder; calibration leaves its test split alone")
    return data / "validation.arrow"


def show(found: Mapping[str, Any], config: CalibrateConfig) -> None:
    """The metrics, and where the file is."""
    goal = f"keeps risk={config.risk:g} with confidence {config.confidence:g}"
    right = [found[f"{name}_accuracy"] for name in ("settled", "unsettled", "exact")]
    shown = ["-" if share is None else f"{share:.2%}" for share in right]
    facts = {
        "settle_below": f"{found['settle_below']} for {found['settle_for']} segments in a row {goal}",
        "settled": f"{found['coverage']:.1%} of {found['tested']:,} puzzles that tested it",
        "wrong of these": f"{found['wrong']:,} of {found['settled']:,}, at most {found['wrong_high']:.2%}",
        "right": "{} of the settled, {} of the others, {} of all".format(*shown),
        "cost": f"{found['segments_mean']:.1f} segments a puzzle",
        "with policy=full": f"{found['full_accuracy']:.2%} right, {found['full_segments_mean']:.0f} segments a puzzle",
    }
    if found["settle_below"] is None:
        facts["settle_below"] = f"none {goal}; the first that was tested is {found['tests'][-1]['settle_below']:g}"
        settle = found["coverage"] or 1.0
        facts["needed"] = f"{config.settled_needed():,} settled answers if none is wrong, from "
        facts["needed"] += f"{config.puzzles_needed(settle):,} puzzles where {settle:.1%} settle"
    for name, value in facts.items():
        print(f"{name:<18} {value}")
    print(f"calibration in {config.out}/{CALIBRATION}")


def cli() -> NoReturn:
    """`python -m eqr_ray.calibrate`, `eqr-calibrate`."""
    run_command("calibrate", CalibrateConfig, main)


if __name__ == "__main__":
    cli()
