"""What Weights & Biases is told: one run per folder, and the group that it belongs to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eqr_ray.storage import run_log as tracking


def test_a_trial_is_one_run_of_its_sweeps_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    run = SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)
    monkeypatch.setattr(tracking.wandb, "init", lambda **keys: told.append(keys) or run)
    for _ in range(2):
        tracking.RunTracker(tmp_path, "offline", {}).close()
    (tmp_path / tracking.GROUP_FILE).write_text("three")
    tracking.RunTracker(tmp_path, "offline", {}).close()
    assert [keys["group"] for keys in told] == [None, None, "three"]
    assert len({keys["id"] for keys in told}) == 1
