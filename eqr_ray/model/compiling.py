"""Choosing between the compiled and the eager cell.

torch.compile fuses what lies between the matrix products of a cell. On CPU it needs a C++ compiler; where there is none
the cell runs eagerly, with the same result up to rounding, and one line says so.
"""

from __future__ import annotations

import functools
import logging

import torch

from eqr_ray.model.cell import cell
from eqr_ray.model.kernels import gate
from eqr_ray.model.reasoner import CellFn

log = logging.getLogger(__name__)
RECOMPILE_LIMIT = 64  # shapes and gradient modes of one process; torch's own limit of 8 ends in silent eager code


def cell_function(device: torch.device, wanted: bool = True) -> CellFn:
    """The compiled cell where it is wanted and can be built for `device`, else the eager one."""
    if not wanted:
        return cell
    if not _can_compile(device.type):
        return cell
    if device.type == "cpu":
        gate.build()
    return _compiled()


@functools.cache
def _compiled() -> CellFn:
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    compiled: CellFn = torch.compile(cell, dynamic=False)
    return compiled


@functools.cache
def _can_compile(device_type: str) -> bool:
    if device_type != "cpu":
        return True  # triton comes with torch's CUDA builds
    if gate.cxx() is not None:
        return True
    log.warning("no C++ compiler found (g++ or clang++): torch.compile is off, the network runs eagerly and slower")
    return False
