"""ZeRO 0-3 on one and two workers against the single-process engine: the benchmark's table, with its limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUM_ROUNDING = 1e-12  # the logged loss is a float64 sum over workers; the weights beneath are float32
FLOAT32_NOISE = 1e-4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    table = tmp_path_factory.mktemp("zero") / "rows.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/zero_parity.py", "--json", str(table)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(table.read_text())


def test_every_stage_and_worker_count_was_measured(rows) -> None:
    assert [(row["workers"], row["zero"]) for row in rows] == [(w, z) for w in (1, 2) for z in (0, 1, 2, 3)]


def test_one_worker_is_the_single_process_engine_bit_for_bit(rows) -> None:
    assert all(row["loss"] == row["weights"] == row["handed"] == 0.0 for row in rows if row["workers"] == 1)


def test_two_workers_differ_by_the_order_of_a_sum_only(rows) -> None:
    for row in rows:
        assert row["ordered"] < SUM_ROUNDING
        assert row["weights"] < 1e-7
        assert row["loss"] < FLOAT32_NOISE


def test_a_state_is_taken_over_at_every_stage(rows) -> None:
    assert all(row["handed"] < SUM_ROUNDING for row in rows)
