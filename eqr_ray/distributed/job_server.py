"""Where Ray jobs are submitted: a cluster's job server, or that of a Ray which is started here for a `with` block."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.cluster import start_ray

AGENT_PORT = 52365  # where Ray's agent waits for jobs, on every node; `ray.init` has no other for it
STOP_WAIT_S = 60.0  # a training in one process writes a checkpoint when its job is stopped


@contextmanager
def job_server(address: str | None) -> Iterator[JobSubmissionClient]:
    """The job server at `address`; None: of a Ray that is started here. UserError: nobody takes jobs there."""
    if address is not None:
        yield _client(address)
        return
    _check_port()
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", f"{STOP_WAIT_S:.0f}")
    handler = signal.getsignal(signal.SIGTERM)
    with start_ray(dashboard=True, log_to_driver=False):
        signal.signal(signal.SIGTERM, handler)  # Ray's own handler would take the cluster away at once
        yield _client(ray.get_runtime_context().gcs_address)


def _check_port() -> None:
    """UserError where another Ray of this machine has the port; Ray itself would start, and take no job."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", AGENT_PORT))
        except OSError as error:
            raise UserError(
                f"port {AGENT_PORT} is taken ({error.strerror}), as by another Ray on this machine: "
                "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 submits to that one if it has a dashboard"
            ) from error


def _client(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, AuthenticationError, ValueError, RuntimeError) as error:
        raise UserError(f"address {address}: no jobs can be submitted there ({error})") from error
