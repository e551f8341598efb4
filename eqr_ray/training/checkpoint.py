"""Training checkpoints that do not know how many workers wrote them.

`checkpoints/STEP/` holds weights, EMA and optimizer state in full, one carry file per worker named by its range of
global rows, and `state.json`, which comes last and names every file with its sha256. A folder is written under another
name and renamed when complete, so a half-written checkpoint is never chosen; a damaged one is passed over, aloud.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor

from eqr_ray.errors import UserError
from eqr_ray.model.files import write_atomic
from eqr_ray.training.carry import Carry
from eqr_ray.training.ema import Ema
from eqr_ray.training.engine import Engine

log = logging.getLogger(__name__)
FORMAT = 1
STATE, WEIGHTS, EMA, OPTIMIZER = "state.json", "weights.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    step: int  # updates done
    elapsed_s: float  # training time before it
    experiment: str  # content hash of what may not change on resume
    files: dict[str, str]  # name -> sha256


def save_checkpoint(
    folder: Path, engine: Engine, ema: Ema, carry: Carry, step: int, elapsed_s: float, experiment: str, keep: int
) -> Path:
    """Write `folder/STEP` from all workers together; keep the newest `keep`. Collective."""
    final, partial = folder / f"{step:08d}", folder / f"{step:08d}.partial"
    weights, moments = engine.parameters(), engine.optimizer_state()
    if engine.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    engine.barrier()
    rows = carry.rows.tolist()
    _write(partial / f"carry-{rows[0]:06d}-{rows[-1] + 1:06d}.safetensors", carry.tensors())
    if engine.rank == 0:
        _write(partial / WEIGHTS, {**weights, **dict(engine.model.named_buffers())})
        _write(partial / EMA, ema.shadow)
        _write(partial / OPTIMIZER, moments)
    engine.barrier()
    if engine.rank == 0:
        files = {path.name: _sha256(path.read_bytes()) for path in sorted(partial.glob("*.safetensors"))}
        state = {"format": FORMAT, "step": step, "elapsed_s": elapsed_s, "experiment": experiment, "files": files}
        write_atomic(partial / STATE, json.dumps(state, indent=1).encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in complete_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    engine.barrier()
    return final


def complete_checkpoints(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first (their content is not verified here)."""
    return sorted(path for path in folder.glob("[0-9]" * 8) if (path / STATE).is_file())


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; None where there is none at all.

    Raises UserError where there are checkpoints and every one of them is damaged.
    """
    candidates = complete_checkpoints(folder)
    for path in reversed(candidates):
        try:
            return _open(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged and passed over: %s", path, error)
    if candidates:
        raise UserError(f"every checkpoint in {folder} is damaged ({len(candidates)} found)")
    return None


def _open(path: Path) -> Checkpoint:
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}, expected {FORMAT}")
    for name, digest in state["files"].items():
        if _sha256((path / name).read_bytes()) != digest:
            raise ValueError(f"{name} has changed since it was written")
    return Checkpoint(path, int(state["step"]), float(state["elapsed_s"]), str(state["experiment"]), state["files"])


def load_checkpoint(checkpoint: Checkpoint, engine: Engine, ema: Ema, rows: range) -> Carry:
    """Put engine and EMA where they were, and return the carry of `rows`, whoever held them then."""
    folder = checkpoint.folder
    engine.load(_read(folder / WEIGHTS), _read(folder / OPTIMIZER), checkpoint.step)
    ema.load({name: tensor.to(engine.device) for name, tensor in _read(folder / EMA).items()})
    pieces = [_read(folder / name) for name in sorted(checkpoint.files) if name.startswith("carry-")]
    whole = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    mine = {name: tensor[rows.start : rows.stop].to(engine.device) for name, tensor in whole.items()}
    assert mine["rows"].tolist() == list(rows)
    return Carry.of(mine)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_atomic(path, bytes_of_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _read(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = tensors_from_bytes(path.read_bytes())
    return tensors


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
