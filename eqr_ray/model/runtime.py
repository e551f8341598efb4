"""Where and how a network runs: device, number type and number of slots, from the words of a user."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eqr_ray.config.errors import UserError
from eqr_ray.model import Reasoner
from eqr_ray.model.network import Network

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
COMPILE_FLOPS = 1e13  # some 20 seconds on two cores, about what compiling takes
FEWEST_SLOTS, SLOTS_CPU, SLOTS_GPU = 8, 64, 512


def device_named(name: str) -> torch.device:
    """`auto` is CUDA where there is a device, else the CPU. UserError: unknown, or not in this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is not allowed: auto, cpu, cuda, cuda:0, mps") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        has = ", ".join(f"{count} {kind}" for kind, count in there.items())
        raise UserError(f"device={name} is not there; this machine has {has}")
    return device


def resolved_dtype(name: str, device_type: str) -> str:
    """`auto` is bfloat16 where the device has instructions for it, else float32: without them a CPU takes eight times
    as long (docs/results/speed.md). Any other name is returned as it is."""
    if name != "auto":
        return name
    if device_type == "cuda":  # it may be in another machine than this one
        fast = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device_type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def dtype_named(name: str) -> torch.dtype:
    """The number type that states are held in. UserError: unknown."""
    if name not in DTYPES:
        raise UserError(f"dtype={name} is not allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


def slots_for(trajectories: int, device_type: str, slots: int | None = None) -> int:
    """`slots` if given; else what suits the device, no more than a small job fills (a power of two). It depends on the
    job alone, because the number of rows of a matrix product may change its rounding. UserError: less than 1."""
    if slots is not None and slots < 1:
        raise UserError(f"slots={slots} is not allowed: at least 1")
    most = SLOTS_CPU if device_type == "cpu" else SLOTS_GPU
    return slots or min(most, max(FEWEST_SLOTS, 1 << (trajectories - 1).bit_length()))


@dataclass(frozen=True)
class NetworkFactory:
    """Builds the network where it shall run: here, or in an actor that this is sent to. The reasoner is on the CPU."""

    reasoner: Reasoner
    noise_scale: float
    init_std: float | None
    dtype: str
    compile: bool
    device: str = "auto"

    def __call__(self) -> Network:
        device = device_named(self.device)
        dtype = dtype_named(resolved_dtype(self.dtype, device.type))
        model = self.reasoner.to(device)
        return Network(model, self.noise_scale, self.init_std, dtype=dtype, compile=self.compile)


def worth_compiling(trajectories: int, depth: int, flops_per_segment: float) -> bool:
    """Whether a job is long enough to earn back the time of torch.compile."""
    return trajectories * depth * flops_per_segment >= COMPILE_FLOPS
