"""Every documented key of every door with values that it does not allow: one line on stderr that names it, status 2,
and nothing made. And files that are damaged in every way that hypothesis thinks of.

A key that is added to a door without a row here fails `test_every_documented_key_is_tried`.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqr_ray.config.door import CONF
from eqr_ray.config.door_help import documented_keys
from eqr_ray.config.schema import Options, leaves
from eqr_ray.data.dataset import PrepareConfig
from eqr_ray.parity import ParityOptions
from eqr_ray.status import StatusOptions
from tests.inference.tiny import save_tiny, sudokus, write_csv

torch.set_num_threads(1)
pytestmark = pytest.mark.slow

NO_NUMBER = ("banana", "[1,2]")
COUNT = (*NO_NUMBER, "-1", "1.5")  # whole numbers, 0 or more
MANY = (*COUNT, "0")  # whole numbers from 1 on
SIZE = (*NO_NUMBER, "-1", "nan", "inf")  # finite numbers, 0 or more
CHOICE = ("banana", "1", "[banana]")
SWITCH = ("banana", "2", "[true]")
ABSENT = ("/nowhere/at/all",)
ADDRESS = ("127.0.0.1:1",)
MIRROR = ("banana", "s3://", "warp://x/y")

KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        **{"model": CHOICE, "task": ("banana", "sudoku7", "1"), "data": ABSENT, "resume": ABSENT, "recipe": ABSENT},
        **{"weights": (*ABSENT, "zoo:banana"), "mirror": MIRROR, "out": ("/dev/null/x",)},
        **{"workers": COUNT, "workers_min": COUNT, "wait_minutes": SIZE, "zero": ("banana", "4", "-1", "1.5")},
        **{"device": CHOICE, "max_failures": COUNT, "wandb": CHOICE},
        **{"damping": (*SIZE, "1.5"), "noise_scale": SIZE, "init_std": SIZE},
        **{"steps": MANY, "minutes": SIZE, "batch": MANY, "accumulation": (*MANY, "3"), "schedule": CHOICE},
        **{"supervise_every": MANY, "halting": CHOICE, "max_segments": MANY, "exploration": (*SIZE, "2")},
        **{"learning_rate": SIZE, "warmup": COUNT, "cooldown": (*SIZE, "2"), "weight_decay": SIZE},
        **{"beta1": (*SIZE, "1"), "beta2": (*SIZE, "1"), "ema": (*SIZE, "2"), "gradient_clipping": SIZE},
        **{"dtype": CHOICE, "compile": SWITCH, "augment": SWITCH, "seed": (*NO_NUMBER, "1.5", "-1")},
        **{"log_every": MANY, "validate_every": COUNT, "validate_puzzles": COUNT, "validate_depth": MANY},
        **{"checkpoint_every": MANY, "keep_checkpoints": MANY, "address": ()},
    },
    "infer": {
        **{"checkpoint": (*ABSENT, "zoo:banana"), "data": ABSENT, "out": ("/dev/null/x",), "mirror": MIRROR},
        **{"recipe": ABSENT, "depth": MANY, "breadth": MANY, "noise_scale": SIZE, "init_std": SIZE},
        **{"policy": CHOICE, "budget": MANY, "budget_total": MANY, "halving_from": MANY, "select": CHOICE},
        **{"settle_below": (*NO_NUMBER, "nan"), "settle_for": MANY, "calibration": ABSENT},
        **{"snapshots": ("banana", "[0]", "[banana]", "[99]"), "seed": (*NO_NUMBER, "1.5", "-1"), "limit": MANY},
        **{
            "wait_minutes": SIZE,
            "slots": MANY,
            "actors": COUNT,
            "gpus_each": (*SIZE, "0", "0.3"),
            "address": ADDRESS,
            "device": CHOICE,
        },
        **{"dtype": CHOICE, "compile": SWITCH},
    },
    "calibrate": {
        **{"checkpoint": ABSENT, "records": ABSENT, "data": ABSENT, "out": ("/dev/null/x",)},
        **{"risk": (*SIZE, "0", "1"), "confidence": (*SIZE, "0", "1"), "policy": (*CHOICE, "full")},
        **{"select": CHOICE, "settle_for": MANY, "depth": MANY, "breadth": MANY, "noise_scale": SIZE},
        **{"init_std": SIZE, "seed": (*NO_NUMBER, "1.5", "-1"), "limit": MANY, "slots": MANY, "actors": COUNT},
        **{"gpus_each": (*SIZE, "0"), "address": ADDRESS, "device": CHOICE, "dtype": CHOICE, "compile": SWITCH},
    },
    "frontier": {
        **{"records": ABSENT, "checkpoint": ABSENT, "data": ABSENT, "out": ("/dev/null/x",), "policies": CHOICE},
        **{"select": CHOICE, "settle_below": ("banana", "nan"), "settle_for": MANY, "budgets": ("banana", "0", "-1")},
        **{"depth": MANY, "breadth": MANY, "noise_scale": SIZE, "init_std": SIZE},
        **{"seed": (*NO_NUMBER, "1.5", "-1"), "limit": MANY, "slots": MANY, "actors": COUNT},
        **{"gpus_each": (*SIZE, "0"), "address": ADDRESS, "device": CHOICE, "dtype": CHOICE, "compile": SWITCH},
        **{"cost.puzzles": MANY, "cost.gpus": ("banana", "[0]", "[-1]"), "cost.flops_per_segment": (*SIZE, "0")},
        **{"cost.device_flops": (*SIZE, "0")},
    },
    "sweep": {
        **{"space": ABSENT, "data": ABSENT, "checkpoint": (), "out": ("/dev/null/x",), "resume": ABSENT},
        **{"mirror": MIRROR, "trials": MANY, "seed": (*NO_NUMBER, "1.5", "-1"), "finalists": COUNT, "seeds": COUNT},
        **{"workers": COUNT, "cpus_each": MANY, "gpus_each": (), "at_once": MANY, "max_failures": COUNT},
        **{"device": CHOICE, "address": ADDRESS, "wandb": CHOICE, "limit": (), "actors": ()},
    },
    "prepare": {
        **{"task": ("banana", "sudoku7", "maze4"), "source": ABSENT, "train": COUNT, "validation": COUNT},
        **{"test": COUNT, "augment": COUNT, "seed": (*NO_NUMBER, "1.5", "-1"), "hard": SWITCH, "unique": SWITCH},
        **{"skip_bad": SWITCH, "limit_bad": COUNT, "out": ("/dev/null/x",)},
    },
    "parity": {"folder": ABSENT, "tolerance": (*SIZE, "0")},
    "status": {"run": ABSENT},
}
OPTIONS: dict[str, type[Options]] = {"prepare": PrepareConfig, "parity": ParityOptions, "status": StatusOptions}
CASES = [(door, key, value) for door, keys in KEYS.items() for key, values in keys.items() for value in values]


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The command of each door that would do something, without out=."""
    root = tmp_path_factory.mktemp("mistakes")
    network, csv = save_tiny(root / "net"), write_csv(root / "mine.csv", sudokus(4))
    tiny = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "batch=4", "steps=1", "compile=false"]
    asked = [f"checkpoint={network}", f"data={csv}", "depth=2", "breadth=2", "actors=0"]
    return {
        "train": [*tiny, f"data={data}"],
        "infer": asked,
        "calibrate": [*asked[:2], "depth=3", *asked[3:], "risk=0.9", "confidence=0.5"],
        "frontier": asked,
        "sweep": [f"space={CONF.parents[1] / 'tune' / 'smoke.yaml'}", f"data={data}", "finalists=0", "trials=1"],
        "prepare": ["task=sudoku4", "train=2", "validation=1", "test=1"],
        "parity": [f"folder={root}"],
        "status": [],
    }


