"""What every test shares: a quiet Ray that listens on loopback only, one thread, and Ray tests marked and run last."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from eqr_ray.data.arrow_store import write_split
from eqr_ray.tasks import task_named

# Ray reads these at import, and this file is imported before any test. The reasons are in docs of Ray:
# loopback only on Linux; no usage reports; no metrics exporter, preemption watcher or patched print in Ray Train;
# workers polled five times a second (a report takes one interval); log lines as they come.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DEDUP_LOGS": "0",
    "MPLBACKEND": "Agg",  # figures are written, never shown
    "OMP_NUM_THREADS": "1",  # many small tensors; other processes want the other cores
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# Who starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
FIRST = TESTS / "ray" / "test_jobs.py"  # of the tests that start Ray
RAY_TIMEOUT_S = 600.0  # starting a cluster and its workers alone takes some 20 s on two cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in ("ray", "faults"):
            item.add_marker(pytest.mark.ray)
        if folder == "faults":
            item.add_marker(pytest.mark.faults)
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(RAY_TIMEOUT_S))
    # Stable: within each part the order stays. A plain mistake is seen before any cluster is started, and the cluster
    # that takes jobs is gone before another one is there: beside another Ray it could not be started.
    items.sort(key=lambda item: (item.get_closest_marker("ray") is not None, item.path != FIRST))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of 4x4 Sudoku, to be read only: 16 puzzles to train on and 8 to validate with."""
    task, folder = task_named("sudoku4"), tmp_path_factory.mktemp("sudoku4")
    puzzles = task.generate(24, 0)
    for name, rows in (("train", np.arange(16)), ("validation", np.arange(16, 24))):
        write_split(folder / f"{name}.arrow", task, puzzles.take(rows), source="generate", seed=0)
    return folder
