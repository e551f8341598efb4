"""The command prepare as a plain function, from every source, and what a failure leaves behind: nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.data import dataset
from eqr_ray.data.arrow_store import Split
from eqr_ray.data.dataset import PrepareConfig, prepare
from eqr_ray.tasks import task_named

TASK = task_named("sudoku4")
ROOT = Path(__file__).parents[2]


def csv_text(count: int, seed: int = 1) -> str:
    made = TASK.generate(count, seed)
    assert made.labels is not None
    pairs = zip(made.inputs, made.labels, strict=True)
    return "question,answer\n" + "".join(f"{TASK.decode(q)},{TASK.decode(a)}\n" for q, a in pairs)


def test_generate(tmp_path: Path) -> None:
    config = PrepareConfig(task="sudoku4", out=str(tmp_path / "a" / "out"), train=20, validation=5, test=10, seed=3)
    about = prepare(config)
    assert json.loads((tmp_path / "a" / "out" / "dataset.json").read_text()) == about
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["out"]
    splits = [Split.open(tmp_path / "a" / "out" / f"{name}.arrow", verify=True) for name in dataset.SPLITS]
    assert [len(split) for split in splits] == [20, 5, 10]
    prints = [set(split.fingerprints.tolist()) for split in splits]
    assert len(prints[0] | prints[1] | prints[2]) == 35
    for split, name in zip(splits, dataset.SPLITS, strict=True):
        assert split.labels is not None
        assert not TASK.suspects(split.inputs, split.labels).any()
        assert about["splits"][name]["content_hash"] == split.content_hash


def test_the_same_again_is_left_as_it_is_and_another_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(csv_text(40))
    for source in ("generate", str(tmp_path / "p.csv")):
        out = tmp_path / f"out-{len(source)}"
        config = {"task": "sudoku4", "source": source, "out": str(out), "train": 20, "validation": 5, "test": 5}
        first = prepare(PrepareConfig(**config))
        times = [file.stat().st_mtime_ns for file in sorted(out.iterdir())]
        assert prepare(PrepareConfig(**config)) == first
        assert [file.stat().st_mtime_ns for file in sorted(out.iterdir())] == times
        with pytest.raises(UserError, match="holds another dataset"):
            prepare(PrepareConfig(**config, seed=1))
        whole = (out / "test.arrow").read_bytes()
        (out / "test.arrow").write_bytes(whole[:-20])
        with pytest.raises(UserError, match=r"test\.arrow: not an Arrow file, or damaged"):
            prepare(PrepareConfig(**config))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is no dataset of prepare"):
        prepare(PrepareConfig(task="sudoku4", out=str(foreign), train=20, validation=5, test=5))
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_stored_copies(tmp_path: Path) -> None:
    plain = prepare(PrepareConfig(task="sudoku4", out=str(tmp_path / "a"), train=20, validation=5, test=5))
    prepare(PrepareConfig(task="sudoku4", out=str(tmp_path / "b"), train=20, validation=5, test=5, augment=3))
    one, four = Split.open(tmp_path / "a" / "train.arrow"), Split.open(tmp_path / "b" / "train.arrow")
    assert (four.inputs[::4] == one.inputs).all()
    assert (four.fingerprints == np.repeat(one.fingerprints, 4)).all()
    assert four.labels is not None
    assert not TASK.suspects(four.inputs, four.labels).any()
    assert len({row.tobytes() for row in four.inputs}) > 60
    assert Split.open(tmp_path / "b" / "test.arrow").content_hash == plain["splits"]["test"]["content_hash"]


def test_bad_rows(tmp_path: Path) -> None:
    source = tmp_path / "p.csv"
    source.write_text(csv_text(40) + "short,\n" + "." * 16 + ",\n" + "11" + "." * 14 + ",\n")
    config = {"task": "sudoku4", "source": str(source), "out": str(tmp_path / "out"), "train": 20, "test": 5}
    with pytest.raises(UserError) as refused:
        prepare(PrepareConfig(**config, limit_bad=2))
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{source}:42: question: 5 characters where sudoku4 has 16 cells"
    assert lines[1] == f"{source}:43: several solutions"
    assert lines[2:] == ["... and 1 more", "3 bad rows, nothing written (skip_bad=true goes on without them)"]
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]
    about = prepare(PrepareConfig(**config, validation=5, skip_bad=True))
    assert about["bad_rows"] == 3
    table = (tmp_path / "out" / "bad_rows.csv").read_text().splitlines()
    assert table[0] == "file,line,reason,text"
    assert [line.split(",")[1] for line in table[1:]] == ["42", "43", "44"]


@pytest.mark.parametrize("broken", ["validation.arrow", "rename", "dataset.json"])
def test_a_failure_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    real = dataset.write_split

    def write_or_fail(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == broken:
            fail()
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset, "write_split", write_or_fail)
    if broken == "rename":
        monkeypatch.setattr(os, "rename", fail)
    if broken == "dataset.json":
        monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare(PrepareConfig(task="sudoku4", out=str(tmp_path / "out"), train=5, validation=2, test=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": -1}, "train=-1 is not allowed: should be greater than or equal to 1"),
        ({"train": 0}, "train=0 is not allowed: should be greater than or equal to 1"),
        ({"validation": None}, "validation=null is not allowed: should be a valid integer"),
        ({"seed": 1.5}, r"seed=1\.5"),
        ({"augment": True}, "augment=true is not allowed: should be a valid integer"),
        ({"unique": "yes"}, 'unique="yes" is not allowed: should be a valid boolean'),
        ({"train": None}, "source=generate needs counts"),
        ({"task": "sudoko9"}, "did you mean 'sudoku9'"),
        ({"source": ""}, "source= must be given"),
        ({"source": "absent.csv"}, "no such file or folder"),
        ({"source": "absent.csv", "hard": True}, "hard=true is for source=generate"),
    ],
)
def test_mistakes_in_the_configuration(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    config = {"task": "sudoku4", "source": "generate", "out": str(tmp_path / "out"), **changes}
    with pytest.raises(UserError, match=words):
        prepare(PrepareConfig(**config))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub(BaseHTTPRequestHandler):
    """The few answers of a hub that the client asks for: one dataset, people/puzzles."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        api, resolve = "/api/datasets/people/puzzles", f"/datasets/people/puzzles/resolve/{COMMIT}/"
        headers, status = {"Content-Type": "application/json"}, 200
        if path.startswith(f"{api}/tree/"):
            listing = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.files.items()]
            body = json.dumps(listing).encode()
        elif path.startswith(f"{api}/revision/"):
            body = json.dumps({"id": "people/puzzles", "sha": COMMIT, "siblings": []}).encode()
        elif path.startswith(resolve) and path[len(resolve) :] in self.files:
            body = self.files[path[len(resolve) :]]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            headers, body, status = {"X-Error-Code": "RepoNotFound"}, b"", 404
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which the hub is our stand-in."""
    test = csv_text(10, seed=2)
    StandInHub.files = {
        "README.md": b"words",
        "weights.pkl": b"never fetched",
        "train.csv": (csv_text(60) + test.partition("\n")[2]).encode(),
        "test.csv": test.encode(),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    server.shutdown()
    thread.join()
    server.server_close()


def command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "eqr_ray.prepare", *arguments]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_the_command_reads_the_hub(tmp_path: Path, hub: dict[str, str]) -> None:
    out = tmp_path / "out"
    words = ["task=sudoku4", "train=null", "validation=10", "test=null", f"out={out}"]
    done = command(hub, "source=hub:people/puzzles", *words)
    assert done.returncode == 0, done.stderr
    assert "dataset in" in done.stdout
    about = json.loads((out / "dataset.json").read_text())
    assert about["splits"]["test"]["rows"] == 10
    assert about["test_overlap_removed"] >= 10
    train, test = Split.open(out / "train.arrow", verify=True), Split.open(out / "test.arrow", verify=True)
    assert len(train) + 10 + about["test_overlap_removed"] + about["duplicates_removed"] == 70
    assert not set(train.fingerprints.tolist()) & set(test.fingerprints.tolist())
    fetched = {file.name for file in (tmp_path / "hf").rglob("*") if file.is_file()}
    assert "train.csv" in fetched
    assert "weights.pkl" not in fetched
    absent = command(hub, "source=hub:people/nothing", f"out={tmp_path / 'b'}")
    assert absent.returncode == 2
    assert "hub:people/nothing: no such dataset" in absent.stderr
    assert not (tmp_path / "b").exists()
