"""Our network against the reference's numbers, and the check against planted errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from eqr_ray import parity
from eqr_ray.config.errors import UserError

FIXTURES = Path(__file__).parents[2].parent / "shared" / "data" / "parity"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the reference's numbers are not at hand")
NAMES = ("eqr_maze_attention", "eqr_sudoku_mixer", "trm_sudoku_mixer")


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_every_quantity_agrees(name):
    report = parity.check_fixture(FIXTURES / name)
    assert len(report) >= 29
    assert sum(key.startswith("grad_2/") for key in report) >= 8
    assert {key for key, quantity in report.items() if not quantity.agrees(parity.TOLERANCE)} == set()


@needs_fixtures
@pytest.mark.parametrize(
    "key",
    ["z_H_2", "logits_1", "loss_3", "grad_2/model.inner.lm_head.weight", "state/model.inner.lm_head.weight"],
)
def test_a_wrong_number_is_found(key, tmp_path, capsys):
    name = "eqr_maze_attention"
    shutil.copy(FIXTURES / f"{name}.json", tmp_path)
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {k: file[k] for k in file.files}
    arrays[key] = arrays[key] * 1.001
    np.savez(tmp_path / f"{name}.npz", **arrays)
    assert parity.run(tmp_path) == 1
    assert "DIFFERS" in capsys.readouterr().out


@needs_fixtures
@pytest.mark.parametrize("missing", ["logits_2", "z_L_0", "labels", "state/model.inner.lm_head.weight"])
def test_a_fixture_that_lacks_a_part_is_named(missing, tmp_path):
    name = "eqr_maze_attention"
    shutil.copy(FIXTURES / f"{name}.json", tmp_path)
    with np.load(FIXTURES / f"{name}.npz") as file:
        np.savez(tmp_path / f"{name}.npz", **{key: file[key] for key in file.files if key != missing})
    with pytest.raises(UserError, match=name):
        parity.run(tmp_path)


def test_an_empty_folder_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="no fixture"):
        parity.run(tmp_path)


def test_a_broken_fixture_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="x"):
        parity.run(tmp_path)


@pytest.mark.parametrize("words", [[], ["a", "b"], ["tests", "tolerance=x"], ["tests", "tol=1"], ["nowhere"]])
def test_wrong_words_exit_with_2(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["eqr-parity", *words])
    with pytest.raises(SystemExit) as stop:
        parity.cli()
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
