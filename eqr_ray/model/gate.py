"""silu(a) * b of a SwiGLU: a kernel of our own for bfloat16 on CPUs with AMX, torch elsewhere.

Only with AMX: it was an eighth faster on an Intel that has it and not faster on an AMD that has not. `build` makes it
with the first compiled cell of a process, which needs a C++ compiler anyway. Where it is not built, and in an eager
cell, `gate` is the plain expression, whose last bits differ: what a cell computes does not depend on what else its
process has done.

Shapes: R rows, F hidden width.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-funroll-loops", "-fopenmp", "-shared", "-fPIC")
INSTRUCTIONS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16")
LANES = 16  # the kernel's: it has no code for what is left of a row

_ready = False  # set by `build`; torch.compile takes it as a constant


def gate(x: Tensor) -> Tensor:
    """x (R, 2F), the gate first -> silu(x[:, :F]) * x[:, F:], (R, F)."""
    fits = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[1] % (2 * LANES) == 0
    if _ready and fits and torch.compiler.is_compiling():
        gated: Tensor = torch.ops.eqr_ray.gate(x)
        return gated
    return plain_gate(x)


def plain_gate(x: Tensor) -> Tensor:
    """As `gate`, by torch alone."""
    gates, up = x.chunk(2, dim=-1)
    return F.silu(gates) * up


def cxx() -> str | None:
    """The C++ compiler of this machine, if there is one."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((name for name in names if name and shutil.which(name)), None)


@functools.cache
def build() -> bool:
    """Compile the kernel and let `gate` use it, where that is possible; a second or two, once a process."""
    global _ready
    compiler = cxx()
    if compiler is None or not torch.cpu._is_amx_tile_supported():
        return False
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = f"{folder}/gate.so"
            command = [compiler, *FLAGS, *INSTRUCTIONS, str(SOURCE), "-o", library]
            subprocess.run(command, check=True, capture_output=True, text=True)
            _register(ctypes.CDLL(library))
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("the gate's own kernel was not built, torch's is used: %s", getattr(error, "stderr", None) or error)
        return False
    _ready = True
    return True


def _register(kernel: ctypes.CDLL) -> None:
    """Make torch operators of the kernel's two functions."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernel.eqr_gate.argtypes = [pointer, pointer, number, number, ctypes.c_int]
    kernel.eqr_gate_backward.argtypes = [pointer, pointer, pointer, number, number, ctypes.c_int]

    def forward(x: Tensor) -> Tensor:
        x = x.contiguous()
        y = x.new_empty(len(x), x.shape[1] // 2)
        kernel.eqr_gate(x.data_ptr(), y.data_ptr(), *y.shape, torch.get_num_threads())
        return y

    def like_contiguous(x: Tensor, dy: Tensor) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    def backward(x: Tensor, dy: Tensor) -> Tensor:
        x, dy, dx = x.contiguous(), dy.contiguous(), like_contiguous(x, dy)
        kernel.eqr_gate_backward(x.data_ptr(), dy.data_ptr(), dx.data_ptr(), *dy.shape, torch.get_num_threads())
        return dx

    def gradient(ctx: Any, dy: Tensor) -> Any:
        return torch.ops.eqr_ray.gate_backward(ctx.saved_tensors[0], dy)

    def save_input(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    torch.library.define("eqr_ray::gate", "(Tensor x) -> Tensor")
    torch.library.define("eqr_ray::gate_backward", "(Tensor x, Tensor dy) -> Tensor")
    torch.library.impl("eqr_ray::gate", "CPU", forward)
    torch.library.impl("eqr_ray::gate_backward", "CPU", backward)
    torch.library.register_fake("eqr_ray::gate", lambda x: x.new_empty(x.shape[0], x.shape[1] // 2))
    torch.library.register_fake("eqr_ray::gate_backward", like_contiguous)
    torch.library.register_autograd("eqr_ray::gate", gradient, setup_context=save_input)
