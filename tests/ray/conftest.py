"""One loopback Ray for all tests of a file that asks for it: two CPUs, two logical GPUs.

Not for longer: beside another Ray no cluster that takes jobs can be started.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eqr_ray.distributed.cluster import start_ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, float]]:
    """The resources of the running Ray."""
    with start_ray(num_cpus=2, num_gpus=2) as resources:
        yield resources
