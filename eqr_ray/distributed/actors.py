"""Breadth over devices: one engine per Ray actor, units handed out as they are asked for.

An actor holds one network on its GPU (or its share of the CPUs) and a queue of units; a call adds units and runs until
one is finished or a moment has passed, so that slots never drain at the border of a unit. `inference/dispatch.py`
decides who gets which unit; the driver writes what comes back. An actor that dies is replaced and its unfinished units
are run again: records are a function of the unit alone, and a unit is saved once because only the driver saves. A
replacement that finds no place in time is given up. An elastic run also starts an actor wherever a place appears.

Only arrays travel: a unit's tokens out, its records back. The network is sent once, through the object store.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.cluster import RayMetrics, nodes
from eqr_ray.distributed.ray_internals import unused_resources
from eqr_ray.distributed.resources import ResourceRequest, capacity
from eqr_ray.inference.dispatch import CALL_S, Dispatcher, ShardedRace, call_s
from eqr_ray.inference.engine import BreadthEngine, EngineReport
from eqr_ray.inference.policies import POLICIES, Win
from eqr_ray.inference.records import Records
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit
from eqr_ray.model.network import Network

START_TIMEOUT_S = 180.0  # until an actor has been placed and holds its network
LOOK_EVERY_S = 5.0  # for places that have appeared; a call of some milliseconds
RACE_CALL_S = 0.05  # of a call where a puzzle is on several actors: as long may one run on after another has won
DEATHS_IN_A_ROW = 3  # without a report in between: then the fault is not the machine's (a lost node may take all)

log = logging.getLogger(__name__)


class Turn(NamedTuple):
    """What a call of an actor brings; `starved`: slots stood idle although more was to be had."""

    report: EngineReport
    starved: bool


class Breadth:
    """The actor: an engine and its network. Made by `ray.remote` below; testable without Ray as it stands."""

    def build(self, factory: Callable[[], Network], settings: Settings, slots: int, threads: int) -> None:
        """Load the network; before any `run`. (Ray would not pass on a UserError from __init__.)"""
        torch.set_num_threads(threads)
        self._engine = BreadthEngine(factory(), settings, slots)

    def run(
        self,
        drop: Sequence[Unit],
        units: Sequence[tuple[Unit, npt.NDArray[np.uint8]]],
        wins: Sequence[tuple[Unit, Win]],
        more: bool,
        seconds: float,
    ) -> Turn:
        """Forget the units in `drop`, queue `units` (with their inputs (puzzles, L)), and heed the `wins` of others
        over units of one puzzle; step until a unit is finished, or `seconds` have passed, or slots stand idle while
        there is `more`. When there is not, idle slots run ahead."""
        engine = self._engine
        for unit in drop:
            engine.drop(unit)
        for unit, inputs in units:
            engine.add(unit, inputs)
        for unit, win in wins:
            engine.beaten(unit, unit.first, win)
        before, end_s = engine.row_segments, time.monotonic() + seconds
        finished: list[tuple[Unit, Records]] = []
        starved = False
        while not (finished or starved or engine.idle):
            so_far = engine.row_segments
            finished = engine.step(ahead=not more)
            starved = more and engine.row_segments - so_far < engine.slots
            if time.monotonic() >= end_s:
                break
        return Turn(EngineReport(engine.row_segments - before, finished, engine.answered()), starved)


RemoteBreadth = ray.remote(Breadth)


@dataclass(eq=False)
class Handle:
    """An actor as the driver sees it: the call that it is at (`build` at first; None: nothing), and until when that may
    take."""

    name: str
    actor: ActorHandle[Breadth]
    call: Any
    until_s: float = math.inf

    def __str__(self) -> str:
        return self.name


class Actors:
    """The actors of a run. Use as a context: leaving it ends the actors. `elastic`: places that appear are used."""

    def __init__(
        self,
        request: ResourceRequest,
        factory: Callable[[], Network],
        settings: Settings,
        slots: int,
        elastic: bool = False,
        metrics: RayMetrics | None = None,
    ) -> None:
        self._request, self._elastic, self._metrics = request, elastic, metrics
        self._build: tuple[Any, ...] = (ray.put(factory), settings, slots, request.threads)
        self._handles: list[Handle] = []
        self._started = self._deaths = 0
        self._looked_s = time.monotonic()
        policy = POLICIES[settings.policy]
        self._dispatcher = Dispatcher(slots, policy.restarts.in_turn)
        self._race = ShardedRace(policy, slots)

    def __enter__(self) -> Actors:
        try:
            self._handles = [self._start() for _ in range(self._request.workers)]
            while starting := {handle.call: handle for handle in self._handles if handle.call is not None}:
                wait_s = max(0.0, min(handle.until_s for handle in starting.values()) - time.monotonic())
                ready, _ = ray.wait(list(starting), num_returns=1, timeout=wait_s)
                if not ready:
                    raise UserError(f"{self._request.workers} actors with {self._not_placed()}")
                self._returned(starting[ready[0]])  # one that died is replaced: its node may have gone unnoticed
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            ray.kill(handle.actor)
        self._handles = []

    def run(self, units: Iterable[Unit], inputs_NL: npt.NDArray[np.uint8]) -> Iterator[EngineReport]:
        """Reports of all units, each unit exactly once, in any order. `inputs_NL` by row number of the data. One run
        after the other. UserError: one of the actors'; or no actor is left and none can be placed."""
        self._dispatcher.add(self._race.shards(units))
        self._deaths = 0
        self._give_work(inputs_NL, starved=set())
        while not self._dispatcher.finished:
            turns = {handle: turn for handle in self._ready() if (turn := self._returned(handle)) is not None}
            self._give_up_late()
            self._grow()
            # Actors have work again before the driver turns to what they reported.
            self._give_work(inputs_NL, {handle for handle, turn in turns.items() if turn.starved})
            for turn in turns.values():
                yield turn.report

    def _start(self) -> Handle:
        self._started += 1
        options = RemoteBreadth.options(
            num_cpus=self._request.cpus_each, num_gpus=self._request.gpus_each, max_restarts=0
        )
        actor: Any = options.remote()
        built = actor.build.remote(*self._build)
        return Handle(f"actor {self._started}", actor, built, time.monotonic() + START_TIMEOUT_S)

    def _ready(self) -> list[Handle]:
        """Those whose call has ended; waits for one, but not for ever."""
        handles = {handle.call: handle for handle in self._handles if handle.call is not None}
        ray.wait(list(handles), num_returns=1, timeout=CALL_S)
        ready, _ = ray.wait(list(handles), num_returns=len(handles), timeout=0)
        return [handles[call] for call in ready]

    def _returned(self, handle: Handle) -> Turn | None:
        """What its call brought, of each unit only the first result. None: it has built its network and joins in, or it
        has died and is replaced. A UserError of an actor arrives as itself, without Ray's traceback."""
        try:
            turn: Any = ray.get(handle.call)
        except RayActorError as error:
            self._replace(handle, error)
            return None
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        handle.call, handle.until_s = None, math.inf
        if turn is None:
            self._dispatcher.join(handle)
            return None
        self._deaths = 0
        first = [(unit, rows) for unit, rows in turn.report.finished if self._dispatcher.done(handle, unit)]
        kept = [whole for unit, rows in first for whole in self._race.merged(unit, rows)]
        held = set(self._dispatcher.held(handle))  # another actor may have finished a copy
        answered = {unit: count for unit, count in turn.report.answered.items() if unit in held}
        return Turn(turn.report._replace(finished=kept, answered=answered, actor=handle.name), turn.starved)

    def _replace(self, handle: Handle, error: RayActorError) -> None:
        """Start another actor in its place. The error itself: this has happened too often."""
        self._deaths += 1
        again = self._dispatcher.leave(handle)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("%s died: replacing it, %d units again (%s)", handle, len(again), reason)
        if self._metrics is not None:
            self._metrics.count("retries", len(again))
        if self._deaths > max(DEATHS_IN_A_ROW, len(self._handles)):
            raise error
        self._handles[self._handles.index(handle)] = self._start()

    def _give_up_late(self) -> None:
        """Leave out newcomers that were not placed in time. UserError: nobody is left."""
        now_s = time.monotonic()
        late = [one for one in self._handles if one.until_s <= now_s and not ray.wait([one.call], timeout=0)[0]]
        for handle in late:
            ray.kill(handle.actor)
            self._handles.remove(handle)
        if not self._handles:
            raise UserError(f"no actor is left: {len(late)} with {self._not_placed()}; the same command goes on later")
        if late:
            log.warning("%d actors with %s; going on with %d", len(late), self._not_placed(), len(self._handles))

    def _not_placed(self) -> str:
        request, unused = self._request, unused_resources()
        gpus, cpus = (sum(node.get(name, 0) for node in unused) for name in ("GPU", "CPU"))
        return (
            f"{request.gpus_each:g} GPUs and {request.cpus_each:g} CPUs each were not placed within "
            f"{START_TIMEOUT_S:g} s; free in the cluster: {gpus:g} GPUs, {cpus:g} CPUs"
        )

    def _grow(self) -> None:
        """Start an actor in every place that has appeared."""
        if not self._elastic or time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = time.monotonic()
        there, unused = capacity(nodes(), self._request), capacity(unused_resources(), self._request)
        new = min(there - len(self._handles), unused)
        if new > 0:
            log.info("%d places for %d actors, %d of them free: %d more", there, len(self._handles), unused, new)
            self._handles += [self._start() for _ in range(new)]

    def _give_work(self, inputs_NL: npt.NDArray[np.uint8], starved: Collection[Handle]) -> None:
        """Ask for every actor that is at no call what it shall do, and let it run if that is anything. Not only those
        that have just reported: some are new, and what a dead one had may go to one that had run dry."""
        for handle in [handle for handle in self._handles if handle.call is None]:
            drop, run, more = self._dispatcher.give(handle, handle in starved)
            held = self._dispatcher.held(handle)
            if drop or held:
                work = [(unit, np.array(inputs_NL[unit.first : unit.last])) for unit in run]
                seconds = RACE_CALL_S if self._race.open else call_s(len(self._handles))
                handle.call = handle.actor.run.remote(drop, work, self._race.wins(held), more, seconds)
