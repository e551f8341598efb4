"""Breadth rounds: a run that is widened against one that was wide from the beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.records import Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import RecordDir
from tests.inference.fake import FakeNetwork, puzzles
from tests.inference.same import assert_same

INPUTS = puzzles(40)
SEQUENTIAL = Settings(depth=8, breadth=6, seed=1, policy="sequential", settle_below=0.05)


def run(path: Path, settings: Settings, parts: int = 1000) -> Records | None:
    """Run until `parts` parts have been saved here; all records once nothing is missing."""
    folder = RecordDir(path, {**settings.to_dict(), "puzzles": len(INPUTS)})
    folder.make({})
    engine = BreadthEngine(FakeNetwork(), settings, 8)
    for inputs in folder.rounds(INPUTS):
        for report in run_units(engine, folder.missing(), inputs):
            for unit, rows in report.finished:
                if parts == 0:
                    return None
                folder.save(unit, rows, None)
                parts -= 1
    return concatenate(list(folder.blocks()))


@pytest.mark.parametrize("policy", ["full", "settle", "halt", "sequential"])
def test_a_widened_run_equals_a_wide_one(tmp_path: Path, policy: str) -> None:
    wide = SEQUENTIAL.replace(policy=policy)
    whole = run(tmp_path / "wide", wide)
    run(tmp_path / "run", wide.replace(breadth=1))
    kept = {path: path.read_bytes() for path in (tmp_path / "run" / "records").iterdir()}
    assert run(tmp_path / "run", wide.replace(breadth=4), parts=2) is None  # killed, and left at that
    widened = run(tmp_path / "run", wide)
    assert whole is not None
    assert widened is not None
    assert_same(widened, whole)
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_run_is_not_made_narrower(tmp_path: Path) -> None:
    run(tmp_path, SEQUENTIAL)
    with pytest.raises(UserError, match="breadth is 6 there and 3 here"):
        run(tmp_path, SEQUENTIAL.replace(breadth=3))


def test_what_compares_restarts_is_not_widened(tmp_path: Path) -> None:
    run(tmp_path, SEQUENTIAL.replace(policy="race", breadth=2))
    with pytest.raises(UserError, match="breadth is 2 there and 6 here"):
        run(tmp_path, SEQUENTIAL.replace(policy="race"))
