"""What the scheduling costs: the engine's own work, a run on a thousand simulated devices, and Ray's share.

    python benchmarks/orchestration.py                         # all three, some ten minutes on an idle machine
    python benchmarks/orchestration.py --only jobs
    python benchmarks/orchestration.py --only devices --devices 64
    python benchmarks/orchestration.py --only actors --seconds 60

jobs      (puzzle, restart) jobs a second that engine and policy take through a stand-in network of fixed small cost,
          on one core (CPU time of this process)
devices   how busy the real Dispatcher keeps simulated devices (simulation.py) on a stream of puzzles whose settling
          times are heavy-tailed, with and without running the last units twice; `busy` and `useful` are shares of the
          slots' time, `ideal` the seconds of as many slots that are never idle
actors    row-segments a second of two Ray actors, and of two bare processes that have the same units: while both have
          work, and of the whole run, at whose end one waits for the other
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from simulation import Machines, Simulation, pareto
from torch import Tensor

from eqr_ray.distributed.actors import Actors
from eqr_ray.distributed.cluster import start_ray
from eqr_ray.distributed.resources import ResourceRequest
from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.settings import Settings
from eqr_ray.inference.units import Unit, plan
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.runtime import NetworkFactory

REPETITIONS = 3
RAY_START_S = 20.0  # Ray's agents import for as long after `ray.init` has returned, on the cores of the actors
PUZZLES_EACH, BREADTH = 413, 64  # of a device: 1,024 of them have the published test set of 422,786 puzzles


class Latent(NamedTuple):
    """The state of a stand-in: (B, 1) segments until the trajectory halts."""

    left: Tensor


class Segment(NamedTuple):
    """As network.Segment."""

    latent: Latent
    logits: Tensor
    halt_logit: Tensor


class StandIn:
    """A network that only counts down: a trajectory halts after a number of segments that its key draws, half of them
    within 3, some never."""

    def __init__(self, slots: int) -> None:
        self.device, self.length, self.vocab_size, self.flops_per_segment = torch.device("cpu"), 81, 11, 1.0
        self._logits = torch.zeros(slots, self.length, self.vocab_size)

    def embed(self, inputs_BL: Tensor) -> Tensor:
        return torch.zeros(len(inputs_BL), 1)

    def start(self, keys_B: Tensor) -> Latent:
        uniform = ((keys_B & 0xFFFFFF) + 1).float() / (1 << 24)
        return Latent(torch.ceil(1.7 * uniform ** (-1 / 1.2)).unsqueeze(1))

    def segment(self, latent: Latent, embedding_BLD: Tensor, keys_B: Tensor) -> Segment:
        left = latent.left - 1
        return Segment(Latent(left), self._logits, 0.5 - left[:, 0])


def jobs_per_s(slots: int, trajectories: int = 200_000) -> dict[str, float]:
    """Jobs a CPU second of one core, what a step takes, and the share of the slots that were at work."""
    torch.set_num_threads(1)
    settings = Settings(depth=16, breadth=8, policy="halt")
    inputs = np.ones((trajectories // settings.breadth, 81), dtype=np.uint8)
    engine = BreadthEngine(StandIn(slots), settings, slots)
    units = plan(len(inputs), settings.breadth, settings.depth, whole=False)
    started_s = time.process_time()
    steps = rows = 0
    for report in run_units(engine, units, inputs):
        steps += 1
        rows += sum(len(records) for _, records in report.finished)
    spent_s = time.process_time() - started_s
    assert rows == trajectories
    busy = engine.row_segments / (steps * slots)
    return {"jobs/s": rows / spent_s, "ms a step": 1e3 * spent_s / steps, "slots busy": busy}


def worlds(devices: int, seconds: float) -> dict[str, Machines]:
    """The clusters that are simulated, for runs of about so many seconds."""
    half, tenth = devices // 2, devices // 10
    equal = (1.0,) * devices
    return {
        "equal": Machines(equal),
        "half of them half as fast": Machines((1.0,) * half + (0.5,) * (devices - half)),
        "one ten times slower": Machines((*equal[1:], 0.1)),
        "a tenth dies, a tenth joins midway": Machines(
            equal,
            join=tuple((seconds * (0.2 + 0.6 * i / tenth), 1.0) for i in range(tenth)),
            die=tuple((seconds * (0.1 + 0.6 * i / tenth), i) for i in range(tenth)),
        ),
    }


def devices(count: int, breadth: int, depth: int = 64) -> Table:
    """How the same units go through different clusters."""
    puzzles = PUZZLES_EACH * count
    units, segments = plan(puzzles, breadth, depth, whole=False), pareto(depth)
    work = sum(int(segments(unit).sum()) for unit in units)
    title = f"{puzzles:,} puzzles x {breadth} on {count} devices, {len(units):,} units, {work:,} row-segments"
    table = Table("cluster", "last units twice", "ideal s", "seconds", "busy", "useful", title=title)
    for name, machines in worlds(count, work * Machines.segment_s / (count * Machines.slots)).items():
        for copies in (True, False):
            outcome = Simulation(units, segments, machines, copies).run()
            assert outcome.units == len(units)
            ideal_s = outcome.useful * outcome.seconds
            row = (f"{ideal_s:.0f}", f"{outcome.seconds:.0f}", f"{outcome.busy:.1%}", f"{outcome.useful:.1%}")
            table.add_row(name, "yes" if copies else "no", *row)
    return table


@dataclass(frozen=True)
class RealWork:
    """Units of a real small network (9x9, width 64) for two workers of one thread each."""

    units: list[Unit]
    inputs: npt.NDArray[np.uint8]
    settings: Settings
    slots: int
    factory: NetworkFactory


def real_work(seconds: float) -> RealWork:
    """Units as a run has them, in all about so many `seconds` of two workers."""
    torch.manual_seed(0)
    reasoner = Reasoner(ModelConfig(vocab_size=11, length=81, grid=(9, 9), width=64, layers=1))
    factory = NetworkFactory(reasoner, reasoner.config.noise_scale, None, "bfloat16", compile=False, device="cpu")
    settings, slots, block = Settings(depth=8, breadth=8), 64, 16
    torch.set_num_threads(1)
    engine = BreadthEngine(factory(), settings, slots)
    engine.add(Unit(0, block, 0, 8), np.ones((block, 81), dtype=np.uint8))
    engine.step()
    started_s = time.monotonic()
    for _ in range(4):
        engine.step()
    unit_s = (time.monotonic() - started_s) / 4 / slots * block * settings.breadth * settings.depth
    puzzles = block * max(4, 2 * round(seconds / unit_s))
    units = plan(puzzles, settings.breadth, settings.depth, whole=False)
    inputs = np.random.default_rng(0).integers(1, 11, (puzzles, 81), dtype=np.uint8)
    return RealWork(units, inputs, settings, slots, factory)


class Rates(NamedTuple):
    """Row-segments a second: while both have work, and of all units until the last result."""

    busy: float
    whole: float


def one_process(work: RealWork, units: list[Unit], ready: Barrier, seconds: Any) -> None:
    """A bare process: an engine and its share of the units."""
    torch.set_num_threads(1)
    engine = BreadthEngine(work.factory(), work.settings, work.slots)
    ready.wait()
    started_s = time.monotonic()
    for _ in run_units(engine, units, work.inputs):
        pass
    seconds.put((engine.row_segments, time.monotonic() - started_s))


def bare_rates(work: RealWork) -> Rates:
    """Two processes that share nothing, with half of the units each."""
    spawn = multiprocessing.get_context("spawn")
    ready, seconds = spawn.Barrier(2), spawn.SimpleQueue()
    both = [spawn.Process(target=one_process, args=(work, work.units[i::2], ready, seconds)) for i in (0, 1)]
    for process in both:
        process.start()
    done = [seconds.get() for _ in both]
    for process in both:
        process.join()
    return Rates(sum(rows / s for rows, s in done), sum(rows for rows, _ in done) / max(s for _, s in done))


def actors_rates(work: RealWork) -> Rates:
    """Two actors in a cluster that stands; both have work until the last unit has been asked for."""
    team, unread = ResourceRequest(2, 1.0, 0.0), True

    def units() -> Iterator[Unit]:
        nonlocal unread
        yield from work.units
        unread = False

    with start_ray(num_cpus=2, num_gpus=0), Actors(team, work.factory, work.settings, work.slots) as actors:
        time.sleep(RAY_START_S)
        started_s, done, kept, busy = time.monotonic(), 0, 0, 0.0
        for report in actors.run(units(), work.inputs):
            done += report.row_segments
            kept += sum(int(rows.segments.sum()) for _, rows in report.finished)
            if unread:
                busy = done / (time.monotonic() - started_s)
        return Rates(busy, kept / (time.monotonic() - started_s))


def jobs() -> Table:
    """The engine's own work, per number of slots."""
    table = Table("slots", "jobs/s", "ms a step", "slots busy", title="engine and policy on one core")
    for slots in (64, 512):
        figures = jobs_per_s(slots)
        cells = (f"{figures['jobs/s']:,.0f}", f"{figures['ms a step']:.2f}", f"{figures['slots busy']:.1%}")
        table.add_row(str(slots), *cells)
    return table


def actors(seconds: float) -> Table:
    """Ray's share, in turns with what it is compared to."""
    work = real_work(seconds)
    columns = ("two actors", "two processes", "share", "whole run: actors", "processes", "share")
    table = Table(*columns, title=f"row-segments/s, {len(work.units)} units")
    for _ in range(REPETITIONS):
        ray_rates, bare = actors_rates(work), bare_rates(work)
        table.add_row(
            *(cell for a, b in zip(ray_rates, bare, strict=True) for cell in (f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1%}"))
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("jobs", "devices", "actors"))
    parser.add_argument("--devices", type=int, default=1024, help="in the simulation, each with 413 puzzles")
    parser.add_argument("--breadth", type=int, default=BREADTH, help="of the simulated run")
    parser.add_argument("--seconds", type=float, default=60.0, help="that two actors work, about")
    options = parser.parse_args()
    measurements = {
        "jobs": jobs,
        "devices": lambda: devices(options.devices, options.breadth),
        "actors": lambda: actors(options.seconds),
    }
    for name, measure in measurements.items():
        if options.only in (None, name):
            Console().print(measure())


if __name__ == "__main__":
    main()
