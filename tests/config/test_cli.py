"""The commands' common manners: what is typed arrives as it was meant, mistakes are one line, statuses are kept."""

from __future__ import annotations

import errno
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from eqr_ray.config import cli
from eqr_ray.config.cli import as_typed, help_text, parse_arguments, read_yaml, resumed, run_command, value_of
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option

ROOT = Path(__file__).parents[2]


class Net(Options):
    """A network."""

    width: int = option(512, "channels", ge=1)
    layers: int = option(2, "blocks", ge=1)
    mixing: Literal["mlp", "attention"] | None = option(None, "null: by task")


class Machines(Options):
    """Where it runs."""

    workers: int = option(0, "Ray workers", ge=0, resume=True)
    device: Literal["auto", "cpu"] = option("auto", "of the network")


class Optim(Options):
    lr: float = option(1e-3, "learning rate", gt=0)
    betas: tuple[float, float] = option((0.9, 0.95), "of the moments")


class Demo(Machines):
    """Makes a demonstration.
    Two lines of it.

    Example: python -m eqr_ray.demo data=FILE.csv steps=100
    """

    data: str = option(..., "the puzzles: FILE.csv or DIR")
    model: Net = option(Net(), "the network", preset=True)
    steps: int = option(1000, "optimizer steps", ge=1, resume=True)
    out: str | None = option(None, "where results go")
    recipe: str | None = option(None, "FILE.yaml of keys")
    optim: Optim = option(Optim(), "the optimizer")
    runs: tuple[str, ...] = option((), "folders of runs")
    at: tuple[Annotated[int, Field(ge=1)], ...] = option((), "steps to look at")
    compiled: bool | None = option(None, "compile; null: for long jobs")
    rate: float | None = option(None, "share", ge=0, le=1)


@pytest.fixture(autouse=True)
def presets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("presets")
    (folder / "model").mkdir()
    (folder / "model" / "big.yaml").write_text("# as declared\n{}\n")
    (folder / "model" / "small.yaml").write_text("defaults:\n  - big\n  - _self_\nwidth: 64\n")
    monkeypatch.setattr(cli, "PRESETS", folder)
    return folder


def parsed(*arguments: str, positional: str | None = None) -> Demo:
    return parse_arguments(Demo, arguments, positional)[0]


def test_defaults_presets_and_groups() -> None:
    demo, typed = parse_arguments(Demo, ["data=d", "optim.lr=2", "model=small", "model.layers=3", "model.mixing=null"])
    assert demo == Demo(data="d", optim=Optim(lr=2.0), model=Net(width=64, layers=3))
    assert typed == {"data", "optim.lr", "model", "model.layers", "model.mixing"}
    assert parsed("data=d", "model=big") == parsed("data=d") == Demo(data="d")


@pytest.mark.parametrize(
    "text",
    [
        "/tmp/a b.csv",
        "zoo:sudoku9",
        "hub:owner/name",
        "s3://bucket/key?x=1&y=2",
        "my=file.csv",
        "a=b=c",
        "",
        "a,b",
        "it's",
        '"quoted"',
        "C:\\dir\\x",
        "back\\",
        "\\host\\${x}",
        "${oc.env:HOME}",
        "$HOME",
        "${now:%Y}",
        "\\${oc.env:HOME}",
        "[${oc.env:HOME}]",
        "${",
        "[unclosed",
        "{a:1}",
        "int(3)",
        "range(1,3)",
        "é ü 数独",
        "a\nb",
        " padded ",
        "007",
        "@file",
        "~x",
        "# no comment",
        "file (1).csv",
    ],
)
def test_text_arrives_as_typed(text: str) -> None:
    assert parsed(f"data={text}").data == text


@pytest.mark.parametrize("text", ["1", "1e3", "007", "1_000", "true", "[a,b]", "-2", "0x1"])
def test_a_name_that_looks_like_a_number_is_a_name(text: str) -> None:
    assert parsed("data=d", f"out={text}").out == text
    assert parsed("data=d", "out=null").out is None


