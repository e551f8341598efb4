"""The arrows of the house, read from the imports: they point left only, and each heavy library has one room.

    atomic, errors, logbook, mirror, strict, warned | tasks, model -> dynamics -> inference -> training -> experiment
        -> search -> distributed, figures -> doors

The checker itself is tested first, on small made-up trees.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "eqr_ray"

LEVELS: dict[str, int] = {
    **dict.fromkeys(["atomic", "errors", "logbook", "mirror", "strict", "warned"], 0),
    **dict.fromkeys(["tasks", "model"], 1),
    "dynamics": 2,
    "inference": 3,
    "__init__": 3,  # `from eqr_ray import load, solve` is answering without Ray
    "training": 4,
    "experiment": 5,
    "search": 6,
    **dict.fromkeys(["distributed", "figures"], 7),
}
DOORS = 8  # every other module at the top of the package
SIDE_BY_SIDE = 1, 7  # rooms of these levels do not know each other
NOT_KNOWN = {"dynamics": {"model"}}  # it iterates any map

# Library -> where it may be imported: folders end in "/", "doors" are the modules at the top of the package.
FENCES: dict[str, tuple[str, ...]] = {
    "ray": ("distributed/",),
    "optuna": ("search/tpe.py",),
    "deepspeed": ("distributed/",),  # and in one file there: test_deepspeed_lives_in_one_file
    "hydra": ("door.py",),
    "omegaconf": ("door.py",),
    "wandb": ("training/tracking.py",),
    "pyarrow": ("mirror.py", "tasks/store.py", "inference/records.py"),
    "numba": ("tasks/",),
    "matplotlib": ("figures/",),
    "torch.optim": ("training/",),  # inference never imports an optimizer
    "adam_atan2_pytorch": ("training/",),
}
WITHOUT_TORCH = "tasks/"
BUT_FOR_TORCH = "tasks/batch.py"
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
    if parts[0] == "torch" and found.file.startswith(WITHOUT_TORCH) and found.file != BUT_FOR_TORCH:
        yield f"torch is for {BUT_FOR_TORCH} only there"


def _arrow_faults(room: str, target: str) -> Iterator[str]:
    here, there = LEVELS.get(room, DOORS), LEVELS.get(target, DOORS)
    if room == target or (room == "__init__" and target in {"__version__"}):
        return
    if there > here or (there == here and here in SIDE_BY_SIDE):
        yield f"{room} may not know {target}"
    if target in NOT_KNOWN.get(room, ()):
        yield f"{room} is to work without {target}"


# ---- the checker, on made-up trees


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("tasks/a.py", "from eqr_ray.model import layers", "tasks may not know model"),
        ("tasks/a.py", "from eqr_ray import model", "tasks may not know model"),
        ("model/a.py", "from ..tasks.store import open_store", "model may not know tasks"),
        ("model/deep/a.py", "from ...training import loop", "model may not know training"),
        ("dynamics/a.py", "import eqr_ray.inference.queue", "dynamics may not know inference"),
        ("dynamics/a.py", "from eqr_ray.model.cell import cell", "dynamics is to work without model"),
        ("inference/a.py", "from torch.optim import AdamW", "torch.optim is for training/ only"),
        ("inference/a.py", "from torch import optim", "torch.optim is for training/ only"),
        ("training/a.py", "from eqr_ray.train import main", "training may not know train"),
        ("figures/a.py", "from eqr_ray.distributed import cluster", "figures may not know distributed"),
        ("__init__.py", "from eqr_ray.training import loop", "__init__ may not know training"),
        ("train.py", "import ray.train", "ray is for distributed/ only"),
        ("search/a.py", "from eqr_ray.distributed import cluster", "search may not know distributed"),
        ("search/a.py", "import optuna", "optuna is for search/tpe.py only"),
        ("train.py", "from omegaconf import OmegaConf", "omegaconf is for door.py only"),
        ("training/loop.py", "import wandb", "wandb is for training/tracking.py only"),
        (
            "training/loop.py",
            "import pyarrow as pa",
            "pyarrow is for mirror.py, tasks/store.py, inference/records.py only",
        ),
        ("dynamics/a.py", "import numba", "numba is for tasks/ only"),
        ("tasks/store.py", "import torch", "torch is for tasks/batch.py only there"),
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
        ("tasks/a.py", "from eqr_ray.errors import UserError\nfrom .store import x\nimport numba, numpy"),
        ("tasks/batch.py", "import torch"),
        (
            "training/a.py",
            "from ..inference.queue import Queue\nfrom eqr_ray.strict import from_dict\nimport torch.optim",
        ),
        ("distributed/a.py", "import ray.train\nfrom ray import tune\nimport deepspeed"),
        ("distributed/a.py", "from eqr_ray.distributed.cluster import start\nfrom eqr_ray.experiment import Run"),
        ("train.py", "from eqr_ray.door import run_door\nfrom eqr_ray.distributed import trainer"),
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
    folders = {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.rglob("*/*.py")} - {"conf", "zoo"}
    assert folders <= LEVELS.keys()
    names = {part.removesuffix(".py") for file in PACKAGE.rglob("*.py") for part in file.relative_to(PACKAGE).parts}
    assert not names & NOBODYS_ROOM


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
