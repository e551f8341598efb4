"""Reading the public reference's checkpoints (locuslab/EqR `.pth` files) without running what they pickle.

Such a file is a dict with `model` (state dict), `ema` {`mu`, `shadow`}, `config`, `step` and training state. torch's
restricted unpickler rebuilds tensors and plain containers only.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eqr_ray.config.errors import UserError
from eqr_ray.model.config import ModelConfig

# Attention checkpoints do not record their length; the published ones are 30x30 mazes.
MAZE_VOCABULARY, MAZE_LENGTH = 6, 900
FIXED_NAMES = {
    "embed_tokens.embedding_weight": "embed",
    "lm_head.weight": "lm_head",
    "q_head.weight": "q_head.weight",
    "q_head.bias": "q_head.bias",
    "H_init": "z_H_init",
    "L_init": "z_L_init",
    "puzzle_emb.weights": "puzzle_embed",
}
BLOCK_NAMES = {
    "mlp_t.gate_up_proj": "mix_in",
    "mlp_t.down_proj": "mix_out",
    "self_attn.qkv_proj": "mix_in",
    "self_attn.o_proj": "mix_out",
    "mlp.gate_up_proj": "mlp_in",
    "mlp.down_proj": "mlp_out",
}
BLOCK_PATTERN = re.compile(r"L_level\.layers\.(\d+)\.([a-z_]+\.[a-z_]+)\.weight")


class ReferenceCheckpoint(NamedTuple):
    """What of a reference file concerns the network: its configuration, its weights by our names, and its step."""

    config: ModelConfig
    weights: dict[str, Tensor]
    step: int


def our_name(name: str) -> str | None:
    """Our name of a parameter of the reference; None for a name that is no parameter of this network."""
    bare = name.replace("_orig_mod.", "").removeprefix("model.").removeprefix("inner.")
    found = BLOCK_PATTERN.fullmatch(bare)
    if found is not None and found[2] in BLOCK_NAMES:
        return f"blocks.{found[1]}.{BLOCK_NAMES[found[2]]}"
    return FIXED_NAMES.get(bare)


def our_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference state dict under our names, in float32. Unknown names are an error: silence would lose weights."""
    weights = {}
    for name, tensor in state.items():
        ours = our_name(name)
        if ours is None:
            raise UserError(f"parameter '{name}' belongs to no network that eqr_ray knows (EqR, TRM)")
        weights[ours] = tensor.float()
    return weights


def our_config(arch: Mapping[str, Any], weights: Mapping[str, Tensor], length: int) -> ModelConfig:
    """The reference's `arch` options as ours. `length` is the sequence's; its grid is square where it can be."""
    if arch.get("H_layers"):
        words = "the reference's EqR and TRM share one stack (H_layers 0)"
        raise UserError(f"H_layers={arch['H_layers']} is not supported: {words}")
    positions: Any = arch.get("pos_encodings") or "none"
    if positions not in (known := ("none", "rope", "rope2d")):
        raise UserError(f"pos_encodings={positions} is not supported; known: {', '.join(known)}")
    side, fixed = round(length**0.5), "z_H_init" in weights
    puzzle_ids, puzzle_width = weights["puzzle_embed"].shape if "puzzle_embed" in weights else (1, 0)
    return ModelConfig(
        vocab_size=int(arch.get("vocab_size", weights["embed"].shape[0])),
        length=length,
        grid=(side, side) if side * side == length else (1, length),
        width=int(arch["hidden_size"]),
        layers=int(arch["L_layers"]),
        expansion=float(arch["expansion"]),
        mixing="mlp" if arch.get("mlp_t") else "attention",
        heads=int(arch["num_heads"]),
        positions=positions,
        h_cycles=int(arch["H_cycles"]),
        l_cycles=int(arch["L_cycles"]),
        start="fixed" if fixed else "random",
        damping=0.0 if fixed else round(1.0 - float(arch.get("lambda_", 1.0)), 12),
        noise_scale=0.0 if fixed else float(arch.get("noise_scale", 0.0)),
        init_std_H=float(arch.get("H_init_std", 1.0)),
        init_std_L=float(arch.get("L_init_std", 1.0)),
        puzzle_tokens=_puzzle_tokens(arch, weights),
        puzzle_ids=puzzle_ids,
        puzzle_width=puzzle_width,
    )


def read_reference(path: Path, ema: bool = True) -> ReferenceCheckpoint:
    """Read a `.pth` of the reference: its EMA weights (as it is evaluated), or the raw ones.

    UserError: the file is damaged, holds anything but tensors and plain data, or lacks a part.
    """
    content = _read_plain(path)
    try:
        config, model = content["config"], content["model"]
        arch = config.get("arch", config)
        shadow = content["ema"]["shadow"] if ema else {}
        # The shadow has the trained parameters only; buffers (TRM's starts) come from the model.
        weights = our_weights(model) | our_weights(shadow)
        ours = our_config(arch, weights, _length(arch, config.get("dataset", {}), weights))
        return ReferenceCheckpoint(ours, weights, int(content.get("step", 0)))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no checkpoint of the reference: {error!r} is missing or malformed") from error


def _length(arch: Mapping[str, Any], dataset: Mapping[str, Any], weights: Mapping[str, Tensor]) -> int:
    for source in (arch, dataset):
        if "seq_len" in source:
            return int(source["seq_len"])
    if arch.get("mlp_t"):  # the mixing weight knows how many tokens it mixes
        return int(weights["blocks.0.mix_out"].shape[0]) - _puzzle_tokens(arch, weights)
    if weights["embed"].shape[0] == MAZE_VOCABULARY:
        return MAZE_LENGTH
    raise KeyError("seq_len")


def _puzzle_tokens(arch: Mapping[str, Any], weights: Mapping[str, Tensor]) -> int:
    if "puzzle_embed" not in weights:
        return 0
    return int(arch.get("puzzle_emb_len") or -(-weights["puzzle_embed"].shape[1] // int(arch["hidden_size"])))


def _read_plain(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        refused = isinstance(error, pickle.UnpicklingError)
        what = "is refused: it holds more than tensors and plain data" if refused else "is damaged or no PyTorch file"
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{path} {what} ({reason})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint of the reference: a {type(content).__name__} instead of a dict")
    return content
