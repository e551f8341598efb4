"""The core without its optional parts: an import that fails says which extra to install, and one process needs none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MISSING = ("ray", "deepspeed", "optuna", "matplotlib", "wandb", "huggingface_hub")
# Found by Python at its start: what stands in MISSING cannot be imported.
SITE = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Missing())
"""


def command(site: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    (site / "sitecustomize.py").write_text(SITE)
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", f"eqr_ray.{name}", *words], capture_output=True, text=True, env=environment, check=False
    )


def test_one_process_answers_without_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(".1..54...1....6.1....4..4...3..31...\n")
    words = ("checkpoint=zoo:sudoku6", f"data={tmp_path / 'mine.csv'}", "depth=4", "breadth=1", "actors=0")
    done = command(tmp_path, "infer", *words, f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "answers.csv").is_file()


@pytest.mark.parametrize(
    ("name", "words", "needed"),
    [
        ("infer", "checkpoint=zoo:sudoku6 data=DATA actors=1 out=OUT", "actors=1 needs ray: .*eqr_ray[cluster]"),
        ("prepare", "source=hub:a/b task=sudoku4 out=OUT", "source=hub:a/b needs huggingface_hub: .*eqr_ray[hub]"),
        ("sweep", "space=tune/smoke.yaml data=DATA out=OUT", "a sweep needs optuna: .*eqr_ray[search]"),
        ("frontier", "checkpoint=zoo:sudoku6 data=DATA out=OUT", "the picture needs matplotlib: .*eqr_ray[plots]"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, name: str, words: str, needed: str) -> None:
    (tmp_path / "mine.csv").write_text(".1..54...1....6.1....4..4...3..31...\n")
    places = {"DATA": tmp_path / "mine.csv", "OUT": tmp_path / "out"}
    typed = [f"{key}={places.get(value, value)}" for key, _, value in (word.partition("=") for word in words.split())]
    done = command(tmp_path, name, *typed)
    assert done.returncode == 2, done.stderr
    before, after = needed.split(".*")
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert before in line
    assert after in line
    assert "Traceback" not in done.stderr
