"""The faults: each takes a scene, in which a run is at work, and does its harm."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import psutil

from benchmarks.faults.jobs import Job, Train
from eqr_ray.training.checkpoint import complete_checkpoints
from tests.support.machines import Machines
from tests.support.object_store import S3

PATIENCE_S = 400.0  # for a driver to end
PAUSE_S = 3.0  # of a node; after some 5 s it would be given up
SILENCE_S = 15.0  # of the object store
WORKER, ACTOR, TRIAL = "RayTrainWorker", "Breadth", "ImplicitFunc"  # as Ray names processes
CONTROLLER = "TrainController"
DAMAGED_BYTES = 64  # one bit alone may have no meaning
DISK = "full disk"
CLOCKS = {"clock an hour ahead": 3600, "clock an hour back": -3600}  # seconds


@dataclass
class Scene:
    """What a fault may lay its hands on."""

    job: Job
    machines: Machines
    draw: random.Random
    store: S3
    driver: subprocess.Popen[bytes]
    disk: Path
    clock: Path  # holds how far it is ahead
    later: list[Timer]  # started after the fault

    def processes(self, name: str) -> list[psutil.Process]:
        """Ray's processes of this name on all nodes."""
        found = []
        for node in [*self.machines.nodes, self.machines.head]:
            for process in node.family() if node else []:
                with suppress(psutil.NoSuchProcess):
                    if name in " ".join(process.cmdline()[:1]):
                        found.append(process)
        return found

    def one_of(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of them."""
        end_s = time.monotonic() + PATIENCE_S
        while not (found := self.processes(name)):
            assert time.monotonic() < end_s, f"there is no {name}"
            time.sleep(0.1)
        self.draw.choice(found).send_signal(number)


Fault = Callable[[Scene], None]


def of_process(name: str, number: signal.Signals) -> Fault:
    """A signal to one of Ray's processes."""
    return lambda scene: scene.one_of(name, number)


def of_driver(number: signal.Signals) -> Fault:
    """A signal to the driver, which ends."""

    def fault(scene: Scene) -> None:
        scene.driver.send_signal(number)
        scene.driver.wait(timeout=PATIENCE_S)

    return fault


def node_killed(scene: Scene) -> None:
    """All its processes at once."""
    scene.draw.choice(scene.machines.nodes).kill()


def raylet_killed(scene: Scene) -> None:
    """The process that makes it a node."""
    node = scene.draw.choice(scene.machines.nodes)
    next(process for process in node.family() if process.name() == "raylet").kill()


def node_told_to_go(scene: Scene) -> None:
    """As a cloud tells a spot machine."""
    scene.draw.choice(scene.machines.nodes).tell_to_go()


def node_frozen(scene: Scene) -> None:
    """It stands still, and answers nobody."""
    scene.draw.choice(scene.machines.nodes).freeze()


def node_slow(scene: Scene) -> None:
    """It stands still too briefly to be given up."""
    node = scene.draw.choice(scene.machines.nodes)
    node.freeze()
    scene.later.append(Timer(PAUSE_S, node.thaw))


def cable_pulled(scene: Scene) -> None:
    """Of a node, which runs on and whom nobody hears; it is back when the cluster has given it up."""
    scene.later.append(scene.draw.choice(scene.machines.nodes).cut_off())


def clock_jump(seconds: int) -> Fault:
    """The wall clock of the driver and of the nodes is set, as far as Python asks for it; that of the head is not."""

    def fault(scene: Scene) -> None:
        scene.clock.write_text(str(seconds))

    return fault


def head_killed(scene: Scene) -> None:
    """The cluster is brought up again, and its driver is gone."""
    scene.machines.stop()
    with suppress(subprocess.TimeoutExpired):
        scene.driver.wait(timeout=60)
    scene.driver.kill()
    scene.driver.wait()
    scene.machines.start()


def disk_full(scene: Scene) -> None:
    """Until the driver has ended; then somebody makes room."""
    filler = scene.disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 65_536)
            file.flush()
    with suppress(subprocess.TimeoutExpired):
        scene.driver.wait(timeout=PATIENCE_S)
    filler.unlink()


def newest_damaged(scene: Scene) -> None:
    """The driver dies, and the newest file that it left has wrong bytes in its middle."""
    scene.driver.kill()
    scene.driver.wait()
    if isinstance(scene.job, Train):
        file = complete_checkpoints(scene.job.out / "checkpoints")[-1] / "weights.safetensors"
    else:
        file = max(scene.job.out.glob("records/*.parquet"), key=lambda path: path.stat().st_mtime)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + DAMAGED_BYTES] = bytes(byte ^ 0xFF for byte in content[middle : middle + DAMAGED_BYTES])
    file.write_bytes(bytes(content))


def store_silent(scene: Scene) -> None:
    """It takes connections and does not answer."""
    scene.store.silence()
    scene.later.append(Timer(SILENCE_S, scene.store.speak))


FAULTS: dict[str, dict[str, Fault]] = {
    "train": {
        "kill -9 of a worker": of_process(WORKER, signal.SIGKILL),
        "SIGTERM to a worker": of_process(WORKER, signal.SIGTERM),
        "kill -9 of Ray Train's controller": of_process(CONTROLLER, signal.SIGKILL),
    },
    "infer": {
        "kill -9 of an actor": of_process(ACTOR, signal.SIGKILL),
        "SIGTERM to an actor": of_process(ACTOR, signal.SIGTERM),
    },
    "sweep": {
        "kill -9 of a trial": of_process(TRIAL, signal.SIGKILL),
        "SIGTERM to a trial": of_process(TRIAL, signal.SIGTERM),
    },
    "sweep-on-workers": {
        "kill -9 of a trial's driver": of_process(TRIAL, signal.SIGKILL),
        "kill -9 of a trial's worker": of_process(WORKER, signal.SIGKILL),
        "kill -9 of a trial's controller": of_process(CONTROLLER, signal.SIGKILL),
    },
}
COMMON: dict[str, Fault] = {
    "kill -9 of the driver": of_driver(signal.SIGKILL),
    "SIGTERM to the driver": of_driver(signal.SIGTERM),
    "power cut of a node": node_killed,
    "kill -9 of a raylet": raylet_killed,
    "SIGTERM to a node": node_told_to_go,
    "a node freezes": node_frozen,
    "a node freezes for 3 s": node_slow,
    "a cable is pulled for 20 s": cable_pulled,
    **{name: clock_jump(seconds) for name, seconds in CLOCKS.items()},
    "power cut of the head": head_killed,
    DISK: disk_full,
    "object store silent for 15 s": store_silent,
}
DAMAGE = {"newest file damaged, driver killed": newest_damaged}
for _job in ("train", "infer", "sweep"):
    FAULTS[_job] |= COMMON if _job == "sweep" else {**COMMON, **DAMAGE}
