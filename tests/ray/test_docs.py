"""The commands and the code of README.md and docs/guide, run as they stand but smaller. (jobs.md: test_jobs.py.)"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from eqr_ray.model.pretrained import PRETRAINED
from eqr_ray.tasks.registry import task_named
from tests.support.commands import ROOT, succeed

README = (ROOT / "README.md").read_text()
# In an order in which each finds what it needs; a command that several have is run once.
PAGES = [ROOT / "README.md", *(ROOT / "docs" / "guide" / f"{name}.md" for name in ("own-data", "train", "answer"))]
PAGES += [ROOT / "docs" / "guide" / f"{name}.md" for name in ("calibrate", "first-run", "search")]
SMALLER = {"train": "24", "validation": "64", "test": "8", "steps": "4", "depth": "3", "breadth": "2", "risk": "0.99"}
SMALLER |= {"snapshots": "[1,2]", "batch": "8", "trials": "3", "warmup": "2", "finalists": "1", "seeds": "1"}
ANSWERING = ["compile=false", "device=cpu"]
ALSO = {
    "train": [*ANSWERING, "model.width=8", "validate_puzzles=8", "log_every=2"],
    "sweep": ["device=cpu", "trials=2"],
    **dict.fromkeys(("infer", "calibrate", "frontier"), ANSWERING),
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """(command, argument, ...) of each `python -m eqr_ray.COMMAND`; a backslash joins lines."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("python -m eqr_ray.")]
    return [[command.removeprefix("eqr_ray."), *arguments] for _, _, command, *arguments in words]


def smaller(argument: str) -> str:
    key, is_given, _ = argument.partition("=")
    return f"{key}={SMALLER[key]}" if is_given and key in SMALLER else argument


def test_every_command_is_in_the_guide_and_no_page_is_left_out() -> None:
    names = {name for page in PAGES for name, *_ in commands(page)}
    assert names == {"prepare", "train", "infer", "calibrate", "frontier", "sweep", "status"}
    with_commands = {page for page in (ROOT / "docs" / "guide").glob("*.md") if commands(page)}
    assert with_commands - {ROOT / "docs" / "guide" / "jobs.md"} <= set(PAGES)


@pytest.mark.usefixtures("cluster")
def test_every_command_of_readme_and_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (puzzle,) = set(re.findall(r"[.\d]{36}", README))
    Path("mine.csv").write_text(puzzle + "\n")
    Path("tune").symlink_to(ROOT / "tune")
    seen = set[str]()
    for page in PAGES:
        if page.stem == "calibrate":  # a network of four steps has no right answer that a threshold could be found with
            for file in ("model.safetensors", "model.json"):
                shutil.copy(PRETRAINED / "sudoku6" / file, Path("runs/sudoku6") / file)
        for name, *arguments in commands(page):
            if any("runs/quiet" in argument for argument in arguments):
                record("quiet", "0")
                record("noisy", "0.1")
            also = [
                key
                for key in ALSO.get(name, [])
                if not any(word.startswith(("resume=", "records=")) for word in arguments)
            ]
            whole = shlex.join([name, *arguments])
            if whole not in seen:
                seen.add(whole)
                succeed(name, *map(smaller, arguments), *also)
    assert Path("runs/sudoku6/model.safetensors").exists()
    assert Path("runs/best/model.safetensors").exists()


def record(name: str, noise: str) -> None:
    """What the page on calibration has by then."""
    keys = ["checkpoint=runs/sudoku6", "data=data/sudoku6", "depth=3", "breadth=2", *ANSWERING]
    succeed("frontier", *keys, f"noise_scale={noise}", f"out=runs/{name}")


def test_the_python_of_the_readme_solves_its_puzzle(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    text = capsys.readouterr().out.split()[0]
    task = task_named("sudoku6")
    (puzzle,) = re.findall(r"[.\d]{36}", code)
    assert task.check(task.encode(puzzle), task.encode(text)) is None
