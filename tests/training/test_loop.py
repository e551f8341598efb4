"""Checkpoints and resume in one process: bit for bit, past damage, never into a foreign run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.training.checkpoint import newest_checkpoint
from eqr_ray.training.loop import TrainingDiverged, rows_of, train


def test_twenty_steps_are_ten_and_ten(bench, tmp_path: Path) -> None:
    whole, figures = bench.train(tmp_path / "whole")
    bench.train(tmp_path / "parts", steps=10)
    parts, again = bench.train(tmp_path / "parts")
    for name, value in (whole.parameters() | whole.optimizer_state()).items():
        assert torch.equal((parts.parameters() | parts.optimizer_state())[name], value), name
    for name, value in figures["ema"].items():
        assert torch.equal(again["ema"][name], value), name
    carries = [newest_checkpoint(tmp_path / name) for name in ("whole", "parts")]
    assert carries[0] is not None
    assert carries[1] is not None
    assert carries[0].files == carries[1].files  # every tensor of the checkpoint, by its hash
    assert ("resume", 10) in [(kind, step) for kind, step, _ in bench.notes.entries]


def test_old_checkpoints_go_and_half_written_ones_do_not_count(bench, tmp_path: Path) -> None:
    bench.train(tmp_path, checkpoint_every=4, keep_checkpoints=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000016", "00000020"]
    (tmp_path / "00000024.partial").mkdir()
    (tmp_path / "00000028").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 20


def test_a_damaged_checkpoint_is_passed_over_aloud(bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench.train(tmp_path)
    weights = tmp_path / "00000020" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 10
    assert "00000020 is damaged and passed over: weights.safetensors" in caplog.text
    (tmp_path / "00000010" / "state.json").write_text("{")
    with pytest.raises(UserError, match="every checkpoint"):
        newest_checkpoint(tmp_path)


def test_a_foreign_checkpoint_is_refused(bench, tmp_path: Path) -> None:
    bench.train(tmp_path, steps=10)
    with pytest.raises(UserError, match="written by another experiment"):
        train(bench.backend(), bench.job(tmp_path, experiment="other"))


def test_a_checkpoint_does_not_know_how_many_workers_wrote_it(bench, tmp_path: Path) -> None:
    bench.train(tmp_path, steps=10)
    folder = tmp_path / "00000010"
    state = json.loads((folder / "state.json").read_text())
    assert {name for name in state["files"] if name.startswith("carry")} == {"carry-000000-000008.safetensors"}
    assert list(rows_of(1, 2, 8)) == [4, 5, 6, 7]
    with pytest.raises(UserError, match="batch=8 cannot be dealt out to workers=3"):
        rows_of(0, 3, 8)


def test_an_infinite_loss_ends_the_run(bench, tmp_path: Path) -> None:
    backend = bench.backend()
    with torch.no_grad():
        backend.model.lm_head.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="before step 5"):
        train(backend, bench.job(tmp_path))
    assert newest_checkpoint(tmp_path) is None


def test_minutes_are_a_limit_over_all_attempts(bench, tmp_path: Path) -> None:
    _, result = bench.train(tmp_path, steps=10**6, minutes=1e-4, checkpoint_every=10**5)
    assert 0 < result["step"] < 1000
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == result["step"]
    _, again = bench.train(tmp_path, steps=10**6, minutes=1e-4)
    assert again["step"] <= result["step"] + bench.config.log_every


def test_an_interrupt_leaves_a_checkpoint_of_that_step(bench, tmp_path: Path) -> None:
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) == 7

    with pytest.raises(KeyboardInterrupt):
        train(bench.backend(), bench.job(tmp_path, interrupted=interrupted))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 7
    whole, _ = bench.train(tmp_path / "whole")
    parts, _ = bench.train(tmp_path)
    assert all(torch.equal(value, parts.parameters()[name]) for name, value in whole.parameters().items())


def test_validation_is_of_the_ema_weights_on_the_validation_split(bench, tmp_path: Path) -> None:
    bench.train(tmp_path, validate_every=10)
    entries = [(step, figures) for kind, step, figures in bench.notes.entries if kind == "validation"]
    assert [step for step, _ in entries] == [10, 20]
    assert entries[0][1]["puzzles"] == 8
    assert entries[0][1]["depth"] == 2


def test_training_starts_from_what_the_config_says(bench) -> None:
    for change, words in [
        ({"batch": 0}, "batch=0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"exploration": 2.0}, "exploration=2.0"),
    ]:
        with pytest.raises(UserError, match=words):
            bench.config.replace(**change)
