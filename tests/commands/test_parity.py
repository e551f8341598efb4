"""Our network against reference numbers, and the check against planted errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eqr_ray import parity
from eqr_ray.config.errors import UserError
from eqr_ray.model.cell import Block
from eqr_ray.parity import CEILING, ParityOptions, Quantity

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity"
REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "parity"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference's larger fixtures are not at hand")
QUANTITIES = {"eqr_attention_row": 4, "eqr_mixer_twin": 29}


def run(folder: Path, **options: object) -> int:
    return parity.main(ParityOptions(folder=str(folder), **options))


def copied(folder: Path, name: str = "eqr_mixer_twin") -> dict[str, np.ndarray]:
    """The fixture's arrays; its description is copied to `folder`."""
    shutil.copy(FIXTURES / f"{name}.json", folder)
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_quantity_agrees(name: str) -> None:
    report = parity.check_fixture(FIXTURES / name)
    assert report is not None
    assert len(report) == QUANTITIES[name]
    assert {key for key, quantity in report.items() if not quantity.agrees(strict=True)} == set()


@needs_reference
@pytest.mark.parametrize("name", ["eqr_maze_attention", "eqr_sudoku_mixer", "trm_sudoku_mixer"])
def test_every_quantity_of_the_larger_fixtures_agrees(name: str) -> None:
    report = parity.check_fixture(REFERENCE / name)
    assert report is not None
    assert len(report) >= 29
    assert sum(key.startswith("grad_2/") for key in report) >= 8
    assert {key for key, quantity in report.items() if not quantity.agrees()} == set()


@pytest.mark.parametrize(
    "key",
    ["z_H_2", "logits_1", "loss_3", "grad_2/model.inner.lm_head.weight", "state/model.inner.lm_head.weight"],
)
def test_a_wrong_number_is_found(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = copied(tmp_path)
    arrays[key] = arrays[key] * 1.001
    np.savez(tmp_path / "eqr_mixer_twin.npz", **arrays)
    assert run(tmp_path) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_weights_of_less_precision_are_found(tmp_path: Path) -> None:
    arrays = copied(tmp_path)
    for key in [key for key in arrays if key.startswith("state/")]:
        arrays[key] = torch.from_numpy(arrays[key]).bfloat16().float().numpy()
    np.savez(tmp_path / "eqr_mixer_twin.npz", **arrays)
    assert run(tmp_path) == 1


def test_code_that_loses_precision_does_not_excuse_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses it in float32 alone, so that the measured rounding grows with the error."""
    whole = Block.cast

    def lossy(self, dtype):
        weights = whole(self, dtype)
        return type(weights)(*(w.bfloat16().to(dtype) for w in weights)) if dtype == torch.float32 else weights

    monkeypatch.setattr(Block, "cast", lossy)
    report = parity.check_fixture(FIXTURES / "eqr_mixer_twin")
    assert report is not None
    state = report["z_H_1"]
    assert state.error <= parity.ROUNDING_FACTOR * state.rounding  # without a ceiling this would pass
    assert not state.agrees()


def test_what_is_allowed() -> None:
    assert Quantity(0.9e-5, 0.0).agrees(strict=True)
    assert Quantity(3e-5, 1e-5).agrees()
    assert not Quantity(3e-5, 1e-5).agrees(strict=True)
    assert not Quantity(5e-5, 1e-5).agrees()
    assert not Quantity(1.01 * CEILING, 1.0).agrees()
    assert Quantity(1.01 * CEILING, 0.0).agrees(tolerance=1e-3)


def test_strict_is_a_flat_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FIXTURES, strict=True) == 0
    assert "(tolerance 1e-05)" in capsys.readouterr().out
    assert run(FIXTURES, strict=True, tolerance=1e-9) == 1
    assert run(FIXTURES, tolerance=1e-9) == 0


@pytest.mark.parametrize("missing", ["logits_2", "z_L_0", "labels", "state/model.inner.lm_head.weight"])
def test_a_fixture_that_lacks_a_part_is_named(missing: str, tmp_path: Path) -> None:
    arrays = copied(tmp_path)
    del arrays[missing]
    np.savez(tmp_path / "eqr_mixer_twin.npz", **arrays)
    with pytest.raises(UserError, match="eqr_mixer_twin"):
        run(tmp_path)


def test_networks_with_puzzle_ids_are_named_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = copied(tmp_path)
    np.savez(tmp_path / "eqr_mixer_twin.npz", **arrays)
    (tmp_path / "hrm.json").write_text(json.dumps({"kind": "hrm", "config": {"seq_len": 9}, "segments": 3}))
    np.savez(tmp_path / "hrm.npz", puzzle_identifiers=np.zeros(4, np.int32))
    assert run(tmp_path) == 0
    line = "hrm: not compared, networks with puzzle ids (HRM, TRM's own code) are not supported\n"
    assert line in capsys.readouterr().out
    (tmp_path / "eqr_mixer_twin.npz").unlink()
    with pytest.raises(UserError, match="no fixture that is supported"):
        run(tmp_path)


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no fixture"):
        run(tmp_path)


def test_a_broken_fixture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="x"):
        run(tmp_path)


@pytest.mark.parametrize("words", [[], ["a", "b"], ["tests", "tolerance=x"], ["tests", "tol=1"], ["nowhere"]])
def test_wrong_words_exit_with_2(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["eqr-parity", *words])
    with pytest.raises(SystemExit) as stop:
        parity.cli()
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
