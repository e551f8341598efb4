"""The command `calibrate`: what it leaves, that infer keeps to it, and what both say to mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from eqr_ray import calibrate, infer
from eqr_ray.calibrate import CalibrateConfig
from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.data.arrow_store import write_split
from eqr_ray.evaluation.calibration import pilot_of
from eqr_ray.inference.settings import InferConfig
from eqr_ray.model.runtime import resolved_dtype
from eqr_ray.status import report
from eqr_ray.tasks.puzzles import Puzzles
from tests.inference.tiny import TASK, save_echo, save_tiny, sudokus, write_csv

torch.set_num_threads(1)  # many small tensors; other processes may want the other cores

PUZZLES = 40
EASY = {"risk": 0.6, "confidence": 0.7}  # a guarantee that the echo of a question can keep where that is its own answer
SHAPE = {"depth": 6, "breadth": 2, "noise_scale": 0, "actors": 0}


def solved(seed: int) -> Puzzles:
    puzzles = sudokus(PUZZLES, seed)
    assert puzzles.labels is not None
    return dataclasses.replace(puzzles, inputs=puzzles.labels)


def run(**options: object) -> dict:
    """The command in this process; returns calibration.json."""
    typed = [f"{key}={value}" for key, value in options.items()]
    calibrate.main(*parse_arguments(CalibrateConfig, typed))
    return json.loads((Path(str(options["out"])) / "calibration.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network in `net`, a dataset in `data`, and the network's calibration beside it."""
    root = tmp_path_factory.mktemp("calibrated")
    (root / "data").mkdir()
    write_split(root / "data" / "validation.arrow", TASK, solved(0), source="", seed=0)
    write_split(root / "data" / "test.arrow", TASK, solved(1), source="", seed=0)
    save_echo(root / "net")
    options = {"checkpoint": root / "net", "data": root / "data", **SHAPE, **EASY}
    calibrate.main(*parse_arguments(CalibrateConfig, [f"{key}={value}" for key, value in options.items()]))
    return root


def calibration(made: Path) -> dict:
    return json.loads((made / "net" / "calibration" / "calibration.json").read_text())


def test_what_a_calibration_leaves(made: Path) -> None:
    out = made / "net" / "calibration"
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        *("manifest.json", "log.jsonl"),
        *("calibration.json", "risk_coverage.png", "config.json", "summary.json", "run"),
    }
    found = calibration(made)
    card = json.loads((made / "net" / "model.json").read_text())
    assert found["checkpoint_hash"] == card["hash"]
    stated = ("task", "noise_scale", "init_std", "dtype", "policy", "select", "depth", "breadth", "settle_for")
    dtype = resolved_dtype("auto", "cpu")
    assert [found[key] for key in stated] == ["sudoku4", 0.0, None, dtype, "sequential", "logit_residual", 6, 2, 2]
    assert {key: found[key] for key in EASY} == EASY
    assert (found["puzzles"], found["pilot"], found["tested"]) == (PUZZLES, 8, 32)
    assert found["settle_below"] in [test["settle_below"] for test in found["tests"] if test["passed"]]
    assert found["wrong_high"] <= EASY["risk"]
    assert found["curve"][-1]["coverage"] == 1.0
    assert found["curve"][-1]["error"] == pytest.approx(1 - found["full_accuracy"])
    config = json.loads((out / "config.json").read_text())
    assert (config["data"], config["out"]) == (str(made / "data" / "validation.arrow"), str(out))
    assert (config["depth"], config["breadth"], config["risk"]) == (6, 2, 0.6)
    summary = json.loads((out / "summary.json").read_text())
    assert summary == {key: value for key, value in found.items() if key not in ("tests", "curve")}
    lines = dict(report(out))
    assert lines["threshold"] == f"settle_below={found['settle_below']:g} keeps risk 0.6 with confidence 0.7"
    assert lines["settled"] == f"{found['settled']} of 32 puzzles, {found['wrong']} of them wrong"
    assert struct.unpack(">II", (out / "risk_coverage.png").read_bytes()[16:24]) == (1200, 480)


def test_the_figures_are_those_of_a_run(made: Path, tmp_path: Path) -> None:
    """The same policy at the chosen threshold, run by infer, answers the calibration's puzzles as it was foretold."""
    found = calibration(made)
    options = {"checkpoint": made / "net", "data": made / "data" / "validation.arrow", "out": tmp_path / "out", **SHAPE}
    typed = {**options, "policy": "sequential", "calibration": made / "net" / "calibration"}
    infer.run(*parse_arguments(InferConfig, [f"{key}={value}" for key, value in typed.items()]))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["settle_below"], summary["settle_for"]) == (found["settle_below"], 2)
    rows = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    pilot = pilot_of(PUZZLES, 0)
    tested = [row for row in rows if not pilot[row["puzzle"]]]
    assert sum(row["settled"] for row in tested) == found["settled"]
    assert sum(row["settled"] and not row["exact"] for row in tested) == found["wrong"]
    assert np.mean([row["segments"] for row in tested]) == found["segments_mean"]
    assert np.mean([row["exact"] for row in tested]) == found["exact_accuracy"]


