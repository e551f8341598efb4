"""What SECURITY.md promises: no pickled code, no path out of a folder, loopback, no dashboard, no secrets."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pickle
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.data.npy_reader import read_npy
from eqr_ray.distributed import SETTINGS, cluster
from eqr_ray.model.pretrained import load_model
from eqr_ray.tasks import task_named
from eqr_ray.training.checkpoint import STATE, newest_checkpoint
from tests.support.commands import call

ROOT = Path(__file__).parent.parent
SOURCES = [path for room in ("eqr_ray", "jobs", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]


# ---- the code itself

# Calls that run what they read, and the argument without which they do.
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *("marshal.load", "marshal.loads", "shelve.open", "joblib.load", "yaml.load", "yaml.unsafe_load", "os.system"),
    *("eval", "exec", "pandas.read_pickle", "torch.jit.load", "torch.hub.load"),
}
NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def faults(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN:
            yield f"line {node.lineno}: {name}"
        for needy, (keyword, wanted) in NEEDS.items():
            value = keywords.get(keyword)
            if name == needy and not (isinstance(value, ast.Constant) and value.value is wanted):
                yield f"line {node.lineno}: {name} without {keyword}={wanted}"
        shell = keywords.get("shell")
        if name.startswith("subprocess.") and shell is not None:
            yield f"line {node.lineno}: {name} with shell="


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(f)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "x = np.load(p, allow_pickle=True)",
        "np.load(p)",
        "yaml.load(t)",
        "def f():\n    return eval(t)",
        "subprocess.run(t, shell=True)",
    ],
)
def test_a_planted_fault_is_found(code: str) -> None:
    assert len(list(faults(code))) == 1


def test_nothing_that_is_read_is_run() -> None:
    assert len(SOURCES) > 100
    found = [f"{path.relative_to(ROOT)} {fault}" for path in SOURCES for fault in faults(path.read_text())]
    assert found == []


SECRETS = re.compile(
    rb"AKIA[0-9A-Z]{16}|-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----|gh[pousr]_\w{36}|hf_[A-Za-z0-9]{34}"
    rb"|xox[baprs]-[\w-]{10}|AIza[\w-]{35}|(?i:wandb_api_key|auth_token)\s*[=:]\s*['\"]?[0-9a-f]{32}"
)


@pytest.mark.parametrize("text", [b"AKIA" + b"A" * 16, b"WANDB_API_KEY=" + b"0f" * 20, b"ghp_" + b"a" * 36])
def test_a_planted_secret_is_found(text: bytes) -> None:
    assert SECRETS.search(b"x = '" + text + b"'")


def test_there_is_no_secret_in_the_tree() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert [str(path) for path in paths if path.is_file() and SECRETS.search(path.read_bytes())] == []


# ---- files of strangers


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    went_off = tmp_path / "went_off"
    torch.save({"state": Bomb(went_off)}, tmp_path / "zipped.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(went_off), protocol=2))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(pickle.dumps(Bomb(went_off)))
    (tmp_path / "folder" / "model.json").write_text("{}")
    for name in ("zipped.pth", "plain.pth", "folder"):
        with pytest.raises(UserError):
            load_model(str(tmp_path / name))
    assert not went_off.exists()


def test_an_array_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    went_off = tmp_path / "went_off"
    np.save(tmp_path / "all__inputs.npy", np.array([Bomb(went_off)], dtype=object), allow_pickle=True)
    (tmp_path / "dataset.json").write_text(json.dumps({"sets": ["all"]}))
    with pytest.raises(UserError, match="cannot be read as an npy array"):
        read_npy(task_named("sudoku4"), tmp_path, complete=True, unique=False)
    assert not went_off.exists()


@pytest.mark.parametrize("sets", [["../other/all"], ["/tmp/all"], [".."], "all", [1], ["a\0b"], [""], {"all": 1}])
def test_a_dataset_names_no_files_outside_of_its_folder(tmp_path: Path, sets: Any) -> None:
    for folder in ("part", "other"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "all__inputs.npy", np.ones((1, 16), dtype=np.int64))
    (tmp_path / "part" / "dataset.json").write_text(json.dumps({"sets": sets}))
    with pytest.raises(UserError, match="expected a list of names"):
        read_npy(task_named("sudoku4"), tmp_path / "part", complete=True, unique=False)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "/dev/zero"])
def test_a_training_checkpoint_names_no_files_outside_of_its_folder(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "secret").write_text("secret")
    checkpoint = tmp_path / "00000001"
    checkpoint.mkdir()
    files = dict.fromkeys(["weights.safetensors", "ema.safetensors", "optimizer.safetensors", name], "0")
    state = {"format": 1, "step": 1, "elapsed_s": 0.0, "experiment": "", "files": files}
    (checkpoint / STATE).write_text(json.dumps(state))
    with pytest.raises(UserError, match="every checkpoint"):
        newest_checkpoint(tmp_path)
    assert "it names the file" in caplog.text


def test_a_model_is_pretrained_or_a_path_and_never_by_both() -> None:
    for name in ("zoo:../../tests", "zoo:/etc", "zoo:sudoku6/../sudoku6"):
        with pytest.raises(UserError, match="is not a pretrained network"):
            load_model(name)


def test_a_fixture_archive_cannot_carry_code(tmp_path: Path) -> None:
    went_off, content = tmp_path / "went_off", io.BytesIO()
    np.save(content, np.array([Bomb(went_off)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("inputs.npy", content.getvalue())
    (tmp_path / "a.json").write_text(json.dumps({"config": {"seq_len": 16}, "segments": 1}))
    done = call("parity", str(tmp_path))
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert not went_off.exists()


# ---- the network


def test_ray_is_started_on_loopback_without_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    fake = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **options: asked.update(options),
        shutdown=lambda: None,
        cluster_resources=dict,
    )
    monkeypatch.setattr(cluster, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with cluster.start_ray():
        pass
    assert asked["_node_ip_address"] == "127.0.0.1"
    assert asked["include_dashboard"] is False
    assert SETTINGS["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # else Ray takes the network card's address
    assert "RAY_AUTH_MODE" not in SETTINGS  # unset, ray.init turns the token on
    assert SETTINGS["RAY_USAGE_STATS_ENABLED"] == "0"
