"""Training checkpoints that do not know how many workers wrote them.

`checkpoints/STEP/` holds weights, EMA and optimizer state in full, one carry file per worker named by its range of
global rows, and `state.json`, which comes last and names every file with its sha256. A folder is written under another
name and renamed when complete, so a half-written checkpoint is never chosen; a damaged one is passed over, aloud.
The first worker chooses for all, since another's listing of a shared disk may be old; each verifies what it reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from eqr_ray.config.errors import UserError
from eqr_ray.model.pretrained import bytes_of
from eqr_ray.storage.atomic import flush, write_bytes, write_json
from eqr_ray.training.backend import Backend, Ema, collective_call
from eqr_ray.training.step import Carry

log = logging.getLogger(__name__)
FORMAT = 1
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
CARRY_NAME = re.compile(r"carry-(\d+)-(\d+)\.safetensors")  # first row, last row + 1
STATE, WEIGHTS, EMA, OPTIMIZER = "state.json", "weights.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    step: int  # updates done
    elapsed_s: float  # training time before it
    experiment: str  # content hash of what may not change on resume
    files: dict[str, str]  # name -> sha256

    def read(self, name: str) -> bytes:
        """The content of a file. OSError: it is unreadable, or not what was written."""
        content = (self.folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise OSError(f"{name} has changed since it was written")
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors in a file. OSError as `read`."""
        return tensors_from_bytes(self.read(name))

    def read_carry(self, rows: range) -> dict[str, Tensor]:
        """The carry of `rows`, from those files that hold some. OSError: one has changed, or rows are missing."""
        matches = [match for name in self.files if (match := CARRY_NAME.fullmatch(name))]
        ranges = sorted((int(match[1]), int(match[2]), match[0]) for match in matches)
        needed = [(first, name) for first, end, name in ranges if first < rows.stop and rows.start < end]
        if needed:
            pieces = [self.tensors(name) for _, name in needed]
            at = rows.start - needed[0][0]
            mine = {name: torch.cat([piece[name] for piece in pieces])[at : at + len(rows)] for name in pieces[0]}
            if mine["rows"].tolist() == list(rows):
                return mine
        raise OSError(f"{self.folder} does not hold the rows {rows.start} to {rows.stop - 1}")


def save_checkpoint(
    folder: Path, backend: Backend, ema: Ema, carry: Carry, step: int, elapsed_s: float, experiment: str, keep: int
) -> None:
    """Write `folder/STEP` from all workers together; keep the newest `keep`. Collective."""
    final, partial = folder / f"{step:08d}", folder / f"{step:08d}.partial"
    weights, moments = backend.parameters(), backend.optimizer_state()
    if backend.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    backend.barrier()
    rows = carry.rows.tolist()
    files = {f"carry-{rows[0]:06d}-{rows[-1] + 1:06d}.safetensors": carry.tensors()}
    if backend.rank == 0:
        files[WEIGHTS] = {**weights, **dict(backend.model.named_buffers())}
        files |= {EMA: ema.shadow, OPTIMIZER: moments}
    for name, tensors in files.items():
        write_bytes(partial / name, bytes_of(tensors))
    backend.barrier()
    if backend.rank == 0:
        paths = sorted(partial.glob("*.safetensors"))
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        state = {"format": FORMAT, "step": step, "elapsed_s": elapsed_s, "experiment": experiment, "files": digests}
        write_json(partial / STATE, state)
        flush(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        flush(folder)  # the new one is there, come what may, before an old one goes
        older = [path for path in reversed(complete_checkpoints(folder)) if path.name < final.name]
        for old in older[keep - 1 :]:
            shutil.rmtree(old)
    backend.barrier()


def complete_checkpoints(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first (their content is not verified here)."""
    return sorted(path for path in folder.glob("[0-9]" * 8) if (path / STATE).is_file())


def choose_checkpoint(folder: Path, experiment: str, backend: Backend) -> Checkpoint | None:
    """The newest sound checkpoint in the eyes of the first worker, for all of them; None where there is none at all.
    Newer folders, which are damaged, are renamed to NAME.damaged: the run goes on before them. Collective.

    UserError: all are damaged, or of another experiment; OSError: a worker cannot read the chosen one.
    """

    def choose() -> Checkpoint | None:
        found = newest_checkpoint(folder) if backend.rank == 0 else None
        if found is None:
            return None
        if found.experiment != experiment:
            raise UserError(f"{found.folder} was written by another experiment: its data, model or batch differ")
        for path in complete_checkpoints(folder):
            if path.name > found.folder.name:
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                log.warning("checkpoint %s is set aside as %s", path, aside.name)
        return found

    chosen = collective_call(backend, choose)
    steps = torch.tensor([0 if chosen is None else chosen.step + 1], dtype=torch.int64, device=backend.device)
    step = int(backend.sum(steps)[0]) - 1  # of the first worker: the others have chosen nothing
    if step < 0:
        return None
    return collective_call(backend, lambda: chosen or _open(folder / f"{step:08d}"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; None where there is none at all.
    UserError: there are some, and every one of them is damaged."""
    candidates = complete_checkpoints(folder)
    for path in reversed(candidates):
        try:
            checkpoint = _open(path)
            for name in checkpoint.files:
                checkpoint.read(name)
            return checkpoint
        except OSError as error:
            log.warning("checkpoint %s is damaged and passed over: %s", path, error)
    if candidates:
        raise UserError(f"every checkpoint in {folder} is damaged ({len(candidates)} found)")
    return None


def _open(path: Path) -> Checkpoint:
    """What its state.json says. OSError: it is unreadable or damaged."""
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}, expected {FORMAT}")
        files = {str(name): str(digest) for name, digest in state["files"].items()}
        if strange := [name for name in files if not PLAIN_NAME.fullmatch(name)]:
            raise ValueError(f"it names the file '{strange[0]}'")  # a checkpoint is all in its folder
        if missing := {WEIGHTS, EMA, OPTIMIZER} - files.keys():
            raise ValueError(f"it names no {min(missing)}")
        return Checkpoint(path, int(state["step"]), float(state["elapsed_s"]), str(state["experiment"]), files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{path / STATE} is damaged: {error}") from error


def load_checkpoint(checkpoint: Checkpoint, backend: Backend, ema: Ema, rows: range) -> Carry:
    """Put backend and EMA where they were, and return the carry of `rows`, whoever held them then. Collective.
    OSError, on every worker: one of them reads something else than what was written."""

    def read() -> list[dict[str, Tensor]]:
        return [*map(checkpoint.tensors, (WEIGHTS, EMA, OPTIMIZER)), checkpoint.read_carry(rows)]

    weights, shadow, optimizer, carry = collective_call(backend, read)
    backend.load(weights, optimizer, checkpoint.step)
    with torch.no_grad():
        for name, buffer in backend.model.named_buffers():  # fixed starts are drawn once, and belong to the weights
            buffer.copy_(weights[name])
    ema.shadow = {name: tensor.to(backend.device) for name, tensor in shadow.items()}
    return Carry(**{name: tensor.to(backend.device) for name, tensor in carry.items()})
