"""Comparing records bit for bit."""

from __future__ import annotations

import dataclasses

from eqr_ray.inference.records import Records


def assert_same(one: Records, other: Records) -> None:
    for field in dataclasses.fields(Records):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype, field.name
        assert a.tobytes() == b.tobytes(), f"{field.name}: {a} {b}"
