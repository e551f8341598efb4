"""The run log: one schema, warnings, a line that a kill cut short, and what Weights & Biases is told."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.storage.run_log import RunLog, number, read_log, run_and_trial

LOG = "log.jsonl"


def test_every_line_says_when_who_and_what(tmp_path: Path) -> None:
    folder = tmp_path / "three" / "trials" / "00007"
    with RunLog(folder) as log:
        log.log("train", 5, loss=0.5)
        log.warning("careful")
    with RunLog(tmp_path / "answers", actor="actor 2") as log:
        log.log("unit", rows=3)
    train, warning = read_log(folder / LOG).entries
    (unit,) = read_log(tmp_path / "answers" / LOG).entries
    about = {"run": "three", "worker": socket.gethostname(), "trial": "trials/00007"}
    assert train.pop("time") <= warning.pop("time") <= unit.pop("time")
    assert train == {**about, "event": "train", "step": 5, "loss": 0.5}
    assert warning == {**about, "event": "warning", "message": "careful"}
    assert unit == {"run": "answers", "actor": "actor 2", "trial": None, "event": "unit", "rows": 3}


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("runs/one", ("one", None)),
        ("runs/three/finals/00701", ("three", "finals/00701")),
        ("runs/three/records/ab12", ("three/records/ab12", None)),
        ("runs/careful/run", ("careful/run", None)),
    ],
)
def test_what_a_run_is_called(tmp_path: Path, folder: str, names: tuple[str, str | None]) -> None:
    assert run_and_trial(tmp_path / folder) == names


def test_warnings_of_the_package_go_to_the_log_that_was_opened_last(tmp_path: Path) -> None:
    heard: list[str] = []
    ours = logging.getLogger("eqr_ray.distributed.actors")
    with RunLog(tmp_path / "outer", sinks=[lambda entry: heard.append(entry["message"])]):
        ours.warning("one %s", "died")
        with RunLog(tmp_path / "inner"):
            ours.warning("two")
            ours.info("nothing to worry about")
            logging.getLogger("somebody.else").warning("not ours")
        with RunLog(None):  # of a worker that is not the first
            ours.warning("three")
        ours.warning("four")
    ours.warning("after the end")
    messages = [[entry["message"] for entry in read_log(tmp_path / name / LOG).entries] for name in ("outer", "inner")]
    assert messages == [["one died", "four"], ["two"]]
    assert heard == ["one died", "four"]


def test_a_line_that_a_kill_cut_short_is_ended(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"event": "start"}\n{"event": "tr')
    assert read_log(tmp_path / LOG).unread == 0  # it may still be written
    with RunLog(tmp_path) as log:
        log.log("end")
    content = read_log(tmp_path / LOG)
    assert [entry["event"] for entry in content.entries] == ["start", "end"]
    assert content.unread == 1


def test_what_is_no_entry_is_counted_and_left_out(tmp_path: Path) -> None:
    lines = [b'{"event": "a"}', b"", b"nonsense", b"[1]", b"\xff", b"[" * 100_000, b'{"event": "b"}', b'{"half": ']
    (tmp_path / LOG).write_bytes(b"\n".join(lines))
    content = read_log(tmp_path / LOG)
    assert ([entry["event"] for entry in content.entries], content.unread) == (["a", "b"], 4)
    assert [entry["event"] for entry in content.of("b", "c")] == ["b"]


def test_a_log_is_read_on_from_where_it_was_read_to(tmp_path: Path) -> None:
    log = tmp_path / LOG
    assert read_log(log, 7).size == 7
    log.write_text('{"a": 1}\n{"b"')
    first = read_log(log)
    with log.open("a") as file:
        file.write(": 2}\n")
    second = read_log(log, first.size)
    assert (first.entries, second.entries, second.size) == ([{"a": 1}], [{"b": 2}], log.stat().st_size)


def test_a_log_that_cannot_be_opened_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    with pytest.raises(UserError, match=r"log\.jsonl: is a directory"):
        read_log(tmp_path / LOG)


def test_a_copy_of_an_open_log_writes_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        pickle.loads(pickle.dumps(log)).log("train", 1)
    assert read_log(tmp_path / LOG).entries == []


def test_lines_of_many_threads_are_whole(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        words = "x" * 20_000
        threads = [threading.Thread(target=lambda: [log.log("a", words=words) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    content = read_log(tmp_path / LOG)
    assert (len(content.entries), content.unread) == (80, 0)


@pytest.mark.parametrize("value", [None, "1", True, [1], float("nan"), float("inf"), 10**400])
def test_what_is_no_number(value: object) -> None:
    assert number({"x": value}, "x") is None
    assert number({}, "x") is None
    assert number({"x": 2}, "x") == 2.0


def test_a_trial_is_one_run_of_its_sweeps_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    sent: list[tuple[dict[str, float], int | None]] = []
    run = SimpleNamespace(log=lambda numbers, step: sent.append((numbers, step)), finish=lambda: None)
    fake = SimpleNamespace(init=lambda **keys: begun.append(keys) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        with RunLog(tmp_path, wandb="offline"):
            pass
    folder = tmp_path / "trials" / "00007"
    with RunLog(folder, wandb="offline", config={"steps": 3}) as log:
        log.log("train", 3, loss=0.5, note="text")
        log.warning("no number")
    assert [keys["group"] for keys in begun] == [None, None, tmp_path.name]
    assert begun[0]["id"] == begun[1]["id"] != begun[2]["id"]
    assert begun[-1]["config"] == {"steps": 3}
    assert sent == [({"train/loss": 0.5}, 3)]
    assert json.loads((folder / LOG).read_text().splitlines()[0])["note"] == "text"


def test_a_missing_wandb_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb=online needs wandb: pip install 'eqr_ray\[wandb\]'"):
        RunLog(tmp_path, wandb="online")
