"""The targets of the Makefile: `make help` names each, and each does what its line says. (.ci/run runs them.)"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")


def make(*words: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(["make", "VENV=/env", *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_names_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"^  make (\w+) ", make("help"), flags=re.MULTILINE)) == set(phony.split())


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("check", ["ruff check", "ruff format --check", "mypy", '-m "not ray and not slow and not faults"']),
        ("test", ["ruff check", "ruff format --check", "mypy", "pytest -q"]),
        ("faults", ["pytest -q -m faults", "benchmarks.faults"]),
        ("run", ["jobs/demo.py"]),
        ("audit", ["pip_audit"]),
    ],
)
def test_what_a_target_runs(target: str, commands: list[str]) -> None:
    """Without the environment, which is taken for made."""
    said = make("--dry-run", "--old-file=/env/.ready", target).splitlines()
    for command in commands:
        assert [line for line in said if command in line], f"{command} is not in {said}"


def test_clean_leaves_what_is_the_users(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("eqr_ray/__pycache__/a.pyc", "build/x", ".pytest_cache/x", "data/a.arrow", "runs/r/log.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    make("clean", cwd=tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", "data/a.arrow", "runs/r/log.jsonl"}
