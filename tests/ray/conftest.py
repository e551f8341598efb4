"""One loopback Ray for all tests of the session that ask for it: two CPUs, two logical GPUs."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import ray

from eqr_ray.distributed.cluster import start_ray

STARTS = 3  # Ray gives its own processes half a minute, which a busy machine may need more of


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, float]]:
    """The resources of the running Ray, which this process has joined and commands in this process use."""
    with ExitStack() as stack:
        for left in reversed(range(STARTS)):
            try:
                stack.enter_context(start_ray(num_cpus=2, num_gpus=2, log_to_driver=False))
                break
            except Exception as error:
                ray.shutdown()
                if not left or "timed out during startup" not in str(error):
                    raise
            with warnings.catch_warnings():  # the processes of that start end without us
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
        yield ray.cluster_resources()
