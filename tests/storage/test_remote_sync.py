"""A run's folder and its copy: complete or not chosen, in step with the folder, whatever the store does.

Against a local folder, a store in memory, and moto's S3 on loopback, stopped and started while a run goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import eqr_ray.storage.remote_sync
from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import Failure, UserError
from eqr_ray.storage.remote_sync import RemoteCopy, fetch, mirror_of, mirrored, store_of
from eqr_ray.storage.run_dir import RunDir
from eqr_ray.train import Finished, main
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.experiment import TrainOptions
from tests.support.object_store import S3

TINY = ["model=eqr_small", "model.width=8", "model.hidden_multiple=8", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=4", "learning_rate=1e-3", "compile=false", "dtype=float32", "log_every=2", "checkpoint_every=3"]


def train(*typed: str) -> int:
    return main(*parse_arguments(TrainOptions, typed))


def run_folder(path: Path, *steps: int) -> Path:
    """Looks like a training run with checkpoints at these steps."""
    for step in steps:
        checkpoint = path / "checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights.safetensors").write_bytes(b"weights %d" % step)
        (checkpoint / "state.json").write_text(json.dumps({"step": step}))
    RunDir(path, "train").create({}, {})
    (path / "log.jsonl").write_text('{"step": 1}\n{"ste')
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_what_is_finished_and_no_more(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 5)
    for private in ("lock.json", ".hidden", "ray/one", "checkpoints/00000010.partial/weights.safetensors"):
        (run / private).parent.mkdir(parents=True, exist_ok=True)
        (run / private).write_text("no")
    (run / "link").symlink_to(tmp_path)
    RemoteCopy(run, f"file://{tmp_path}/copy").send()
    assert contents(tmp_path / "copy") == {
        "checkpoints/00000005/state.json": b'{"step": 5}',
        "checkpoints/00000005/weights.safetensors": b"weights 5",
        "config.json": b"{}\n",
        "log.jsonl": b'{"step": 1}\n',  # the line that is being written comes later
        "manifest.json": (run / "manifest.json").read_bytes(),
    }


def test_a_copy_follows(tmp_path: Path) -> None:
    """What changed is sent again and what went is removed; nothing else is touched."""
    run, copy = run_folder(tmp_path / "run", 5), tmp_path / "copy"
    mirror = RemoteCopy(run, f"file://{copy}")
    mirror.send()
    before = (copy / "config.json").stat().st_mtime_ns
    run_folder(run.with_name("newer"), 10)
    (run.with_name("newer") / "checkpoints" / "00000010").rename(run / "checkpoints" / "00000010")
    for path in (run / "checkpoints" / "00000005").iterdir():
        path.unlink()
    mirror.send()
    assert [path.name for path in complete_checkpoints(copy / "checkpoints")] == ["00000010"]
    assert not list((copy / "checkpoints" / "00000005").iterdir())
    assert (copy / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("when", range(4))
def test_a_copy_that_is_cut_short_chooses_the_older_checkpoint(
    when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, copy = run_folder(tmp_path / "run", 5), tmp_path / "copy"
    RemoteCopy(run, f"file://{copy}").send()
    run_folder(tmp_path / "newer", 10)
    (tmp_path / "newer" / "checkpoints" / "00000010").rename(run / "checkpoints" / "00000010")
    mirror, written = RemoteCopy(run, f"file://{copy}"), []
    write = mirror._put

    def dies(name: str, content: bytes) -> None:
        if len(written) == when:
            raise OSError("the machine is gone")
        written.append(name)
        write(name, content)

    monkeypatch.setattr(mirror, "_put", dies)
    with pytest.raises(OSError, match="the machine is gone"):
        mirror.send()
    other = RemoteCopy(tmp_path / "other", f"file://{copy}")
    other.fetch()
    names = [path.name for path in complete_checkpoints(tmp_path / "other" / "checkpoints")]
    assert names == ["00000005"]


def test_a_checkpoint_that_goes_while_it_is_copied_is_not_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_folder(tmp_path / "run", 5)
    mirror = RemoteCopy(run, f"file://{tmp_path}/copy")
    here = mirror._here()
    (run / "checkpoints" / "00000005" / "weights.safetensors").unlink()
    monkeypatch.setattr(mirror, "_here", lambda: here)
    mirror.send()
    assert complete_checkpoints(tmp_path / "copy" / "checkpoints") == []


def test_any_fsspec_store_will_do(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 5)
    RemoteCopy(run, "memory://bucket/one").send()
    assert RemoteCopy(tmp_path / "other", "memory://bucket/one").fetch() == 5
    assert contents(tmp_path / "other")["checkpoints/00000005/weights.safetensors"] == b"weights 5"


@pytest.mark.parametrize("url", ["nothing", "s3:/", "s3://", "warp://x/y", "memory://", "/tmp"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match=r"mirror=.* is not allowed: s3://bucket/path"):
        store_of(url)


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = RemoteCopy(tmp_path / "run", f"file://{tmp_path}/copy")
    (tmp_path / "copy").mkdir()
    (tmp_path / "secret").write_text("theirs")
    monkeypatch.setattr(mirror, "_there", lambda: {"../secret": 1})
    with pytest.raises(UserError, match="leads out of the run's folder"):
        mirror.fetch()
    assert (tmp_path / "secret").read_text() == "theirs"


def test_the_address_is_the_runs_own_unless_another_is_typed(tmp_path: Path) -> None:
    nothing, typed = {"mirror": None}, {"mirror": "s3://c/d"}
    assert mirror_of(nothing, [], tmp_path) is None
    (tmp_path / "config.json").write_text('{"mirror": "s3://a/b"}')
    assert mirror_of(nothing, [], tmp_path) == "s3://a/b"
    assert mirror_of(nothing, ["mirror"], tmp_path) is None  # mirror=null ends it
    assert mirror_of(typed, ["mirror"], tmp_path) == "s3://c/d"
    for damaged in ("{", "[]", '{"mirror": 3}'):
        (tmp_path / "config.json").write_text(damaged)
        assert mirror_of(nothing, [], tmp_path) is None


def test_a_folder_that_vanishes_takes_no_copy_along(tmp_path: Path) -> None:
    run, copy = run_folder(tmp_path / "run", 5), tmp_path / "copy"
    mirror = RemoteCopy(run, f"file://{copy}")
    mirror.send()
    before = contents(copy)
    run.rename(tmp_path / "unmounted")
    with pytest.raises(OSError, match=r"has lost its config.json"):
        mirror.send()
    assert contents(copy) == before


@pytest.mark.parametrize(
    "only_there", ["checkpoints/00000010/state.json", "records/one.parquet", "trials/00003/end.json"]
)
def test_a_copy_that_is_ahead_is_not_overwritten(only_there: str, tmp_path: Path) -> None:
    """The run has gone on elsewhere, and somebody comes back to the machine where it began."""
    run, copy = run_folder(tmp_path / "run", 5), tmp_path / "copy"
    RemoteCopy(run, f"file://{copy}").send()
    (copy / only_there).parent.mkdir(parents=True, exist_ok=True)
    (copy / only_there).write_text("{}")
    before = contents(copy)
    with (
        pytest.raises(UserError, match=f"is ahead of {run}: it has {only_there}; move the folder away"),
        mirrored(run, f"file://{copy}"),
    ):
        pytest.fail("begun")
    assert contents(copy) == before


def test_what_a_dead_driver_left_in_the_copy_goes(tmp_path: Path) -> None:
    """An old checkpoint that was removed here while nobody copied; what is there already is not sent again."""
    run, copy = run_folder(tmp_path / "run", 5, 10), tmp_path / "copy"
    RemoteCopy(run, f"file://{copy}").send()
    before = (copy / "checkpoints" / "00000010" / "weights.safetensors").stat().st_mtime_ns
    for path in (run / "checkpoints" / "00000005").iterdir():
        path.unlink()
    with mirrored(run, f"file://{copy}"):
        pass
    assert [path.name for path in complete_checkpoints(copy / "checkpoints")] == ["00000010"]
    assert (copy / "checkpoints" / "00000010" / "weights.safetensors").stat().st_mtime_ns == before


def test_a_mistake_copies_nothing_and_fetches_into_no_folder_of_others(data: Path, tmp_path: Path) -> None:
    run_folder(tmp_path / "other", 5)
    RemoteCopy(tmp_path / "other", f"file://{tmp_path}/copy").send()
    home, before = tmp_path / "home", contents(tmp_path / "copy")
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no training run"):
        train(*TINY, f"data={data}", f"mirror=file://{tmp_path}/copy", f"out={home}")
    assert contents(home) == {"letter.txt": b"dear"}
    assert contents(tmp_path / "copy") == before


def test_what_ends_the_block_counts_and_a_store_without_an_answer_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(eqr_ray.storage.remote_sync, "LEAVING_S", 0.5)
    run = run_folder(tmp_path / "run", 5)

    def hangs(mirror: RemoteCopy) -> None:
        time.sleep(30)

    monkeypatch.setattr(RemoteCopy, "send", hangs)
    with pytest.raises(KeyboardInterrupt), mirrored(run, f"file://{tmp_path}/copy"):
        raise KeyboardInterrupt
    assert "is not complete (no answer for 0.5 s)" in caplog.text


# ---- S3, for real


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    server = S3()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    if not server.runs:  # a test has stopped it
        server.start()
    return server


def names_in(url: str) -> set[str]:
    return set(RemoteCopy(Path("nowhere"), url)._there())


@pytest.mark.usefixtures("s3")
def test_a_training_goes_on_from_s3_on_another_machine(data: Path, tmp_path: Path) -> None:
    url = "s3://bucket/runs/one"
    keys = [*TINY, f"data={data}"]
    train(*keys, "steps=6", f"mirror={url}", f"out={tmp_path / 'here'}")
    steps = {name.split("/")[1] for name in names_in(url) if name.startswith("checkpoints/")}
    assert steps == {path.name for path in complete_checkpoints(tmp_path / "here" / "checkpoints")}
    assert {"config.json", "summary.json", "model.safetensors", "model.json", "log.jsonl"} <= names_in(url)
    there = tmp_path / "there"
    train(f"resume={there}", f"mirror={url}", "steps=8")
    train(*keys, "steps=8", f"out={tmp_path / 'whole'}")
    assert (there / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not (tmp_path / "here" / "checkpoints" / "00000008").exists()
    assert any(name.startswith("checkpoints/00000008/") for name in names_in(url))


@pytest.mark.usefixtures("s3")
def test_a_run_that_is_in_the_store_is_not_begun_anew(data: Path, tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 5)
    RemoteCopy(tmp_path / "run", "s3://bucket/runs/two").send()
    with pytest.raises(UserError, match="holds a run: resume="):
        train(*TINY, f"data={data}", "mirror=s3://bucket/runs/two", f"out={tmp_path / 'new'}")


def test_a_store_that_stops_and_comes_back_holds_nothing_up(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(eqr_ray.storage.remote_sync, "EVERY_S", 0.1)
    run = run_folder(tmp_path / "run", 5)
    with mirrored(run, "s3://bucket/three"):
        until(lambda: "config.json" in names_in("s3://bucket/three"))
        s3.stop()
        (run / "later.txt").write_text("later")
        until(lambda: "going on without a copy" in caplog.text)
        s3.start()  # empty: moto forgets
    assert "later.txt" in names_in("s3://bucket/three")


def test_a_store_that_stays_away_is_said_at_the_end_and_nothing_is_lost(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eqr_ray.storage.remote_sync, "PATIENCE_S", 0.0)
    run = run_folder(tmp_path / "run", 5)
    with (
        pytest.raises(Failure, match=f"does not answer .*; all is in {run}, the same command copies it later"),
        mirrored(run, "s3://bucket/four"),
    ):
        s3.stop()
    assert complete_checkpoints(run / "checkpoints")


def test_a_store_that_is_not_there_is_said_at_once(s3: S3, tmp_path: Path) -> None:
    s3.stop()
    with pytest.raises(UserError, match="mirror=s3://bucket/five cannot be read"):
        fetch(tmp_path / "new", "s3://bucket/five")
    assert not (tmp_path / "new").exists()


def test_a_finished_training_completes_its_copy(s3: S3, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*TINY, f"data={data}", "steps=3", f"out={run}")
    with pytest.raises(Finished):
        train(f"resume={run}", "mirror=s3://bucket/six")
    assert "summary.json" in names_in("s3://bucket/six")


def until(ready: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end_s
        time.sleep(0.05)
