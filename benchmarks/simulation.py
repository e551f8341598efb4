"""Simulated devices that pull units through the real Dispatcher: a run on a thousand GPUs, in one process.

Why here: what the scheduling leaves idle can be computed, device by device and slot by slot, without the devices. The
driver and the actors follow `distributed/actors.py`: a call brings an order, runs until a unit is finished, a slot
stands idle that could be filled, or a moment has passed; the driver takes one report at a time.

Time is counted in events (heapq): the end of a call, a death, a newcomer. Within a call every trajectory has its own
number of segments, so that slots come free and are refilled as in the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.inference.dispatch import Dispatcher, Order, call_s
from eqr_ray.inference.units import Unit

TRIP_S = 0.003  # from one call to the next, beside the driver's own work (measured: 1-2.5 ms for a round trip)
REPORT_S = 0.001  # of the driver, for a report and the next order
SAVE_S = 0.005  # of the driver, for a part to be written

Segments = Callable[[Unit], npt.NDArray[np.int64]]  # of every trajectory of a unit, in the order they are started


@dataclass(frozen=True)
class Machines:
    """`speeds` of the devices that are there at first, 1 being a segment of all `slots` in `segment_s`; then (time in
    seconds, speed) of those that `join` and (time, number of the device) of those that `die`."""

    speeds: tuple[float, ...]
    slots: int = 64
    segment_s: float = 0.1
    join: tuple[tuple[float, float], ...] = ()
    die: tuple[tuple[float, int], ...] = ()


class Outcome(NamedTuple):
    """Seconds from the first order to the last result; and shares of the slots' time while their device was there:
    `busy` runs a trajectory, `useful` one whose result was kept. `units` kept."""

    seconds: float
    busy: float
    useful: float
    units: int


def pareto(depth: int, alpha: float = 1.2, least: float = 2.0, seed: int = 0) -> Segments:
    """A puzzle's difficulty is a Pareto number, its restarts vary around it; at most `depth` segments."""

    def segments(unit: Unit) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((seed, unit.first, unit.restart_first))
        puzzle = least * (1 + rng.pareto(alpha, (unit.puzzles, 1)))
        restart = rng.lognormal(0.0, 0.5, (unit.puzzles, unit.rows // unit.puzzles))
        return np.clip(np.ceil(puzzle * restart), 1, depth).astype(np.int64).reshape(-1)

    return segments


class OpenUnit:
    """A unit on a device: the segments of the trajectories to be started (last first), and how many have not ended."""

    def __init__(self, unit: Unit, segments: npt.NDArray[np.int64]) -> None:
        self.unit, self.total = unit, int(segments.sum())
        self.to_start, self.left = segments[::-1].tolist(), len(segments)


class Device:
    """The engine of an actor, in whole steps (a segment of all slots) of `step_s` seconds."""

    def __init__(self, slots: int, step_s: float, segments: Segments, since_s: float) -> None:
        self.slots, self.step_s, self.since_s = slots, step_s, since_s
        self.busy_steps = 0  # of slots
        self._segments, self._step = segments, 0
        self._open: dict[Unit, OpenUnit] = {}
        self._running: list[tuple[int, int, OpenUnit]] = []  # (step after which it ends, a number, its unit)
        self._started = 0

    def call(self, order: Order, seconds: float) -> tuple[int, list[OpenUnit], bool]:
        """Steps taken, units finished, and whether slots stood idle that could have been filled."""
        for unit in order.drop:
            if self._open.pop(unit, None) is not None:
                self._running = [entry for entry in self._running if entry[2].unit != unit]
                heapify(self._running)
        self._open |= {unit: OpenUnit(unit, self._segments(unit)) for unit in order.run}
        first, last = self._step, self._step + max(1, round(seconds / self.step_s))
        finished: list[OpenUnit] = []
        starved = False
        self._fill()
        while self._running and not finished and not starved and self._step < last:
            starved = order.more and len(self._running) < self.slots
            self._advance(min(self._running[0][0], self._step + 1 if starved else last))
            while self._running and self._running[0][0] == self._step:
                part = heappop(self._running)[2]
                part.left -= 1
                if part.left == 0:
                    finished.append(self._open.pop(part.unit))
            self._fill()
        return self._step - first, finished, starved

    def _advance(self, step: int) -> None:
        self.busy_steps += len(self._running) * (step - self._step)
        self._step = step

    def _fill(self) -> None:
        free = self.slots - len(self._running)
        if not free:
            return
        for part in self._open.values():
            while free and part.to_start:
                self._started += 1
                free -= 1
                heappush(self._running, (self._step + part.to_start.pop(), self._started, part))
            if not free:
                return


class Simulation:
    """One run of `units` on `machines`."""

    def __init__(self, units: Iterable[Unit], segments: Segments, machines: Machines, copies: bool = True) -> None:
        self.machines, self._segments = machines, segments
        self.dispatcher = Dispatcher(machines.slots, in_turn=False, copies=copies)
        self.dispatcher.add(units)
        self.devices: list[Device] = []
        self._there: dict[int, bool] = {}  # whether it is at a call
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = 0
        self._driver_s = 0.0  # when the driver is free
        self._kept_s = self._slot_s = 0.0
        self._kept = 0

    def run(self) -> Outcome:
        """To the last result."""
        for speed in self.machines.speeds:
            self._at(0.0, lambda now_s, speed=speed: self._join(now_s, speed))
        for when_s, speed in self.machines.join:
            self._at(when_s, lambda now_s, speed=speed: self._join(now_s, speed))
        for when_s, device in self.machines.die:
            self._at(when_s, lambda now_s, device=device: self._die(now_s, device))
        while not self.dispatcher.finished:
            now_s, _, event = heappop(self._events)
            event(now_s)
        for number in list(self._there):
            self._leave(self._driver_s, number)
        busy_s = sum(device.busy_steps * device.step_s for device in self.devices)
        return Outcome(self._driver_s, busy_s / self._slot_s, self._kept_s / self._slot_s, self._kept)

    def _at(self, when_s: float, event: Callable[[float], None]) -> None:
        self._number += 1
        heappush(self._events, (when_s, self._number, event))

    def _join(self, now_s: float, speed: float) -> None:
        number, machines = len(self.devices), self.machines
        self.devices.append(Device(machines.slots, machines.segment_s / speed, self._segments, now_s))
        self._there[number] = False
        self.dispatcher.join(number)
        self._order(now_s, number, starved=False)

    def _die(self, now_s: float, number: int) -> None:
        self._leave(now_s, number)
        self.dispatcher.leave(number)
        self._wake(now_s)

    def _leave(self, now_s: float, number: int) -> None:
        device = self.devices[number]
        self._slot_s += device.slots * (now_s - device.since_s)
        del self._there[number]

    def _order(self, now_s: float, number: int, starved: bool) -> None:
        """The driver turns to a device; if there is anything to do, the device's next call begins and is computed."""
        order = self.dispatcher.give(number, starved)
        self._there[number] = bool(order.run or order.drop) or bool(self.dispatcher.held(number))
        if self._there[number]:
            self._driver_s = max(self._driver_s, now_s) + REPORT_S
            device = self.devices[number]
            steps, finished, starved = device.call(order, call_s(len(self._there)))
            end_s = self._driver_s + TRIP_S + steps * device.step_s
            self._at(end_s, lambda now_s: self._report(now_s, number, finished, starved))

    def _report(self, now_s: float, number: int, finished: list[OpenUnit], starved: bool) -> None:
        if number not in self._there:
            return  # it has died meanwhile
        kept = [part for part in finished if self.dispatcher.done(number, part.unit)]
        self._order(now_s, number, starved)
        self._wake(now_s)
        self._driver_s += SAVE_S * len(kept)
        self._kept += len(kept)
        self._kept_s += sum(part.total for part in kept) * self.devices[number].step_s

    def _wake(self, now_s: float) -> None:
        """Ask again for the devices that had nothing to do."""
        for number in [number for number, is_called in self._there.items() if not is_called]:
            self._order(now_s, number, starved=False)
