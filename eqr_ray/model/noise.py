"""Keyed randomness: every number is a pure function of what it is for, never of an ambient generator.

A 64-bit key names a row's work, (seed, puzzle, restart, segment) or (seed, step, global row); within it a counter names
the cell call and the element. The draws of a row are therefore the same for any batch size, device count or order.

`KeyedNoise` hashes 32-bit counters and adds the four bytes of the hash: an Irwin-Hall sum whose mean, variance and
skewness are the normal's, with kurtosis 2.7 and no value beyond 3.45 deviations. torch.compile fuses its dozen integer
operations into the state update, where torch's own generator costs a third of the step on CPU.

Shapes: B rows, T tokens, D channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood 2014) and murmur3's 32-bit finaliser (Appleby), as signed integers.
GAMMA64 = 0x9E3779B97F4A7C15 - (1 << 64)
MUL64_A = 0xBF58476D1CE4E5B9 - (1 << 64)
MUL64_B = 0x94D049BB133111EB - (1 << 64)
GOLDEN32 = 0x9E3779B1 - (1 << 32)
MUL32_A = 0x85EBCA6B - (1 << 32)
MUL32_B = 0xC2B2AE35 - (1 << 32)

BYTES_MEAN = 510.0  # of the sum of four uniform bytes
BYTES_STD = math.sqrt(4 * (256**2 - 1) / 12)
CUT = 2.0  # truncated normals end at two deviations
CUT_STD = 0.8796256610342398  # their std before rescaling
START_CALLS = {"z_H": -1, "z_L": -2}  # the cell-call counters that starts are drawn under


def row_keys(*words: int | Tensor) -> Tensor:
    """A 64-bit hash of the words, in order. Words are integers or int64 tensors that broadcast; int64 out."""
    device = next((word.device for word in words if isinstance(word, Tensor)), torch.device("cpu"))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for word in words:
        if not isinstance(word, Tensor):  # a signed scalar: a tensor would be copied to a GPU, and the host would wait
            word = (word + (1 << 63)) % (1 << 64) - (1 << 63)
        state = _splitmix(state + word)
    return state


def _splitmix(x: Tensor) -> Tensor:
    x = x + GAMMA64
    x = (x ^ _shift(x, 30, 64)) * MUL64_A
    x = (x ^ _shift(x, 27, 64)) * MUL64_B
    return x ^ _shift(x, 31, 64)


def _shift(x: Tensor, by: int, width: int = 32) -> Tensor:
    return (x >> by) & ((1 << (width - by)) - 1)  # >> keeps the sign, the mask makes it logical


def _hash32(key_low: Tensor, key_high: Tensor, call: Tensor | int, like: Tensor) -> Tensor:
    """One 32-bit hash per element of `like` (B, T, D), int32."""
    T, D = like.shape[1], like.shape[2]
    element = torch.arange(T * D, dtype=torch.int32, device=like.device).view(1, T, D)
    x = (element * GOLDEN32) ^ key_low
    x = (x ^ _shift(x, 16)) * MUL32_A
    x = x + (key_high + call * MUL32_B)
    x = (x ^ _shift(x, 13)) * MUL32_B
    return x ^ _shift(x, 16)


class KeyedNoise(NamedTuple):
    """beta * eps of the cells of one segment (a `model.cell.Noise`). All fields are tensors, so that a compiled cell
    takes any key and any scale without being compiled again."""

    key_low: Tensor  # (B, 1, 1) int32
    key_high: Tensor  # (B, 1, 1) int32
    scale: Tensor  # () float32

    def __call__(self, call: Tensor, like: Tensor) -> Tensor:
        x = _hash32(self.key_low, self.key_high, call, like)
        total = (x & 255) + (_shift(x, 8) & 255) + (_shift(x, 16) & 255) + _shift(x, 24)
        return (total.float() - BYTES_MEAN) * (self.scale / BYTES_STD)


def keyed_noise(keys: Tensor, scale: float) -> KeyedNoise | None:
    """Noise of std `scale` for rows with `keys` (B,) int64; None where the scale is 0."""
    if scale == 0.0:
        return None
    return KeyedNoise(*_halves(keys), torch.full((), scale, dtype=torch.float32, device=keys.device))


def _halves(keys: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (keys << 32) >> 32, keys >> 32  # both fit int32 with their sign
    return low.to(torch.int32).view(-1, 1, 1), high.to(torch.int32).view(-1, 1, 1)


def truncated_normal(keys: Tensor, call: int, shape: tuple[int, int], std: float) -> Tensor:
    """(B, T, D) float32 by exact inversion, with this `std`, cut at two deviations of the normal it comes from."""
    x = _hash32(*_halves(keys), call, torch.empty((1, *shape), device=keys.device))
    uniform = (_shift(x, 8).float() + 0.5) / (1 << 24)  # in (0, 1), 24 bits as float32 holds them
    reach = math.erf(CUT / math.sqrt(2))
    return torch.erfinv((2.0 * uniform - 1.0) * reach) * (math.sqrt(2) * std / CUT_STD)
