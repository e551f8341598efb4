"""Every documented key of every command with values that it does not allow: one line on stderr that names it, status
2, and nothing made. And files that are damaged in every way that hypothesis thinks of.

A key that is added to a command without a row here fails `test_every_documented_key_is_tried`.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqr_ray.calibrate import CalibrateConfig
from eqr_ray.config.schema import Options, leaves
from eqr_ray.data.dataset import PrepareConfig
from eqr_ray.frontier import FrontierConfig
from eqr_ray.inference.settings import InferConfig
from eqr_ray.parity import ParityOptions
from eqr_ray.search.study import SweepConfig
from eqr_ray.status import StatusOptions
from eqr_ray.training.experiment import TrainOptions
from tests.inference.tiny import save_tiny, sudokus, write_csv
from tests.support.commands import ROOT, Done, call

pytestmark = pytest.mark.slow

NO_NUMBER = ("banana", "[1,2]")
COUNT = (*NO_NUMBER, "-1", "1.5")  # whole numbers, 0 or more
MANY = (*COUNT, "0")  # whole numbers from 1 on
SEED = (*NO_NUMBER, "-1", "1.5")
SIZE = (*NO_NUMBER, "-1", "nan", "inf")  # finite numbers, 0 or more
CHOICE = ("banana", "1", "[banana]")
SWITCH = ("banana", "2", "[true]")
ABSENT = ("/nowhere/at/all",)
NO_FOLDER = ("/dev/null/x",)
ADDRESS = ("127.0.0.1:1",)
MIRROR = ("banana", "s3://", "warp://x/y")

# Command -> values, and the keys that allow none of them.
ANSWERING = [(MANY, "depth breadth limit slots"), (COUNT, "actors"), (SIZE, "noise_scale init_std gpus_each")]
ANSWERING += [(("0",), "gpus_each"), (ADDRESS, "address"), (CHOICE, "select device dtype"), (SWITCH, "compile")]
ANSWERING += [(SEED, "seed"), (ABSENT, "checkpoint data"), (NO_FOLDER, "out")]
MISTAKES: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "train": [
        (CHOICE, "model schedule halting device wandb dtype"),
        (("banana", "sudoku7", "1"), "task"),
        (ABSENT, "data resume recipe weights"),
        (("zoo:banana",), "weights"),
        (NO_FOLDER, "out"),
        (MIRROR, "mirror"),
        (ADDRESS, "address"),
        (SEED, "seed"),
        (COUNT, "workers workers_min max_failures warmup validate_every validate_puzzles"),
        (MANY, "steps batch accumulation supervise_every max_segments log_every validate_depth checkpoint_every"),
        (MANY, "keep_checkpoints"),
        (("3",), "accumulation"),
        (SIZE, "wait_minutes damping noise_scale init_std minutes exploration learning_rate cooldown weight_decay"),
        (SIZE, "beta1 beta2 ema gradient_clipping"),
        (("1",), "beta1 beta2"),
        (("1.5",), "damping"),
        (("2",), "exploration cooldown ema"),
        (("banana", "4", "-1", "1.5"), "zero"),
        (SWITCH, "compile augment"),
    ],
    "infer": [
        *ANSWERING,
        (("zoo:banana",), "checkpoint"),
        (MIRROR, "mirror"),
        (ABSENT, "recipe calibration"),
        (CHOICE, "policy"),
        (MANY, "budget settle_for"),
        (("0.3",), "gpus_each"),
        ((*NO_NUMBER, "nan"), "settle_below"),
        (("banana", "[0]", "[banana]", "[99]"), "snapshots"),
        (SIZE, "wait_minutes"),
    ],
    "calibrate": [
        *ANSWERING,
        (ABSENT, "records"),
        ((*SIZE, "0", "1"), "risk confidence"),
        ((*CHOICE, "full"), "policy"),
        (MANY, "settle_for"),
    ],
    "frontier": [
        *ANSWERING,
        (ABSENT, "records"),
        (CHOICE, "policies"),
        (("banana", "nan"), "settle_below"),
        (MANY, "settle_for cost.puzzles"),
        (("banana", "0", "-1"), "budgets"),
        (("banana", "[0]", "[-1]"), "cost.gpus"),
        ((*SIZE, "0"), "cost.flops_per_segment cost.device_flops"),
    ],
    "sweep": [
        (ABSENT, "space data checkpoint resume"),
        (NO_FOLDER, "out"),
        (MIRROR, "mirror"),
        (ADDRESS, "address"),
        (MANY, "trials cpus_each at_once limit"),
        (COUNT, "finalists seeds workers max_failures actors"),
        ((*SIZE, "0"), "gpus_each"),
        (SEED, "seed"),
        (CHOICE, "device wandb"),
    ],
    "prepare": [
        (("banana", "sudoku7", "maze4"), "task"),
        (ABSENT, "source"),
        (COUNT, "train validation test augment limit_bad"),
        (SEED, "seed"),
        (SWITCH, "hard unique skip_bad"),
        (NO_FOLDER, "out"),
    ],
    "parity": [(ABSENT, "folder"), ((*SIZE, "0"), "tolerance"), (SWITCH, "strict")],
    "status": [(ABSENT, "run")],
}
OPTIONS: dict[str, type[Options]] = {
    "train": TrainOptions,
    "infer": InferConfig,
    "calibrate": CalibrateConfig,
    "frontier": FrontierConfig,
    "sweep": SweepConfig,
    "prepare": PrepareConfig,
    "parity": ParityOptions,
    "status": StatusOptions,
}
CASES = [
    (command, key, value)
    for command, rows in MISTAKES.items()
    for values, keys in rows
    for key in keys.split()
    for value in values
]
OF_ANSWERS = ("checkpoint", "limit", "actors", "gpus_each")  # keys of a sweep that asks a network
POSITIONAL = ("folder", "run")


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """The arguments of each command that would do something, without out=."""
    root = tmp_path_factory.mktemp("mistakes")
    network, puzzles = save_tiny(root / "net"), write_csv(root / "mine.csv", sudokus(4))
    tiny = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "batch=4", "steps=1", "compile=false"]
    asked = [f"checkpoint={network}", f"data={puzzles}", "depth=2", "breadth=2", "actors=0"]
    return {
        "train": [*tiny, f"data={data}"],
        "infer": asked,
        "calibrate": [*asked[:2], "depth=3", *asked[3:], "risk=0.9", "confidence=0.5"],
        "frontier": asked,
        "sweep": [f"space={ROOT / 'tune' / 'smoke.yaml'}", f"data={data}", "finalists=0", "trials=1"],
        "sweep of answers": [f"space={ROOT / 'tune' / 'inference_noise.yaml'}", asked[0], f"data={data}", "trials=1"],
        "prepare": ["task=sudoku4", "train=2", "validation=1", "test=1"],
        "parity": [f"folder={root}"],
        "status": [],
    }


def assert_is_a_mistake(done: Done, command: str, *words: str) -> None:
    """One line, which has one of the words in it."""
    lines = [line for line in done.err.splitlines() if not line.startswith("starting Ray")]
    assert done.status == 2, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"eqr-{command}: ")
    assert any(word in lines[0] for word in words), lines[0]


@pytest.mark.parametrize(("command", "key", "value"), CASES, ids=[f"{c}-{k}={v}" for c, k, v in CASES])
def test_a_value_that_is_not_allowed_is_one_line_and_leaves_nothing(
    command: str, key: str, value: str, base: Mapping[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    usual = base["sweep of answers" if command == "sweep" and key in OF_ANSWERS else command]
    arguments = [argument for argument in usual if not argument.startswith(f"{key}=")]
    if key == "address":  # with somebody who would work there
        arguments = [argument.replace("actors=0", "actors=1") for argument in arguments]
        arguments += ["workers=1"] if command == "train" else []
    if key == "records":
        arguments = [argument for argument in arguments if not argument.startswith("checkpoint=")]
    arguments.append(value if key in POSITIONAL else f"{key}={value}")
    if key not in ("out", "resume") and any("out" in keys.split() for _, keys in MISTAKES[command]):
        arguments.append(f"out={out}")
    assert_is_a_mistake(call(command, *arguments), command, key.rpartition(".")[2], value.strip("[]"), "/dev/null")
    left = {path.name for path in out.iterdir()} if out.exists() else set()
    assert left <= ({".lock.json", "log.jsonl"} if key == "address" else set())  # asked for when all else is right


@pytest.mark.parametrize("command", MISTAKES)
def test_every_documented_key_is_tried(command: str) -> None:
    documented = {key for key, _ in leaves(OPTIONS[command]) if not key.startswith("model.")}
    tried = defaultdict(set)
    for name, key, value in CASES:
        tried[name, key].add(value)
    assert {key for key in documented if not tried[command, key]} == set()


@pytest.mark.parametrize("command", MISTAKES)
@pytest.mark.parametrize("typed", ["banana=1", "=1", "--banana", "out"])
def test_keys_that_are_misspelt_or_no_keys(command: str, typed: str, base: Mapping[str, list[str]]) -> None:
    if command in ("parity", "status") and typed == "out":
        pytest.skip("it takes a folder without a key")
    assert_is_a_mistake(call(command, *base[command], typed), command, typed.strip("=-1") or typed)


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
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@pytest.fixture(scope="module")
def answered(base: Mapping[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of infer, of which copies are damaged."""
    out = tmp_path_factory.mktemp("answered") / "out"
    assert call("infer", *base["infer"], f"out={out}").status == 0
    return out