class Said:
    """What a door said, and its status."""

    def __init__(self, door: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        module = importlib.import_module(f"eqr_ray.{door}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [f"eqr-{door}", *arguments])
            with pytest.raises(SystemExit) as left:
                module.cli()
        self.status = left.value.code
        self.err = capsys.readouterr().err

    def is_a_mistake_of(self, door: str) -> None:
        lines = self.err.splitlines()
        assert self.status == 2, self.err
        assert len(lines) == 1, self.err
        assert lines[0].startswith(f"eqr-{door}: ")


@pytest.mark.parametrize(("door", "key", "value"), CASES, ids=[f"{d}-{k}={v}" for d, k, v in CASES])
def test_a_value_that_is_not_allowed_is_one_line_and_leaves_nothing(
    door: str,
    key: str,
    value: str,
    base: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    has_out = "out" in KEYS[door] and key not in ("out", "resume")
    kept = [argument for argument in base[door] if not argument.startswith(f"{key}=")]
    if key == "address":
        kept = [argument.replace("actors=0", "actors=1") for argument in kept]
    if key == "records":
        kept = [argument for argument in kept if not argument.startswith("checkpoint=")]
    typed = value if door in ("parity", "status") and key in ("folder", "run") else f"{key}={value}"
    said = Said(door, [*kept, typed, *([f"out={out}"] if has_out else [])], capsys)
    said.is_a_mistake_of(door)
    assert key.rpartition(".")[2] in said.err or value.strip("[]") in said.err or "/dev/null" in said.err
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("door", KEYS)
def test_every_documented_key_is_tried(door: str) -> None:
    if door in OPTIONS:
        documented = {key for key, _ in leaves(OPTIONS[door])}
    else:
        documented = set(documented_keys((CONF / f"{door}.yaml").read_text())) - {"cost"}
    assert documented <= KEYS[door].keys()
    assert len(CASES) >= 100


@pytest.mark.parametrize("door", KEYS)
def test_keys_that_are_misspelt_or_no_keys(
    door: str, base: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("banana=1", "=1", "--banana", "out", "seed=1 seed=2"):
        said = Said(door, [*base[door], typed, "outt=x"], capsys)
        said.is_a_mistake_of(door)


# ---- damaged files


def damage() -> st.SearchStrategy[tuple[str, int, bytes]]:
    """(what is done, where in the file in thousandths, with what)."""
    kinds = st.sampled_from(["cut", "flip", "insert", "replace", "empty"])
    return st.tuples(kinds, st.integers(0, 999), st.binary(min_size=1, max_size=8))


def damaged(content: bytes, what: tuple[str, int, bytes]) -> bytes:
    kind, thousandths, noise = what
    at = len(content) * thousandths // 1000
    if kind == "empty":
        return b""
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + noise + content[at:]
    if kind == "replace":
        return content[:at] + noise + content[at + len(noise) :]
    return content[:at] + bytes([content[at] ^ (noise[0] or 1)]) + content[at + 1 :] if at < len(content) else b""


FUZZ = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@pytest.fixture
def answered(base: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished run of infer, to be damaged."""
    out = tmp_path / "answered"
    assert Said("infer", [*base["infer"], f"out={out}"], capsys).status == 0
    return out


@pytest.fixture
def trained(base: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished training, to be damaged."""
    out = tmp_path / "trained"
    assert Said("train", [*base["train"], f"out={out}"], capsys).status == 0
    return out


def said_or_done(door: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file is refused in one line, or it is as good as whole (a byte of no meaning, a comment)."""
    said = Said(door, arguments, capsys)
    assert said.status in (0, 2), said.err
    assert "Traceback" not in said.err
    if said.status == 2:
        lines = [line for line in said.err.splitlines() if line.startswith(f"eqr-{door}: ")]
        assert len(lines) == 1, said.err


@dataclass
class Victim:
    """A file or a folder, of which a copy is damaged, and the commands that then read the copy."""

    source: Path
    commands: Callable[[Path], list[tuple[str, list[str]]]]


@pytest.fixture(params=["puzzles", "network", "answers", "training", "dataset"])
def victim(request: pytest.FixtureRequest, base: dict[str, list[str]], data: Path, tmp_path: Path) -> Victim:
    (network, puzzles, *asked), (*tiny, _) = base["infer"], base["train"]
    out = f"out={tmp_path / 'out'}"
    if request.param == "puzzles":
        return Victim(Path(value(puzzles)), lambda copy: [("infer", [network, f"data={copy}", *asked, out])])
    if request.param == "network":
        return Victim(Path(value(network)), lambda copy: [("infer", [f"checkpoint={copy}", puzzles, *asked, out])])
    if request.param == "dataset":
        return Victim(data, lambda copy: [("train", [*tiny, f"data={copy}", out])])
    if request.param == "answers":  # refused, or repaired by running again
        again = [network, puzzles, *asked]
        found = request.getfixturevalue("answered")
        return Victim(found, lambda copy: [("infer", [*again, f"out={copy}"]), ("status", [str(copy)])])
    found = request.getfixturevalue("trained")
    return Victim(found, lambda copy: [("train", [f"resume={copy}", "steps=2"]), ("status", [str(copy)])])


def value(argument: str) -> str:
    return argument.partition("=")[2]


@FUZZ
@given(what=damage(), pick=st.integers(0, 99))
def test_damaged_files(
    what: tuple[str, int, bytes], pick: int, victim: Victim, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / f"copy{victim.source.suffix}"
    if victim.source.is_dir():
        shutil.copytree(victim.source, copy)
    else:
        shutil.copy(victim.source, copy)
    files = sorted(path for path in [copy, *copy.rglob("*")] if path.is_file())
    file = files[pick % len(files)]
    file.write_bytes(damaged(file.read_bytes(), what))
    for door, arguments in victim.commands(copy):
        said_or_done(door, arguments, capsys)
    for left in (copy, tmp_path / "out"):
        shutil.rmtree(left, ignore_errors=True)
    copy.unlink(missing_ok=True)


@FUZZ
@given(
    tree=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_configurations_of_another_form(
    tree: object, trained: Path, answered: Path, base: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for run, name in ((trained, "config.json"), (answered, "manifest.json"), (answered, "config.json")):
        before = (run / name).read_bytes()
        (run / name).write_text(json.dumps(tree))
        if run == trained:
            said_or_done("train", [f"resume={run}", "steps=2"], capsys)
        else:
            said_or_done("infer", [*base["infer"], f"out={run}"], capsys)
        said_or_done("status", [str(run)], capsys)
        (run / name).write_bytes(before)
