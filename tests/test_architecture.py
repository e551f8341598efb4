"""The layers of the package, read from its imports: they point left only, and each heavy library has one place.

    config -> storage -> tasks, model -> data -> training, inference -> evaluation -> search -> distributed, plots
        -> the commands

The checker itself is tested first, on small made-up trees.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "eqr_ray"

LEVELS: dict[str, int] = {
    "config": 0,
    "storage": 1,
    **dict.fromkeys(["tasks", "model"], 2),
    "data": 3,
    **dict.fromkeys(["training", "inference"], 4),
    "__init__": 4,  # `from eqr_ray import load, solve` is answering without Ray
    "evaluation": 5,
    "search": 6,
    **dict.fromkeys(["distributed", "plots"], 7),
}
COMMANDS = 8  # the modules at the top of the package
SIDE_BY_SIDE = 2, 4, 7  # packages of these levels do not know each other

# Library -> where it may be imported: folders end in "/".
FENCES: dict[str, tuple[str, ...]] = {
    "ray": ("distributed/",),
    "optuna": ("search/optuna_study.py",),
    "deepspeed": ("distributed/",),  # and in one file there: test_deepspeed_lives_in_one_file
    "hydra": ("config/cli.py",),
    "omegaconf": ("config/cli.py",),
    "wandb": ("storage/run_log.py",),
    "pyarrow": ("storage/remote_sync.py", "data/arrow_store.py", "inference/records.py"),
    "numba": ("tasks/",),
    "matplotlib": ("plots/",),
    "torch.optim": ("training/",),  # inference never imports an optimizer
    "adam_atan2_pytorch": ("training/",),
}
WITHOUT_TORCH = ("config/", "storage/", "tasks/", "data/")
MOST_LINES, MOST_FILES, LONGEST_FUNCTION = 13_000, 100, 60  # the plan was 11,000 lines: docs/log.md
PRIVATE_WORDS = ("wish", "promise", "verdict", "logbook", "harvest", "outdone", "parked", "calm")
NOBODYS_ROOM = {"utils", "util", "common", "helpers", "misc", "ray", "tune", "wandb", "deepspeed", "torch", "hydra"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute name, at `line` of `file` (relative to the package)."""

    file: str
    line: int
    module: str
    is_nested: bool  # inside a function
    is_excused: bool  # with a `# lazy:` reason on the line or the one above

    @property
    def room(self) -> str:
        return self.file.split("/", 1)[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(package: Path) -> list[Import]:
    return [found for file in sorted(package.rglob("*.py")) for found in _imports_of_file(package, file)]


def _imports_of_file(package: Path, file: Path) -> Iterator[Import]:
    relative = file.relative_to(package).as_posix()
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = ast.parse(text)
    nested = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            near = lines[max(node.lineno - 2, 0) : node.end_lineno]
            is_excused = any("# lazy: " in line for line in near)
            for module in _modules(node, [package.name, *relative.split("/")[:-1]]):
                yield Import(relative, node.lineno, module, id(node) in nested, is_excused)


def _modules(node: ast.Import | ast.ImportFrom, parents: list[str]) -> list[str]:
    """Absolute names. `from a import b` may mean the module a.b: both parts are kept, as a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = parents[: len(parents) - node.level + 1] if node.level else []
    source = ".".join([*base, *([node.module] if node.module else [])])
    return [f"{source}.{alias.name}" for alias in node.names]


def violations(package: Path) -> list[str]:
    return [f"{found}: {why}" for found in imports_of(package) for why in _faults(found, package.name)]


def _faults(found: Import, package: str) -> Iterator[str]:
    if found.is_nested and not found.is_excused:
        yield "inside a function, without a `# lazy: reason`"
    parts = found.module.split(".")
    if parts[0] == package:
        yield from _arrow_faults(found.room, parts[1])
    for library, allowed in FENCES.items():
        if f"{found.module}.".startswith(f"{library}.") and not found.file.startswith(allowed):
            yield f"{library} is for {', '.join(allowed)} only"
    if parts[0] == "torch" and found.file.startswith(WITHOUT_TORCH):
        yield "this package works without torch"


def _arrow_faults(room: str, target: str) -> Iterator[str]:
    here, there = LEVELS.get(room, COMMANDS), LEVELS.get(target, COMMANDS)
    if room == target or (room == "__init__" and target in {"__version__"}):
        return
    if there > here or (there == here and here in SIDE_BY_SIDE and room != "__init__"):
        yield f"{room} may not know {target}"


# ---- the checker, on made-up trees


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("tasks/a.py", "from eqr_ray.model import layers", "tasks may not know model"),
        ("tasks/a.py", "from eqr_ray import model", "tasks may not know model"),
        ("tasks/a.py", "from eqr_ray.data.arrow_store import Split", "tasks may not know data"),
        ("model/a.py", "from ..data.arrow_store import Split", "model may not know data"),
        ("model/deep/a.py", "from ...training import loop", "model may not know training"),
        ("storage/a.py", "import eqr_ray.inference.engine", "storage may not know inference"),
        ("config/a.py", "from eqr_ray.storage.atomic import atomic", "config may not know storage"),
        ("training/a.py", "from eqr_ray.inference.engine import BreadthEngine", "training may not know inference"),
        ("inference/a.py", "from eqr_ray.evaluation import cost", "inference may not know evaluation"),
        ("inference/a.py", "from torch.optim import AdamW", "torch.optim is for training/ only"),
        ("inference/a.py", "from torch import optim", "torch.optim is for training/ only"),
        ("training/a.py", "from eqr_ray.train import main", "training may not know train"),
        ("plots/a.py", "from eqr_ray.distributed import cluster", "plots may not know distributed"),
        ("__init__.py", "from eqr_ray.evaluation import cost", "__init__ may not know evaluation"),
        ("train.py", "import ray.train", "ray is for distributed/ only"),
        ("search/a.py", "from eqr_ray.distributed import cluster", "search may not know distributed"),
        ("search/a.py", "import optuna", "optuna is for search/optuna_study.py only"),
        ("train.py", "from omegaconf import OmegaConf", "omegaconf is for config/cli.py only"),
        ("training/loop.py", "import wandb", "wandb is for storage/run_log.py only"),
        (
            "training/loop.py",
            "import pyarrow as pa",
            "pyarrow is for storage/remote_sync.py, data/arrow_store.py, inference/records.py only",
        ),
        ("model/a.py", "import numba", "numba is for tasks/ only"),
        ("data/arrow_store.py", "import torch", "this package works without torch"),
        ("training/a.py", "def f():\n    import json", "inside a function"),
        ("training/a.py", "class A:\n    async def f(self):\n        from json import loads", "inside a function"),
        ("training/a.py", "if True:\n    from eqr_ray.distributed import cluster", "training may not know distributed"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, code: str, fault: str) -> None:
    found = violations(_tree(tmp_path, file, code))
    assert len(found) == 1
    assert fault in found[0]
    assert found[0].startswith(f"{file}:")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("tasks/a.py", "from eqr_ray.config.errors import UserError\nfrom .puzzles import x\nimport numba, numpy"),
        ("training/a.py", "from ..model.network import Network\nfrom eqr_ray.data import sampler\nimport torch.optim"),
        ("distributed/a.py", "import ray.train\nfrom ray import tune\nimport deepspeed"),
        ("distributed/a.py", "from eqr_ray.distributed.cluster import start\nfrom eqr_ray.training import loop"),
        ("train.py", "from eqr_ray.config.cli import run_command\nfrom eqr_ray.distributed import trainer"),
        ("training/a.py", "def f():\n    import json  # lazy: half a second at start"),
        ("training/a.py", "def f():\n    # lazy: half a second at start\n    import json"),
        ("training/a.py", "import rayon, torch.optimum"),
        ("__init__.py", "from eqr_ray.inference import load, solve"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, code: str) -> None:
    assert violations(_tree(tmp_path, file, code)) == []


def _tree(root: Path, file: str, code: str) -> Path:
    path = root / "eqr_ray" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    return root / "eqr_ray"


# ---- the house itself


def test_arrows_and_fences_hold() -> None:
    assert len(imports_of(PACKAGE)) > 10
    assert violations(PACKAGE) == []


def test_deepspeed_lives_in_one_file() -> None:
    files = {found.file for found in imports_of(PACKAGE) if found.module.split(".")[0] == "deepspeed"}
    assert len(files) <= 1


def test_every_room_has_its_place_and_a_name_of_its_own() -> None:
    folders = {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.rglob("*/*.py")} - {"pretrained"}
    assert folders <= LEVELS.keys()
    names = {part.removesuffix(".py") for file in PACKAGE.rglob("*.py") for part in file.relative_to(PACKAGE).parts}
    assert not names & NOBODYS_ROOM


def test_the_package_stays_small() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) <= MOST_FILES
    assert sum(len(file.read_text().splitlines()) for file in files) <= MOST_LINES


def test_a_function_is_one_screen() -> None:
    long = [
        f"{file.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(file.relative_to(PACKAGE).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("word", PRIVATE_WORDS)
def test_no_word_is_private(word: str) -> None:
    """docs/glossary.md has the field's words for them."""
    pattern = re.compile(rf"(?<![a-z]){word}(?:s|es|d|ed|ing)?(?![a-z])", re.IGNORECASE)
    found = [
        f"{file.relative_to(PACKAGE)}:{number}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    silent = [str(file) for file in PACKAGE.rglob("*.py") if ast.get_docstring(ast.parse(file.read_text())) is None]
    assert silent == []


def test_answering_starts_nothing_heavy() -> None:
    code = """if True:
        import sys
        import eqr_ray.inference
        print(*sorted({"ray", "deepspeed", "hydra", "omegaconf", "wandb", "optuna", "matplotlib"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
