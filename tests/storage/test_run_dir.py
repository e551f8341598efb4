"""The folder of a run: continued by an equal run only, refused for everything else, one process at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.storage.run_dir import CONFIG, LOCK, LOG, MANIFEST, SUMMARY, RunDir, difference, driver_of, locked

IDENTITY = {"seed": 3, "breadth": 2, "snapshots": (1, 2), "model": {"width": 8}}
KINDS = {
    "train": "training run",
    "infer": "inference run",
    "calibrate": "calibration",
    "frontier": "frontier",
    "sweep": "sweep",
}


def begun(path: Path, kind: str = "train") -> RunDir:
    run = RunDir(path, kind)
    run.create(IDENTITY, {"data": "d"})
    return run


def test_a_run_is_continued_by_itself(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    again = RunDir(tmp_path / "run", "train")
    again.check(IDENTITY)
    again.create(IDENTITY, {"data": "elsewhere"})
    assert again.identity() == json.loads(json.dumps(IDENTITY))
    assert run.config() == {"data": "elsewhere"}


@pytest.mark.parametrize(("kind", "words"), KINDS.items())
def test_another_run_is_refused_with_the_difference(tmp_path: Path, kind: str, words: str) -> None:
    begun(tmp_path, kind)
    for change, said in [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"model": {"width": 9}, "breadth": 1}, r"breadth is 2 there and 1 here \(and model.width\)"),
        ({"noise": 1.0}, "noise is not set there and 1.0 here"),
        ({"snapshots": ()}, r"snapshots is \[1, 2\] there and \[\] here"),
    ]:
        with pytest.raises(UserError, match=f"^out={tmp_path} holds another {words}: {said}; choose another folder$"):
            RunDir(tmp_path, kind).check({**IDENTITY, **change})


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    begun(tmp_path, "sweep")
    with pytest.raises(UserError, match="holds a sweep, not a training run; choose another folder"):
        RunDir(tmp_path, "train").check(IDENTITY)


def test_what_may_grow_may_not_shrink(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.create({**IDENTITY, "breadth": 4}, {}, grows=("breadth",), widths=[2, 4])
    assert run.manifest()["widths"] == [2, 4]
    with pytest.raises(UserError, match="breadth is 4 there and 2 here"):
        run.check(IDENTITY, grows=("breadth",))
    with pytest.raises(UserError, match="breadth is 4 there and 8 here"):
        run.check({**IDENTITY, "breadth": 8})


def test_two_that_found_an_empty_folder_do_not_both_begin(tmp_path: Path) -> None:
    first, second = RunDir(tmp_path / "run", "infer"), RunDir(tmp_path / "run", "infer")
    first.check(IDENTITY)
    second.check({**IDENTITY, "seed": 4})
    assert not (tmp_path / "run").exists()  # nothing is written before it is known that nothing is wrong
    first.create(IDENTITY, {})
    with pytest.raises(UserError, match="seed is 3 there and 4 here"):
        second.create({**IDENTITY, "seed": 4}, {})


@pytest.mark.parametrize(("kind", "words"), KINDS.items())
def test_foreign_folders_and_files_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=f"out={tmp_path} is not empty and holds no {words}; choose another folder"):
        RunDir(tmp_path, kind).check()
    with pytest.raises(UserError, match=r"thesis\.tex is a file, not a folder"):
        RunDir(tmp_path / "thesis.tex", kind).check()
    with pytest.raises(UserError, match=f"resume={tmp_path}: no {words} there"):
        RunDir(tmp_path, kind).config()


def test_a_config_of_somebody_else_is_foreign(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(UserError, match="is not empty and holds no training run"):
        RunDir(tmp_path, "train").check(IDENTITY)


def test_what_was_killed_before_it_had_begun_is_begun_again(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / CONFIG).unlink()  # killed between the two files
    for name in (LOCK, LOG, ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    other = {**IDENTITY, "seed": 4}
    run = RunDir(tmp_path, "train")
    assert not run.has_run
    run.check(other)
    run.create(other, {})
    assert run.identity()["seed"] == 4


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"kind": 1}', "[" * 100_000, b"\xff"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    run = begun(tmp_path)
    (tmp_path / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    for use in (run.identity, run.check, run.config):
        with pytest.raises(UserError, match=f"{MANIFEST} is damaged: ") as error:
            use()
        assert "\n" not in str(error.value)


def test_a_manifest_that_was_edited_is_damaged(tmp_path: Path) -> None:
    run = begun(tmp_path)
    (tmp_path / MANIFEST).write_text((tmp_path / MANIFEST).read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(UserError, match="is damaged: its content has another hash"):
        run.check(IDENTITY)


def test_a_run_that_goes_on_is_not_finished(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert run.summary() is None
    run.write_summary({"exact": 1.0})
    assert run.summary() == {"exact": 1.0}
    run.create(IDENTITY, {})
    assert run.summary() is None
    (tmp_path / SUMMARY).write_text("[")
    with pytest.raises(UserError, match=f"{SUMMARY} is damaged"):
        run.summary()


def test_differences_are_named() -> None:
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert difference({"a": {"b": 1}}, {"a": {}}) == "a is not set there and {} here (and a.b)"
    assert difference({"a": {"b": 1}}, {"a": {"b": 1, "c": [2]}}) == "a.c is not set there and [2] here"
    assert difference({"a": None}, {"a": 1}) == "a is null there and 1 here"


# ---- the lock


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run):
        assert driver_of(run).pid == os.getpid()  # type: ignore[union-attr]
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()} is at work in"),
            locked(run),
        ):
            pytest.fail("two at work")
    assert driver_of(run) is None


def lock(path: Path, **changed: object) -> None:
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (path / LOCK).write_text(json.dumps({**mine, **changed}))


@pytest.mark.parametrize("changed", [{"started": 1.0}, {"pid": 2**31}, {"pid": -1}, {"pid": 2**70}])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, changed: dict[str, object]) -> None:
    lock(tmp_path, **changed)
    assert driver_of(tmp_path).alive is False  # type: ignore[union-attr]
    with locked(tmp_path):
        pass


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lock(tmp_path, pid=child.pid, started=psutil.Process(child.pid).create_time())
        assert driver_of(tmp_path).alive is True  # type: ignore[union-attr]
        child.kill()
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:  # nobody has waited for it
            pass
        assert driver_of(tmp_path).alive is False  # type: ignore[union-attr]
    finally:
        child.kill()
        child.communicate()


def test_the_lock_of_another_machine_is_left_alone_and_explained(tmp_path: Path) -> None:
    lock(tmp_path, host="elsewhere")
    (tmp_path / LOG).write_text("")
    with pytest.raises(UserError) as error, locked(tmp_path):
        pytest.fail("taken")
    here = socket.gethostname()
    words = f"on elsewhere is at work in {tmp_path}, which cannot be seen from {here}; its {LOG} was written 0 s ago. "
    assert words in str(error.value)
    assert str(error.value).endswith(f"rm {tmp_path / LOCK}")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"host": 1, "pid": 1, "started": 1}', '{"host": "x", "pid": "1", "started": 0}'],
)
def test_a_lock_that_a_death_cut_short_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    assert driver_of(tmp_path) is None
    with locked(tmp_path):
        pass
