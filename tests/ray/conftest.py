"""One loopback Ray for all tests of the session that ask for it: two CPUs, two logical GPUs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eqr_ray.distributed.cluster import start_ray


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, float]]:
    """The resources of the running Ray, which this process has joined and commands in this process use."""
    with start_ray(num_cpus=2, num_gpus=2, log_to_driver=False) as resources:
        yield resources
