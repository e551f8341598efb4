"""The doors' common manners: what is typed arrives as it was meant, mistakes are one line, statuses are kept."""

from __future__ import annotations

import errno
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqr_ray.config.door import CONF, door_config, parse_value, run_door
from eqr_ray.config.door_help import documented_keys, help_text
from eqr_ray.config.errors import UserError

ROOT = Path(__file__).parents[2]
DOOR = """\
# Makes a demonstration.
# Two lines of it.
#
# Example: python -m eqr_ray.demo data=FILE.csv steps=100

defaults:
  - task: sudoku4  # what is to be solved
  - _self_

data: ???          # the puzzles: FILE.csv or DIR
steps: 1_000       # optimizer steps
out: runs/${task.name}  # where results go
note: "a # b"      # free text
optim:
  lr: 1e-3         # learning rate
  betas: [0.9, 0.95]
runs: []           # folders of runs
limit: null        # at most so many
"""


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "task").mkdir()
    (folder / "demo.yaml").write_text(DOOR)
    (folder / "task" / "sudoku4.yaml").write_text("name: sudoku4\nside: 4\n")
    (folder / "task" / "sudoku9.yaml").write_text("name: sudoku9\nside: 9\n")
    return folder


def test_defaults_groups_and_interpolation(conf: Path) -> None:
    config = door_config("demo", ["data=d", "task=sudoku9", "optim.lr=2", "task.side=8"], conf=conf)
    assert config == {
        "task": {"name": "sudoku9", "side": 8},
        "data": "d",
        "steps": 1000,
        "out": "runs/sudoku9",
        "note": "a # b",
        "optim": {"lr": 2, "betas": [0.9, 0.95]},
        "runs": [],
        "limit": None,
    }


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
def test_text_arrives_as_typed(conf: Path, text: str) -> None:
    assert door_config("demo", [f"data={text}"], conf=conf)["data"] == text


@pytest.mark.parametrize("text", ["1", "1e3", "007", "1_000", "true", "[a,b]", "-2", "0x1"])
def test_a_name_that_looks_like_a_number_is_a_name(conf: Path, text: str) -> None:
    config = door_config("demo", ["data=d", f"out={text}"], conf=conf)
    assert config["out"] == text
    assert door_config("demo", ["data=d", "out=null"], conf=conf)["out"] is None


