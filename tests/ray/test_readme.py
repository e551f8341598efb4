"""The README's own commands and code, run as they stand but smaller."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from eqr_ray.tasks.registry import task_named

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALLER = {
    "train": "train=24",
    "validation": "validation=16",
    "risk": "risk=0.5",
    "test": "test=8",
    "steps": "steps=4",
    "depth": "depth=3",
}
ALSO = {door: ["compile=false"] for door in ("infer", "calibrate", "frontier")}
ALSO["train"] = ["model.width=8", "compile=false", "validate_puzzles=8", "log_every=2"]
ALSO_FIT = {"breadth": "breadth=2", "snapshots": "snapshots=[1,2]", "batch": "batch=8"}


def commands():
    """Every `python -m eqr_ray...` line of the bash blocks, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python -m eqr_ray")]


def smaller(word):
    key = word.split("=")[0]
    return {**SMALLER, **ALSO_FIT}.get(key, word) if "=" in word else word


def test_the_readme_has_the_commands_this_test_is_for():
    doors = [command[2].removeprefix("eqr_ray.") for command in commands()]
    assert sorted(set(doors)) == ["calibrate", "frontier", "infer", "prepare", "train"]


@pytest.mark.timeout(400)
def test_every_command_of_the_readme_runs(tmp_path):
    puzzle = re.search(r'solve\(model, \["([.\d]+)"\]', README)
    assert puzzle is not None
    (tmp_path / "mine.csv").write_text(puzzle.group(1) + "\n")
    for command in commands():
        door = command[2].removeprefix("eqr_ray.")
        words = [sys.executable, *(smaller(word) for word in command[1:]), *ALSO.get(door, [])]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs/sudoku6/model.safetensors").exists()


def test_the_python_of_the_readme_solves_its_puzzle(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    text = capsys.readouterr().out.split()[0]
    task = task_named("sudoku6")
    puzzle = re.search(r'\["([.\d]+)"\]', code)
    assert puzzle is not None
    assert task.check(task.encode(puzzle.group(1)), task.encode(text)) is None