def test_another_goal_reuses_the_records(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "net", tmp_path / "net")
    parts = sorted((tmp_path / "net" / "calibration" / "run" / "records").iterdir())
    before = [part.stat().st_mtime_ns for part in parts]
    parts[-1].unlink()  # as if it had been interrupted
    options = {"checkpoint": tmp_path / "net", "data": made / "data", "out": tmp_path / "net" / "calibration", **SHAPE}
    strict = run(**options, risk=0.2, confidence=0.7, policy="settle")
    assert strict["policy"] == "settle"
    assert [part.stat().st_mtime_ns for part in parts][:-1] == before[:-1]
    again = run(**options, **EASY)
    assert again == calibration(made)
    with pytest.raises(UserError, match="holds another inference run: depth is 6 there and 7 here"):
        run(**{**options, **EASY, "depth": 7})


def test_records_are_enough(made: Path, tmp_path: Path) -> None:
    records = made / "net" / "calibration" / "run"
    assert run(records=records, out=tmp_path / "same", **EASY) == calibration(made)
    small = run(records=records, data=made / "data", depth=4, breadth=1, out=tmp_path / "small", **EASY)
    assert (small["depth"], small["breadth"], small["full_segments_mean"]) == (4, 1, 4.0)
    assert small["data_hash"] == calibration(made)["data_hash"]
    calibrate.main(*parse_arguments(CalibrateConfig, [f"records={records}", "depth=5", "risk=0.6", "confidence=0.7"]))
    assert (records / "calibration-sequential-5x2" / "calibration.json").exists()
    shutil.rmtree(records / "calibration-sequential-5x2")


