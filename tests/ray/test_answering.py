"""The commands infer and calibrate with actors on a real Ray: a killed driver, the same records, an actor's mistake."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from ray.runtime_context import get_runtime_context

from eqr_ray.data.arrow_store import write_split
from eqr_ray.inference.records import Records, concatenate, read_part
from tests.inference.same import assert_same
from tests.inference.tiny import TASK, save_echo, save_tiny, sudokus, write_csv
from tests.support.commands import Started, call, succeed

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A tiny network and 20 puzzles for it."""
    keys = [f"checkpoint={save_tiny(tmp_path / 'tiny')}", f"data={write_csv(tmp_path / 'mine.csv', sudokus(20))}"]
    return [*keys, "depth=48", "breadth=8", "slots=16", "device=cpu"]


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("records/*.parquet"))


def records(out: Path) -> Records:
    return concatenate([read_part(path) for path in parts(out)]).in_order()


def test_actors_survive_the_death_of_the_driver(asked: list[str], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    succeed("infer", *asked, "actors=0", f"out={whole}")
    asked = [*asked, "actors=2", f"out={out}"]
    driver = Started("infer", *asked, f"address={get_runtime_context().gcs_address}", log=tmp_path / "said")
    driver.when(lambda: len(parts(out)) >= 3)
    driver.process.kill()
    driver.process.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert len(kept) < len(parts(whole))
    succeed("infer", *asked)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same(records(out), records(whole))
    assert json.loads((out / "summary.json").read_text())["actors"] == 2


def test_a_mistake_that_only_an_actor_finds_is_one_line(asked: list[str], tmp_path: Path) -> None:
    keys = [key for key in asked if not key.startswith("device=")]
    done = call("infer", *keys, "device=cuda:7", "actors=1", f"out={tmp_path / 'out'}")
    assert done.status == 2, done.err
    assert done.err.strip().splitlines()[-1].startswith("eqr-infer: device=cuda:7 is not there; this machine has")


def test_a_calibration_by_actors_is_that_of_one_process(tmp_path: Path) -> None:
    for seed, split in enumerate(("validation", "test")):
        puzzles = sudokus(40, seed)
        assert puzzles.labels is not None
        solved = dataclasses.replace(puzzles, inputs=puzzles.labels)  # which an echo of the question answers
        write_split(tmp_path / f"{split}.arrow", TASK, solved, source="", seed=0)
    keys = [f"checkpoint={save_echo(tmp_path / 'net')}", f"data={tmp_path}", "depth=6", "breadth=2", "noise_scale=0"]
    keys += ["risk=0.6", "confidence=0.7", "device=cpu"]
    made = []
    for actors in (0, 2):
        out = tmp_path / f"by-{actors}"
        succeed("calibrate", *keys, f"actors={actors}", f"out={out}")
        made.append(json.loads((out / "calibration.json").read_text()))
        assert os.listdir(out / "run" / "records")
    assert made[0] == made[1]