@given(text=st.text(alphabet=st.sampled_from("ab1 =:,/\\${}[]()'\"#.@~!%\n"), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
def test_no_text_is_refused_or_resolved(conf: Path, text: str) -> None:
    value = door_config("demo", ["data=d", f"note={text}"], conf=conf)["note"]
    assert value == parse_value(text)
    assert not isinstance(value, str) or value == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1e-3", 1e-3),
        ("0.5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("[1,4,16]", [1, 4, 16]),
        ("[a, b c]", ["a", "b c"]),
        ("[]", []),
        ("[[1,2],[3]]", [[1, 2], [3]]),
        ("[int(3),range(1,2)]", "[int(3),range(1,2)]"),
    ],
)
def test_numbers_booleans_null_and_lists_keep_their_meaning(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=d", "stepz=1"], "unknown key 'stepz'; did you mean 'steps'?"),
        (["data=d", "lr=1"], "unknown key 'lr'; did you mean 'optim.lr'?"),
        (["data=d", "tasks=sudoku9"], "unknown key 'tasks'; did you mean 'task'?"),
        (["data=d", "task=sudokuu9"], "task=sudokuu9: no such task; did you mean 'sudoku9'?"),
        (["data=d", "task=../../etc"], "task=../../etc: no such task; known: sudoku4, sudoku9"),
        (["data=d", "optim=fast"], "optim is a group of keys: set optim.lr, optim.betas"),
        (["data=d", "steps"], "'steps' is not of the form key=value (--help lists the keys)"),
        (["data=d", "--steps=1"], "'--steps=1' is not of the form key=value (--help lists the keys)"),
        (["data=d", "+steps=1"], "'+steps=1' is not of the form key=value (--help lists the keys)"),
        (["data=d", "steps=1", "steps=2"], "steps is given twice"),
        (["steps=1"], "data= must be given (--help shows an example)"),
        (["data=???"], "data= must be given (--help shows an example)"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    conf: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    def never(config: dict[str, Any]) -> None:
        pytest.fail("the main was reached")

    with pytest.raises(SystemExit) as left:
        run_door("demo", never, arguments, conf=conf)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"eqr-demo: {message}\n"


@pytest.fixture
def with_recipe(conf: Path) -> Iterator[Path]:
    (conf / "cook.yaml").write_text(DOOR + "recipe: null # keys\n")
    yield conf
    (conf / "cook.yaml").unlink()


def test_a_recipe_stands_for_its_keys(with_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "best.yaml"
    recipe.write_text(
        "# found by a sweep\ntask: sudoku9\nsteps: 20\noptim.lr: 1.0e-05\noptim.betas: [0.5, 0.25]\nlimit: null\n"
    )
    config = door_config("cook", ["data=d", f"recipe={recipe}", "steps=7"], conf=with_recipe)
    assert config["task"] == {"name": "sudoku9", "side": 9}
    assert (config["steps"], config["limit"], config["optim"]) == (7, None, {"lr": 1e-5, "betas": [0.5, 0.25]})
    assert "recipe" not in config


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
def test_a_recipe_that_is_none(with_recipe: Path, tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "best.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        door_config("cook", ["data=d", f"recipe={tmp_path / 'best.yaml'}"], conf=with_recipe)
    assert words in str(error.value)


def test_positional_arguments(conf: Path) -> None:
    assert door_config("demo", ["/tmp/a=b ${x}"], positional="data", conf=conf)["data"] == "/tmp/a=b ${x}"
    assert door_config("demo", ["12"], positional="data", conf=conf)["data"] == "12"
    config = door_config("demo", ["a", "steps=3", "b", "data=d"], positional="runs", conf=conf)
    assert (config["runs"], config["steps"]) == (["a", "b"], 3)
    with pytest.raises(UserError, match="one data at a time, not 2: a, b"):
        door_config("demo", ["a", "b"], positional="data", conf=conf)
    with pytest.raises(UserError, match="data is given twice"):
        door_config("demo", ["a", "data=b"], positional="data", conf=conf)
    with pytest.raises(UserError, match="'--all' is not of the form key=value"):
        door_config("demo", ["a", "--all"], positional="data", conf=conf)


def _raises(error: BaseException) -> Callable[[dict[str, Any]], int | None]:
    def main(config: dict[str, Any]) -> int | None:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "words"),
    [
        (lambda config: None, 0, ""),
        (lambda config: 0, 0, ""),
        (lambda config: 1, 1, ""),
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
    conf: Path,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[dict[str, Any]], int | None],
    status: int,
    words: str,
) -> None:
    with pytest.raises(SystemExit) as left:
        run_door("demo", main, ["data=d"], conf=conf)
    assert left.value.code == status
    assert capsys.readouterr().err == words


def test_our_own_failures_keep_their_traceback(conf: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_door("demo", _raises(ZeroDivisionError()), ["data=d"], conf=conf)
    with pytest.raises(PermissionError):
        run_door("demo", _raises(PermissionError(errno.EACCES, "denied")), ["data=d"], conf=conf)


def test_statuses_of_a_real_process(conf: Path) -> None:
    code = f"""if True:
        from pathlib import Path
        from eqr_ray.config.door import run_door
        run_door("demo", lambda config: 1 // config["steps"], conf=Path({str(conf)!r}))
    """
    for arguments, status, words in [
        (["data=d", "steps=2"], 0, ""),
        (["data=d", "steps=0"], 1, "ZeroDivisionError"),
        (["steps=1"], 2, "eqr-demo: data="),
    ]:
        command = [sys.executable, "-W", "error", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr


def test_help_is_the_yaml_itself(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_door("demo", _raises(AssertionError()), ["data=d", "--help"], conf=conf)
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text("demo", conf) + "\n"
    assert text.splitlines() == [
        "Makes a demonstration.",
        "Two lines of it.",
        "",
        "Usage: python -m eqr_ray.demo key=value ...   (or: eqr-demo key=value ...)",
        "",
        "  task=sudoku4                what is to be solved [sudoku4|sudoku9]",
        "  task.KEY=                   of task=sudoku4: name, side",
        "  data=                       the puzzles: FILE.csv or DIR",
        "  steps=1_000                 optimizer steps",
        "  out=runs/${task.name}       where results go",
        '  note="a # b"                free text',
        "  optim.lr=1e-3               learning rate",
        "  runs=[]                     folders of runs",
        "  limit=null                  at most so many",
        "",
        "Example: python -m eqr_ray.demo data=FILE.csv steps=100",
    ]


DOORS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("name", DOORS)
def test_help_of_every_door_fits_two_screens(name: str) -> None:
    text = help_text(name, CONF)
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 120
    assert f"python -m eqr_ray.{name} " in text.split("Example", 1)[1]
    top = {key: words for key, (_, words) in documented_keys((CONF / f"{name}.yaml").read_text()).items()}
    silent = [key for key, words in top.items() if not words and not any(k.startswith(f"{key}.") for k in top)]
    assert silent == [], "keys without a word at the end of their line"


def test_every_door_is_an_installed_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    doors = {file.stem for file in (ROOT / "eqr_ray").glob("*.py") if "\ndef cli(" in file.read_text()}
    assert scripts == {f"eqr-{name}": f"eqr_ray.{name}:cli" for name in doors}
