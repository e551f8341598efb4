"""Breadth over devices: one engine per Ray actor, units handed out as they are asked for.

Why here: an actor holds one network on its GPU (or its share of the CPUs) and a queue of units; a call adds units and
runs until one is finished or a moment has passed, so that slots never drain at the border of a unit. The driver keeps
just enough units ahead of each actor, and writes what comes back. An actor that dies is replaced and its unfinished
units are run again: records are a function of the unit alone, so a repetition gives the same rows, and a unit is saved
once because only the driver saves. A replacement is given no unit before it is there, and one for which the cluster has
no place any more is given up: the others go on.

Only arrays travel: a unit's tokens out, its records back. The network is sent once, through the object store.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from eqr_ray.distributed.placement import Team
from eqr_ray.errors import UserError
from eqr_ray.inference.engine import Engine, Report
from eqr_ray.inference.policy import policy_named
from eqr_ray.inference.records import Records
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.slots import NetworkLike
from eqr_ray.inference.work import Unit, enough_ahead

CALL_S = 1.0  # an actor reports at least this often
START_TIMEOUT_S = 180.0  # until an actor has been placed and holds its network
DEATHS_IN_A_ROW = 3  # without a report in between: then the fault is not the machine's (a lost node may take a team)

log = logging.getLogger(__name__)


class Breadth:
    """The actor: an engine and its network. Made by `ray.remote` below; testable without Ray as it stands."""

    def __init__(self, factory: Callable[[], NetworkLike], settings: Settings, slots: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._make: Callable[[], Engine] = lambda: Engine(factory(), settings, slots)

    def build(self) -> None:
        """Load the network; before any `run`. Not done in __init__, from where Ray would not pass on a UserError."""
        self._engine = self._make()

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
    """An actor as the driver sees it: the call that it is at (`build` at first; None: nothing), until when that may
    take, and the units that it has been given and not yet returned."""

    actor: ActorHandle[Breadth]
    call: Any | None
    until_s: float = math.inf
    ahead: list[Unit] = field(default_factory=list)


class Actors:
    """A team at work on one run. Use as a context: leaving it ends the actors."""

    def __init__(self, team: Team, factory: Callable[[], NetworkLike], settings: Settings, slots: int) -> None:
        self._team, self._settings, self._slots = team, settings, slots
        self._whole = policy_named(settings.policy).whole
        self._factory = ray.put(factory)
        self._hands: list[Hand] = []

    def __enter__(self) -> Actors:
        try:
            self._hands = [self._start() for _ in range(self._team.workers)]
            _result([hand.call for hand in self._hands], START_TIMEOUT_S)
        except GetTimeoutError:
            self.__exit__()
            raise UserError(f"{self._team.workers} actors with {self._not_placed()}") from None
        except BaseException:
            self.__exit__()
            raise
        for hand in self._hands:
            hand.call, hand.until_s = None, math.inf
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._hands:
            ray.kill(hand.actor)
        self._hands = []

    def about(self, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """What each actor is and sees."""
        facts: list[dict[str, Any]] = _result([hand.actor.about.remote() for hand in self._hands], timeout_s)
        return facts

    def _start(self) -> Hand:
        team = self._team
        options = RemoteBreadth.options(num_cpus=team.cpus_each, num_gpus=team.gpus_each, max_restarts=0)
        actor = options.remote(self._factory, self._settings, self._slots, team.threads)
        handle = cast("ActorHandle[Breadth]", actor)
        return Hand(handle, handle.build.remote(), time.monotonic() + START_TIMEOUT_S)

    def _not_placed(self) -> str:
        team, free = self._team, ray.available_resources()  # type: ignore[no-untyped-call]
        return (
            f"{team.gpus_each:g} GPUs and {team.cpus_each:g} CPUs each were not placed within {START_TIMEOUT_S:g} s; "
            f"free in the cluster: {free.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} CPUs"
        )

    def run(self, units: Sequence[Unit], inputs_NL: npt.NDArray[np.uint8]) -> Iterator[Report]:
        """Reports of all units, each unit exactly once, in any order. `inputs_NL` by row number of the data.

        UserError: one of the actors'; or no actor is left and none can be placed."""
        waiting, deaths = deque(units), 0
        self._give_work(waiting, inputs_NL)
        while waiting or any(hand.ahead for hand in self._hands):
            calls = {hand.call: hand for hand in self._hands if hand.call is not None}
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=CALL_S)
            report: Report | None = None
            for call in ready:
                hand = calls[call]
                try:
                    report = _result(call)  # None: it has built its network
                except RayActorError as error:
                    deaths += 1
                    log.warning("an actor died: replacing it, %d units again (%s)", len(hand.ahead), _first_line(error))
                    if deaths > max(DEATHS_IN_A_ROW, self._team.workers):
                        raise
                    waiting.extendleft(reversed(hand.ahead))
                    self._hands[self._hands.index(hand)] = self._start()
                else:
                    hand.call, hand.until_s = None, math.inf
                if report is not None:
                    deaths = 0
                    done = {unit for unit, _ in report.finished}
                    hand.ahead = [unit for unit in hand.ahead if unit not in done]
            self._give_up_late()
            # The actor has work again before the driver turns to what it reported. A dead actor's units may also go to
            # an actor that had run out of them.
            self._give_work(waiting, inputs_NL)
            if report is not None:
                yield report

    def _give_up_late(self) -> None:
        """Leave out replacements that were not placed in time. UserError: nobody is left."""
        now_s = time.monotonic()
        late = [hand for hand in self._hands if hand.until_s <= now_s and not ray.wait([hand.call], timeout=0)[0]]
        for hand in late:
            ray.kill(hand.actor)
            self._hands.remove(hand)
        if not self._hands:
            raise UserError(f"no actor is left: {len(late)} with {self._not_placed()}; the same command goes on later")
        if late:
            log.warning("%d actors with %s; going on with %d", len(late), self._not_placed(), len(self._hands))

    def _give_work(self, waiting: deque[Unit], inputs_NL: npt.NDArray[np.uint8]) -> None:
        """Top up every actor that is at no call, and let it run."""
        for hand in self._hands:
            if hand.call is not None:
                continue
            fresh: list[Unit] = []
            while waiting and not enough_ahead([*hand.ahead, *fresh], self._slots, self._whole):
                fresh.append(waiting.popleft())
            hand.ahead += fresh
            if hand.ahead:
                work = [(unit, np.array(inputs_NL[unit.first : unit.last])) for unit in fresh]
                hand.call = hand.actor.run.remote(work, CALL_S)


def _result(calls: Any, timeout_s: float | None = None) -> Any:
    """What a call or a list of calls returned. A UserError in an actor arrives as itself, without Ray's traceback."""
    try:
        return ray.get(calls, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