def test_no_threshold_is_an_answer_too(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Puzzles that are asked, not told, and echoed all the same: settled and wrong."""
    data = write_csv(tmp_path / "open.csv", sudokus(PUZZLES, 3))
    options = {"checkpoint": made / "net", "data": data, **SHAPE, **EASY}
    found = run(**options, out=tmp_path / "none")
    assert found["settle_below"] is None
    assert len(found["tests"]) == 1
    assert found["wrong"] == found["settled"] > 0
    printed = capsys.readouterr().out
    assert "none keeps risk=0.6 with confidence 0.7" in printed
    assert f"{found['wrong']} of {found['settled']}, at most 100.00%" in printed
    assert "2 settled answers if none is wrong, from" in printed
    with pytest.raises(UserError, match=r"has no threshold: none kept risk=0.6 with confidence=0.7"):
        answer(made, tmp_path, calibration=tmp_path / "none" / "calibration.json")


def answer(made: Path, tmp_path: Path, **options: object) -> None:
    keys = {"checkpoint": made / "net", "data": made / "data" / "test.arrow", "out": tmp_path / "out", **SHAPE}
    typed = {**keys, "policy": "sequential", "calibration": made / "net" / "calibration", **options}
    infer.run(*parse_arguments(InferConfig, [f"{key}={value}" for key, value in typed.items()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_scale": 0.1}, "was made for noise_scale=0.0, not 0.1"),
        ({"noise_scale": "null"}, "was made for noise_scale=0.0, not "),
        ({"init_std": 0.5}, "was made for init_std=None, not 0.5"),
        ({"dtype": "float16"}, f"was made for dtype={resolved_dtype('auto', 'cpu')}, not float16"),
        ({"policy": "full", "depth": 7}, "was made for depth=6, not 7; policy=sequential, not full"),
        ({"breadth": 1}, "was made for breadth=2, not 1"),
        ({"select": "halt"}, "was made for select=logit_residual, not halt"),
        ({"budget": 9}, "was made for budget=None, not 9"),
        ({"settle_below": 0.5}, "settle_below=0.5 does not go with calibration=, which gives it"),
        ({"settle_for": 2}, "settle_for=2 does not go with calibration=, which gives it"),
        ({"calibration": "nowhere.json"}, "calibration=nowhere.json: no such file; `eqr_ray.calibrate` makes it"),
    ],
)
def test_infer_refuses_what_it_was_not_made_for(made: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        answer(made, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_infer_refuses_another_model_and_foreign_files(made: Path, tmp_path: Path) -> None:
    found = calibration(made)["checkpoint_hash"]
    with pytest.raises(UserError, match=f"was made for checkpoint_hash={found}, not "):
        answer(made, tmp_path, checkpoint=save_tiny(tmp_path / "other"))
    for text, message in (("{", "is damaged"), ("[]", "is damaged"), ('{"risk": 1}', "was not made by")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=message):
            answer(made, tmp_path, calibration=tmp_path / "x.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 0}, "risk=0 is not allowed: should be greater than 0"),
        ({"confidence": 1}, "confidence=1 is not allowed"),
        ({"policy": "full"}, "policy=\"full\" is not allowed: should be 'settle', 'sequential' or 'race'"),
        ({"policy": "sequentail"}, "policy=\"sequentail\" is not allowed: should be .*'sequential'"),
        ({"select": "luck"}, 'select="luck" is not allowed: should be '),
        ({"settle_for": 0}, "settle_for=0 is not allowed: should be greater than or equal to 1"),
        ({"depth": 2}, "depth=2 is not allowed: more than settle_for=2"),
        ({"depth": 0}, "depth=0 is not allowed: should be greater than or equal to 1"),
        ({"risk": 0.005}, f"{PUZZLES} puzzles are too few for risk=0.005 confidence=0.7: at least "),
        ({"limit": 2}, "2 puzzles are too few for risk=0.6 confidence=0.7: at least 3 "),
        ({"records": "x"}, "either checkpoint= or records= must be given"),
        ({"checkpoint": "null"}, "either checkpoint= or records= must be given"),
        ({"data": "null"}, "data= must be given with checkpoint="),
        ({"data": "nowhere.arrow"}, "nowhere.arrow: no such file"),
        ({"checkpoint": "zoo:nothing"}, "checkpoint=zoo:nothing is not a pretrained network"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(made: Path, tmp_path: Path, options: dict, message: str) -> None:
    keys = {"checkpoint": made / "net", "data": made / "data", "out": tmp_path / "out", **SHAPE, **EASY, **options}
    with pytest.raises(UserError, match=message):
        run(**keys)
    assert not (tmp_path / "out").exists()


def test_answers_must_be_known(made: Path, tmp_path: Path) -> None:
    keys = {"checkpoint": made / "net", "out": tmp_path / "out", **SHAPE, **EASY}
    unanswered = write_csv(tmp_path / "without.csv", sudokus(PUZZLES), answers=False)
    with pytest.raises(UserError, match=f"{PUZZLES} of the {PUZZLES} puzzles have no answer to compare with"):
        run(**keys, data=unanswered)
    lines = write_csv(tmp_path / "some.csv", sudokus(PUZZLES)).read_text().splitlines()
    lines[3] = lines[3].split(",")[0] + ","
    (tmp_path / "some.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"1 of the {PUZZLES} puzzles have no answer to compare with"):
        run(**keys, data=tmp_path / "some.csv")


def test_a_test_split_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(made / "data" / "test.arrow", tmp_path / "data" / "test.arrow")
    keys = {"checkpoint": made / "net", "out": tmp_path / "out", **SHAPE, **EASY}
    with pytest.raises(
        UserError, match=r"no validation\.arrow in this folder; calibration leaves its test split alone"
    ):
        run(**keys, data=tmp_path / "data")


def test_mistakes_with_records(made: Path, tmp_path: Path) -> None:
    records = made / "net" / "calibration" / "run"
    for options, message in (
        ({"depth": 7}, "depth=7 is more than the 6 that were recorded"),
        ({"breadth": 3}, "breadth=3 is more than the 2 that were recorded"),
        ({"noise_scale": 0.1}, "noise_scale= does not go with records="),
        ({"data": made / "data" / "test.arrow"}, "does not hold the puzzles that records="),
        ({"risk": 0.005}, "40 puzzles are too few"),
    ):
        with pytest.raises(UserError, match=message):
            run(**{"records": records, "out": tmp_path / "out", **EASY, **options})
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").touch()
    with pytest.raises(UserError, match="mine is not empty and holds no calibration; choose another folder"):
        run(records=records, out=tmp_path / "mine", **EASY)
    with pytest.raises(UserError, match="mine is not empty and holds no calibration; choose another folder"):
        run(checkpoint=made / "net", data=made / "data", out=tmp_path / "mine", **EASY)


@pytest.mark.parametrize(
    ("checkpoint", "folder"),
    [
        ("zoo:sudoku6", "runs/calibrate-sudoku6"),
        ("{net}", "{net}/calibration"),
        ("{net}/model.safetensors", "{net}/calibration"),
        ("{net}/eqr.pth", "{net}/calibration"),
    ],
)
def test_the_folder_is_next_to_the_checkpoint(made: Path, checkpoint: str, folder: str) -> None:
    net = made / "net"
    assert calibrate.beside(checkpoint.format(net=net)) == Path(folder.format(net=net))


def test_so_many_puzzles_are_needed_by_default() -> None:
    config = parse_arguments(CalibrateConfig, ["checkpoint=c", "data=d"])[0]
    assert config.puzzles_needed() == 747