ODD = st.text(alphabet=st.sampled_from("ab1é =:,/\\${}[]()'\"#.@~!%\n") | st.characters(exclude_categories=["Cs"]))


@given(text=ODD)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_any_text_arrives_as_typed(text: str) -> None:
    if text == "null":
        return
    assert parsed(f"data={text}", f"out={text}").to_dict() == Demo(data=text, out=text).to_dict()
    assert as_typed(text) == text
    if "," not in text and text == text.strip():
        assert parsed("data=d", f"runs=[{text},x]").runs == (text, "x")


@given(value=st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.lists(st.integers()))
@settings(deadline=None)
def test_plain_values_come_back_from_their_text(value: Any) -> None:
    assert value_of(as_typed(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1_000", 1000),
        ("1e-3", 1e-3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("inf", float("inf")),
        ("true", True),
        ("False", False),
        ("null", None),
        ("[1,4,16]", [1, 4, 16]),
        ("[a, b c]", ["a", "b c"]),
        ("[]", []),
        ("007", "007"),
        ("1__0", "1__0"),
        ("1,2", "1,2"),
        ("0x1", "0x1"),
        ("int(3)", "int(3)"),
        (" 1", " 1"),
    ],
)
def test_numbers_booleans_null_and_lists_keep_their_meaning(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=d", "stepz=1"], "unknown key 'stepz'; did you mean 'steps'?"),
        (["data=d", "lr=1"], "unknown key 'lr'; did you mean 'optim.lr'?"),
        (["data=d", "modell=small"], "unknown key 'modell'; did you mean 'model'?"),
        (["data=d", "model=smal"], "model=smal: no such model; did you mean 'small'?"),
        (["data=d", "model=../../etc"], "model=../../etc: no such model; known: big, small"),
        (["data=d", "optim=fast"], "optim is a group of keys: set optim.lr, optim.betas"),
        (["data=d", "model.width=x"], 'model.width="x" is not allowed: should be a valid integer'),
        (["data=d", "model.mixing=x"], "model.mixing=\"x\" is not allowed: should be 'mlp' or 'attention'"),
        (["data=d", "steps"], "'steps' is not of the form key=value (--help lists the keys)"),
        (["data=d", "--steps=1"], "'--steps=1' is not of the form key=value (--help lists the keys)"),
        (["data=d", "+steps=1"], "'+steps=1' is not of the form key=value (--help lists the keys)"),
        (["data=d", "steps=1", "steps=2"], "steps is given twice: '1' and '2'"),
        (["data=d", "steps=1e3"], "steps=1000.0 is not allowed: should be a valid integer"),
        (["data=d", "steps=[]"], "steps=[] is not allowed: should be a valid integer"),
        (["data=d", "steps=0"], "steps=0 is not allowed: should be greater than or equal to 1"),
        (["data=d", "rate=nan"], "rate=NaN is not allowed: should be a finite number"),
        (["data=d", "rate=[]"], "rate=[] is not allowed: should be a valid number"),
        (["data=d", "compiled=1"], "compiled=1 is not allowed: should be a valid boolean"),
        (["data=d", "device=gpu"], "device=\"gpu\" is not allowed: should be 'auto' or 'cpu'"),
        (["data=d", "at=[1,0]"], "at[1]=0 is not allowed: should be greater than or equal to 1"),
        (["data=d", "at=3"], "at=3 is not allowed: should be a valid list"),
        (["data=d", "optim.betas=[1]"], "optim.betas[1]= must be given"),
        (["data=null"], "data=null is not allowed: should be a valid string"),
        (["steps=1"], "data= must be given (--help shows an example)"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    def never(options: Demo, typed: frozenset[str]) -> None:
        pytest.fail("the main was reached")

    with pytest.raises(SystemExit) as left:
        run_command("demo", Demo, never, arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"eqr-demo: {message}\n"


def test_a_recipe_stands_for_its_keys(tmp_path: Path) -> None:
    recipe = tmp_path / "best.yaml"
    recipe.write_text(
        "# found by a sweep\nmodel: small\nsteps: 20\noptim.lr: 1.0e-05\noptim.betas: [0.5, 0.25]\nrate: null\nout: 7\n"
    )
    demo, typed = parse_arguments(Demo, ["data=d", f"recipe={recipe}", "steps=7"])
    assert demo == Demo(data="d", model=Net(width=64), steps=7, optim=Optim(lr=1e-5, betas=(0.5, 0.25)), out="7")
    assert typed == {"data", "recipe", "steps"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stesp: 3", "unknown key 'stesp'; did you mean 'steps'?"),
        ("optim: {lr: 3}", "optim is a group of keys: write optim.lr: ... instead"),
        ("- steps", "expected keys and values"),
        ("steps: [3", "is no YAML"),
        ("steps: 1\nsteps: 2", "is no YAML"),
        (None, "no such file"),
    ],
)
def test_a_recipe_that_is_none(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "best.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        parsed("data=d", f"recipe={tmp_path / 'best.yaml'}")
    assert words in str(error.value)


def test_yaml_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("out: ${oc.env:HOME}\na: {b: [1, x]}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"out": "${oc.env:HOME}", "a": {"b": [1, "x"]}}


def test_positional_arguments() -> None:
    assert parsed("/tmp/a=b ${x}", positional="data").data == "/tmp/a=b ${x}"
    assert parsed("12", positional="data").data == "12"
    demo = parsed("a,b", "steps=3", positional="data")
    assert (demo.data, demo.steps) == ("a,b", 3)
    with pytest.raises(UserError, match="data is given twice: 'a' and 'b'"):
        parsed("a", "b", positional="data")
    with pytest.raises(UserError, match="data is given twice"):
        parsed("a", "data=b", positional="data")
    with pytest.raises(UserError, match="'--all' is not of the form key=value"):
        parsed("a", "--all", positional="data")


BEFORE = {"data": "d", "steps": 5, "workers": 0, "model": {"width": 64, "mixing": "mlp"}, "rate": None}


def test_a_resume_takes_the_runs_own_values() -> None:
    assert resumed(Demo, BEFORE, {}, "runs/a") == BEFORE
    typed = {"steps": 9, "workers": 2, "data": "d", "model.width": 64, "model.mixing": None}
    assert resumed(Demo, BEFORE, typed, "runs/a") == {**BEFORE, "steps": 9, "workers": 2}
    with pytest.raises(
        UserError, match=r"^model\.width=8 does not go with resume=: the run has model\.width=64; what may "
    ):
        resumed(Demo, BEFORE, {"model.width": 8}, "runs/a")
    with pytest.raises(UserError, match=r"; what may change: workers, steps$"):
        resumed(Demo, BEFORE, {"rate": 0.5}, "runs/a")
    with pytest.raises(UserError, match=r"^out= does not go with resume=: the run in runs/a has its own$"):
        resumed(Demo, BEFORE, {"out": "x"}, "runs/a")


def _raises(error: BaseException) -> Callable[[Demo, frozenset[str]], int | None]:
    def main(options: Demo, typed: frozenset[str]) -> int | None:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "words"),
    [
        (lambda options, typed: None, 0, ""),
        (lambda options, typed: 0, 0, ""),
        (lambda options, typed: 1, 1, ""),
        (_raises(UserError("no such file: x")), 2, "eqr-demo: no such file: x\n"),
        (_raises(KeyboardInterrupt()), 130, "eqr-demo: interrupted; everything that was finished is kept\n"),
        (_raises(KeyboardInterrupt("x is kept")), 130, "eqr-demo: interrupted; x is kept\n"),
        (_raises(NotADirectoryError(errno.ENOTDIR, "Not a directory", "/f/x")), 2, "eqr-demo: /f/x: not a directory\n"),
        (_raises(PermissionError(errno.EACCES, "Permission denied", "/x")), 2, "eqr-demo: /x: permission denied\n"),
        (_raises(OSError(errno.EROFS, "Read-only file system", "/x")), 2, "eqr-demo: /x: read-only file system\n"),
        (_raises(FileExistsError(errno.EEXIST, "File exists", "/x")), 2, "eqr-demo: /x: file exists\n"),
        (
            _raises(OSError(errno.ENOSPC, "No space left on device", "/full/x")),
            1,
            "eqr-demo: no space left on the disk at /full/x; what was finished is kept\n",
        ),
    ],
)
def test_exit_status_and_words(
    capsys: pytest.CaptureFixture[str],
    main: Callable[[Demo, frozenset[str]], int | None],
    status: int,
    words: str,
) -> None:
    with pytest.raises(SystemExit) as left:
        run_command("demo", Demo, main, ["data=d"])
    assert left.value.code == status
    assert capsys.readouterr().err == words


def test_our_own_failures_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("demo", Demo, _raises(ZeroDivisionError()), ["data=d"])
    with pytest.raises(PermissionError):
        run_command("demo", Demo, _raises(PermissionError(errno.EACCES, "denied")), ["data=d"])


DEMO = """if True:
    from eqr_ray.config.cli import run_command
    from eqr_ray.config.schema import Options, option
    class Demo(Options):
        data: str = option(..., "puzzles")
        steps: int = option(1, "steps")
    run_command("demo", Demo, lambda options, typed: 1 // options.steps)
"""


def test_statuses_of_a_real_process() -> None:
    for arguments, status, words in [
        (["data=d", "steps=2"], 0, ""),
        (["data=d", "steps=0"], 1, "ZeroDivisionError"),
        (["steps=1"], 2, "eqr-demo: data="),
    ]:
        command = [sys.executable, "-W", "error", "-c", DEMO, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr


def test_help_that_nobody_reads_on() -> None:
    command = f"'{sys.executable}' -c '{DEMO}' --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_made_of_the_declared_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_command("demo", Demo, _raises(AssertionError()), ["data=d", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text("demo", Demo) + "\n"
    assert text.splitlines() == [
        "Makes a demonstration.",
        "Two lines of it.",
        "",
        "Usage: python -m eqr_ray.demo key=value ...   (or: eqr-demo ...)",
        "",
        "  data=                       the puzzles: FILE.csv or DIR",
        "  model=big                   the network [big|small]",
        "  model.KEY=                  one value of it: width, layers, mixing",
        "  steps=1000                  optimizer steps [>= 1]",
        "  out=null                    where results go",
        "  recipe=null                 FILE.yaml of keys",
        "  optim.lr=0.001              learning rate [> 0]",
        "  optim.betas=[0.9,0.95]      of the moments",
        "  runs=[]                     folders of runs",
        "  at=[]                       steps to look at",
        "  compiled=null               compile; null: for long jobs",
        "  rate=null                   share [>= 0, <= 1]",
        "Where it runs.",
        "  workers=0                   Ray workers",
        "  device=auto                 of the network [auto|cpu]",
        "",
        "Example: python -m eqr_ray.demo data=FILE.csv steps=100",
    ]


COMMANDS = sorted(file.stem for file in (ROOT / "eqr_ray").glob("*.py") if "\ndef cli(" in file.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_fits_two_screens(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()  # the real presets
    monkeypatch.setattr(sys, "argv", [f"eqr-{name}", "--help"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"eqr_ray.{name}").cli()
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 120
    assert f"python -m eqr_ray.{name} " in text.split("Example", 1)[1]
    silent = re.findall(r"^  \S+$", text, re.MULTILINE)
    assert silent == [], "keys without a word at the end of their line"


def test_every_command_is_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {f"eqr-{name}": f"eqr_ray.{name}:cli" for name in COMMANDS}
