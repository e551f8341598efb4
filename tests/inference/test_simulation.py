"""The Dispatcher over simulated devices: what it makes of equal, unequal, dying and late ones."""

from __future__ import annotations

from benchmarks.simulation import Machines, Outcome, Simulation, pareto
from eqr_ray.inference.units import plan

UNITS = plan(4_000, 32, 64, whole=False)  # 400: some 12 for each of 32 devices
SEGMENTS = pareto(64)
EQUAL = (1.0,) * 32
SLOTS = 16


def run(machines: Machines, copies: bool = True) -> Outcome:
    outcome = Simulation(UNITS, SEGMENTS, machines, copies).run()
    assert outcome.units == len(UNITS)  # each kept once
    assert outcome.useful - 1e-9 <= outcome.busy <= 1
    return outcome


def test_equal_devices_are_kept_busy() -> None:
    outcome = run(Machines(EQUAL, SLOTS))
    assert outcome.busy > 0.93
    assert outcome.useful > 0.91


def test_units_that_fill_the_slots_once_do_not_starve_them() -> None:
    assert run(Machines((1.0, 1.0), slots=512)).busy > 0.93


def test_slow_devices_do_not_hold_up_the_end() -> None:
    for speeds, saved in (((1.0, 0.5) * 16, 0.1), ((0.1, *EQUAL[1:]), 0.3)):
        machines = Machines(speeds, SLOTS)
        assert run(machines).seconds < (1 - saved) * run(machines, copies=False).seconds


def test_devices_come_and_go() -> None:
    changing = Machines(
        EQUAL,
        SLOTS,
        join=tuple((20.0 * i, 1.0) for i in range(8)),
        die=tuple((20.0 * i + 5.0, i) for i in range(8)),
    )
    outcome = run(changing)
    assert outcome.useful > 0.88
    assert outcome.seconds < 1.05 * run(Machines(EQUAL, SLOTS)).seconds


def test_all_devices_but_a_late_one_die() -> None:
    last = Machines((1.0,) * 4, SLOTS, join=((50.0, 1.0),), die=tuple((10.0 * (i + 1), i) for i in range(4)))
    assert run(last).seconds > 50.0
