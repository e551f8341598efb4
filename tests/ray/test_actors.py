"""Breadth actors on a real local Ray: pinned, killed, joined by others, and still the same records."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayActorError
from torch import Tensor

from eqr_ray.config.errors import UserError
from eqr_ray.distributed import actors as actors_module
from eqr_ray.distributed.actors import Actors, Breadth, Turn
from eqr_ray.distributed.cluster import nodes
from eqr_ray.distributed.ray_internals import unused_resources
from eqr_ray.distributed.resources import ResourceRequest, share
from eqr_ray.inference.engine import BreadthEngine, EngineReport, run_units
from eqr_ray.inference.records import SETTLED, Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit, plan
from tests.inference.fake import DyingFake, FakeLatent, FakeNetwork, FakeSegment, SlowFake, puzzles
from tests.inference.same import assert_same

pytestmark = pytest.mark.usefixtures("cluster")

SETTINGS = Settings(depth=6, breadth=4, seed=1, policy="settle", settle_below=0.15, snapshots=(2,))
SLOTS = 8
INPUTS = puzzles(24)
UNITS = plan(24, 4, 6, whole=False)
ON_GPUS = ResourceRequest(2, 0.5, 1.0)


def here() -> dict[Unit, Records]:
    """The undisturbed run, in this process."""
    engine = BreadthEngine(FakeNetwork(), SETTINGS, SLOTS)
    return {unit: rows for report in run_units(engine, UNITS, INPUTS) for unit, rows in report.finished}


def about(actors: Actors) -> list[dict[str, Any]]:
    """Which process on which devices each actor is."""

    def facts(actor: Breadth) -> dict[str, Any]:
        return {"pid": os.getpid(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}

    return ray.get([handle.actor.__ray_call__.remote(facts) for handle in actors._handles])


def on_actors(
    request: ResourceRequest,
    factory: Callable[[], FakeNetwork],
    disturb: Callable[[int, Actors], None],
    elastic: bool = False,
) -> list[Unit]:
    """Run all units; `disturb` is called before each report. Every unit must come once, with the undisturbed rows."""
    expected, seen = here(), []
    with Actors(request, factory, SETTINGS, SLOTS, elastic) as actors:
        for number, report in enumerate(actors.run(UNITS, INPUTS)):
            for unit, rows in report.finished:
                seen.append(unit)
                assert_same(rows, expected[unit])
            disturb(number, actors)
    assert sorted(seen) == UNITS
    return seen


class Uneven(FakeNetwork):
    """Slow in the process that is first in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            (folder / "slow").mkdir()
            self.seconds = 0.1
        except FileExistsError:
            self.seconds = 0.0

    def segment(self, latent: FakeLatent, embedding_BLD: Tensor, keys_B: Tensor) -> FakeSegment:
        time.sleep(self.seconds)
        return super().segment(latent, embedding_BLD, keys_B)


class Stillborn(FakeNetwork):
    """Ends the process that is first in `folder`, as kill -9 does."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            (folder / "dead").mkdir()
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Signing(SlowFake):
    """Every process that works leaves its name in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def segment(self, latent: FakeLatent, embedding_BLD: Tensor, keys_B: Tensor) -> FakeSegment:
        (self.folder / str(os.getpid())).touch()
        return super().segment(latent, embedding_BLD, keys_B)


def test_an_actor_comes_back_when_it_has_slots_to_spare_and_drops_what_is_not_wanted() -> None:
    actor = Breadth()
    actor.build(FakeNetwork, SETTINGS, SLOTS, torch.get_num_threads())
    work = [(unit, INPUTS[unit.first : unit.last]) for unit in UNITS[:3]]  # of 4 trajectories each, for 8 slots
    assert actor.run([], work[:1], [], more=True, seconds=60.0) == Turn(EngineReport(4, []), starved=True)
    assert actor.run([UNITS[0]], [], [], more=True, seconds=60.0) == Turn(EngineReport(0, []), starved=False)
    turn = actor.run([UNITS[0]], work[1:], [], more=True, seconds=60.0)
    assert not turn.starved
    expected = here()
    for unit, rows in turn.report.finished:
        assert_same(rows, expected[unit])
    assert [unit for unit, _ in turn.report.finished] == UNITS[1:3]  # all of them take the full depth


