"""Trained networks on disk: `model.safetensors` beside `model.json`, and every name a user may give one by.

Nothing read here executes pickled code: safetensors, JSON, and the reference's `.pth` through a restricted reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.schema import Options, option, read_json
from eqr_ray.model.config import ModelConfig
from eqr_ray.model.reasoner import Reasoner
from eqr_ray.model.reference import read_reference
from eqr_ray.storage.atomic import write_bytes, write_json

WEIGHTS, CARD = "model.safetensors", "model.json"
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
MISMATCH = "the weights do not fit their configuration"
REFERENCE_TASKS = {(11, 81): "sudoku9", (6, 900): "maze30"}  # (vocabulary, length) of the published checkpoints


class ModelCard(Options):
    """What a file of weights is: its task, its shape, how it was made."""

    task: str
    config: ModelConfig
    step: int
    hash: str = option("", "sha256 of the weights file")
    recipe: dict[str, Any] = option({}, "what it was trained with")
    settle_below: float | None = option(
        None, "logit residual at which its right answers settle; null: unknown", inf=True
    )


def bytes_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file."""
    return bytes_of_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def save_model(folder: Path, weights: Mapping[str, Tensor], card: ModelCard) -> ModelCard:
    """Write the two files of a network, and return the card with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    content = bytes_of(weights)
    card = card.replace(hash=hashlib.sha256(content).hexdigest())
    write_bytes(folder / WEIGHTS, content)
    write_json(folder / CARD, card.to_dict())
    return card


def load_model(name: str) -> tuple[Reasoner, ModelCard]:
    """The network called `name`: `zoo:NAME`, a folder with model.safetensors (a run is one), or a reference FILE.pth.

    UserError: the name leads nowhere, or files are damaged or do not fit each other.
    """
    if name.startswith("zoo:"):
        known = pretrained_names()
        if (inner := name.removeprefix("zoo:")) not in known:
            raise UserError(f"checkpoint={name} is not a pretrained network{nearest(inner, known)}")
        return _load_folder(PRETRAINED / inner)
    path = Path(name)
    if path.suffix == ".pth":
        c, weights, step = read_reference(path)
        task = REFERENCE_TASKS.get((c.vocab_size, c.length))
        if task is None:
            raise UserError(f"{path}: vocabulary {c.vocab_size} and length {c.length} belong to no known task")
        content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        card = ModelCard(task=task, config=c, step=step, hash=content_hash, recipe={"source": path.name})
        return load_weights(Reasoner(c), weights, f"{path}: {MISMATCH}"), card
    folder = path.parent if path.name == WEIGHTS else path
    if not folder.is_dir():
        allowed = f"a run, a folder with {WEIGHTS}, FILE.pth, zoo:NAME"
        raise UserError(f"checkpoint={name}: no such folder; allowed: {allowed}")
    return _load_folder(folder)


def pretrained_names() -> list[str]:
    """The networks that ship with the package."""
    return sorted(card.parent.name for card in PRETRAINED.glob(f"*/{CARD}"))


def _load_folder(folder: Path) -> tuple[Reasoner, ModelCard]:
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} has no {name}")
    values = read_json(folder / CARD)
    try:
        card = ModelCard.parse(values)
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}") from error
    content = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != card.hash:
        words = f"its sha256 is not the one that {CARD} names ({card.hash[:12]}...)"
        raise UserError(f"{folder / WEIGHTS} is damaged: {words}")
    try:
        weights = tensors_from_bytes(content)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is damaged: {error}") from error
    return load_weights(Reasoner(card.config), weights, f"{folder}: {MISMATCH}"), card


def load_weights(model: Reasoner, weights: Mapping[str, Tensor], mismatch: str) -> Reasoner:
    """The model with these weights. UserError with the words of `mismatch`: they are of another shape."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{mismatch} ({str(error).splitlines()[-1].strip()})") from error
    return model
