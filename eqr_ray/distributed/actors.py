"""Breadth over devices: one engine per Ray actor, units handed out as they are asked for.

Why here: an actor holds one network on its GPU (or its share of the CPUs) and a queue of units; a call adds units and
runs until one is finished or a moment has passed, so that slots never drain at the border of a unit. The driver keeps
just enough units ahead of each actor, and writes what comes back. An actor that dies is replaced and its unfinished
units are run again: records are a function of the unit alone, so a repetition gives the same rows, and a unit is saved
once because only the driver saves.

Only arrays travel: a unit's tokens out, its records back. The network is sent once, through the object store.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

from eqr_ray.errors import UserError
from eqr_ray.inference.engine import Engine, Report
from eqr_ray.inference.policy import policy_named
from eqr_ray.inference.records import Records
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.slots import NetworkLike
from eqr_ray.inference.work import Unit, enough_ahead

CALL_S = 1.0  # an actor reports at least this often
START_TIMEOUT_S = 180.0  # until every actor has been placed and holds its network
DEATHS_IN_A_ROW = 3  # without a report in between: then the fault is not the machine's

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Team:
    """How many actors, and what each is pinned to."""

    actors: int
    cpus_each: float
    gpus_each: float

    @property
    def device_type(self) -> str:
        return "cuda" if self.gpus_each else "cpu"


def here() -> dict[str, float]:
    """The resources of this machine, in Ray's words."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}


def share(resources: Mapping[str, float], actors: int, use_gpus: bool) -> Team:
    """Divide a cluster's resources among `actors`: a GPU each, or equal whole shares of the CPUs.

    UserError: there are fewer GPUs or CPUs than actors; the message says what is there.
    """
    kind = "GPU" if use_gpus else "CPU"
    there = int(resources.get(kind, 0))
    if actors < 1:
        raise UserError(f"actors={actors} is not allowed: at least 1, or 0 to work without Ray")
    if actors > there:
        has = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("GPU", "CPU"))
        raise UserError(f"actors={actors} needs {actors} {kind}s; there are {has}")
    if use_gpus:
        return Team(actors, min(1.0, resources.get("CPU", 0) / actors), 1.0)
    return Team(actors, float(there // actors), 0.0)


class Breadth:
    """The actor: an engine and its network. Made by `ray.remote` below; testable without Ray as it stands."""

    def __init__(self, factory: Callable[[], NetworkLike], settings: Settings, slots: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._engine = Engine(factory(), settings, slots)

    def about(self) -> dict[str, Any]:
        """Which process on which devices this is."""
        return {"pid": os.getpid(), "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES")}

    def run(self, units: Sequence[tuple[Unit, npt.NDArray[np.uint8]]], seconds: float) -> Report:
        """Queue `units` (with their inputs (puzzles, L)); step until a unit is finished or `seconds` have passed."""
        for unit, inputs in units:
            self._engine.add(unit, inputs)
        before, end_s = self._engine.row_segments, time.monotonic() + seconds
        finished: list[tuple[Unit, Records]] = []
        while not finished and not self._engine.idle:
            finished = self._engine.step()
            if time.monotonic() >= end_s:
                break
        return Report(self._engine.row_segments - before, finished)


RemoteBreadth = ray.remote(Breadth)


@dataclass
class Hand:
    """An actor as the driver sees it: the units it has been given and not yet returned."""

    actor: ActorHandle[Breadth]
    ahead: list[Unit] = field(default_factory=list)


class Actors:
    """A team at work on one run. Use as a context: leaving it ends the actors."""

    def __init__(self, team: Team, factory: Callable[[], NetworkLike], settings: Settings, slots: int) -> None:
        self._team, self._settings, self._slots = team, settings, slots
        self._whole = policy_named(settings.policy).whole
        self._factory = ray.put(factory)
        self._hands: list[Hand] = []

    def __enter__(self) -> Actors:
        self._hands = [Hand(self._start()) for _ in range(self._team.actors)]
        try:
            self.about(START_TIMEOUT_S)
        except GetTimeoutError:
            self.__exit__()
            team, free = self._team, ray.available_resources()  # type: ignore[no-untyped-call]
            there = f"{free.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} CPUs"
            raise UserError(
                f"{team.actors} actors with {team.gpus_each:g} GPUs and {team.cpus_each:g} CPUs each were not placed "
                f"within {START_TIMEOUT_S:g} s; free in the cluster: {there}"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._hands:
            ray.kill(hand.actor)
        self._hands = []

    def about(self, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """What each actor is and sees."""
        facts: list[dict[str, Any]] = ray.get([hand.actor.about.remote() for hand in self._hands], timeout=timeout_s)
        return facts

    def _start(self) -> ActorHandle[Breadth]:
        team = self._team
        options = RemoteBreadth.options(num_cpus=team.cpus_each, num_gpus=team.gpus_each, max_restarts=0)
        actor = options.remote(self._factory, self._settings, self._slots, max(1, int(team.cpus_each)))
        return cast("ActorHandle[Breadth]", actor)

    def run(self, units: Sequence[Unit], inputs_NL: npt.NDArray[np.uint8]) -> Iterator[Report]:
        """Reports of all units, each unit exactly once, in any order. `inputs_NL` by row number of the data."""
        waiting, deaths = deque(units), 0
        calls = {call: hand for hand in self._hands if (call := self._call(hand, waiting, inputs_NL)) is not None}
        while calls:
            ready, _ = ray.wait(list(calls), num_returns=1)
            hand = calls.pop(ready[0])
            report: Report | None = None
            try:
                report = ray.get(ready[0])
            except RayActorError as error:
                deaths += 1
                log.warning("an actor died: replacing it, %d units again (%s)", len(hand.ahead), _first_line(error))
                if deaths > DEATHS_IN_A_ROW:
                    raise
                waiting.extendleft(reversed(hand.ahead))
                hand.actor, hand.ahead = self._start(), []
            else:
                deaths = 0
                done = {unit for unit, _ in report.finished}
                hand.ahead = [unit for unit in hand.ahead if unit not in done]
            # The actor has work again before the driver turns to what it reported. A dead actor's units may also go to
            # an actor that had run out of them.
            for free in [hand, *(other for other in self._hands if other not in calls.values() and other is not hand)]:
                call = self._call(free, waiting, inputs_NL)
                if call is not None:
                    calls[call] = free
            if report is not None:
                yield report

    def _call(self, hand: Hand, waiting: deque[Unit], inputs_NL: npt.NDArray[np.uint8]) -> Any | None:
        """Top up an actor and let it run; None when it has nothing to do."""
        fresh: list[Unit] = []
        while waiting and not enough_ahead([*hand.ahead, *fresh], self._slots, self._whole):
            fresh.append(waiting.popleft())
        hand.ahead += fresh
        if not hand.ahead:
            return None
        return hand.actor.run.remote([(unit, np.array(inputs_NL[unit.first : unit.last])) for unit in fresh], CALL_S)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
