"""Ray for the length of a `with` block: started here on loopback, or a cluster that is joined.

Local mode is the default; a cluster is the same command with an address. What was started is shut down, what was found
is left running.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.ray_internals import TOKEN_LOGGER, draining_nodes
from eqr_ray.distributed.resources import Node, NotEnoughResources

OBJECT_STORE_BYTES = 200_000_000  # weights, blocks of puzzles and records; no data set goes through it
CONNECT_TIMEOUT_S = 10.0
POLL_EVERY_S, WARN_EVERY_S = 2.0, 60.0  # while nodes are waited for

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
) -> Iterator[dict[str, float]]:
    """Yields the resources of the cluster, {"CPU": 2.0, "GPU": 1.0, ...}.

    address: of a running cluster ("auto" finds one on this machine); None takes RAY_ADDRESS, and without it starts Ray
    here, listening on loopback only, with `num_cpus` and `num_gpus` (None: what the machine has). A Ray that this
    process has already started or joined is used as it is. `log_to_driver` shows here what workers and actors print.
    UserError: no cluster at the address.
    """
    if ray.is_initialized():
        yield _resources()
        return
    address = address or os.environ.get("RAY_ADDRESS")
    logging.getLogger(TOKEN_LOGGER).setLevel(logging.ERROR)
    options: dict[str, Any] = {"address": address, "logging_level": logging.WARNING, "log_to_driver": log_to_driver}
    if address:
        _check_reachable(address)
    else:
        options |= {
            "address": "local",
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "include_dashboard": dashboard,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, RayError) as error:
        raise UserError(f"address={address}: no Ray cluster there ({str(error).splitlines()[0]})") from error
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has set one that ends this process
    try:
        yield _resources()
    finally:
        ray.shutdown()


def is_joined(address: str | None) -> bool:
    """Whether `start_ray(address)` joins a cluster, whose nodes come and go, rather than start Ray here."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def nodes() -> list[Node]:
    """What each live node of the cluster has, busy or free, unless it will be taken away soon."""
    all_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    leaving = draining_nodes()
    return [node["Resources"] for node in all_nodes if node["Alive"] and node["NodeID"] not in leaving]


def request_nodes(bundles: Sequence[Mapping[str, float]]) -> None:
    """Let an autoscaler, where there is one, keep room for these bundles, instead of those asked for before."""
    request_resources(bundles=[dict(bundle) for bundle in bundles])


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


def _check_reachable(address: str) -> None:
    """UserError where nobody listens at host:port; Ray itself would try for minutes. Other forms are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"address={address}: nobody answers there ({error.strerror or error})") from error


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources
