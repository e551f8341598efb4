"""Ray for the length of a `with` block, started here on loopback or joined; its nodes, job server and metrics.

Local mode is the default; a cluster is the same command with an address. What was started is shut down, what was found
is left running.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError, RayError
from ray.util.metrics import Counter, Gauge

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.ray_internals import TOKEN_LOGGER, draining_nodes
from eqr_ray.distributed.resources import Node, NotEnoughResources

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

OBJECT_STORE_BYTES = 200_000_000  # weights, blocks of puzzles and records; no data set goes through it
CONNECT_TIMEOUT_S = 10.0
POLL_EVERY_S, WARN_EVERY_S = 2.0, 60.0  # while nodes are waited for
AGENT_PORT = 52365  # where Ray's agent waits for jobs, on every node; `ray.init` has no other for it
STOP_WAIT_S = 60.0  # a training in one process writes a checkpoint when its job is stopped

GAUGES = {
    "loss": "Mean loss of the rows in training",
    "exact_accuracy": "Share of rows in training, or of puzzles answered, that are exactly right",
    "validation_exact": "Share of validation puzzles that are exactly right",
    "segments_per_s": "Training segments a second",
    "rows_per_s": "Rows a second in training",
    "row_segments_per_s": "Row-segments a second in inference",
    "puzzles": "Puzzles answered",
    "settled_share": "Share of answered puzzles with a settled trajectory",
    "left_s": "Seconds left, by our own estimate",
}
COUNTERS = {
    "restarts": "Times that a training began again from a checkpoint",
    "retries": "Units of inference that were run again because their actor died",
}

T = TypeVar("T")
log = logging.getLogger(__name__)


@contextmanager
def start_ray(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    dashboard: bool = False,
    log_to_driver: bool = True,
) -> Iterator[None]:
    """Ray at `address` ("auto" finds a cluster on this machine); None: at RAY_ADDRESS, and without it Ray is started
    here, listening on loopback only, with `num_cpus` and `num_gpus` (None: what the machine has). A Ray that this
    process has already started or joined is used as it is. `log_to_driver` shows here what workers and actors print.
    UserError: no cluster at the address."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    logging.getLogger(TOKEN_LOGGER).setLevel(logging.ERROR)
    options: dict[str, Any] = {"address": address, "logging_level": logging.WARNING, "log_to_driver": log_to_driver}
    if address:
        _check_reachable(address)
    else:
        options |= {"address": "local", "_node_ip_address": "127.0.0.1", "num_cpus": num_cpus, "num_gpus": num_gpus}
        options |= {"include_dashboard": dashboard, "object_store_memory": OBJECT_STORE_BYTES}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, RayError) as error:
        raise UserError(f"address={address}: no Ray cluster there ({str(error).splitlines()[0]})") from error
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has set one that ends this process
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """UserError where nobody listens at host:port; Ray itself would try for minutes. Other forms are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"address={address}: nobody answers there ({error.strerror or error})") from error


def is_joined(address: str | None) -> bool:
    """Whether `start_ray(address)` joins a cluster, whose nodes come and go, rather than start Ray here."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def nodes() -> list[Node]:
    """What each live node of the cluster has, busy or free, unless it will be taken away soon."""
    all_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    leaving = draining_nodes()
    return [node["Resources"] for node in all_nodes if node["Alive"] and node["NodeID"] not in leaving]


def request_nodes(count: int, gpus: bool = False) -> None:
    """Let an autoscaler, where there is one, keep room for so many CPUs or GPUs, instead of those asked for before."""
    request_resources(bundles=[{"GPU" if gpus else "CPU": 1}] * count)


def wait_for_nodes(place: Callable[[Sequence[Node]], T], wait_s: float, interrupted: Callable[[], bool] = bool) -> T:
    """What `place` returns for the nodes of the cluster, as soon as there are enough. NotEnoughResources: of `place`,
    still after `wait_s`. KeyboardInterrupt: `interrupted` while it waits."""
    end_s, warned_s = time.monotonic() + wait_s, -WARN_EVERY_S
    while True:
        try:
            return place(nodes())
        except NotEnoughResources as error:
            now_s = time.monotonic()
            if now_s >= end_s:
                raise
            if interrupted():
                raise KeyboardInterrupt from None
            if now_s - warned_s >= WARN_EVERY_S:
                warned_s = now_s
                log.warning("waiting %.0f s at most: %s", end_s - now_s, error)
        time.sleep(POLL_EVERY_S)


@contextmanager
def job_server(address: str | None) -> Iterator[JobSubmissionClient]:
    """The job server at `address`; None: of a Ray that is started here. UserError: nobody takes jobs there."""
    if address is not None:
        yield _client(address)
        return
    with socket.socket() as probe:  # Ray itself would start, and take no job
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", AGENT_PORT))
        except OSError as error:
            raise UserError(
                f"port {AGENT_PORT} is taken ({error.strerror}), as by another Ray on this machine: "
                "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 submits to that one if it has a dashboard"
            ) from error
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", f"{STOP_WAIT_S:.0f}")
    with start_ray(dashboard=True, log_to_driver=False):
        yield _client(ray.get_runtime_context().gcs_address)


def _client(address: str) -> JobSubmissionClient:
    # lazy: it takes half a second, and every actor imports this file
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, AuthenticationError, ValueError, RuntimeError) as error:
        raise UserError(f"address {address}: no jobs can be submitted there ({error})") from error


class RayMetrics:
    """The metrics of one run as Ray's own, which every node offers to Prometheus: `ray_eqr_rows_per_s{run="sudoku9"}`.
    Ray must have been started."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges = {name: Gauge(f"eqr_{name}", words, ("run",)) for name, words in GAUGES.items()}
        self._counters = {name: Counter(f"eqr_{name}", words, ("run",)) for name, words in COUNTERS.items()}

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Set the gauges of these metrics; what is no number, or has no gauge, is left to log.jsonl."""
        for name, value in metrics.items():
            if name in self._gauges and isinstance(value, int | float) and math.isfinite(value):
                self._gauges[name].set(float(value), self._tags)

    def count(self, name: str, times: int = 1) -> None:
        """Add to a counter; Ray refuses to add nothing."""
        if times:
            self._counters[name].inc(times, self._tags)