@pytest.fixture(scope="module")
def trained(base: Mapping[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of two steps, of which copies are damaged, and which a resume takes to the third."""
    out = tmp_path_factory.mktemp("trained") / "out"
    keys = [key for key in base["train"] if not key.startswith("steps=")]
    assert call("train", *keys, "steps=2", "checkpoint_every=1", f"out={out}").status == 0
    return out


def refused_or_done(command: str, *arguments: str) -> bool:
    """Whether it is done; else it was refused in one line."""
    done = call(command, *arguments)
    assert done.status in (0, 2), done.err
    assert "Traceback" not in done.err
    if done.status == 2:
        lines = [line for line in done.err.splitlines() if line.startswith(f"eqr-{command}: ")]
        assert len(lines) == 1, done.err
    return done.status == 0


def answers_of(out: Path) -> list[dict[str, str]]:
    with (out / "answers.csv").open() as file:
        return list(csv.DictReader(file))


@dataclass
class Victim:
    """A file or a folder, of which a copy is damaged. `use` reads the copy: whether it was not refused; `same` asks
    whether what was made of it is what the undamaged source gives."""

    source: Path
    use: Callable[[Path, Path], bool]
    same: Callable[[Path, Path], bool]


@pytest.fixture(params=["puzzles", "network", "answers", "training", "dataset"])
def victim(
    request: pytest.FixtureRequest, base: Mapping[str, list[str]], data: Path, answered: Path, trained: Path
) -> Victim:
    (network, puzzles, *asked), (*tiny, _) = base["infer"], base["train"]
    if request.param == "puzzles":
        return Victim(
            Path(puzzles.removeprefix("data=")),
            lambda copy, out: refused_or_done("infer", network, f"data={copy}", *asked, f"out={out}"),
            lambda copy, out: rows_that_are_the_same_have_the_same_answer(answers_of(out), answers_of(answered)),
        )
    if request.param == "network":
        return Victim(
            Path(network.removeprefix("checkpoint=")),
            lambda copy, out: refused_or_done("infer", f"checkpoint={copy}", puzzles, *asked, f"out={out}"),
            lambda copy, out: answers_of(out) == answers_of(answered),
        )
    if request.param == "answers":  # refused, or repaired by running again
        return Victim(
            answered,
            lambda copy, out: refused_or_done("infer", network, puzzles, *asked, f"out={copy}"),
            lambda copy, out: answers_of(copy) == answers_of(answered),
        )
    if request.param == "training":
        further = Path(shutil.copytree(trained, trained.with_name("further"), dirs_exist_ok=True))
        if not (further / "checkpoints" / "00000003").exists():
            assert call("train", f"resume={further}", "steps=3").status == 0
        return Victim(
            trained,
            lambda copy, out: refused_or_done("train", f"resume={copy}", "steps=3"),
            lambda copy, out: weights_of(copy) == weights_of(further),
        )
    return Victim(
        data,
        lambda copy, out: refused_or_done("train", *tiny, f"data={copy}", f"out={out}"),
        lambda copy, out: names_its_data(out, trained),
    )


def rows_that_are_the_same_have_the_same_answer(found: list[dict[str, str]], whole: list[dict[str, str]]) -> bool:
    """A file of text has no checksum: another digit is another puzzle, and a row that is cut has lost its answer."""
    pairs = [
        (ours, theirs) for ours, theirs in zip(found, whole, strict=False) if ours["question"] == theirs["question"]
    ]
    return all(
        ours == {**theirs, "exact": ours["exact"] and theirs["exact"]}
        for ours, theirs in pairs
        if ours["puzzle"] == theirs["puzzle"]
    )


def weights_of(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def names_its_data(run: Path, whole: Path) -> bool:
    """Other puzzles are another data set, by another hash."""
    ours, theirs = (json.loads((one / "config.json").read_text())["data_hash"] for one in (run, whole))
    first = (one / "checkpoints" / "00000001" / "weights.safetensors" for one in (run, whole))
    return ours != theirs or len({path.read_bytes() for path in first}) == 1


@FUZZ
@given(what=damage(), pick=st.integers(0, 99))
def test_damaged_files_are_refused_or_change_nothing(
    what: tuple[str, int, bytes], pick: int, victim: Victim, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path)  # of the example before
    tmp_path.mkdir()
    copy, out = tmp_path / f"copy{victim.source.suffix}", tmp_path / "out"
    if victim.source.is_dir():
        shutil.copytree(victim.source, copy)
    else:
        shutil.copy(victim.source, copy)
    files = sorted(path for path in [copy, *copy.rglob("*")] if path.is_file())
    file = files[pick % len(files)]
    file.write_bytes(damaged(file.read_bytes(), what))
    if victim.use(copy, out):
        assert victim.same(copy, out)
    for run in (copy, out):
        if run.is_dir():
            refused_or_done("status", str(run))


@FUZZ
@given(
    tree=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_configurations_of_another_form_are_refused_or_change_nothing(
    tree: object, trained: Path, answered: Path, base: Mapping[str, list[str]]
) -> None:
    whole = answers_of(answered)
    for run, name in ((trained, "config.json"), (answered, "manifest.json"), (answered, "config.json")):
        before = (run / name).read_bytes()
        (run / name).write_text(json.dumps(tree))
        try:
            refused_or_done("status", str(run))
            if run == trained:
                assert not refused_or_done("train", f"resume={run}", "steps=3")
            else:
                assert refused_or_done("infer", *base["infer"], f"out={run}") == (name == "config.json")
                assert answers_of(answered) == whole
        finally:
            (run / name).write_bytes(before)