def test_the_restarts_of_one_puzzle_are_spread_over_actors_that_share_gpus(tmp_path: Path) -> None:
    """The first to settle is in the last of three shards, after 71 segments; in the others none would within 1,200, so
    that it does not matter to the count at the end if they hear of it some seconds late."""
    race = SETTINGS.replace(policy="race", settle_below=0.036, depth=1200, breadth=24, snapshots=(), seed=20)
    one = [Unit(2, 3, 0, 24)]
    engine = BreadthEngine(FakeNetwork(), race, SLOTS)
    expected = [rows for report in run_units(engine, one, INPUTS) for _, rows in report.finished]
    won = expected[0].take(expected[0].status == SETTLED)
    assert won.segments.tolist() == [71]
    with Actors(ResourceRequest(3, 0.5, 0.5), partial(Signing, tmp_path), race, SLOTS) as actors:
        devices = sorted(one["devices"] for one in about(actors))
        reports = list(actors.run(one, INPUTS))
    assert [unit for report in reports for unit, _ in report.finished] == one
    assert_same(reports[-1].finished[0][1], expected[0])
    assert len(list(tmp_path.iterdir())) == 3  # all have worked
    assert sum(report.row_segments for report in reports) < 8 * (71 + 600 + 600)
    assert devices in (["0", "0", "1"], ["0", "1", "1"])


def test_an_actor_that_dies_while_it_starts_is_replaced(tmp_path: Path) -> None:
    on_actors(ResourceRequest(1, 0.5, 0.0), partial(Stillborn, tmp_path), lambda number, actors: None)


def test_a_killed_actor_is_replaced_and_its_units_run_again(tmp_path: Path) -> None:
    """One ends as by kill -9, in the middle of a unit."""

    def count(number: int, actors: Actors) -> None:
        if number == len(UNITS) - 1:
            pids = {str(one["pid"]) for one in about(actors)}
            assert len(pids) == 2
            assert not pids & {path.name for path in tmp_path.iterdir()}

    on_actors(ON_GPUS, partial(DyingFake, tmp_path, times=1), count)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_unit_that_always_kills_its_actor_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors_module, "DEATHS_IN_A_ROW", 1)
    with (
        Actors(ResourceRequest(1, 1.0, 0.0), partial(DyingFake, tmp_path, times=100), SETTINGS, SLOTS) as actors,
        pytest.raises(RayActorError),
    ):
        list(actors.run(UNITS, INPUTS))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_team_that_cannot_be_placed_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "3 actors with 1 GPUs and 0.5 CPUs each were not placed within 3 s"
    too_many = Actors(ResourceRequest(3, 0.5, 1.0), FakeNetwork, SETTINGS, SLOTS)
    with monkeypatch.context() as patch:
        patch.setattr(actors_module, "START_TIMEOUT_S", 3.0)
        with pytest.raises(UserError, match=message):
            too_many.__enter__()
    all_is_free_again()


def all_is_free_again() -> None:
    end_s = time.monotonic() + 60
    while any(unused_resources()[0].get(kind) != nodes()[0][kind] for kind in ("CPU", "GPU")):
        assert time.monotonic() < end_s, unused_resources()
        time.sleep(0.1)


