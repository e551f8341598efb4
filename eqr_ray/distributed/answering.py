"""Answering puzzles on Ray actors or in this process: a checked run, carried out.

The commands `infer`, `calibrate`, `frontier` and `sweep` answer by this one function; those that replay have every
segment recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import extra
from eqr_ray.distributed.resources import (
    Node,
    NotEnoughResources,
    ResourceRequest,
    describe_nodes,
    gpu_share,
    places,
    share,
    this_machine,
    uses_gpus,
)
from eqr_ray.inference.engine import BreadthEngine, EngineReport, run_units
from eqr_ray.inference.replay import RecordedRun, every_segment, open_recorded
from eqr_ray.inference.run import Run, begin, carry_out, finish, prepare, started
from eqr_ray.inference.settings import InferConfig
from eqr_ray.inference.units import Unit
from eqr_ray.model.runtime import device_named
from eqr_ray.storage.progress import Progress
from eqr_ray.storage.remote_sync import fetch, mirrored
from eqr_ray.storage.run_dir import locked
from eqr_ray.storage.run_log import RunLog

RunUnits = Callable[[Sequence[Unit], npt.NDArray[np.uint8]], Iterator[EngineReport]]


def answer(config: InferConfig, check: Callable[[Run], None] = lambda run: None) -> tuple[dict[str, Any], Path]:
    """Check everything, run what is missing, write the tables. Returns the summary and the folder. `check` may refuse
    the run before anything is made."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    joined = address is not None and config.actors != 0
    with ExitStack() as stack:
        if config.out is not None:
            fetch(Path(config.out), config.mirror)
        if joined:
            with extra("cluster", f"address={address}"):
                # lazy: as in `runner`
                from eqr_ray.distributed import cluster  # noqa: PLC0415
            stack.enter_context(cluster.start_ray(address))
            if config.wait_minutes:  # so that an autoscaler brings machines
                cluster.request_nodes(config.actors or 1, gpus=config.device == "cuda")
                stack.callback(cluster.request_nodes, 0)
            request = cluster.wait_for_nodes(lambda there: request_of(config, there, joined), config.wait_minutes * 60)
        else:
            request = request_of(config, this_machine(), joined)
        run = prepare(config, device_named(config.device).type if request is None else request.device_type)
        check(run)
        stack.enter_context(locked(run.folder.path))
        begin(run)
        stack.enter_context(mirrored(run.folder.path, config.mirror))
        log = stack.enter_context(RunLog(run.folder.path))
        work(run, request, joined, log)
        return finish(run, request.workers if request else 0, log), run.folder.path


def recorded(keys: Mapping[str, Any], folder: Path, check: Callable[[Run], None]) -> RecordedRun:
    """Run the network once in `folder`, every segment recorded, or what an interrupted run has left to do. `keys` of
    infer, `checkpoint` and `data` among them; None: as in infer, where their defaults and checks are. `check`: as in
    `answer`."""
    own = {name: value for name, value in keys.items() if value is not None}
    config = InferConfig.parse({**own, "out": str(folder)})
    whole = every_segment(config.settings())
    answer(config.replace(policy=whole.policy, snapshots=whole.snapshots), check)
    return open_recorded(folder, config.data)


def request_of(config: InferConfig, there: Sequence[Node], joined: bool) -> ResourceRequest | None:
    """Who works: so many actors, or None for this process."""
    gpu_share(config.gpus_each)
    use_gpus, actors = uses_gpus(config.device, there), config.actors
    if actors is None:
        most = places(there, use_gpus, config.gpus_each)
        if joined and most == 0:
            words = f"the cluster has no place for an actor; there are {describe_nodes(there)}"
            raise NotEnoughResources(f"{words}; actors=0 works here")
        actors = most if joined or (use_gpus and most > 1) else 0
    return share(there, actors, use_gpus, gpus_each=config.gpus_each) if actors else None


def work(run: Run, request: ResourceRequest | None, joined: bool, log: RunLog) -> None:
    """Run what is missing, on actors or here; nothing is started where nothing is missing."""
    run_here: RunUnits | None = None
    with ExitStack() as stack:
        display = stack.enter_context(Progress(len(run.puzzle_set), "puzzles"))
        log.sinks.append(display)
        stack.callback(log.sinks.remove, display)
        live = started(run, log)
        for inputs in run.folder.rounds(run.puzzle_set.inputs):
            if missing := run.folder.missing():
                run_here = run_here or stack.enter_context(runner(run, request, joined, log))
                carry_out(run, run_here(missing, inputs), live, log, display)


@contextmanager
def runner(run: Run, request: ResourceRequest | None, joined: bool, log: RunLog) -> Iterator[RunUnits]:
    """Who runs units: an engine in this process, or actors, for which Ray is started if none was joined, and which also
    gets the metrics of the log."""
    if request is None:
        engine = BreadthEngine(run.factory(), run.settings, run.slots)
        yield lambda units, inputs: run_units(engine, units, inputs)
        return
    with extra("cluster", f"actors={request.workers}"):
        # lazy: Ray takes seconds to import, and answering in one process needs none of it
        from eqr_ray.distributed import actors, cluster  # noqa: PLC0415
    with ExitStack() as stack:
        if not joined:
            here = this_machine()[0]
            gpus = int(here["GPU"]) if request.gpus_each else 0
            stack.enter_context(cluster.start_ray(num_cpus=int(here["CPU"]), num_gpus=gpus))
        elastic = joined and run.config.actors is None
        shown = cluster.RayMetrics(run.folder.path.name)
        log.sinks.append(shown.show)
        stack.callback(log.sinks.remove, shown.show)
        yield stack.enter_context(actors.Actors(request, run.factory, run.settings, run.slots, elastic, shown)).run