def test_the_last_units_of_a_slow_actor_are_run_by_another_and_runs_follow_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second run and the third begin while the slow actor is still at what the other has finished."""
    caplog.set_level(logging.INFO)
    expected = here()
    with Actors(ON_GPUS, partial(Uneven, tmp_path), SETTINGS, SLOTS) as actors:
        for units in (UNITS[:10], [], UNITS[10:]):
            seen = [(unit, rows) for report in actors.run(units, INPUTS) for unit, rows in report.finished]
            assert sorted(unit for unit, _ in seen) == units
            for unit, rows in seen:
                assert_same(rows, expected[unit])
    assert "a second time, on actor " in caplog.text
    assert "nothing waits, and it has run dry" in caplog.text


def test_a_place_that_appears_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actors_module, "LOOK_EVERY_S", 0.0)
    caplog.set_level(logging.INFO)

    def wait(number: int, actors: Actors) -> None:
        if number == 0:
            while len(actors._handles) == 1 and ray.available_resources().get("GPU") != 1:
                time.sleep(0.1)  # until Ray knows that the other one is free, or a newcomer has it already
        if number == 2:
            assert len(about(actors)) == 2  # the newcomer has been started, and now is there

    on_actors(ResourceRequest(1, 0.5, 1.0), partial(Signing, tmp_path), wait, elastic=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert "2 places for 1 actors, 1 of them free: 1 more" in caplog.text


def kill_and_leave_no_room(number: int, actors: Actors) -> None:
    """The first actor dies, and a replacement needs more GPUs than there are: as if its node were lost."""
    if number == 2:
        actors._request = replace(actors._request, gpus_each=9.0)
        os.kill(about(actors)[0]["pid"], signal.SIGKILL)


def test_without_room_for_a_replacement_the_others_go_on_until_none_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Actors(ON_GPUS, SlowFake, SETTINGS, SLOTS) as actors:
        monkeypatch.setattr(actors_module, "START_TIMEOUT_S", 0.0)
        seen: list[Unit] = []
        for number, report in enumerate(actors.run(UNITS, INPUTS)):
            seen += [unit for unit, _ in report.finished]
            kill_and_leave_no_room(number, actors)
        assert len(about(actors)) == 1
        assert sorted(seen) == UNITS
        assert "1 actors with 9 GPUs and 0.5 CPUs each were not placed within 0 s" in caplog.text
        assert "going on with 1" in caplog.text
        reports = actors.run(UNITS, INPUTS)
        for number in range(3):
            next(reports)
            kill_and_leave_no_room(number, actors)
        with pytest.raises(UserError, match=r"^no actor is left: 1 with 9 GPUs .* free in the cluster: "):
            list(reports)


def damaged() -> FakeNetwork:
    raise UserError("model.safetensors is damaged")


def test_a_mistake_that_an_actor_finds_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^model\.safetensors is damaged$") as caught:
        Actors(ResourceRequest(1, 0.5, 1.0), damaged, SETTINGS, SLOTS).__enter__()
    assert type(caught.value) is UserError
    all_is_free_again()


def test_the_nodes_of_a_cluster_are_what_is_shared() -> None:
    assert [(node["CPU"], node["GPU"]) for node in nodes()] == [(2.0, 2.0)]
    assert share(nodes(), 2, use_gpus=True) == ResourceRequest(2, 1.0, 1.0)


def test_actors_pinned_to_gpus_share_the_restarts_of_one_puzzle() -> None:
    settings = Settings(depth=4, breadth=32)
    units = plan(1, 32, 4, whole=False)
    assert len(units) == 16
    engine = BreadthEngine(FakeNetwork(), settings, SLOTS)
    alone = concatenate([rows for r in run_units(engine, units, INPUTS) for _, rows in r.finished]).in_order()
    with Actors(ON_GPUS, FakeNetwork, settings, SLOTS) as actors:
        facts = about(actors)
        shared = concatenate([rows for r in actors.run(units, INPUTS) for _, rows in r.finished]).in_order()
    assert_same(shared, alone)
    assert np.array_equal(shared.restart, np.arange(32))
    assert sorted(one["devices"] for one in facts) == ["0", "1"]
    assert len({os.getpid(), *(one["pid"] for one in facts)}) == 3


def test_ray_listens_on_loopback_only() -> None:
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    assert all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes())
